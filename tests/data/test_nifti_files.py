"""NIfTI as it comes: damaged, contradicting itself, of several volumes or of none that can be used."""

from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np
import pytest

from scripts.data.readers import ImageError, read_volume

VOXELS = np.random.default_rng(0).integers(1, 900, (16, 14, 10)).astype(np.int16)
AFFINE = nib.affines.from_matvec(np.diag([1.0, 1.0, 3.0]), [-8, -7, -15])


def write(path, voxels=VOXELS, affine=AFFINE, change=lambda image: None, kind=nib.Nifti1Image):
    image = kind(voxels, affine)
    change(image)
    nib.save(image, path)
    return path


def notes_of(path, **options):
    return read_volume(path, **options).meta["told"]


@pytest.mark.parametrize("name", ["image.nii", "image.nii.gz", "image.NII.GZ"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_every_kind_of_nifti_is_read_without_a_word(tmp_path, name, kind):
    path = write(tmp_path / name.lower(), kind=kind).rename(tmp_path / name)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume[0].numpy(), VOXELS)
    np.testing.assert_allclose(volume.affine.numpy(), AFFINE)
    assert volume.meta["told"] == []


@pytest.mark.parametrize("suffix", [".hdr", ".img"])
def test_a_pair_is_read_by_either_half(tmp_path, suffix):
    write(tmp_path / "image.img", kind=nib.Nifti1Pair)
    np.testing.assert_array_equal(read_volume(tmp_path / f"image{suffix}")[0].numpy(), VOXELS)
    (tmp_path / "image.img").unlink()
    with pytest.raises(ImageError, match=r"image.img is missing"):
        read_volume(tmp_path / "image.hdr")


@pytest.mark.parametrize("name", ["image.hdr", "image.img"])
def test_analyze_has_no_orientation(tmp_path, name):
    nib.save(nib.AnalyzeImage(VOXELS, None), tmp_path / "image.img")
    with pytest.raises(ImageError, match="Analyze"):
        read_volume(tmp_path / name)


@pytest.mark.parametrize("at", [-6, -2])  # checksum, length
def test_a_checksum_that_fails_is_damage(tmp_path, at):
    path = write(tmp_path / "image.nii.gz")
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(ImageError, match="damaged"):
        read_volume(path)


def test_no_flipped_byte_of_a_packed_file_passes(tmp_path):
    path = write(tmp_path / "image.nii.gz")
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(60):
        content = bytearray(whole)
        content[random.integers(20, len(whole))] ^= 1 << random.integers(8)
        path.write_bytes(content)
        with pytest.raises(ImageError):
            read_volume(path)


def test_a_damaged_header_is_refused_told_or_harmless(tmp_path):
    """Sizes, types, offset, geometry and magic: never an error of another kind, never another volume without a word."""
    whole = write(tmp_path / "image.nii", change=lambda image: image.set_qform(AFFINE, code=1)).read_bytes()
    random, path = np.random.default_rng(1), tmp_path / "damaged.nii"
    places = [*range(40, 56), *range(70, 112), *range(252, 348)]  # all but the slope, which nothing else tells
    for at in random.choice(places, 80, replace=False):
        content = bytearray(whole)
        content[at] ^= 0x41
        path.write_bytes(content)
        try:
            volume = read_volume(path)
        except ImageError:
            continue
        if volume[0].shape != VOXELS.shape or not np.array_equal(volume[0].numpy(), VOXELS):
            assert volume.meta["told"], at
        corners = nib.affines.apply_affine(volume.affine.numpy() - AFFINE, [[0, 0, 0], VOXELS.shape])
        if np.abs(corners).max() > 2:
            assert volume.meta["told"], at


def test_complex_values_and_colours_are_refused(tmp_path):
    with pytest.raises(ImageError, match="complex"):
        read_volume(write(tmp_path / "image.nii.gz", VOXELS.astype(np.complex64)))
    colours = np.zeros(VOXELS.shape, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(ImageError, match="colours"):
        read_volume(write(tmp_path / "image.nii.gz", colours))


def test_one_of_several_volumes_is_chosen_by_its_number(tmp_path):
    path = write(tmp_path / "image.nii.gz", np.stack([VOXELS, VOXELS + 1, VOXELS + 2], axis=-1))
    with pytest.raises(ImageError, match="holds 3 volumes; choose one"):
        read_volume(path)
    np.testing.assert_array_equal(read_volume(path, volume=3)[0].numpy(), VOXELS + 2)
    with pytest.raises(ImageError, match="holds 3 volumes, no volume 4"):
        read_volume(path, volume=4)


@pytest.mark.parametrize(("moved", "words"), [(0.05, None), (0.5, "0.5 mm apart"), (30.0, "30.0 mm apart")])
def test_a_sform_and_a_qform_that_disagree_are_told(tmp_path, moved, words):
    def change(image):
        other = AFFINE.copy()
        other[1, 3] += moved
        image.set_qform(other, code=1)

    notes = notes_of(write(tmp_path / "image.nii.gz", change=change))
    assert (words in notes[0]) if words else not notes


def test_voxel_sizes_that_disagree_with_the_sform_are_told(tmp_path):
    def change(image):
        image.header["qform_code"] = 0
        image.header["pixdim"][3] = 4.0

    assert "1×1×4 mm by pixdim, 1×1×3 mm by its sform" in notes_of(write(tmp_path / "image.nii", change=change))[0]


@pytest.mark.parametrize("factor", [1e-3, 0.05, 100.0, 1e3])
def test_voxels_that_no_scanner_makes_are_refused(tmp_path, factor):
    with pytest.raises(ImageError, match="no scanner"):
        read_volume(write(tmp_path / "image.nii.gz", affine=AFFINE @ np.diag([factor] * 3 + [1])))


def test_bytes_beyond_what_the_header_tells_of_are_told(tmp_path):
    path = write(tmp_path / "image.nii.gz")
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[46:48] = (7).to_bytes(2, "little")  # dim[3]: ten slices become seven
    path.write_bytes(gzip.compress(content))
    assert f"{3 * 16 * 14 * 2} bytes more" in notes_of(path)[0]


@pytest.mark.parametrize(
    ("lost", "words"), [(0, None), (10, None), (100, "100 blank voxels"), (3 * 16 * 14 + 5, "3 blank slices")]
)
def test_an_image_that_ends_in_zeros_is_told(tmp_path, lost, words):
    voxels = VOXELS.ravel(order="F")
    voxels[voxels.size - lost :] = 0
    notes = notes_of(write(tmp_path / "image.nii", voxels.reshape(VOXELS.shape, order="F")))
    assert (words in notes[0]) if words else not notes


def test_zeros_around_a_mask_are_no_damage(tmp_path):
    voxels = np.zeros_like(VOXELS)
    voxels[5:10, 4:9, 2:7] = VOXELS[5:10, 4:9, 2:7]
    assert not notes_of(write(tmp_path / "image.nii", voxels))


@pytest.mark.parametrize("content", [b"../../store/t2.nii.gz", b"version https://git-lfs.github.com/spec/v1\noid 1\n"])
def test_a_link_that_was_copied_as_text_is_told(tmp_path, content):
    (tmp_path / "image.nii.gz").write_bytes(content)
    with pytest.raises(ImageError, match="a link or a pointer"):
        read_volume(tmp_path / "image.nii.gz")
