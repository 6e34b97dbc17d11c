import nibabel as nib
import numpy as np
import pytest

from scripts.classifier.centre import add_centres
from scripts.classifier.volumes import preprocessing
from scripts.common.problems import UserError

AFFINE = np.diag([2.0, 2.0, 4.0, 1.0])
AFFINE[:3, 3] = -30, 5, 7


@pytest.fixture
def case(tmp_path):
    """A volume that is bright at one voxel, (20, 4, 6), which is the middle of the gland."""
    volume = np.full((24, 24, 12), 300.0, np.float32)
    volume[20, 4, 6] = 3000
    mask = np.zeros(volume.shape, np.uint8)
    mask[19:22, 3:6, 5:8] = 1
    for name, array in (("adc", volume), ("gland", mask)):
        nib.save(nib.Nifti1Image(array, AFFINE), tmp_path / f"{name}.nii.gz")
    return {"folder": "a", "adc": str(tmp_path / "adc.nii.gz"), "label": np.array([1])}


def test_the_middle_of_the_mask_is_where_volumes_are_cropped(case):
    """With zeros where the box leaves the volume."""
    add_centres([case], [{}], "gland")
    assert case["centre"] == pytest.approx([20 * 2 - 30, 4 * 2 + 5, 6 * 4 + 7])
    cut = preprocessing([2, 2, 4], [11, 11, 5], ["adc"])(case)
    assert cut.keys() == {"folder", "image", "label"}
    assert np.argwhere(cut["image"].numpy()[0] == 1).tolist() == [[5, 5, 2]]
    assert cut["image"][0, 5, 5].tolist() == pytest.approx([0.1, 0.1, 1, 0.1, 0.1])  # of 3000, as ADC is scaled
    assert (cut["image"][0, 10] == 0).all()  # the volume ends before it


def test_what_the_datalist_says_goes_before_the_mask(case):
    add_centres([case], [{"gland_centre": [1, 2, 3.5]}], "gland")
    assert case["centre"].tolist() == [1, 2, 3.5]


def test_without_a_gland_the_middle_stays_the_middle(case):
    add_centres([case], [{}], "foreground")
    assert "centre" not in case
    assert preprocessing([2, 2, 4], [30, 8, 12], ["adc"])(case)["image"].shape == (1, 30, 8, 12)


@pytest.mark.parametrize(
    ("entry", "message"),
    [({}, "no gland.nii.gz"), ({"gland_centre": [1, 2]}, "three numbers"), ({"gland_centre": "x"}, "three numbers")],
)
def test_all_cases_whose_gland_is_not_known_are_told(case, entry, message, tmp_path):
    (tmp_path / "gland.nii.gz").unlink()
    with pytest.raises(UserError, match=rf"(?s)a +.*{message}.*b +.*{message}.*--centre foreground"):
        add_centres([case, case | {"folder": "b"}], [entry, entry], "gland")


def test_a_mask_of_nothing_and_a_wrong_word_are_told(case, tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), AFFINE), tmp_path / "gland.nii.gz")
    with pytest.raises(UserError, match="marks nothing"):
        add_centres([case], [{}], "gland")
    (tmp_path / "gland.nii.gz").write_bytes(b"x")
    with pytest.raises(UserError, match="cannot be read"):
        add_centres([case], [{}], "gland")
    with pytest.raises(UserError, match="foreground, gland"):
        add_centres([case], [{}], "middle")
