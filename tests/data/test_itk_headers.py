"""MetaImage and NRRD held against their headers; the files are written here byte by byte."""

from __future__ import annotations

import gzip
import zlib

import numpy as np
import pytest
from monai.utils import optional_import

from scripts.common.problems import ImageError
from scripts.data.itk_headers import check_header
from scripts.data.readers import read_volume

needs_itk = pytest.mark.skipif(not optional_import("itk")[1], reason="the extra [readers] (ITK) is not installed")

VOXELS = np.random.default_rng(0).integers(1, 900, (9, 8, 7)).astype(np.int16)
RAW = VOXELS.tobytes(order="F")
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
AFFINE = LPS_TO_RAS @ [[0.5, 0, 0, 4.0], [0, 0.75, 0, -5.0], [0, 0, 3, 6.0], [0, 0, 0, 1]]


def metaimage(folder, data=RAW, **changes):
    """As SimpleITK writes it from a DICOM series, which it read before; None leaves a line out."""
    header = {
        "ObjectType": "Image",
        "NDims": 3,
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": "4 -5 6",
        "CenterOfRotation": "0 0 0",
        "AnatomicalOrientation": "RAI",
        "ElementSpacing": "0.5 0.75 3",
        "ITK_non_uniform_sampling_deviation": "8.47154e-05",
        "DimSize": "9 8 7",
        "ElementType": "MET_SHORT",
        "ElementDataFile": "LOCAL",
    } | changes
    header["ElementDataFile"] = header.pop("ElementDataFile")  # the data follow it
    lines = "".join(f"{key} = {value}\n" for key, value in header.items() if value is not None)
    path = folder / ("image.mha" if header["ElementDataFile"] == "LOCAL" else "image.mhd")
    path.write_bytes(lines.encode() + (data if path.suffix == ".mha" else b""))
    return path


def nrrd(folder, data=RAW, **changes):
    header = {
        "type": "short",
        "dimension": 3,
        "space": "left-posterior-superior",
        "sizes": "9 8 7",
        "space directions": "(0.5,0,0) (0,0.75,0) (0,0,3)",
        "kinds": "domain domain domain",
        "endian": "little",
        "encoding": "raw",
        "space origin": "(4,-5,6)",
    } | changes
    lines = "".join(f"{key}: {value}\n" for key, value in header.items() if value is not None)
    deviation = "ITK_non_uniform_sampling_deviation:=8.47154e-05\n"
    (folder / "image.nrrd").write_bytes(f"NRRD0004\n# a comment\n{lines}{deviation}\n".encode() + data)
    return folder / "image.nrrd"


def packed(write):
    if write is metaimage:
        data = zlib.compress(RAW)
        return data, {"CompressedData": "True", "CompressedDataSize": len(data)}
    return gzip.compress(RAW), {"encoding": "gzip"}


@needs_itk
@pytest.mark.parametrize("write", [metaimage, nrrd])
@pytest.mark.parametrize("compressed", [False, True])
def test_files_as_simpleitk_writes_them_are_read(tmp_path, write, compressed):
    data, changes = packed(write) if compressed else (RAW, {})
    volume = read_volume(write(tmp_path, data, **changes))
    np.testing.assert_array_equal(volume[0].numpy(), VOXELS)
    np.testing.assert_allclose(volume.affine.numpy(), AFFINE, atol=1e-6)
    assert volume.meta["told"] == []


@needs_itk
def test_slices_at_uneven_distances_are_refused_though_the_deviation_is_text(tmp_path):
    with pytest.raises(ImageError, match="even distance"):
        read_volume(metaimage(tmp_path, ITK_non_uniform_sampling_deviation="2.5"))


@pytest.mark.parametrize("write", [metaimage, nrrd])
def test_no_flipped_byte_of_packed_data_passes(tmp_path, write):
    data, changes = packed(write)
    random = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(data)
        damaged[random.integers(10 if write is nrrd else 0, len(data))] ^= 1 << random.integers(8)
        with pytest.raises(ImageError, match="do not unpack"):
            check_header(write(tmp_path, bytes(damaged), **changes))


@pytest.mark.parametrize("cut", [1, 100])
@pytest.mark.parametrize("write", [metaimage, nrrd])
def test_data_that_are_cut_short_are_refused(tmp_path, write, cut):
    data, changes = packed(write)
    for content, options in ((RAW, {}), (data, changes)):
        with pytest.raises(ImageError, match="cut short"):
            check_header(write(tmp_path, content[:-cut], **options))


@pytest.mark.parametrize(
    ("write", "changes", "message"),
    [
        (metaimage, {"TransformMatrix": None}, "no orientation"),
        (metaimage, {"Offset": None}, "no position"),
        (metaimage, {"ElementSpacing": None}, "no spacing"),
        (metaimage, {"Offset": "(4 -5 6"}, "no number"),
        (metaimage, {"TransformMatrix": "1 0 0 0 9 0 0 0 1"}, "no turn"),
        (metaimage, {"CompressedData": "True"}, "another size"),
        (nrrd, {"space origin": "(4,,6)"}, "no number"),
        (metaimage, {"ElementNumberOfChannels": 3}, "3 values a voxel"),
        (metaimage, {"NDims": 4, "DimSize": "9 8 7 2"}, "4 axes"),
        (metaimage, {"DimSize": "nine"}, "no size"),
        (metaimage, {"ElementDataFile": "image.raw"}, r"lacks the file of its voxels \(image.raw\)"),
        (metaimage, {"ElementDataFile": "../image.raw"}, "lacks the file"),
        (nrrd, {"space directions": None}, "no orientation"),
        (nrrd, {"space": None}, "no orientation"),
        (nrrd, {"space": "scanner-xyz"}, "no orientation"),
        (nrrd, {"space origin": None}, "no position"),
        (nrrd, {"space units": '"cm" "cm" "cm"'}, "not in mm"),
        (nrrd, {"dimension": 4, "sizes": "2 9 8 7"}, "4 axes"),
    ],
)
def test_a_file_that_does_not_say_what_it_must_is_refused(tmp_path, write, changes, message):
    with pytest.raises(ImageError, match=message):
        check_header(write(tmp_path, RAW * 2, **changes))


@pytest.mark.parametrize(("write", "size"), [(metaimage, "DimSize"), (nrrd, "sizes")])
def test_data_beyond_what_the_header_tells_of_are_told(tmp_path, write, size):
    assert f"{2 * 9 * 8 * 5} bytes more" in check_header(write(tmp_path, **{size: "9 8 2"}))[0]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF", ".jpg", ".bmp"])
def test_pictures_have_no_place(tmp_path, suffix):
    for number in range(3):
        (tmp_path / f"{number}{suffix}").write_bytes(b"\x89PNG no matter what")
    with pytest.raises(ImageError, match=r"folder of pictures .* no spacing"):
        read_volume(tmp_path)
    with pytest.raises(ImageError, match=r"is a picture .* no spacing"):
        read_volume(tmp_path / f"0{suffix}")


@needs_itk
def test_a_file_of_another_kind_is_refused_by_its_kind(tmp_path):
    (tmp_path / "image.vtk").write_bytes(b"\0" * 4096)
    with pytest.raises(ImageError, match="no kind that is read"):
        read_volume(tmp_path / "image.vtk")
