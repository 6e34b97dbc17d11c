"""The gland's shape: an implicit surface with coordinates of its own, and the ellipsoids that lie in it.

World coordinates are RAS+ millimetres with the image centre at the origin: the patient's left is negative x,
anterior is positive y, the base of the gland is positive z.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

Point = tuple[float, float, float]


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
    """An ellipsoid: centre and semi-axes in mm; `turn` rotates the first axis from x towards y (radians)."""

    centre: Point
    semi: Point
    turn: float
