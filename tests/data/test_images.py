"""Images: scaled as the method says, refused with the case's name when they cannot be used, written with a geometry."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch

from scripts.common.problems import Problems, UserError
from scripts.data.images import SCANNER_UNITS, check_voxels, image_transforms, save_volume, to_scanner

AFFINE = np.diag([1.25, 1.25, 1.875, 1.0])
SPACING = [1.25, 1.25, 1.875]


def write(path, values, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(values, dtype=np.float32), affine), path)
    return str(path)


def ramp(shape=(8, 12, 4)):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def test_t2w_maps_percentiles_0_and_99_5_to_0_and_1(tmp_path):
    values = ramp() * 3 + 40
    case = {"folder": "a", "axt2": write(tmp_path / "axt2.nii.gz", values), "spacing": SPACING}
    image = image_transforms(("axt2",))(case)["axt2"]
    low, high = np.percentile(values, [0, 99.5])
    assert image.shape == (1, 8, 12, 4)
    assert image.dtype == torch.float32
    assert np.allclose(image[0].numpy(), np.clip((values - low) / (high - low), 0, 1), atol=1e-5)


def test_adc_keeps_its_meaning(tmp_path):
    values = ramp() * 20  # up to 7660
    case = {"folder": "a", "adc": write(tmp_path / "adc.nii.gz", values)}
    image = image_transforms(("adc",))(case)["adc"]
    assert np.allclose(image[0].numpy(), np.clip(values / 3000, 0, 1), atol=1e-6)


def test_other_orientations_become_ras(tmp_path):
    values = ramp()
    turned = nib.Nifti1Image(values, AFFINE).as_reoriented(nib.orientations.axcodes2ornt(("P", "S", "L")))
    nib.save(turned, tmp_path / "axt2.nii.gz")
    image = image_transforms(("axt2",))({"folder": "a", "axt2": str(tmp_path / "axt2.nii.gz"), "spacing": SPACING})[
        "axt2"
    ]
    straight = image_transforms(("axt2",))({"folder": "a", "axt2": write(tmp_path / "b.nii.gz", values)})["axt2"]
    assert np.allclose(image.numpy(), straight.numpy())
    assert np.allclose(image.affine.numpy(), AFFINE)


@pytest.mark.parametrize(
    ("values", "what"),
    [
        (np.full((8, 8, 4), 7.0), "constant"),
        (np.where(ramp((8, 8, 4)) == 5, np.nan, 1.0), "NaN"),
        (ramp((8, 10, 4)), "8×10×4, not divisible by 4"),
        (np.zeros((8, 8, 4, 2)) + ramp((8, 8, 4))[..., None], "3D volume"),
    ],
)
def test_an_unusable_image_is_refused_by_name(tmp_path, values, what):
    case = {"folder": "case_17", "axt2": write(tmp_path / "axt2.nii.gz", values), "text": "SECRET"}
    with pytest.raises(UserError, match="case_17") as caught:
        image_transforms(("axt2",))(case)
    assert what in str(caught.value)
    assert "SECRET" not in str(caught.value)


def test_a_wrong_size_or_spacing_is_refused(tmp_path):
    path = write(tmp_path / "axt2.nii.gz", ramp())
    with pytest.raises(UserError, match="8×12×4, not 64×64×32"):
        image_transforms(("axt2",), (64, 64, 32))({"folder": "a", "axt2": path})
    with pytest.raises(UserError, match=r"1\.25×1\.25×1\.875 mm, the datalist says 0\.5×0\.5×0\.5625"):
        image_transforms(("axt2",))({"folder": "a", "axt2": path, "spacing": [0.5, 0.5, 0.5625]})


@pytest.mark.parametrize("content", [None, b"", b"rubbish"])
def test_a_file_that_cannot_be_read_names_the_case_only(tmp_path, content):
    path = tmp_path / "axt2.nii.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match="case_17"):
        image_transforms(("axt2",))({"folder": "case_17", "axt2": str(path)})


def test_a_truncated_file_names_the_case(tmp_path):
    path = tmp_path / "axt2.nii.gz"
    write(path, np.random.default_rng(0).random((16, 16, 16)))
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(UserError, match="case_17"):
        image_transforms(("axt2",))({"folder": "case_17", "axt2": str(path)})


def test_voxels_tell_every_problem_of_every_case(tmp_path):
    cases = [
        {"folder": "good", "axt2": write(tmp_path / "1.nii.gz", ramp())},
        {"folder": "flat", "axt2": write(tmp_path / "2.nii.gz", np.full((8, 8, 4), 7.0))},
        {"folder": "absent", "axt2": str(tmp_path / "none.nii.gz")},
        {"folder": "holes", "axt2": write(tmp_path / "3.nii.gz", np.where(ramp() == 5, np.nan, 1.0))},
    ]
    problems = Problems("images")
    check_voxels(cases, image_transforms(("axt2",)), problems)
    assert [case for case, _, _ in problems.rows] == ["flat/axt2", "absent", "holes/axt2"]


def test_scanner_units_are_rounded_and_clipped():
    values = torch.tensor([-0.5, 0.0, 0.5, 1.0, 2.0])
    for sequence, top in SCANNER_UNITS.items():
        made = to_scanner(values, sequence)
        assert made.dtype == np.int16
        assert made.tolist() == [0, 0, round(top / 2), top, top]
    with pytest.raises(UserError, match="'t1' is not known"):
        to_scanner(values, "t1")
    with pytest.raises(UserError, match="axt2 is not finite"):
        to_scanner(np.array([0.5, np.nan]), "axt2")


def test_a_saved_volume_stands_where_its_affine_says(tmp_path):
    affine = np.array([[0.5, 0, 0, -12], [0, 0.5, 0, 7], [0, 0, 0.5625, 3], [0, 0, 0, 1]])
    save_volume(tmp_path / "a" / "axt2.nii.gz", torch.rand(8, 8, 4), affine, "axt2")
    image = nib.load(tmp_path / "a" / "axt2.nii.gz")
    assert image.get_data_dtype() == np.int16
    assert np.allclose(image.affine, affine)
    assert np.allclose(image.get_qform(), affine, atol=1e-6)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["axt2.nii.gz"]
