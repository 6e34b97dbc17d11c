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
from scipy.ndimage import gaussian_filter

from scripts.files import atomic

FACTOR = 4  # the VAE shrinks every axis by 4
SPACING_TOLERANCE = 1e-3  # mm; NIfTI stores the affine in float32


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


def grid_affine(grid: Grid, volume: MetaTensor, centre: Sequence[float] | None = None) -> np.ndarray:
    """The affine that puts `grid` around `centre`, along the axes of `volume`.

    Args:
        grid: size and spacing.
        volume: (1, X, Y, Z), the image whose axes are kept.
        centre: a point in RAS world mm; by default the centre of `volume`.

    Returns:
        (4, 4), voxels to RAS world in mm; its closest orientation is RAS.
    """
    shape, affine = volume.shape[1:], np.asarray(volume.affine, dtype=np.float64)
    if centre is None:
        centre = nib.affines.apply_affine(affine, (np.asarray(shape) - 1) / 2)
    to_ras = nib.orientations.inv_ornt_aff(nib.orientations.io_orientation(affine), shape)
    axes = (affine @ to_ras)[:3, :3]
    steps = axes / np.linalg.norm(axes, axis=0) * grid.spacing
    return nib.affines.from_matvec(steps, centre - steps @ (np.asarray(grid.size) - 1) / 2)


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


def save_int16(path: str | os.PathLike[str], volume: torch.Tensor, affine: np.ndarray) -> None:
    """Write (X, Y, Z) as int16 NIfTI in mm, with the same place in sform and qform.

    Values that int16 would spoil, beyond its range or within a few units, are stored with a slope and read back as
    they were; all others are rounded and stored as they are.
    """
    array = volume.numpy()
    keeps = np.abs(array).max() <= np.iinfo(np.int16).max and np.ptp(array) >= 100
    image = nib.Nifti1Image(np.rint(array).astype(np.int16) if keeps else array, affine)
    image.set_data_dtype(np.int16)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm", "sec")
    with atomic(path) as part:
        nib.save(image, part)
