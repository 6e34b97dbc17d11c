"""What a NIfTI file that the project wrote says, and that nothing is lost in it."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from scripts.data.nifti import save_int16, save_nifti

SIZE = (16, 16, 8)
AFFINE = nib.affines.from_matvec(np.diag([1.0, 1.0, 1.5]), [10, -20, 5])
VALUES = np.arange(np.prod(SIZE), dtype=np.float32).reshape(SIZE)


@pytest.mark.parametrize("kind", [np.uint8, np.int16])
def test_integers_are_stored_as_they_are_in_mm_with_one_affine(tmp_path, kind):
    values = VALUES.astype(kind)
    save_nifti(tmp_path / "a" / "axt2.nii.gz", values, AFFINE, "made of numbers")
    image = nib.load(tmp_path / "a" / "axt2.nii.gz")
    assert image.get_data_dtype() == kind
    assert image.header.get_xyzt_units() == ("mm", "sec")
    assert image.header["descrip"].item() == b"made of numbers"
    np.testing.assert_array_equal(np.asarray(image.dataobj), values)
    np.testing.assert_allclose(image.get_sform(), AFFINE, atol=1e-5)
    np.testing.assert_allclose(image.get_qform(), AFFINE, atol=1e-5)


def test_large_values_are_rounded(tmp_path):
    save_int16(tmp_path / "axt2.nii.gz", VALUES - 40 + 0.3, AFFINE)
    image = nib.load(tmp_path / "axt2.nii.gz")
    assert image.get_data_dtype() == np.int16
    np.testing.assert_array_equal(np.asarray(image.dataobj), VALUES - 40)


@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_values_that_int16_would_spoil_are_kept_by_a_slope(tmp_path, scale):
    values = np.linspace(0, 1, VALUES.size, dtype=np.float32).reshape(SIZE) * np.float32(scale)
    save_int16(tmp_path / "axt2.nii.gz", values, AFFINE)
    image = nib.load(tmp_path / "axt2.nii.gz")
    assert image.get_data_dtype() == np.int16
    np.testing.assert_allclose(image.get_fdata(), values, atol=2e-5 * scale)


def test_the_same_volume_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        save_int16(tmp_path / name / "axt2.nii.gz", VALUES, AFFINE)
    assert (tmp_path / "a" / "axt2.nii.gz").read_bytes() == (tmp_path / "b" / "axt2.nii.gz").read_bytes()
