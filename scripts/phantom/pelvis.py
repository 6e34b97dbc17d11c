"""What lies around the gland: fat, muscles, bones, bladder, seminal vesicles, rectum."""

from __future__ import annotations

import numpy as np

from scripts.phantom.canvas import Canvas
from scripts.phantom.gland import Blob, Gland
from scripts.phantom.tissues import TISSUE


def draw_pelvis(canvas: Canvas, gland: Gland, rng: np.random.Generator) -> None:
    """Everything around the gland, from the skin inwards."""
    x, y, z = canvas.xyz
    cx, cy, cz = gland.centre
    a, b, c = gland.semi
    body = (np.sqrt((x / 178) ** 2 + ((y + 8) / 112) ** 2) - 1) * 112
    canvas.paint(canvas.cover(body), TISSUE["fat"], canvas.texture(9.0, 0.05, rng))
    for side in (-1, 1):
        _draw_side_wall(canvas, gland, side)

    # Levator ani: a sling open to the front, around gland and rectum, below the base.
    sling = (np.sqrt(((x - cx) / (a + 8)) ** 2 + ((y - cy + 10) / (b + 24)) ** 2) - 1) * (a + 8)
    band = canvas.cover(np.abs(sling) - 1.8) * canvas.cover(y - cy - 8) * canvas.cover(z - cz - 0.35 * c)
    canvas.paint(band, TISSUE["muscle"])

    # Bladder on the base of the gland.
    height = rng.uniform(17, 24)
    bladder = Blob((cx, cy + 0.25 * b, cz + c + height - 2.5), (rng.uniform(28, 36), rng.uniform(22, 28), height), 0.0)
    part, _ = canvas.around(bladder.centre, (39, 39, height + 3))
    distance = part.blob_distance(bladder)
    part.paint(part.cover(distance - 2.5), TISSUE["wall"])
    part.paint(part.cover(distance), TISSUE["urine"])

    for side in (-1, 1):  # seminal vesicles: a bright, folded tube behind the bladder
        vesicle = Blob((cx + side * 14, cy - 0.62 * b, cz + c + 3.5), (13.0, 5.5, 5.5), -side * 0.25)
        part, _ = canvas.around(vesicle.centre, (14, 14, 6))
        px, py, pz = part.xyz
        folds = 1 - 0.5 * np.cos(0.52 * px + 0.9 * np.sin(0.55 * py + 0.4 * pz)) ** 6
        part.paint(part.cover(part.blob_distance(vesicle)), TISSUE["vesicle"], folds)

    _draw_rectum(canvas, gland, rng)
    # Sphincter and urethra below the apex.
    part, _ = canvas.around((cx, cy, -500.0), (9, 9, 500))
    tube = np.sqrt((part.xyz[0] - cx) ** 2 + (part.xyz[1] - cy) ** 2)
    below = part.cover(part.xyz[2] - cz + 0.9 * c)
    part.paint(part.cover(tube - 7.5) * below, TISSUE["wall"])
    part.paint(part.cover(tube - 2.2) * below, TISSUE["urethra"])


def _draw_side_wall(canvas: Canvas, gland: Gland, side: int) -> None:
    """Bones and muscles of one half of the pelvis; side is -1 for the patient's left, 1 for the right."""
    wide = max(gland.semi[0] + 21, 50)
    front = gland.centre[1] + gland.semi[1]
    shapes = [
        ("muscle", Blob((side * (wide + 42), -70, 0), (46, 34, 150), -side * 0.5)),  # gluteus maximus
        ("muscle", Blob((side * 92, 45, -10), (26, 26, 150), 0.0)),  # thigh muscles in front of the hip
        ("cortex", Blob((side * (wide + 32), 12, 18), (27, 27, 27), 0.0)),
        ("marrow", Blob((side * (wide + 32), 12, 18), (25, 25, 25), 0.0)),  # femoral head
        ("cortex", Blob((side * (wide + 9), -8, 0), (6, 34, 60), side * 0.12)),
        ("marrow", Blob((side * (wide + 9), -8, 0), (4, 32, 58), side * 0.12)),  # ischium
        ("muscle", Blob((side * wide, -2, -4), (6.5, 30, 46), side * 0.12)),  # obturator internus
        ("cortex", Blob((side * 19, front + 24, -8), (19, 9, 19), side * 0.45)),
        ("marrow", Blob((side * 19, front + 24, -8), (17, 7, 17), side * 0.45)),  # pubis, beside the symphysis
    ]
    for tissue, blob in shapes:
        canvas.ellipsoid(blob, TISSUE[tissue])


def _draw_rectum(canvas: Canvas, gland: Gland, rng: np.random.Generator) -> None:
    """A tube behind the gland that follows the sacrum backwards; gas above stool, or either alone."""
    radius = rng.uniform(8, 14)
    canvas, _ = canvas.around((gland.centre[0], gland.centre[1] - gland.semi[1] - 100, 0.0), (24, 120, 500))
    x, y, z = canvas.xyz
    back = gland.centre[1] - gland.semi[1] - radius - 5 - 0.004 * np.clip(z + 5, 0, None) ** 2
    middle = gland.centre[0] + rng.uniform(-3, 3) + 2 * np.sin(z / 12)
    distance = np.sqrt((x - middle) ** 2 + ((y - back) * 1.15) ** 2) - radius
    lumen = canvas.cover(distance + 0.5)
    canvas.paint(canvas.cover(distance - 3.0), TISSUE["wall"])
    canvas.paint(lumen, TISSUE["stool"], canvas.texture(4.0, 0.30, rng))
    # The patient lies on the back, so gas collects in front.
    level = rng.choice([-2.0, 0.0, 0.6, 2.0]) * radius
    canvas.paint(lumen * canvas.cover(back + level - y), TISSUE["gas"])
