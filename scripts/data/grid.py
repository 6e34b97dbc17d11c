"""Bringing a volume onto the one grid that the networks know.

The grid lies around a point, by default the centre of the T2w image, and along the T2w's own axes in the order and
direction closest to RAS. So an acquired slice stays a slice, an oblique acquisition keeps its angles in the affine, and
ADC and DWI are resampled to the same world positions.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import SpatialResample
from numpy.typing import ArrayLike
from scipy.ndimage import gaussian_filter

FACTOR = 4  # the VAE shrinks every axis by 4
COARSER = 1.2  # how much longer than the others a voxel is along the axis across its slices
SPACING_TOLERANCE = 1e-3  # mm; NIfTI stores the affine in float32

Coordinates = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Grid:
    """Voxels and their spacing in mm, along x, y and z."""

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]

    @property
    def extent(self) -> tuple[float, ...]:
        """The field of view in mm."""
        return tuple(n * step for n, step in zip(self.size, self.spacing, strict=True))


GRIDS = {
    "reference": Grid((256, 256, 128), (0.5, 0.5, 0.5625)),
    "demo": Grid((64, 64, 32), (1.25, 1.25, 1.875)),
}


def grid_affine(
    grid: Grid,
    like: ArrayLike | None = None,
    like_shape: Sequence[int] | None = None,
    centre: Sequence[float] | None = None,
) -> np.ndarray:
    """The affine of a grid around the world's origin, or around a point and along the axes of an image.

    Args:
        grid: size and spacing.
        like: affine (4, 4) of the image whose axes are kept, in the order and direction closest to RAS.
        like_shape: its voxels along each axis.
        centre: a point in RAS world mm; by default the centre of that image.

    Returns:
        (4, 4), voxels to RAS world in mm; its closest orientation is RAS.
    """
    directions, middle = np.eye(3), np.zeros(3)
    if like is not None:
        like = np.asarray(like, dtype=np.float64)
        middle = nib.affines.apply_affine(like, (np.asarray(like_shape) - 1) / 2)
        axes = (like @ nib.orientations.inv_ornt_aff(nib.orientations.io_orientation(like), like_shape))[:3, :3]
        directions = axes / np.linalg.norm(axes, axis=0)
    steps = directions * grid.spacing
    centre = middle if centre is None else np.asarray(centre, dtype=np.float64)
    return nib.affines.from_matvec(steps, centre - steps @ ((np.asarray(grid.size) - 1) / 2))


def coordinates(grid: Grid) -> Coordinates:
    """World x, y, z in mm of a grid around the world's origin, as float32 arrays that broadcast to its size."""
    axes = [
        ((np.arange(n) - (n - 1) / 2) * step).astype(np.float32)
        for n, step in zip(grid.size, grid.spacing, strict=True)
    ]
    return axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None, :]


def read_grid(path: str | os.PathLike[str]) -> tuple[np.ndarray, tuple[int, ...]]:
    """The grid of a NIfTI image, its axes in the order and direction R, A, S; only the header is read.

    Returns:
        The affine (4, 4) from voxels to RAS world in mm, and the size in voxels.

    Raises:
        ValueError: the file cannot be read as NIfTI, is not 3D, or does not say where it lies.
    """
    try:
        image = nib.load(path)
        shape, affine = image.shape, np.asarray(image.affine, dtype=np.float64)
    except Exception:  # nibabel raises whatever the broken bytes lead it to
        raise ValueError("cannot be read as NIfTI") from None
    if len(shape) != 3:
        raise ValueError(f"has shape {by(shape)}, not three axes")
    if not np.isfinite(affine).all() or np.linalg.matrix_rank(affine) < 4:
        raise ValueError("has no valid spacing or orientation")
    orientation = nib.io_orientation(affine)
    size = tuple(int(shape[int(axis)]) for axis in np.argsort(orientation[:, 0]))
    return affine @ nib.orientations.inv_ornt_aff(orientation, shape), size


def by(numbers: Iterable[float]) -> str:
    """Numbers as messages write a size or a spacing, e.g. 64×64×32."""
    return "×".join(f"{number:g}" for number in numbers)


def resample(volume: MetaTensor, grid: Grid, affine: np.ndarray) -> MetaTensor:
    """Resample a volume linearly onto a grid, smoothed first along the axes that shrink.

    The Gaussian has sigma = (ratio - 1) / 2 voxels where a grid step is `ratio` voxels long, as scikit-image does it.
    Outside the volume's field of view the result is 0.

    Args:
        volume: (1, X, Y, Z).
        grid: size of the result.
        affine: (4, 4) of the result, from `grid_affine`.

    Returns:
        (1, *grid.size) float32.
    """
    smooth = torch.from_numpy(gaussian_filter(volume[0].numpy(), _sigma(volume, affine), mode="nearest"))[None]
    linear = SpatialResample(mode="bilinear", padding_mode="border", align_corners=False, dtype=torch.float32)
    values = linear(MetaTensor(smooth, affine=volume.affine), torch.from_numpy(affine), grid.size)
    return values * field_of_view(volume, grid, affine)


def field_of_view(volume: MetaTensor, grid: Grid, affine: np.ndarray) -> torch.Tensor:
    """Which points of the grid the volume saw: those up to half a voxel beyond its outermost voxel centres.

    Returns:
        (1, *grid.size) bool.
    """
    nearest = SpatialResample(mode="nearest", padding_mode="zeros", align_corners=False, dtype=torch.float32)
    ones = MetaTensor(torch.ones(volume.shape), affine=volume.affine)
    return nearest(ones, torch.from_numpy(affine), grid.size).as_tensor() > 0


def _sigma(volume: MetaTensor, affine: np.ndarray) -> np.ndarray:
    """Sigma in voxels along each axis of the volume."""
    steps = np.linalg.solve(np.asarray(volume.affine, dtype=np.float64), affine)[:3, :3]
    return np.maximum(np.abs(steps).max(axis=1) - 1, 0) / 2


def slice_angle(affine: np.ndarray) -> float:
    """The angle in degrees between an image's slices and the axial plane.

    The slices lie across its coarsest axis, or across the third one where no axis is coarser than the others.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    across = int(np.argmax(spacing)) if spacing.max() > COARSER * np.median(spacing) else 2
    return float(np.degrees(np.arccos(min(1.0, abs(affine[2, across]) / spacing[across]))))
