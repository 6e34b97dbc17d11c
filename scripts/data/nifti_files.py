"""Reading NIfTI as it comes: every byte checked, and no header believed that contradicts itself.

https://nifti.nimh.nih.gov/nifti-1 (nifti1.h) for the header's fields.
"""

from __future__ import annotations

import gzip
import zlib
from io import BytesIO
from pathlib import Path

import nibabel as nib
import numpy as np

from scripts.common.problems import DAMAGED, FROM_DICOM, ImageError
from scripts.data.grid import by

AGREEMENT = 0.1  # mm that sform and qform may lie apart at a corner
SPARE = 512  # bytes that a writer may pad a file with

NO_PLACE = "does not say where it lies in the patient (no sform or qform)"


def read_nifti(path: Path, volume: int | None = None) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Read `.nii`, `.nii.gz`, or a pair `.hdr` and `.img` with a NIfTI header.

    Args:
        path: the file, or one of the two.
        volume: which of a 4D file's volumes, from 1.

    Returns:
        Values (X, Y, Z) as float32, the affine (4, 4) from voxels to RAS world in mm, and what should be told.

    Raises:
        ImageError: it is damaged, is no NIfTI, holds several volumes or complex values, or has no place or unit.
    """
    parts = _parts(path)
    contents = {part: _bytes(part) for part in {*parts}}
    header, data = (contents[part] for part in parts)
    kind = _kind(header)
    file_map = kind.make_file_map()
    for part, content in (("header", header), ("image", data)):
        if part in file_map:
            file_map[part] = nib.FileHolder(fileobj=BytesIO(content))
    image = kind.from_file_map(file_map)
    if len(image.shape) < 3:
        raise ImageError(f"has shape {image.shape}", "give a 3D image")
    notes = _check_header(image)
    dtype = image.get_data_dtype()
    if dtype.kind == "c":
        raise ImageError("holds complex values", "write the magnitude")
    if dtype.fields is not None:
        raise ImageError("holds colours", "give the image itself, not a picture of it")
    spare = len(data) - image.dataobj.offset - int(np.prod(image.shape)) * dtype.itemsize
    if spare > SPARE:
        notes.append(f"holds {spare} bytes more than its header tells of: slices may be missing")
    return _one_volume(image, volume), np.asarray(image.affine, dtype=np.float64), notes


def _parts(path: Path) -> tuple[Path, Path]:
    """The files of the header and of the voxels; one and the same but for a pair."""
    if path.suffix not in (".hdr", ".img"):
        return path, path
    header, data = path.with_suffix(".hdr"), path.with_suffix(".img")
    for part in (header, data):
        if not part.is_file():
            raise ImageError(f"is one half of a pair, {part.name} is missing", "put it beside")
    return header, data


def _bytes(path: Path) -> bytes:
    """The file's content, unpacked to its end, where its checksum stands."""
    content = path.read_bytes()
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error):
        raise ImageError("is damaged or cut short: its compressed data do not unpack", DAMAGED) from None


def _kind(header: bytes) -> type[nib.Nifti1Pair]:
    """The class that reads a header."""
    kinds = {b"n+1\0": nib.Nifti1Image, b"ni1\0": nib.Nifti1Pair}
    if kind := kinds.get(header[344:348]):
        return kind
    if header[4:8] in (b"n+2\0", b"ni2\0"):
        return nib.Nifti2Image if header[4:8] == b"n+2\0" else nib.Nifti2Pair
    if 348 in (int.from_bytes(header[:4], order) for order in ("little", "big")):
        raise ImageError("is an Analyze image, which has no orientation", FROM_DICOM)
    raise ImageError("cannot be read: it is no NIfTI image or is damaged", DAMAGED)


def _check_header(image: nib.Nifti1Pair) -> list[str]:
    """Refuse a header without a place or not in mm, and tell of one that contradicts itself."""
    header = image.header
    unit = header.get_xyzt_units()[0]
    if unit not in ("mm", "unknown"):
        raise ImageError(f"is in {unit}, not mm", "write it in mm")
    sform, qform = image.get_sform(coded=True)[0], image.get_qform(coded=True)[0]
    if sform is None and qform is None:
        raise ImageError(NO_PLACE, FROM_DICOM)
    notes = []
    if sform is not None and qform is not None:
        corners = np.indices((2, 2, 2)).reshape(3, -1).T * (np.asarray(image.shape[:3]) - 1)
        apart = nib.affines.apply_affine(sform, corners) - nib.affines.apply_affine(qform, corners)
        furthest = np.linalg.norm(apart, axis=1).max()
        if not furthest <= AGREEMENT:
            notes.append(f"has a sform and a qform that lie {furthest:.1f} mm apart; the sform is used")
    elif sform is not None:
        zooms, steps = header.get_zooms()[:3], nib.affines.voxel_sizes(sform)
        if not np.allclose(zooms, steps, rtol=0.01):
            notes.append(
                f"has voxels of {by(np.round(zooms, 3))} mm by pixdim, {by(np.round(steps, 3))} mm by its sform"
            )
    return notes


def _one_volume(image: nib.Nifti1Pair, volume: int | None) -> np.ndarray:
    """The values of a 3D image, or of one volume of a 4D one."""
    array = np.asarray(image.dataobj, dtype=np.float32)
    volumes = array.reshape(*array.shape[:3], -1, order="F") if array.ndim > 3 else array[..., None]
    count = volumes.shape[-1]
    if volume is None and count > 1:
        raise ImageError(f"is no 3D image but holds {count} volumes", "choose one, e.g. --volume 1")
    if count > 1 and not 1 <= volume <= count:
        raise ImageError(f"holds {count} volumes, no volume {volume}", f"choose 1 to {count}")
    return np.ascontiguousarray(volumes[..., volume - 1 if count > 1 else 0])
