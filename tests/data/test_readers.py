"""One oblique volume as NIfTI, MetaImage and DICOM series: the same voxels at the same world points, or a refusal.

The MetaImage and DICOM files are written here byte by byte from their standards, so that a reader's idea of geometry is
not tested against itself.
"""

from __future__ import annotations

import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.utils import optional_import
from scipy.spatial.transform import Rotation

from scripts.data import readers
from scripts.data.readers import ImageError, read_volume

needs_itk = pytest.mark.skipif(not optional_import("itk")[1], reason="the extra [readers] (ITK) is not installed")

SHAPE = (7, 6, 5)
SPACING = np.array([0.75, 0.5, 3.0])
ORIGIN = np.array([12.5, -30.25, 8.0])  # LPS
AXES = Rotation.from_euler("xyz", (14, -9, 21), degrees=True).as_matrix()  # columns, LPS
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
AFFINE = LPS_TO_RAS @ nib.affines.from_matvec(AXES * SPACING, ORIGIN)
VOXELS = np.random.default_rng(0).integers(0, 900, SHAPE).astype(np.int16)


def write_nifti(folder: Path, voxels=VOXELS, affine=AFFINE) -> Path:
    nib.save(nib.Nifti1Image(voxels, affine), folder / "image.nii.gz")
    return folder / "image.nii.gz"


def write_metaimage(folder: Path, voxels=VOXELS) -> Path:
    def numbers(values):
        return " ".join(repr(float(value)) for value in np.ravel(values))

    header = {
        "ObjectType": "Image",
        "NDims": 3,
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "TransformMatrix": numbers(AXES.T),  # one axis after the other
        "Offset": numbers(ORIGIN),
        "ElementSpacing": numbers(SPACING),
        "DimSize": " ".join(map(str, voxels.shape)),
        "ElementType": "MET_SHORT",
        "ElementDataFile": "LOCAL",
    }
    lines = "".join(f"{key} = {value}\n" for key, value in header.items())
    (folder / "image.mha").write_bytes(lines.encode() + voxels.tobytes(order="F"))
    return folder / "image.mha"


def element(group: int, number: int, kind: str, value: object) -> bytes:
    """One DICOM data element, explicit VR little endian (PS3.5, 7.1.2)."""
    if isinstance(value, str):
        value = value.encode()
    elif isinstance(value, int):
        value = struct.pack("<H" if kind == "US" else "<I", value)
    if len(value) % 2:
        value += b"\0" if kind in ("UI", "OB") else b" "
    length = struct.pack("<2xI" if kind in ("OB", "OW") else "<H", len(value))
    return struct.pack("<HH", group, number) + kind.encode() + length + value


def decimals(values) -> str:
    return "\\".join(f"{value:.12f}"[:16] for value in values)


def write_slice(path: Path, k: int, series: str = "1", slope: float = 1.0, intercept: float = 0.0) -> None:
    """Axial slice k of VOXELS as an MR image (PS3.3, C.7.6.2): rows run along the first axis."""
    mr_image, uid = "1.2.840.10008.5.1.4.1.1.4", f"1.2.826.0.1.3680043.2.{series}.{k + 1}"
    meta = element(2, 1, "OB", b"\0\1") + element(2, 2, "UI", mr_image) + element(2, 3, "UI", uid)
    meta += element(2, 0x10, "UI", "1.2.840.10008.1.2.1")
    position = ORIGIN + AXES[:, 2] * SPACING[2] * k
    data = [
        element(8, 0x16, "UI", mr_image),
        element(8, 0x18, "UI", uid),
        element(8, 0x21, "DA", "20240101"),
        element(8, 0x60, "CS", "MR"),
        element(0x18, 0x50, "DS", "3.0"),
        element(0x20, 0x0D, "UI", "1.2.826.0.1.3680043.2"),
        element(0x20, 0x0E, "UI", f"1.2.826.0.1.3680043.2.{series}"),
        element(0x20, 0x11, "IS", series),
        element(0x20, 0x13, "IS", str(k + 1)),
        element(0x20, 0x32, "DS", decimals(position)),
        element(0x20, 0x37, "DS", decimals(AXES[:, :2].T.ravel())),
        element(0x28, 2, "US", 1),
        element(0x28, 4, "CS", "MONOCHROME2"),
        element(0x28, 0x10, "US", SHAPE[1]),
        element(0x28, 0x11, "US", SHAPE[0]),
        element(0x28, 0x30, "DS", decimals([SPACING[1], SPACING[0]])),  # between rows, then between columns
        *(element(0x28, number, "US", value) for number, value in ((0x100, 16), (0x101, 16), (0x102, 15), (0x103, 1))),
        element(0x28, 0x1052, "DS", str(intercept)),
        element(0x28, 0x1053, "DS", str(slope)),
        element(0x7FE0, 0x10, "OW", VOXELS[:, :, k].T.tobytes()),
    ]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"\0" * 128 + b"DICM" + element(2, 0, "UL", len(meta)) + meta + b"".join(data))


def write_dicom(folder: Path, slices=range(SHAPE[2]), **options) -> Path:
    for k in slices:
        # Names in another order than the slices: only the headers tell where a slice lies.
        write_slice(folder / "dicom" / f"{(k * 3) % SHAPE[2]}{options.get('series', '')}.dcm", k, **options)
    return folder / "dicom"


@pytest.mark.parametrize(
    "write",
    [write_nifti, pytest.param(write_metaimage, marks=needs_itk), pytest.param(write_dicom, marks=needs_itk)],
)
def test_every_format_gives_the_same_voxels_at_the_same_world_points(tmp_path, write):
    volume = read_volume(write(tmp_path))
    assert volume.shape == (1, *SHAPE)
    np.testing.assert_array_equal(volume[0].numpy(), VOXELS)
    np.testing.assert_allclose(volume.affine.numpy(), AFFINE, atol=1e-5)


@needs_itk
def test_dicom_values_are_rescaled(tmp_path):
    volume = read_volume(write_dicom(tmp_path, slope=2.5, intercept=-10.0))
    np.testing.assert_allclose(volume[0].numpy(), VOXELS * 2.5 - 10, atol=1e-3)


@needs_itk
def test_a_folder_with_two_series_is_refused(tmp_path):
    write_dicom(tmp_path)
    path = write_dicom(tmp_path, series="2")
    with pytest.raises(ImageError, match="2 DICOM series"):
        read_volume(path)


@needs_itk
def test_a_series_with_a_missing_slice_is_refused(tmp_path):
    with pytest.raises(ImageError, match="missing between"):
        read_volume(write_dicom(tmp_path, slices=(0, 1, 3, 4)))


@needs_itk
def test_a_folder_without_dicom_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(ImageError, match="0 DICOM series"):
        read_volume(tmp_path)


@pytest.mark.parametrize(
    "write",
    [write_nifti, pytest.param(write_metaimage, marks=needs_itk), pytest.param(write_dicom, marks=needs_itk)],
)
@pytest.mark.parametrize("cut", [20, 300])
def test_a_file_cut_short_is_refused(tmp_path, write, cut):
    path = write(tmp_path)
    file = sorted(path.iterdir())[0] if path.is_dir() else path
    file.write_bytes(file.read_bytes()[:-cut])
    with pytest.raises(ImageError, match="cut short"):
        read_volume(path)


@pytest.mark.parametrize(
    ("voxels", "affine", "message"),
    [
        (np.where(VOXELS > 800, np.nan, VOXELS).astype(np.float32), AFFINE, "NaN"),
        (np.where(VOXELS > 800, np.inf, VOXELS).astype(np.float32), AFFINE, "infinite"),
        (np.full_like(VOXELS, 3), AFFINE, r"constant \(3\)"),
        (VOXELS[:, :, :1], AFFINE, "3D"),
        (np.stack([VOXELS, VOXELS], axis=-1), AFFINE, "holds 2 volumes"),
        (VOXELS, AFFINE @ [[1, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], "right angles"),
    ],
)
def test_an_image_that_cannot_be_used_is_refused(tmp_path, voxels, affine, message):
    with pytest.raises(ImageError, match=message):
        read_volume(write_nifti(tmp_path, voxels, affine))


def test_a_nifti_with_one_volume_in_its_fourth_axis_is_3d(tmp_path):
    assert read_volume(write_nifti(tmp_path, VOXELS[..., None])).shape == (1, *SHAPE)


def test_a_nifti_that_does_not_say_where_it_lies_or_not_in_mm_is_refused(tmp_path):
    image = nib.Nifti1Image(VOXELS, None)
    nib.save(image, tmp_path / "nowhere.nii")
    with pytest.raises(ImageError, match="where it lies"):
        read_volume(tmp_path / "nowhere.nii")
    image = nib.Nifti1Image(VOXELS, AFFINE)
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "metres.nii")
    with pytest.raises(ImageError, match="not mm"):
        read_volume(tmp_path / "metres.nii")


def test_without_itk_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "has_itk", False)
    with pytest.raises(ImageError, match=r"\[readers\]"):
        read_volume(tmp_path / "image.mha")
