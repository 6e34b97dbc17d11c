"""A DICOM series is read right, slice by slice, or refused with the slice and the cause; damage never goes unsaid."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest

from dicom_files import (
    AFFINE,
    SECRET,
    SHAPE,
    SPACING,
    VOXELS,
    classic,
    enhanced,
    mapping,
    place,
    save,
    write_series,
)
from scripts.common.problems import ImageError
from scripts.dicom import conversion, headers, series
from scripts.dicom.reading import read_series

K = range(SHAPE[2])


def refused(folder, *words, **options):
    with pytest.raises(ImageError) as caught:
        read_series(folder, **options)
    for word in words:
        assert word in str(caught.value)
    assert SECRET not in str(caught.value)


def reads(folder, voxels=VOXELS, told=(), **options):
    """The volume has these voxels in its place, and each of `told` is said of it, and nothing else."""
    values, affine, said = read_series(folder, **options)
    np.testing.assert_allclose(values, voxels, rtol=1e-6)
    np.testing.assert_allclose(affine, AFFINE, atol=1e-5)
    assert len(said) == len(told), said
    for words, sentence in zip(told, said, strict=True):
        assert words in sentence


# ---- what is read ----------------------------------------------------------------------------------------------------


def test_a_series_in_files_of_any_order_and_folder(tmp_path):
    write_series(tmp_path / "a", slices=(4, 1))
    write_series(tmp_path / "b" / "c", slices=(0, 2, 3))
    (tmp_path / "notes.txt").write_text("no slice")
    (tmp_path / "a" / "thumbnail.jpg").touch()
    reads(tmp_path)


@pytest.mark.parametrize("syntax", [pydicom.uid.RLELossless, pydicom.uid.ImplicitVRLittleEndian])
def test_other_transfer_syntaxes(tmp_path, syntax):
    def encode(data, k):
        if syntax.is_encapsulated:
            data.compress(syntax)
        else:
            data.file_meta.TransferSyntaxUID = syntax

    reads(write_series(tmp_path, encode))


def test_lossless_jpeg(tmp_path):
    itk = pytest.importorskip("itk")

    def compress(data, k):
        image, io = itk.image_from_array(np.ascontiguousarray(VOXELS[:, :, k].T)), itk.GDCMImageIO.New()
        io.SetCompressionType(itk.GDCMImageIOEnums.Compression_JPEG)
        writer = itk.ImageFileWriter.New(Input=image, FileName=str(tmp_path / "one.dcm"), ImageIO=io)
        writer.UseCompressionOn()
        writer.Update()
        made = pydicom.dcmread(tmp_path / "one.dcm")
        data.PixelData, data.file_meta.TransferSyntaxUID = made.PixelData, made.file_meta.TransferSyntaxUID
        data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True

    reads(write_series(tmp_path / "series", compress))


def test_signed_values_and_slices_each_with_its_own_slope(tmp_path):
    slopes = np.array([0.5, 1, 2, 0.25, 4])

    def edit(data, k):
        data.PixelRepresentation = 1
        data.PixelData = (VOXELS[:, :, k].T.astype(np.int16) - 450).tobytes()
        data.RescaleSlope, data.RescaleIntercept = str(slopes[k]), "-3"

    values = (VOXELS.astype(float) - 450) * slopes - 3
    reads(write_series(tmp_path, edit), values, told=["slopes differ"])


def test_frames_in_order_of_acquisition_each_with_its_own_slope(tmp_path):
    save(enhanced([{"k": k, "slope": 1 + k} for k in (0, 2, 4, 1, 3)]), tmp_path / "IM1")
    reads(tmp_path, VOXELS * (1.0 + np.arange(SHAPE[2])), told=["slopes differ"])


@pytest.mark.parametrize(("unit", "scale"), [("um2/s", 1), ("10-6.mm2/s", 1), ("mm2/s", 1e6), ("ms", 1)])
def test_a_real_world_value_mapping_takes_the_place_of_the_rescaling(tmp_path, unit, scale):
    def edit(data, k):
        data.RescaleSlope, data.RescaleIntercept = "7", "1"
        data.RealWorldValueMappingSequence = mapping(0.25, unit)

    reads(write_series(tmp_path, edit), VOXELS * 0.25 * scale, told=["real world values"])


def test_a_mapping_to_no_unit_leaves_the_rescaling(tmp_path):
    def edit(data, k):
        data.RescaleSlope, data.RescaleIntercept = "7", "0"
        data.RealWorldValueMappingSequence = mapping(0.25, "1")

    reads(write_series(tmp_path, edit), VOXELS * 7.0)


# ---- b-values --------------------------------------------------------------------------------------------------------

B_VALUES = (0, 100, 1500)


def with_b(b_value, name="DiffusionBValue"):
    def edit(data, k):
        if name == "SequenceName":
            data.SequenceName = f"*ep_b{b_value}t"
        elif name == "GE":
            data.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(
                0x39, "IS", [1_000_000_000 + b_value, 8, 0, 0]
            )
        elif name == "Siemens":
            data.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0C, "IS", b_value)
        else:
            data.DiffusionBValue = float(b_value)

    return edit


@pytest.mark.parametrize("name", ["DiffusionBValue", "SequenceName", "GE", "Siemens"])
def test_a_series_of_several_b_values_is_read_by_the_one_chosen(tmp_path, name):
    for n, b_value in enumerate(B_VALUES):
        write_series(tmp_path, with_b(b_value, name), voxels=VOXELS + b_value, first=1 + 5 * n, prefix=f"{b_value}_")
    refused(tmp_path, "0, 100, 1500", "--b_value 1500")
    refused(tmp_path, "no image of b-value 400", "0, 100, 1500", b_value=400)
    reads(tmp_path, VOXELS + 100, b_value=100)


def test_b_values_of_an_enhanced_file(tmp_path):
    frames = [{"k": k, "b_value": b, "voxels": VOXELS + b} for k in K for b in (0, 1500)]
    save(enhanced(frames), tmp_path / "IM1")
    refused(tmp_path, "0, 1500")
    reads(tmp_path, VOXELS + 1500, b_value=1500)


def test_one_slice_of_another_b_value_is_no_slice_of_the_volume(tmp_path):
    refused(write_series(tmp_path, lambda data, k: with_b(50 if k == 2 else 1500)(data, k)), "50, 1500")


def test_fewer_slices_than_another_b_value_has_are_told(tmp_path):
    write_series(tmp_path, with_b(0), prefix="0_")
    write_series(tmp_path, with_b(1500), first=6, slices=range(4), prefix="1500_")
    told = ["it has 4, another b-value of the series 5"]
    values, _, said = read_series(tmp_path, b_value=1500)
    assert values.shape[2] == 4
    assert [words in sentence for words, sentence in zip(told, said, strict=True)] == [True]


def test_several_images_at_a_place_are_refused(tmp_path):
    write_series(tmp_path, prefix="a")
    write_series(tmp_path, first=6, prefix="b")
    refused(tmp_path, "several images at one place")


def test_a_copy_of_a_slice_is_told_apart_from_that(tmp_path):
    write_series(tmp_path)
    save(classic(2), tmp_path / "copy.dcm")
    refused(tmp_path, "a slice twice", "copy.dcm")


# ---- slices missing --------------------------------------------------------------------------------------------------


def test_a_slice_missing_in_the_middle_is_refused_with_its_neighbours(tmp_path):
    refused(write_series(tmp_path, slices=(0, 1, 3, 4)), "missing between", "3.dcm and 4.dcm")


def test_slices_missing_at_an_end_are_told_where_the_headers_know(tmp_path):
    def edit(data, k):
        data.ImagesInAcquisition = SHAPE[2]

    _, _, said = read_series(write_series(tmp_path / "last", edit, slices=range(3)))
    assert ["it has 3, its headers say 5" in sentence for sentence in said] == [True]
    _, _, said = read_series(write_series(tmp_path / "first", slices=(2, 3, 4)))
    assert ["begin at 3" in sentence for sentence in said] == [True]
    save(enhanced([{"k": k} for k in (2, 3, 4)]), tmp_path / "enhanced" / "IM1")
    _, _, said = read_series(tmp_path / "enhanced")
    assert ["begin at 3" in sentence for sentence in said] == [True]


def test_every_second_slice_missing_is_told_by_the_numbers(tmp_path):
    _, affine, said = read_series(write_series(tmp_path, slices=(0, 2, 4)))
    assert np.linalg.norm(affine[:3, 2]) == pytest.approx(2 * SPACING[2])
    assert ["2 numbers up to 5 are not there" in sentence for sentence in said] == [True]


# ---- headers that lack or contradict ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ImageOrientationPatient", "no valid orientation"),
        ("ImagePositionPatient", "no valid position"),
        ("PixelSpacing", "no valid spacing"),
    ],
)
@pytest.mark.parametrize("everywhere", [True, False])
def test_what_a_slice_needs_to_be_placed(tmp_path, name, words, everywhere):
    def edit(data, k):
        if everywhere or k == 3:
            delattr(data, name)

    refused(write_series(tmp_path, edit), words, "5 of 5" if everywhere else "1 of 5 slices (4.dcm)", name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda data: setattr(data, "ImageOrientationPatient", [1, 0, 0, 0, 1, 0]),
            "another orientation (1 of 5: 1.dcm)",
        ),
        (lambda data: setattr(data, "PixelSpacing", [0.5, 0.8]), "another pixel spacing (1 of 5: 1.dcm)"),
        (lambda data: setattr(data, "PixelSpacing", [0, 0.8]), "no valid spacing"),
        (lambda data: setattr(data, "ImageOrientationPatient", [1, 0, 0, 1, 0, 0]), "no valid orientation"),
        (lambda data: setattr(data, "ImagePositionPatient", place(2.4)), "off an even distance"),
        (lambda data: setattr(data, "Rows", 5), "another size (1 of 5: 1.dcm)"),
        (lambda data: setattr(data, "PixelRepresentation", 1), "stored in different ways"),
        (lambda data: setattr(data, "PhotometricInterpretation", "MONOCHROME1"), "inverted grey (1.dcm)"),
        (lambda data: setattr(data, "RescaleSlope", "0"), "slope that is 0"),
    ],
)
def test_a_slice_unlike_the_others_is_refused(tmp_path, change, words):
    refused(write_series(tmp_path, lambda data, k: change(data) if k == 2 else None), words)


def test_a_stack_that_drifts_sideways_is_refused(tmp_path):
    def edit(data, k):
        data.ImagePositionPatient = [place(k)[0] + 0.5 * k, *place(k)[1:]]

    refused(write_series(tmp_path, edit), "not at right angles")


def test_a_mosaic_is_refused(tmp_path):
    refused(write_series(tmp_path, lambda data, k: setattr(data, "ImageType", ["ORIGINAL", "MOSAIC"])), "mosaic")


# ---- blank and damaged -----------------------------------------------------------------------------------------------


def test_blank_slices_at_the_ends_are_told_and_within_refused(tmp_path):
    voxels = VOXELS.copy()
    voxels[:, :, [0, 3, 4]] = 0
    reads(write_series(tmp_path / "ends", voxels=voxels), voxels, told=["1 at its start and 2 at its end, of 5"])
    voxels = VOXELS.copy()
    voxels[:, :, 2] = 0
    refused(write_series(tmp_path / "within", voxels=voxels), "blank slice within it (number 3 of 5)")


def test_a_slice_filled_up_with_zeros_is_told_and_a_mask_is_not(tmp_path):
    voxels = VOXELS.copy()
    voxels[:, 2:, 1] = 0
    reads(
        write_series(tmp_path / "cut", voxels=voxels),
        voxels,
        told=[
            "end in zeros",
        ],
    )
    masked = VOXELS.copy()
    masked[:, :2] = masked[:, 4:] = 0
    reads(write_series(tmp_path / "masked", voxels=masked), masked)


def test_values_beyond_the_bits_of_the_header_are_told(tmp_path):
    def edit(data, k):
        data.BitsStored, data.HighBit = 10, 9
        if k == 2:
            data.PixelData = (VOXELS[:, :, k].T + np.uint16(5000)).tobytes()

    voxels = VOXELS.copy()
    voxels[:, :, 2] += 5000
    reads(write_series(tmp_path, edit), voxels, told=["no bits for, as if damaged: 1 (1.dcm)"])


def test_an_enhanced_file_with_fewer_frames_than_it_says_is_refused(tmp_path):
    data = enhanced([{"k": k} for k in K])
    data.NumberOfFrames = 6
    save(data, tmp_path / "IM1.dcm")
    refused(tmp_path, "cannot be read", "(IM1.dcm)")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: b"", "empty file"),
        (lambda data: bytes(len(data)), "nothing but zeros"),
        (lambda data: data[:100], "cut short"),
        (lambda data: data[:300], "cut short"),
        (lambda data: data[:-1], "cut short"),
        (lambda data: data[: len(data) // 2], "cut short"),
        (lambda data: b"x" * 128 + b"DICM" + b"y" * 400, "cannot be read"),
    ],
)
@pytest.mark.parametrize("suffix", [".dcm", ""])
def test_a_damaged_file_is_refused_by_its_name(tmp_path, damage, words, suffix):
    write_series(tmp_path)
    for path in list(tmp_path.iterdir()):
        path.rename(path.with_suffix(suffix))
    file = tmp_path / f"2{suffix}"
    file.write_bytes(damage(file.read_bytes()))
    refused(tmp_path, words, f"({file.name})")


def test_a_compressed_file_cut_short_is_refused(tmp_path):
    write_series(tmp_path, lambda data, k: data.compress(pydicom.uid.RLELossless))
    file = tmp_path / "2.dcm"
    file.write_bytes(file.read_bytes()[:-10])
    refused(tmp_path, "cut short", "(2.dcm)")


def test_random_damage_gives_the_volume_or_a_refusal_but_no_other_error(tmp_path):
    write_series(tmp_path)
    file, random = tmp_path / "2.dcm", np.random.default_rng(0)
    whole = file.read_bytes()
    for _ in range(12):
        spoilt = bytearray(whole)
        for at in random.integers(0, len(whole) - VOXELS[:, :, 0].nbytes, 3):
            spoilt[at] ^= int(random.integers(1, 256))
        file.write_bytes(spoilt)
        try:
            values, affine, told = read_series(tmp_path)
        except ImageError:
            continue
        assert told or np.array_equal(values, VOXELS)
        np.testing.assert_allclose(affine, AFFINE, atol=0.1)


# ---- dcm2niix --------------------------------------------------------------------------------------------------------


def test_what_dcm2niix_gives_is_held_against_the_headers(tmp_path, monkeypatch):
    folder = write_series(tmp_path)
    monkeypatch.setattr(conversion, "AFFINE_TOLERANCE", -1.0)
    refused(folder, "another size or place than its headers say")


def test_dcm2niix_that_hangs_or_fails_is_told(tmp_path, monkeypatch):
    folder = write_series(tmp_path / "series")
    script = tmp_path / "stub"
    script.write_text("#!/bin/sh\nsleep 5\n")
    script.chmod(0o755)
    monkeypatch.setattr(conversion.dcm2niix, "bin", str(script))
    monkeypatch.setattr(conversion, "TIMEOUT", 0.2)
    refused(folder, "not converted by dcm2niix within")
    script.write_text("#!/bin/sh\nexit 1\n")
    refused(folder, "dcm2niix cannot decode")


@pytest.mark.parametrize(("module", "flag"), [(series, "has_pydicom"), (conversion, "has_dcm2niix")])
def test_without_the_extra_the_message_says_what_to_install(tmp_path, monkeypatch, module, flag):
    folder = write_series(tmp_path)
    monkeypatch.setattr(module, flag, False)
    refused(folder, "[readers]")


def test_nothing_but_pixels_and_places_reaches_dcm2niix(tmp_path):
    stack = conversion.Stack(tuple(headers.read_header(save(classic(0), tmp_path / "0.dcm")).frames), np.eye(4))
    (tmp_path / "slices").mkdir()
    conversion._write_slices(stack.frames, tmp_path / "slices")
    written = (tmp_path / "slices" / "00001.dcm").read_bytes()
    assert SECRET.encode() not in written
    assert VOXELS[:, :, 0].T.tobytes() in written
