"""Files that copies, disks and editors have spoilt, at random: each is refused in words, told of, or read as it was.

    DAMAGES=100 python -m pytest tests/data/test_damage.py

What leaves no trace cannot be seen, and is not drawn here: other voxels or another scale where a file has no checksum,
and one number of a header in place of another that nothing else in the file contradicts.
"""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import dicom_files
from scripts.common.problems import ImageError, UserError
from scripts.data.readers import read_volume
from scripts.data.tables import read_table

SEEDS = range(int(os.environ.get("DAMAGES", "6")))
PLACE_TOLERANCE = 0.1  # mm at a corner
SHAPE, SPACING = (24, 20, 8), (0.7, 0.8, 3.0)
AFFINE = nib.affines.from_matvec(np.diag(SPACING), [-8.4, -7.2, 15.5])
VOXELS = np.random.default_rng(5).integers(0, 1200, SHAPE).astype(np.int16)
SCALES = range(112, 120)  # bytes of NIfTI's scl_slope and scl_inter


def nifti(path: Path, compressed: bool) -> int:
    """Write the volume with both its forms; give the length of what has a trace when it is changed."""
    image = nib.Nifti1Image(VOXELS, AFFINE)
    image.set_qform(AFFINE, 1)
    image.set_sform(AFFINE, 1)
    image.header.set_xyzt_units("mm")
    content = image.to_bytes()
    path.write_bytes(gzip.compress(content) if compressed else content)
    return path.stat().st_size if compressed else 352


def metaimage(path: Path, compressed: bool) -> int:
    data = VOXELS.tobytes(order="F")
    data = zlib.compress(data) if compressed else data
    lines = ["ObjectType = Image", "NDims = 3", "BinaryData = True", "BinaryDataByteOrderMSB = False"]
    lines += [f"CompressedData = {compressed}"] + [f"CompressedDataSize = {len(data)}"] * compressed
    lines += ["TransformMatrix = 1 0 0 0 1 0 0 0 1", "Offset = 8.4 7.2 15.5", "CenterOfRotation = 0 0 0"]
    lines += ["AnatomicalOrientation = RAI", f"ElementSpacing = {' '.join(map(str, SPACING))}"]
    lines += [f"DimSize = {' '.join(map(str, SHAPE))}", "ElementType = MET_SHORT", "ElementDataFile = LOCAL", ""]
    header = "\n".join(lines).encode()
    path.write_bytes(header + data)
    return len(header) + len(data) * compressed


def nrrd(path: Path, compressed: bool) -> int:
    data = VOXELS.tobytes(order="F")
    data = gzip.compress(data) if compressed else data
    lines = ["NRRD0004", "type: short", "dimension: 3", "space: right-anterior-superior"]
    lines += [f"sizes: {' '.join(map(str, SHAPE))}", "space directions: (0.7,0,0) (0,0.8,0) (0,0,3)"]
    lines += ["kinds: domain domain domain", "endian: little", f"encoding: {'gzip' if compressed else 'raw'}"]
    lines += ["space origin: (-8.4,-7.2,15.5)", "", ""]
    header = "\n".join(lines).encode()
    path.write_bytes(header + data)
    return len(header) + len(data) * compressed


WRITERS = {
    "nii": (lambda path: nifti(path, False), "image.nii"),
    "nii.gz": (lambda path: nifti(path, True), "image.nii.gz"),
    "mha": (lambda path: metaimage(path, False), "image.mha"),
    "compressed mha": (lambda path: metaimage(path, True), "image.mha"),
    "nrrd": (lambda path: nrrd(path, False), "image.nrrd"),
    "compressed nrrd": (lambda path: nrrd(path, True), "image.nrrd"),
}


def flipped(content: bytes, places: list[int], random: np.random.Generator) -> bytes:
    """One to eight bytes of `places` changed; no digit becomes another one, which would be an edit."""
    spoilt = bytearray(content)
    for at in random.choice(places, int(random.integers(1, 9)), replace=False):
        new = int(spoilt[at]) ^ int(random.integers(1, 256))
        spoilt[at] = new | 0x80 if chr(new).isdigit() and chr(spoilt[at]).isdigit() else new
    return bytes(spoilt)


def spoil(path: Path, traced: int, random: np.random.Generator) -> str:
    """Damage a file in a way drawn at random, and say how."""
    content, way = path.read_bytes(), str(random.choice(["flip", "flip", "cut", "zeros", "block"]))
    if way == "flip":
        places = [at for at in range(traced) if path.suffix != ".nii" or at not in SCALES]
        path.write_bytes(flipped(content, places, random))
    elif way == "cut":
        path.write_bytes(content[: int(random.integers(0, len(content)))])
    elif way == "zeros":  # a copy that broke off, at the length that it was to have
        kept = int(random.integers(0, int(0.9 * len(content))))
        path.write_bytes(content[:kept] + bytes(len(content) - kept))
    else:  # a sector that is lost, and all behind it moves up
        at = int(random.integers(0, len(content) - 64))
        path.write_bytes(content[:at] + content[at + 64 :])
    return way


def check(read, undamaged: tuple[np.ndarray, np.ndarray], way: str) -> None:
    """Reading refuses in words, tells, or gives what was there before."""
    try:
        volume = read()
    except ImageError as error:
        assert len(error.what) > 5 and len(error.todo) > 5, way  # noqa: PT017 PT018
        return
    voxels, affine = undamaged
    corners = np.indices((2, 2, 2)).reshape(3, -1).T * (np.array(voxels.shape) - 1)
    apart = nib.affines.apply_affine(volume.affine.numpy(), corners) - nib.affines.apply_affine(affine, corners)
    same = volume.shape[1:] == voxels.shape and np.array_equal(volume[0].numpy(), voxels)
    assert volume.meta["told"] or (same and np.abs(apart).max() <= PLACE_TOLERANCE), f"{way}: read otherwise, no word"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", WRITERS)
def test_a_damaged_file_is_refused_told_or_read_as_it_was(tmp_path, kind, seed):
    write, name = WRITERS[kind]
    if not kind.startswith("nii"):
        pytest.importorskip("itk")
    traced = write(tmp_path / name)
    undamaged = read_volume(tmp_path / name)
    way = spoil(tmp_path / name, traced, np.random.default_rng([seed, len(kind)]))
    check(lambda: read_volume(tmp_path / name), (undamaged[0].numpy(), undamaged.affine.numpy()), way)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_series_with_a_damaged_slice_is_refused_told_or_read_as_it_was(tmp_path, seed):
    pytest.importorskip("pydicom")
    pytest.importorskip("dcm2niix")
    dicom_files.write_series(tmp_path / "series", edit=lambda data, _: setattr(data, "ImagesInAcquisition", 5))
    random = np.random.default_rng([seed, 17])
    files = sorted(path for path in (tmp_path / "series").rglob("*") if path.is_file())
    file = files[int(random.integers(len(files)))]
    header = file.stat().st_size - int(np.prod(dicom_files.SHAPE[:2])) * 2
    undamaged = read_volume(tmp_path / "series")
    if random.random() < 0.1:
        file.unlink()
        way = "removed"
    else:
        way = spoil(file, header, random)
    check(lambda: read_volume(tmp_path / "series"), (undamaged[0].numpy(), undamaged.affine.numpy()), way)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_damaged_workbook_is_refused_or_read_as_it_was(tmp_path, caplog, seed):
    path = tmp_path / "table.xlsx"
    rows = [(f"{n:04d}", f"Lesion number {n} in the left apex", n % 5 + 1, 0.5 * n) for n in range(40)]
    pd.DataFrame(rows, columns=["folder", "report", "pirads", "psa"]).to_excel(path, index=False)
    undamaged = read_table(path)
    way = spoil(path, path.stat().st_size, np.random.default_rng([seed, 23]))
    try:
        table = read_table(path)
    except UserError as error:
        assert "Lesion" not in str(error), way  # noqa: PT017
        return
    assert caplog.messages or table.equals(undamaged), f"{way}: read otherwise, no word"
