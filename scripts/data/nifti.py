"""Writing NIfTI: the one place that decides what a header says."""

from __future__ import annotations

import os

import nibabel as nib
import numpy as np

from scripts.common.files import atomic


def save_nifti(path: str | os.PathLike[str], volume: np.ndarray, affine: np.ndarray, description: str = "") -> None:
    """Write (X, Y, Z) as NIfTI in mm, with the same place in sform and qform; complete or not at all.

    Args:
        volume: integers are stored as they are; floating values as int16 with a slope, which reads back as they were.
        affine: (4, 4), voxels to RAS world in mm.
        description: up to 79 characters for the header.

    Raises:
        UserError: the folder cannot be written to, or the disk is full.
    """
    image = nib.Nifti1Image(volume, affine)
    if np.issubdtype(volume.dtype, np.floating):
        image.set_data_dtype(np.int16)
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner")
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = description
    with atomic(path) as temporary:
        nib.save(image, temporary)


def save_int16(path: str | os.PathLike[str], volume: np.ndarray, affine: np.ndarray) -> None:
    """Write floating values (X, Y, Z) as int16 NIfTI, see `save_nifti`.

    Values that int16 would spoil, beyond its range or within a few units, are stored with a slope; all others are
    rounded and stored as they are.
    """
    keeps = np.abs(volume).max() <= np.iinfo(np.int16).max and np.ptp(volume) >= 100
    save_nifti(path, np.rint(volume).astype(np.int16) if keeps else volume, affine)
