"""Closed surfaces in binary STL files: their volume, and the voxels inside them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scripts.common.problems import UserError
from scripts.public.masks import Labels

# 80 bytes of anything and the number of triangles; then of each its normal, three corners and two bytes more.
HEADER = 84
TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("more", "<u2")])
ASIDE = (0.4142, 0.7320, 0.5)  # of a voxel that the grid is moved by, so that no line runs along an edge


def read_stl(path: str | os.PathLike[str]) -> np.ndarray:
    """Triangles (N, 3, 3) in RAS world mm; a surface from DICOM images is in LPS.

    Raises:
        UserError: it cannot be read, or is no binary STL.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    count = int.from_bytes(data[80:HEADER], "little")
    if not count or len(data) != HEADER + count * TRIANGLE.itemsize:
        raise UserError(f"{path}: is no binary STL, or is cut short; download it again")
    corners = np.frombuffer(data, TRIANGLE, offset=HEADER)["corners"].astype(np.float64)
    if not np.isfinite(corners).all():
        raise UserError(f"{path}: has corners that are no numbers; download it again")
    return corners * (-1, -1, 1)


def volume_ml(triangles: np.ndarray) -> float:
    """The volume inside a closed surface (N, 3, 3), by the divergence theorem."""
    a, b, c = np.moveaxis(triangles - triangles.mean((0, 1)), 1, 0)
    return abs(float(np.einsum("ni,ni->", a, np.cross(b, c)))) / 6000


def grid_around(surfaces: Sequence[np.ndarray], spacing: float) -> Labels:
    """A grid without labels, along RAS, that holds all surfaces."""
    corners = np.concatenate([surface.reshape(-1, 3) for surface in surfaces])
    low = corners.min(0) - spacing * (1 + np.array(ASIDE))
    size = np.ceil((corners.max(0) - low) / spacing).astype(int) + 2
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = low
    return Labels(np.zeros(size, np.int16), affine)


def inside(triangles: np.ndarray, grid: Labels) -> np.ndarray:
    """Which voxels (X, Y, Z) of a grid along RAS lie inside a closed surface (N, 3, 3).

    A voxel is inside if the line from it down crosses the surface an odd number of times.
    """
    size = grid.voxels.shape
    crossings = np.zeros((size[0], size[1], size[2] + 1), np.int32)
    corners = (triangles - grid.affine[:3, 3]) / grid.spacing
    low, high = np.ceil(corners.min(1)[:, :2]).astype(int), np.floor(corners.max(1)[:, :2]).astype(int)
    for step in np.ndindex(*(np.maximum(high - low, 0).max(0) + 1)):  # a line of each triangle's box at a time
        some = (low + step <= high).all(1)
        lines = (low + step)[some]
        a, b, c = np.moveaxis(corners[some], 1, 0)
        flat = lines - a[:, :2]
        twice = _cross(b - a, c - a)  # the area as seen from above
        with np.errstate(divide="ignore", invalid="ignore"):  # of those seen from the side, which no line crosses
            u, v = _cross(flat, c - a) / twice, _cross(b - a, flat) / twice
        hit = (u >= 0) & (v >= 0) & (u + v <= 1)
        height = a[:, 2] + u * (b - a)[:, 2] + v * (c - a)[:, 2]
        np.add.at(crossings, (*lines[hit].T, np.ceil(height[hit]).astype(int)), 1)
    return np.cumsum(crossings[:, :, :-1], axis=2) % 2 == 1


def _cross(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of (N, 2 or 3) vectors as seen from above."""
    return one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0]
