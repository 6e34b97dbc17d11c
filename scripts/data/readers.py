"""Reading exams as a hospital has them: NIfTI, MetaImage, or a folder with one DICOM series.

NIfTI is read by nibabel. Everything else is read by ITK, an optional extra, which knows DICOM's rescaling, slice order
and geometry. Whatever the source, the world is RAS in mm: ITK's and DICOM's LPS is turned by MONAI's reader.
"""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.data import ITKReader, MetaTensor, NibabelReader
from monai.utils import optional_import

itk, has_itk = optional_import("itk")

SHEAR_TOLERANCE = 1e-3  # cosine between two voxel axes
SLICE_TOLERANCE = 0.1  # mm that a DICOM slice may lie off its even place


class ImageError(ValueError):
    """An image that cannot be used, with what is wrong and what to do about it; the caller knows the case."""

    def __init__(self, what: str, todo: str) -> None:
        super().__init__(f"{what}; {todo}")
        self.what = what
        self.todo = todo


def read_volume(path: str | os.PathLike[str]) -> MetaTensor:
    """Read one volume and make sure that it can be resampled: 3D, finite, not constant, in a known place.

    Args:
        path: `.nii` or `.nii.gz`; a folder that holds one DICOM series; any other file that ITK reads (`.mha`, `.mhd`).

    Returns:
        (1, X, Y, Z) float32 with its affine from voxels to RAS world, mm.

    Raises:
        ImageError: it cannot be read or used.
    """
    path = Path(path)
    is_nifti = path.name.endswith((".nii", ".nii.gz"))
    if not is_nifti and not has_itk:
        raise ImageError(f"{path.suffix or 'DICOM'} needs ITK, which is not installed", 'run: pip install ".[readers]"')
    try:
        array, affine = _read_nifti(path) if is_nifti else _read_itk(path)
    except ImageError:
        raise
    except Exception:  # readers raise whatever the broken bytes lead them to
        raise ImageError("cannot be read or is cut short", "copy or export it again") from None
    _check(array, affine)
    return MetaTensor(torch.from_numpy(array)[None], affine=torch.from_numpy(affine))


def _read_nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    reader = NibabelReader(squeeze_non_spatial_dims=True)
    image = reader.read(path)
    header = image.header
    if not isinstance(image, nib.Nifti1Image) or not (header["sform_code"] or header["qform_code"]):
        raise ImageError("does not say where it lies in the patient (no sform or qform)", "convert it from DICOM again")
    if header.get_xyzt_units()[0] not in ("mm", "unknown"):
        raise ImageError(f"is in {header.get_xyzt_units()[0]}, not mm", "write it in mm")
    array, _ = reader.get_data(image)
    return np.ascontiguousarray(array, dtype=np.float32), np.asarray(image.affine, dtype=np.float64)


def _read_itk(path: Path) -> tuple[np.ndarray, np.ndarray]:
    if path.is_dir():
        _check_series(path)
    reader = ITKReader()
    image = reader.read(path)
    deviation = dict(image).get("ITK_non_uniform_sampling_deviation", 0.0)
    if deviation > SLICE_TOLERANCE:
        raise ImageError(f"has slices up to {deviation:.1f} mm off an even distance", "export the whole series, once")
    array, meta = reader.get_data(image)
    return np.ascontiguousarray(array, dtype=np.float32), np.asarray(meta["affine"], dtype=np.float64)


def _check_series(path: Path) -> None:
    """Make sure that a folder holds one whole DICOM series.

    ITKReader takes the first of several series, GDCM passes over files that it cannot read and fills slices that were
    cut short: all of it without an error, and a prostate without its apex is the result.
    """
    names = itk.GDCMSeriesFileNames.New()
    names.SetUseSeriesDetails(True)
    names.AddSeriesRestriction("0008|0021")  # the series date, as ITKReader does
    names.SetDirectory(str(path))
    series = names.GetSeriesUIDs()
    if len(series) != 1:
        raise ImageError(f"is a folder with {len(series)} DICOM series", "give every series a folder of its own")
    slices = {Path(name).name for name in names.GetFileNames(series[0])}
    for file in sorted(file for file in path.iterdir() if file.is_file()):
        data = file.read_bytes()
        if (data[128:132] == b"DICM" and file.name not in slices) or not _is_whole(data):
            todo = "copy or export it again; take it out if it is no slice"
            raise ImageError(f"has a slice that cannot be read or is cut short ({file.name})", todo)


def _is_whole(data: bytes) -> bool:
    """Whether the pixel data of a DICOM file, element (7FE0,0010), is as long as it declares (PS3.5, 7.1 and A.4).

    True where there is no such element: in a deflated file, and in one that is no DICOM file.
    """
    at = data.find(b"\xe0\x7f\x10\x00")
    if at < 0 or data[128:132] != b"DICM":
        return True
    start = at + (12 if data[at + 4 : at + 6] in (b"OB", b"OW") else 8)  # explicit or implicit value representation
    length = int.from_bytes(data[start - 4 : start], "little")
    if length == 0xFFFFFFFF:  # compressed: fragments up to a delimiter
        return b"\xfe\xff\xdd\xe0" in data[start:]
    return start + length <= len(data)


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
