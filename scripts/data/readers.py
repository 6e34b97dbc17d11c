"""Reading exams as a hospital has them: NIfTI, MetaImage, or a folder with one DICOM series.

NIfTI is read by nibabel, DICOM in `scripts.dicom`, everything else by ITK, an optional extra. Whatever the source, the
world is RAS in mm: ITK's LPS is turned by MONAI's reader.
"""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.data import ITKReader, MetaTensor, NibabelReader
from monai.utils import optional_import

from scripts.common.problems import ImageError
from scripts.dicom.reading import read_series

has_itk = optional_import("itk")[1]

SHEAR_TOLERANCE = 1e-3  # cosine between two voxel axes


def read_volume(
    path: str | os.PathLike[str], series: str | None = None, b_value: int | None = None, volume: int | None = None
) -> MetaTensor:
    """Read one volume and make sure that it can be resampled: 3D, finite, not constant, in a known place.

    Args:
        path: `.nii` or `.nii.gz`; a folder with DICOM files; any other file that ITK reads (`.mha`, `.mhd`).
        series, b_value: which of a folder's DICOM series, see `read_series`.
        volume: which of a 4D file's volumes, from 1.

    Returns:
        (1, X, Y, Z) float32 with its affine from voxels to RAS world, mm; `meta["told"]` lists what a user should know.

    Raises:
        ImageError: it cannot be read or used.
    """
    path, told = Path(path), []
    is_nifti = path.name.endswith((".nii", ".nii.gz"))
    if not is_nifti and not path.is_dir() and not has_itk:
        raise ImageError(f"{path.suffix or 'it'} needs ITK, which is not installed", 'run: pip install ".[readers]"')
    try:
        if path.is_dir():
            array, affine, told = read_series(path, series, b_value)
        else:
            array, affine = _read_nifti(path, volume) if is_nifti else _read_itk(path)
    except ImageError:
        raise
    except Exception:  # readers raise whatever the broken bytes lead them to
        raise ImageError("cannot be read or is cut short", "copy or export it again") from None
    _check(array, affine)
    return MetaTensor(torch.from_numpy(array)[None], affine=torch.from_numpy(affine), meta={"told": told})


def _read_nifti(path: Path, volume: int | None) -> tuple[np.ndarray, np.ndarray]:
    reader = NibabelReader(squeeze_non_spatial_dims=True)
    image = reader.read(path)
    header = image.header
    if not isinstance(image, nib.Nifti1Image) or not (header["sform_code"] or header["qform_code"]):
        raise ImageError("does not say where it lies in the patient (no sform or qform)", "convert it from DICOM again")
    if header.get_xyzt_units()[0] not in ("mm", "unknown"):
        raise ImageError(f"is in {header.get_xyzt_units()[0]}, not mm", "write it in mm")
    array, _ = reader.get_data(image)
    if array.ndim == 4:
        array = _one_of(array, volume)
    return np.ascontiguousarray(array, dtype=np.float32), np.asarray(image.affine, dtype=np.float64)


def _one_of(array: np.ndarray, volume: int | None) -> np.ndarray:
    """One of the volumes (X, Y, Z) of an array (X, Y, Z, volumes), counted from 1."""
    count = array.shape[3]
    if volume is None:
        todo = "choose one, e.g. --volume 1, or for each exam in a table (--series)"
        raise ImageError(f"is no 3D image but holds {count} volumes", todo)
    if not 1 <= volume <= count:
        raise ImageError(f"holds {count} volumes, no volume {volume}", "correct --volume or the table of series")
    return array[..., volume - 1]


def _read_itk(path: Path) -> tuple[np.ndarray, np.ndarray]:
    reader = ITKReader()
    image = reader.read(path)
    array, meta = reader.get_data(image)
    return np.ascontiguousarray(array, dtype=np.float32), np.asarray(meta["affine"], dtype=np.float64)


def _check(array: np.ndarray, affine: np.ndarray) -> None:
    if array.ndim != 3 or min(array.shape) < 2:
        raise ImageError(f"has shape {array.shape}", "give a 3D image")
    if not np.isfinite(array).all():
        raise ImageError("holds NaN or infinite values", "export it again or fill them")
    if array.min() == array.max():
        raise ImageError(f"is constant ({array.min():g})", "export it again")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or (spacing <= 0).any():
        raise ImageError("has no valid spacing or orientation", "convert it from DICOM again")
    axes = affine[:3, :3] / spacing
    if np.abs(axes.T @ axes - np.eye(3)).max() > SHEAR_TOLERANCE:
        raise ImageError("has voxel axes that are not at right angles", "resample it to a grid without shear")
