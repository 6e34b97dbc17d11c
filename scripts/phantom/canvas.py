"""Three images, one a sequence, that tissues are painted on as soft shapes in millimetres, on any grid."""

from __future__ import annotations

import numpy as np

from scripts.data.datalists import SEQUENCES
from scripts.data.grid import Coordinates, Grid, coordinates
from scripts.phantom.gland import Blob, Point

Signal = tuple[float, ...]  # of a tissue, in the order of SEQUENCES


class Canvas:
    """Three images that tissues are painted on, one over the other; a part of a canvas paints on the same images."""

    def __init__(self, xyz: Coordinates, soft: float, images: np.ndarray) -> None:
        self.xyz = xyz  # world mm, arrays that broadcast
        self.soft = soft  # mm over which an edge fades: partial volume
        self.images = images  # (3, X, Y, Z), in the order of SEQUENCES

    @classmethod
    def blank(cls, grid: Grid, signal: Signal) -> Canvas:
        """A canvas of one tissue."""
        images = np.empty((len(SEQUENCES), *grid.size), np.float32)
        images[:] = np.reshape(signal, (-1, 1, 1, 1))
        return cls(coordinates(grid), float(np.prod(grid.spacing) ** (1 / 3)), images)

    def around(self, centre: Point, reach: Point) -> tuple[Canvas, tuple[slice, slice, slice]]:
        """The part of the canvas within `reach` mm of a point, and where it lies; it may be empty."""
        box = []
        for axis, middle, distance in zip(self.xyz, centre, reach, strict=True):
            inside = np.abs(axis.ravel() - middle) <= distance + 2 * self.soft
            first = int(np.argmax(inside))
            box.append(slice(first, first + int(inside.sum())))
        x, y, z = self.xyz
        xyz = (x[box[0]], y[:, box[1]], z[:, :, box[2]])
        return Canvas(xyz, self.soft, self.images[(slice(None), *box)]), tuple(box)

    def cover(self, distance: np.ndarray, fade: float = 0.0) -> np.ndarray:
        """How much of each voxel lies inside a surface, from the distance to it in mm (negative inside).

        A tissue that fades into its surroundings does so over `fade` mm, where a voxel is smaller than that.
        """
        return np.clip(0.5 - distance / max(self.soft, fade), 0, 1)

    def paint(self, cover: np.ndarray, signal: Signal, texture: np.ndarray | float = 1.0) -> None:
        """Lay a tissue over what is there; `texture` multiplies its signal."""
        for image, value in zip(self.images, signal, strict=True):
            image += cover * (value * texture - image)

    def ellipsoid(
        self, blob: Blob, signal: Signal, within: np.ndarray | None = None, texture: np.ndarray | None = None
    ) -> None:
        """Lay an ellipsoid over what is there, limited to the coverage `within`; both arrays are the whole canvas'."""
        flat = max(blob.semi[:2])
        part, box = self.around(blob.centre, (flat, flat, blob.semi[2]))
        cover = part.cover(part.blob_distance(blob))
        part.paint(cover if within is None else cover * within[box], signal, 1.0 if texture is None else texture[box])

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
