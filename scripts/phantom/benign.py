"""Benign changes that are dark: prostatitis in wedges and at large, stromal nodules, blood after a biopsy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from scripts.phantom.gland import Gland, Point

Kind = Literal["wedge", "diffuse", "stromal", "haemorrhage"]
SIZE_MM: dict[Kind, tuple[float, float]] = {
    "wedge": (8, 14),  # width at the capsule
    "diffuse": (20, 30),  # from top to bottom
    "stromal": (7, 13),
    "haemorrhage": (9, 16),
}
APART_MM = 3.0  # of normal tissue between a change and a lesion
TRIES = 60


@dataclass(frozen=True)
class Change:
    """A benign change, with the place that a report would name; only diffuse ones are bilateral, around both sides."""

    kind: Kind
    side: Literal["left", "right", "bilateral"]
    level: Literal["base", "mid", "apex"]
    size_mm: float
    centre_mm: Point

    @property
    def zone(self) -> Literal["PZ", "TZ"]:
        """Where changes of this kind lie."""
        return "TZ" if self.kind == "stromal" else "PZ"


def draw_changes(
    gland: Gland, pirads: int, lesions: Sequence[tuple[Point, float]], rng: np.random.Generator
) -> tuple[Change, ...]:
    """What a patient has beside lesions (centre in mm, diameter in mm each), apart from one another and from them.

    PI-RADS 2 has one to three changes of inflammation and stroma, PI-RADS 3 one or two, 4 and 5 one in four of ten
    cases, 1 none; a biopsy has left blood in one of eight, whatever the category.
    """
    count = {1: 0, 2: rng.integers(1, 4), 3: rng.integers(1, 3)}.get(pirads, int(rng.random() < 0.4))
    kinds: list[Kind] = [str(rng.choice(["wedge", "diffuse", "stromal"], p=[0.4, 0.2, 0.4])) for _ in range(count)]
    if rng.random() < 0.125:
        kinds.append("haemorrhage")
    changes: list[Change] = []
    for kind in kinds:
        taken = [*lesions, *((change.centre_mm, change.size_mm) for change in changes)]
        change = next((one for one in (_draw(gland, kind, rng) for _ in range(TRIES)) if _is_free(one, taken)), None)
        if change is not None and (kind != "diffuse" or all(change.kind != kind for change in changes)):
            changes.append(change)
    return tuple(changes)


def _draw(gland: Gland, kind: Kind, rng: np.random.Generator) -> Change:
    """One change somewhere in its zone."""
    side, level = str(rng.choice(["left", "right"])), str(rng.choice(["base", "mid", "apex"]))
    sign = -1 if side == "left" else 1
    w = {"base": 0.56, "mid": 0.0, "apex": -0.56}[level] + float(rng.uniform(-0.12, 0.12))
    size = float(rng.uniform(*SIZE_MM[kind]))
    if kind == "stromal":
        tu, tv = gland.transition
        v = gland.ANTERIOR - tv + rng.uniform(-0.35, 0.15) * tv
        centre = gland.world(sign * float(rng.uniform(0.4, 0.6)) * tu, float(v), w)
    else:
        centre = gland.world(*gland.zone_mid(sign * float(np.deg2rad(rng.uniform(25, 65))), w), w)
        if kind == "diffuse" and rng.random() < 0.4:
            side = "bilateral"
    return Change(kind, side, level, round(size, 1), tuple(round(value, 2) for value in centre))


def _is_free(change: Change, taken: Sequence[tuple[Point, float]]) -> bool:
    """Whether a change keeps away from what is there; a diffuse one keeps to a side without lesions."""
    for centre, size in taken:
        if change.kind == "diffuse" and (change.side == "bilateral" or change.centre_mm[0] * centre[0] > 0):
            return False
        if np.linalg.norm(np.subtract(change.centre_mm, centre)) < (change.size_mm + size) / 2 + APART_MM:
            return False
    return True
