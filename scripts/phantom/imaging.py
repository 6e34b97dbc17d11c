"""How a phantom patient looks on T2w, high-b DWI and ADC: tissues drawn as soft implicit shapes on any grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from scripts.data.datalists import SEQUENCES
from scripts.data.grid import Coordinates, Grid, coordinates, grid_affine
from scripts.phantom.anatomy import Anatomy, Blob, Findings, Gland, Point, sample_anatomy

MASKS = ("gland", "zones", "lesions")

# Scanner-like signal of each tissue on T2w, b1600 and ADC (1e-6 mm²/s).
TISSUE: dict[str, tuple[float, float, float]] = {
    "air": (12, 1, 20),
    "fat": (430, 7, 150),
    "muscle": (125, 16, 1150),
    "marrow": (360, 6, 250),
    "cortex": (40, 2, 150),
    "urine": (880, 8, 2850),
    "wall": (170, 18, 1200),
    "gas": (10, 1, 30),
    "stool": (230, 12, 900),
    "veins": (540, 14, 1750),
    "vesicle": (760, 18, 1900),
    "peripheral": (700, 27, 1700),
    "transition": (360, 30, 1330),
    "stroma": (270, 26, 1150),
    "capsule": (150, 20, 1150),
    "urethra": (560, 22, 1650),
}
# A lesion of PI-RADS 3, 4, 5.
LESION = {3: (165, 62, 900), 4: (125, 80, 740), 5: (105, 94, 620)}


@dataclass(frozen=True)
class Phantom:
    """A phantom exam: `volumes` (axt2, b1600, adc) and `masks` (gland, zones, lesions) are (X, Y, Z) arrays.

    zones: 1 peripheral, 2 transition; lesions: n is the n-th lesion of the findings.
    """

    findings: Findings
    volumes: dict[str, np.ndarray]  # int16, scanner-like units
    masks: dict[str, np.ndarray]  # uint8
    affine: np.ndarray


def make_case(seed: int, grid: Grid) -> Phantom:
    """Draw the phantom exam of a seed on a grid; the same seed is the same patient on every grid."""
    anatomy = sample_anatomy(seed)
    canvas = _Canvas.blank(grid)
    _draw_pelvis(canvas, anatomy.gland, np.random.default_rng([seed, 1]))
    masks = _draw_gland(canvas, anatomy, np.random.default_rng([seed, 2]))
    volumes = _acquire(canvas, grid.spacing, np.random.default_rng([seed, 3]))
    return Phantom(anatomy.findings, volumes, masks, grid_affine(grid))


class _Canvas:
    """Three images that tissues are painted on, one over the other; a part of a canvas paints on the same images."""

    def __init__(self, xyz: Coordinates, soft: float, images: np.ndarray) -> None:
        self.xyz = xyz  # world mm, arrays that broadcast
        self.soft = soft  # mm over which an edge fades: partial volume
        self.images = images  # (3, X, Y, Z), in the order of SEQUENCES

    @classmethod
    def blank(cls, grid: Grid) -> _Canvas:
        """A canvas of air."""
        images = np.empty((len(SEQUENCES), *grid.size), np.float32)
        images[:] = np.reshape(TISSUE["air"], (-1, 1, 1, 1))
        return cls(coordinates(grid), float(np.prod(grid.spacing) ** (1 / 3)), images)

    def around(self, centre: Point, reach: Point) -> tuple[_Canvas, tuple[slice, slice, slice]]:
        """The part of the canvas within `reach` mm of a point, and where it lies; it may be empty."""
        box = []
        for axis, middle, distance in zip(self.xyz, centre, reach, strict=True):
            inside = np.abs(axis.ravel() - middle) <= distance + 2 * self.soft
            first = int(np.argmax(inside))
            box.append(slice(first, first + int(inside.sum())))
        x, y, z = self.xyz
        xyz = (x[box[0]], y[:, box[1]], z[:, :, box[2]])
        return _Canvas(xyz, self.soft, self.images[(slice(None), *box)]), tuple(box)

    def cover(self, distance: np.ndarray) -> np.ndarray:
        """How much of each voxel lies inside a surface, from the distance to it in mm (negative inside)."""
        return np.clip(0.5 - distance / self.soft, 0, 1)

    def paint(self, cover: np.ndarray, signal: tuple[float, ...], texture: np.ndarray | float = 1.0) -> None:
        """Lay a tissue over what is there; `texture` multiplies its signal."""
        for image, value in zip(self.images, signal, strict=True):
            image += cover * (value * texture - image)

    def ellipsoid(self, blob: Blob, signal: tuple[float, ...], within: np.ndarray | None = None) -> None:
        """Lay an ellipsoid over what is there, limited to the coverage `within`."""
        flat = max(blob.semi[:2])
        part, box = self.around(blob.centre, (flat, flat, blob.semi[2]))
        cover = part.cover(part.blob_distance(blob))
        part.paint(cover if within is None else cover * within[box], signal)

    def blob_distance(self, blob: Blob) -> np.ndarray:
        """Distance to an ellipsoid's surface in mm, first order."""
        x, y, z = (axis - middle for axis, middle in zip(self.xyz, blob.centre, strict=True))
        cos, sin = np.cos(blob.turn, dtype=np.float32), np.sin(blob.turn, dtype=np.float32)
        parts = [(cos * x + sin * y) / blob.semi[0], (cos * y - sin * x) / blob.semi[1], z / blob.semi[2]]
        radius = np.sqrt(parts[0] ** 2 + parts[1] ** 2 + parts[2] ** 2)
        slope = np.sqrt(sum((part / semi) ** 2 for part, semi in zip(parts, blob.semi, strict=True)))
        return (radius - 1) * radius / np.maximum(slope, 1e-3)

    def texture(self, cell_mm: float, strength: float, rng: np.random.Generator) -> np.ndarray:
        """Smooth random texture around 1, (X, Y, Z): a random lattice in mm, so the same on every grid."""
        field, half = rng.standard_normal((int(2 * 110 / cell_mm) + 2,) * 3, dtype=np.float32), 110.0
        for axis in self.xyz:
            at = np.clip((axis.ravel() + half) / cell_mm, 0, len(field) - 1.001)
            low = at.astype(int)
            part = (at - low)[:, None, None]
            # Axes rotate: after three turns they are back in their order.
            field = ((1 - part) * field[low] + part * field[low + 1]).transpose(1, 2, 0)
        return 1 + strength * field


def _draw_pelvis(canvas: _Canvas, gland: Gland, rng: np.random.Generator) -> None:
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


def _draw_side_wall(canvas: _Canvas, gland: Gland, side: int) -> None:
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


def _draw_rectum(canvas: _Canvas, gland: Gland, rng: np.random.Generator) -> None:
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


def _draw_gland(canvas: _Canvas, anatomy: Anatomy, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The prostate with its zones, nodules and lesions; returns the masks."""
    gland = anatomy.gland
    shape = canvas.images.shape[1:]
    canvas, box = canvas.around(gland.centre, tuple(1.25 * semi + 5 for semi in gland.semi))
    u, v, w = gland.coordinates(*canvas.xyz)
    distance, inner = gland.distance(u, v, w), gland.transition_distance(u, v, w)
    # In front of the peripheral zone's horns the rim belongs to the fibromuscular stroma.
    inner = np.minimum(inner, (0.45 - v) * gland.semi[1])
    whole, transition = canvas.cover(distance), canvas.cover(np.maximum(inner, distance))

    veins = canvas.texture(3.5, 0.22, rng)
    canvas.paint(canvas.cover(distance - 3.2), TISSUE["veins"], veins)
    mottled = 0.07 if anatomy.findings.pirads == 2 else 0.035
    canvas.paint(whole, TISSUE["peripheral"], canvas.texture(4.0, mottled, rng))
    canvas.paint(transition, TISSUE["transition"], canvas.texture(3.0, 0.06, rng))
    for nodule, signal in _nodules(anatomy, rng):
        outside = Blob(nodule.centre, tuple(semi + 0.8 for semi in nodule.semi), nodule.turn)
        canvas.ellipsoid(outside, TISSUE["stroma"], within=transition)
        canvas.ellipsoid(nodule, signal, within=transition)
    canvas.paint(transition * canvas.cover((0.78 - v + 0.6 * u**2) * gland.semi[1]), TISSUE["stroma"])
    tube = np.sqrt((u * gland.semi[0]) ** 2 + ((v + 0.02) * gland.semi[1]) ** 2)
    canvas.paint(canvas.cover(tube - 2.3) * transition, TISSUE["urethra"])
    canvas.paint(canvas.cover(np.abs(inner) - 0.35) * canvas.cover(distance), TISSUE["stroma"])

    masks = {name: np.zeros(shape, np.uint8) for name in MASKS}
    for number, (lesion, blob) in enumerate(zip(anatomy.findings.lesions, anatomy.blobs, strict=True), start=1):
        zone = np.maximum(distance, inner if lesion.zone == "TZ" else -inner)
        reach = np.maximum(canvas.blob_distance(blob), zone)
        canvas.paint(canvas.cover(reach), LESION[lesion.pirads])
        masks["lesions"][box][reach < 0] = number
    canvas.paint(canvas.cover(np.abs(distance) - 0.6), TISSUE["capsule"])

    masks["gland"][box] = distance < 0
    masks["zones"][box] = np.where(distance < 0, np.where(inner < 0, 2, 1), 0)
    return masks


def _nodules(anatomy: Anatomy, rng: np.random.Generator) -> list[tuple[Blob, tuple[float, float, float]]]:
    """Nodules of hyperplasia, more of them in larger glands, glandular (bright) or mixed; none as dark as a lesion."""
    gland, nodules = anatomy.gland, []
    tu, tv = gland.transition
    for _ in range(int(4 + anatomy.findings.gland_ml / 5)):
        u, v, w = rng.uniform(-0.8, 0.8, 3) * (tu, tv, 0.85)
        radius = rng.uniform(2.5, 3.5 + 0.05 * anatomy.findings.gland_ml)
        semi = tuple(float(value) for value in radius * rng.uniform(0.8, 1.2, 3))
        bright = rng.beta(1.2, 1.6)
        signal = (310 + 290 * bright, 30 - 6 * bright, 1250 + 450 * bright)
        nodules.append((Blob(gland.world(u, v + gland.ANTERIOR - tv, w), semi, float(rng.uniform(0, 3))), signal))
    return nodules


def _acquire(canvas: _Canvas, spacing: Point, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Turn tissue signal into images: coil shading, receiver gain, Rician noise; DWI is blurred and noisier."""
    x, y, z = canvas.xyz
    slopes = rng.uniform(-0.12, 0.12, 3) / 40
    shading = np.exp(slopes[0] * x + slopes[1] * y + slopes[2] * z - rng.uniform(0, 6e-5) * (x**2 + y**2)).astype(
        np.float32
    )
    gain = rng.uniform(0.9, 1.08)
    noise = 700 / rng.uniform(25, 40)
    t2, high_b, adc = canvas.images
    blur = [1.1 / step for step in spacing]
    volumes = {
        "axt2": _rician(t2 * shading * np.float32(gain), noise, rng),
        "b1600": _rician(gaussian_filter(high_b, blur) * shading, 2.2, rng),
        "adc": gaussian_filter(adc, blur) + 55 * rng.standard_normal(adc.shape, dtype=np.float32),
    }
    return {name: np.rint(np.clip(volume, 0, 4095)).astype(np.int16) for name, volume in volumes.items()}


def _rician(signal: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Magnitude of a complex signal with Gaussian noise of this sigma in both channels."""
    real = signal + sigma * rng.standard_normal(signal.shape, dtype=np.float32)
    return np.hypot(real, sigma * rng.standard_normal(signal.shape, dtype=np.float32))
