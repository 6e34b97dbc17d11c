"""What a phantom patient has: findings and the gland's shape, drawn from a seed, independent of any image grid.

World coordinates are RAS+ millimetres with the image centre at the origin: the patient's left is negative x,
anterior is positive y, the base of the gland is positive z.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from scripts.common.problems import UserError
from scripts.phantom.benign import Change, draw_changes
from scripts.phantom.gland import Blob, Gland, Point

Zone = Literal["PZ", "TZ"]
Side = Literal["left", "right"]
Level = Literal["base", "mid", "apex"]

ZONES: tuple[Zone, ...] = ("PZ", "TZ")
SIDES: tuple[Side, ...] = ("left", "right")
LEVELS: tuple[Level, ...] = ("base", "mid", "apex")

DIFFICULTY = 0.5  # by default; 0: lesions alone are dark and every scanner is alike; 1: as hard as it gets

# Where a lesion's centre may lie along the gland's axis, w = -1 (apex) .. 1 (base); levels change at w = ±1/3.
_LEVEL_RANGE = {"base": (0.53, 0.66), "mid": (-0.12, 0.12), "apex": (-0.66, -0.53)}
_DIAMETER_MM = {3: (7.0, 11.0), 4: (9.0, 14.9), 5: (15.0, 20.0)}
_MIDLINE_MM = 6.5  # no lesion's centre is nearer to the midline


@dataclass(frozen=True)
class Lesion:
    """One lesion, inside one of 12 sectors (zone, side of the patient, level)."""

    zone: Zone
    side: Side
    level: Level
    diameter_mm: float
    pirads: int  # 3..5
    isup: int  # 0 (benign) .. 5
    centre_mm: Point


@dataclass(frozen=True)
class Findings:
    """Everything that a report may say about a phantom patient."""

    folder: str
    institute: str
    seed: int
    gland_ml: float
    gland_mm: tuple[float, float, float]  # left-right, anterior-posterior, cranio-caudal
    psa: float  # ng/mL
    psa_density: float  # ng/mL²
    age: int
    pirads: int  # 1..5, that of the index lesion
    lesions: tuple[Lesion, ...]  # index lesion (the largest) first; empty when PI-RADS is 1 or 2
    report_is_missing: bool
    changes: tuple[Change, ...] = ()  # what is dark and benign; none at difficulty 0
    difficulty: float = 0.0  # 0..1


@dataclass(frozen=True)
class Anatomy:
    """The patient behind the images: findings, gland, and one ellipsoid a lesion in the order of `findings.lesions`."""

    findings: Findings
    gland: Gland
    blobs: tuple[Blob, ...]


def check_difficulty(difficulty: float) -> None:
    """Refuse what is no difficulty.

    Raises:
        UserError: it is not from 0 to 1.
    """
    if not 0 <= difficulty <= 1:
        raise UserError(f"difficulty is {difficulty}; give 0 (lesions alone are dark) to 1")


def sample_findings(seed: int, difficulty: float = DIFFICULTY, institute: str = "") -> Findings:
    """The findings of the phantom patient with this seed."""
    return sample_anatomy(seed, difficulty, institute).findings


def sample_anatomy(seed: int, difficulty: float = DIFFICULTY, institute: str = "") -> Anatomy:
    """Draw a patient: about 40 % without a lesion, sectors equally likely, a second lesion in 8 % of the others.

    Gland and lesions are the same at every difficulty; benign changes are there above 0. The patient went to one of
    three institutes, or to the one given.
    """
    rng = np.random.default_rng([seed, 0])
    pirads = int(rng.choice([1, 2, 3, 4, 5], p=[0.15, 0.25, 0.16, 0.25, 0.19]))
    # A lesion of 15 mm or more needs room within one half of its zone.
    millilitres = float(np.exp(rng.uniform(np.log(38 if pirads == 5 else 20), np.log(90))))
    proportions = (1.28 * rng.uniform(0.97, 1.03), 0.93 * rng.uniform(0.97, 1.03), rng.uniform(0.97, 1.03))
    centre = tuple(float(v) for v in rng.uniform(-1, 1, 3) * (2.5, 2.5, 2.0))
    gland = Gland.of_volume(millilitres, proportions, centre)

    found: list[tuple[Lesion, Blob]] = []
    if pirads >= 3:
        found.append(_draw_lesion(gland, pirads, float(rng.uniform(*_DIAMETER_MM[pirads])), rng))
        if rng.random() < 0.08:
            found.append(_second_lesion(gland, found[0][0], rng))
    lesions = tuple(lesion for lesion, _ in found)

    burden = sum(0.025 * lesion.diameter_mm**2 * (lesion.pirads - 2) / 3 for lesion in lesions)
    psa = round(float((0.08 * millilitres + burden) * np.exp(rng.normal(0, 0.25))), 1)
    gland_ml = round(millilitres, 1)
    drawn = f"Institute{rng.integers(1, 4)}"
    taken = [(lesion.centre_mm, lesion.diameter_mm) for lesion in lesions]
    changes = draw_changes(gland, pirads, taken, np.random.default_rng([seed, 6])) if difficulty else ()
    findings = Findings(
        folder=f"phantom_{seed:05d}",
        institute=institute or drawn,
        seed=seed,
        gland_ml=gland_ml,
        gland_mm=tuple(round(size, 1) for size in gland.size_mm),
        psa=psa,
        psa_density=round(psa / gland_ml, 3),
        age=int(np.clip(round(rng.normal(66, 7)), 45, 85)),
        pirads=pirads,
        lesions=lesions,
        report_is_missing=bool(rng.random() < 0.10),
        changes=changes,
        difficulty=difficulty,
    )
    return Anatomy(findings, gland, tuple(blob for _, blob in found))


def _draw_lesion(gland: Gland, pirads: int, diameter: float, rng: np.random.Generator) -> tuple[Lesion, Blob]:
    """A lesion in a sector drawn at random, well away from the midline and from the borders of its level."""
    zone, side, level = (str(rng.choice(names)) for names in (ZONES, SIDES, LEVELS))
    sign = -1 if side == "left" else 1
    w = float(rng.uniform(*_LEVEL_RANGE[level]))
    blob = (_peripheral if zone == "PZ" else _transitional)(gland, sign, w, diameter, rng)
    low, high = {3: (0, 3), 4: (1, 5), 5: (2, 6)}[pirads]
    centre = tuple(round(value, 2) for value in blob.centre)
    return Lesion(zone, side, level, round(diameter, 1), pirads, int(rng.integers(low, high)), centre), blob


def _second_lesion(gland: Gland, index: Lesion, rng: np.random.Generator) -> tuple[Lesion, Blob]:
    """A smaller lesion in another sector, with at least 4 mm of normal tissue between the two."""
    diameter = float(rng.uniform(5.0, min(8.0, index.diameter_mm - 1.5)))
    while True:
        lesion, blob = _draw_lesion(gland, 3, diameter, rng)
        apart = np.linalg.norm(np.subtract(lesion.centre_mm, index.centre_mm))
        if apart > (diameter + index.diameter_mm) / 2 + 4:
            return lesion, blob


def _peripheral(gland: Gland, sign: int, w: float, diameter: float, rng: np.random.Generator) -> Blob:
    """An ellipsoid along the peripheral zone: its long axis is tangential, its short one spans the zone's thickness."""
    angle = sign * float(np.deg2rad(rng.uniform(36, 58)))
    while abs(gland.world(*gland.zone_mid(angle, w), w)[0] - gland.centre[0]) < _MIDLINE_MM:
        angle += sign * np.deg2rad(3)
    ahead = np.array(gland.world(*gland.zone_mid(angle + 0.1, w), w))
    behind = np.array(gland.world(*gland.zone_mid(angle - 0.1, w), w))
    turn = float(np.arctan2(ahead[1] - behind[1], ahead[0] - behind[0]))
    half = diameter / 2
    semi = (half, min(half, max(0.7 * half, 3.2)), 0.85 * half)
    return Blob(gland.world(*gland.zone_mid(angle, w), w), semi, turn)


def _transitional(gland: Gland, sign: int, w: float, diameter: float, rng: np.random.Generator) -> Blob:
    """A lens in the transition zone: longest from front to back, thin from side to side."""
    tu, tv = gland.transition
    half = diameter / 2
    narrow = gland.semi[0] * (1 + gland.TAPER * w)
    u = max(_MIDLINE_MM / narrow, rng.uniform(0.48, 0.56) * tu)
    v = gland.ANTERIOR - tv + rng.uniform(-0.1, 0.15) * tv
    semi = (min(half, max(0.62 * half, 3.2)), half, 0.85 * half)
    return Blob(gland.world(sign * u, float(v), w), semi, sign * float(rng.uniform(-0.2, 0.2)))
