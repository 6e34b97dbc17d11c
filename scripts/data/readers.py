"""Reading exams as a hospital has them: NIfTI, MetaImage, NRRD, or a folder with DICOM series.

NIfTI is read by nibabel, DICOM in `scripts.dicom`, everything else by ITK, an optional extra. Whatever the source, the
world is RAS in mm: ITK's LPS is turned by MONAI's reader.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from monai.data import ITKReader, MetaTensor
from monai.utils import optional_import

from scripts.common.problems import DAMAGED, FROM_DICOM, ImageError
from scripts.data.grid import by
from scripts.data.itk_headers import METAIMAGE, NRRD, check_header
from scripts.data.nifti_files import read_nifti
from scripts.dicom.reading import read_series

has_itk = optional_import("itk")[1]

NIFTI = (".nii", ".nii.gz", ".hdr", ".img")
PICTURES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".pgm")
LONGEST_TEXT = 1024  # bytes of a file that may hold where another one is
SHEAR_TOLERANCE = 1e-3  # cosine between two voxel axes
SLICE_TOLERANCE = 0.1  # mm that a slice may lie off its even place
FINEST, COARSEST = 0.1, 20.0  # mm that a voxel of a scanner's image can measure along an axis
LARGEST = 1000.0  # mm that an image can measure along an axis; a scanner's bore is 700 mm wide


def read_volume(
    path: str | os.PathLike[str], series: str | None = None, b_value: int | None = None, volume: int | None = None
) -> MetaTensor:
    """Read one volume and make sure that it can be resampled: 3D, finite, not constant, in a known place.

    Args:
        path: `.nii`, `.nii.gz`, a NIfTI pair, `.mha`, `.mhd`, `.nrrd`, `.nhdr`, or a folder with DICOM files.
        series, b_value: which of a folder's DICOM series, see `read_series`.
        volume: which of a 4D NIfTI file's volumes, from 1.

    Returns:
        (1, X, Y, Z) float32 with its affine from voxels to RAS world, mm; `meta["told"]` lists what a user should know.

    Raises:
        ImageError: it cannot be read or used.
    """
    path = Path(path)
    is_nifti = path.name.lower().endswith(NIFTI)
    try:
        _refuse_pictures(path)
        _refuse_text(path)
        if path.is_dir():
            array, affine, told = read_series(path, series, b_value)
        elif is_nifti:
            array, affine, told = read_nifti(path, volume)
        else:
            array, affine, told = _read_itk(path)
    except ImageError:
        raise
    except PermissionError:
        raise ImageError("may not be read", "give yourself the right to read it") from None
    except Exception:  # readers raise whatever the broken bytes lead them to
        raise ImageError("cannot be read or is cut short", DAMAGED) from None
    _check(array, affine)
    if not path.is_dir():  # whose slices are looked at one by one
        told += _blank_end(array)
    return MetaTensor(torch.from_numpy(array)[None], affine=torch.from_numpy(affine), meta={"told": told})


def _refuse_pictures(path: Path) -> None:
    """Pictures have no spacing and no orientation; ITK reads them as if they had."""
    files = [file for file in path.iterdir() if not file.name.startswith(".")] if path.is_dir() else [path]
    kinds = {file.suffix.lower() for file in files}
    if kinds and kinds <= set(PICTURES):
        what = f"is {'a folder of pictures' if path.is_dir() else 'a picture'} ({', '.join(sorted(kinds))})"
        todo = "give the DICOM series, NIfTI, MetaImage or NRRD that it was made of"
        raise ImageError(f"{what}, which has no spacing and no orientation", todo)


def _refuse_text(path: Path) -> None:
    """Archives and version control leave a link's path, or where a large file is, in place of the file."""
    if path.is_file() and path.stat().st_size < LONGEST_TEXT and path.suffix.lower() not in (".mhd", ".nhdr"):
        content = path.read_bytes()
        if content and all(32 <= byte < 127 or byte in b"\r\n\t" for byte in content):
            what = "holds a short text and no image: a link or a pointer that was copied without its file"
            raise ImageError(what, "put the file itself there")


def _read_itk(path: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    if not has_itk:
        raise ImageError(f"{path.suffix or 'it'} needs ITK, which is not installed", 'run: pip install ".[readers]"')
    if path.suffix.lower() not in (*METAIMAGE, *NRRD):
        raise ImageError("is of no kind that is read", "give DICOM, NIfTI, MetaImage or NRRD")
    told = check_header(path)
    reader = ITKReader()
    image = reader.read(path)
    # Text, where SimpleITK wrote what it had read of a DICOM series into a file's header.
    deviation = float(dict(image).get("ITK_non_uniform_sampling_deviation", 0.0))
    if deviation > SLICE_TOLERANCE:
        raise ImageError(f"has slices up to {deviation:.1f} mm off an even distance", "export the whole series, once")
    array, meta = reader.get_data(image)
    return np.ascontiguousarray(array, dtype=np.float32), np.asarray(meta["affine"], dtype=np.float64), told


def _check(array: np.ndarray, affine: np.ndarray) -> None:
    if array.ndim != 3 or min(array.shape) < 2:
        raise ImageError(f"has shape {array.shape}", "give a 3D image")
    if not np.isfinite(array).all():
        raise ImageError("holds NaN or infinite values", "export it again or fill them")
    if array.min() == array.max():
        raise ImageError(f"is constant ({array.min():g})", "export it again")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or (spacing <= 0).any():
        raise ImageError("has no valid spacing or orientation", FROM_DICOM)
    if spacing.min() < FINEST or spacing.max() > COARSEST or (spacing * array.shape).max() > LARGEST:
        steps = by(float(f"{step:.4g}") for step in spacing)
        what = f"has {by(array.shape)} voxels of {steps} mm, which no scanner makes"
        raise ImageError(what, "correct its unit or spacing, or convert it from DICOM again")
    axes = affine[:3, :3] / spacing
    if np.abs(axes.T @ axes - np.eye(3)).max() > SHEAR_TOLERANCE:
        raise ImageError("has voxel axes that are not at right angles", "resample it to a grid without shear")


def _blank_end(array: np.ndarray) -> list[str]:
    """Tell of an image (X, Y, Z) that ends in one and the same value where what lies before does not.

    A copy that broke off and was filled with zeros does, as do slices that were never acquired. Behind a mask, and in
    the air around the patient, most of what lies before is blank too.
    """
    flat = array.ravel(order="F")
    tail = flat.size - 1 - int(np.flatnonzero(flat != flat[-1])[-1])
    size = array.shape[0] * array.shape[1]
    before = flat[max(flat.size - tail - size, 0) : flat.size - tail]  # as many voxels as a slice has
    if tail < size / 10 or (before == flat[-1]).mean() > 0.5:
        return []
    blank = f"{tail // size} blank slices" if tail >= size else f"{tail} blank voxels"
    return [f"ends in {blank}: they were not acquired, or the file was cut short and filled"]
