"""What a phantom patient has: findings and the gland's shape, drawn from a seed, independent of any image grid.

World coordinates are RAS+ millimetres with the image centre at the origin: the patient's left is negative x,
anterior is positive y, the base of the gland is positive z.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

Zone = Literal["PZ", "TZ"]
Side = Literal["left", "right"]
Level = Literal["base", "mid", "apex"]
Point = tuple[float, float, float]

ZONES: tuple[Zone, ...] = ("PZ", "TZ")
SIDES: tuple[Side, ...] = ("left", "right")
LEVELS: tuple[Level, ...] = ("base", "mid", "apex")

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


@dataclass(frozen=True)
class Gland:
    """The gland as an implicit surface: an ellipsoid, narrower at the apex and flattened at the back.

    Gland coordinates (u, v, w) run from -1 to 1 over the gland. With s = 1 + TAPER·w, U = (x - cx)/a and
    Y = (y - cy)/b they are u = U/s, v = (Y + FLAT·U²)/s, w = (z - cz)/c, and the surface is u² + v² + |w|^POWER = 1.
    The flattening is a shear and keeps the area of every axial section, so the volume has a closed form.
    """

    centre: Point
    semi: Point  # a, b, c in mm

    TAPER = 0.18
    FLAT = 0.22
    POWER = 2.4
    ANTERIOR = 0.93  # v where the transition zone ends in front

    @classmethod
    def of_volume(cls, millilitres: float, proportions: Point, centre: Point) -> Gland:
        """The gland of that volume whose semi-axes have these proportions."""
        unit = cls(centre, proportions)
        scale = (millilitres / unit.millilitres) ** (1 / 3)
        return cls(centre, (proportions[0] * scale, proportions[1] * scale, proportions[2] * scale))

    @property
    def millilitres(self) -> float:
        """Volume: pi·a·b·c times the integral of s²·(1 - |w|^POWER) over w."""
        p, k = self.POWER, self.TAPER
        return float(np.pi * np.prod(self.semi) * (2 - 2 / (p + 1) + 2 * k**2 * (1 / 3 - 1 / (p + 3))) / 1000)

    @property
    def size_mm(self) -> Point:
        """Left-right, anterior-posterior and cranio-caudal size; the widest section lies a little above the middle."""
        w = np.linspace(0, 0.5, 101)
        widest = float(np.max((1 + self.TAPER * w) * np.sqrt(1 - w**self.POWER)))
        a, b, c = self.semi
        return 2 * a * widest, 2 * b * widest, 2 * c

    @cached_property
    def transition(self) -> tuple[float, float]:
        """Semi-axes of the transition zone in u and v; it grows faster than the gland (hyperplasia)."""
        growth = float(np.clip((self.millilitres - 20) / 70, 0, 1))
        return 0.58 + 0.16 * growth, 0.60 + 0.13 * growth

    def coordinates(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Gland coordinates u, v, w of world points (mm, arrays that broadcast)."""
        across = (x - self.centre[0]) / self.semi[0]
        w = (z - self.centre[2]) / self.semi[2]
        s = 1 + self.TAPER * np.clip(w, -1.5, 1.5)
        return across / s, ((y - self.centre[1]) / self.semi[1] + self.FLAT * across**2) / s, w

    def world(self, u: float, v: float, w: float) -> Point:
        """World point (mm) of gland coordinates: the inverse of `coordinates`."""
        s = 1 + self.TAPER * w
        x = self.centre[0] + self.semi[0] * u * s
        y = self.centre[1] + self.semi[1] * (v * s - self.FLAT * (u * s) ** 2)
        return float(x), float(y), float(self.centre[2] + self.semi[2] * w)

    def distance(self, u: np.ndarray, v: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Distance to the surface in mm, negative inside; first order, right near the surface."""
        radius = np.sqrt(u**2 + v**2 + np.abs(w) ** self.POWER)
        slope = np.sqrt((u / self.semi[0]) ** 2 + (v / self.semi[1]) ** 2 + (w / self.semi[2]) ** 2)
        return (radius - 1) * radius / np.maximum(slope, 1e-3)

    def transition_distance(self, u: np.ndarray, v: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Distance to the transition zone's surface in mm, negative inside; first order."""
        tu, tv = self.transition
        right, front, up = u / tu, (v - (self.ANTERIOR - tv)) / tv, (w - 0.04) / 0.90
        radius = np.sqrt(right**2 + front**2 + up**4)
        a, b, c = self.semi
        slope = np.sqrt((right / (tu * a)) ** 2 + (front / (tv * b)) ** 2 + (2 * up**3 / (0.90 * c)) ** 2)
        return (radius - 1) * radius / np.maximum(slope, 1e-3)

    def zone_mid(self, angle: float, w: float) -> tuple[float, float]:
        """(u, v) in the middle of the peripheral zone, `angle` from straight back (radians, to the right positive)."""
        outer = np.sqrt(1 - abs(w) ** self.POWER)
        rho = np.linspace(0, outer, 65)
        in_transition = self.transition_distance(rho * np.sin(angle), -rho * np.cos(angle), np.asarray(w)) < 0
        inner = rho[in_transition].max(initial=0)
        middle = (outer + inner) / 2
        return float(middle * np.sin(angle)), float(-middle * np.cos(angle))


@dataclass(frozen=True)
class Blob:
    """A lesion's ellipsoid: centre and semi-axes in mm; `turn` rotates the first axis from x towards y (radians)."""

    centre: Point
    semi: Point
    turn: float


@dataclass(frozen=True)
class Anatomy:
    """The patient behind the images: findings, gland, and one ellipsoid a lesion in the order of `findings.lesions`."""

    findings: Findings
    gland: Gland
    blobs: tuple[Blob, ...]


def sample_findings(seed: int) -> Findings:
    """The findings of the phantom patient with this seed."""
    return sample_anatomy(seed).findings


def sample_anatomy(seed: int) -> Anatomy:
    """Draw a patient: about 40 % without a lesion, sectors equally likely, a second lesion in 8 % of the others."""
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
    findings = Findings(
        folder=f"phantom_{seed:05d}",
        institute=f"Institute{rng.integers(1, 4)}",
        seed=seed,
        gland_ml=gland_ml,
        gland_mm=tuple(round(size, 1) for size in gland.size_mm),
        psa=psa,
        psa_density=round(psa / gland_ml, 3),
        age=int(np.clip(round(rng.normal(66, 7)), 45, 85)),
        pirads=pirads,
        lesions=lesions,
        report_is_missing=bool(rng.random() < 0.10),
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
