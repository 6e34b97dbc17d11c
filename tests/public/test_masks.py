"""What masks say of lesions: the phantom's own truth, and shapes whose answer is known by construction."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from scripts.phantom.anatomy import sample_anatomy
from scripts.phantom.wording import sector
from scripts.public.masks import Labels, Prostate, axes_mm, foci, read_labels

AFFINE = np.diag([1.0, 1.0, 3.0, 1.0])


def labels(phantom, name):
    return Labels(phantom.masks[name].astype(np.int16), phantom.affine)


def test_the_phantoms_truth_is_found_in_its_masks(phantoms):
    """Zone, side, level and number of all lesions, axes to 2 mm, the gland's volume to 2 %."""
    for phantom in phantoms:
        prostate = Prostate(labels(phantom, "gland"), labels(phantom, "zones"))
        found = foci(labels(phantom, "lesions"), prostate)
        truth = phantom.findings
        assert len(found) == len(truth.lesions)
        gland = sample_anatomy(truth.seed, 0.0).gland
        for one, lesion in zip(found, truth.lesions, strict=True):
            place = one.place
            assert (place.zone, place.side, place.levels) == (lesion.zone, lesion.side, (lesion.level,))
            assert one.level == lesion.level
            assert one.size_mm[0] == pytest.approx(lesion.diameter_mm, abs=2.0)
            assert one.size_mm[1] <= one.size_mm[0]
            assert one.centre_mm == pytest.approx(lesion.centre_mm, abs=2.5)
            if lesion.zone == "PZ":
                assert place.sector in (sector(gland, lesion), None)
        assert prostate.millilitres == pytest.approx(truth.gland_ml, rel=0.02)
        assert prostate.size_mm == pytest.approx(truth.gland_mm, abs=3.5)  # a slice is 3 mm


def ellipsoid(centre=(30.0, 30.0, 10.0), semi=(24.0, 18.0, 9.0)):
    """Voxels (60, 60, 20) inside an ellipsoid, all in voxels."""
    grid = np.moveaxis(np.indices((60, 60, 20)), 0, -1)
    return (((grid - centre) / semi) ** 2).sum(-1) <= 1


def ball(*centre):
    return ellipsoid(centre, (3.0, 3.0, 1.2))


@pytest.fixture
def prostate():
    """A gland whose transition zone lies in its front half."""
    gland = ellipsoid()
    zones = np.where(ellipsoid((30, 37, 10), (16, 12, 8)), 2, 1) * gland
    return Prostate(Labels(gland.astype(np.int16), AFFINE), Labels(zones.astype(np.int16), AFFINE))


def place_of(mask, prostate):
    (one,) = foci(Labels(mask.astype(np.int16), AFFINE), prostate)
    return one


@pytest.mark.parametrize(
    ("centre", "zone", "side", "level", "sector"),
    [
        ((24, 15, 10), "PZ", "left", "mid", "PZpm"),
        ((44, 22, 10), "PZ", "right", "mid", "PZpl"),
        ((51, 33, 10), "PZ", "right", "mid", "PZa"),
        ((21, 40, 10), "TZ", "left", "mid", "TZa"),
        ((38, 27, 10), "TZ", "right", "mid", "TZp"),
        ((38, 37, 10), "TZ", "right", "mid", None),  # across the border of both sectors
        ((30, 15, 10), "PZ", "midline", "mid", "PZpm"),
        ((19, 22, 4), "PZ", "left", "apex", "PZpl"),
        ((22, 22, 16), "PZ", "left", "base", "PZpl"),
    ],
)
def test_places_follow_the_sector_map(prostate, centre, zone, side, level, sector):
    one = place_of(ball(*centre), prostate)
    assert (one.place.zone, one.place.side, one.level, one.place.levels) == (zone, side, level, (level,))
    assert one.place.sector == sector


def test_a_long_lesion_has_the_levels_that_hold_a_third_of_it(prostate):
    tall = np.zeros((60, 60, 20), bool)
    tall[20:24, 18:22, 4:10] = True  # apex to 6, mid from 7 on
    one = place_of(tall, prostate)
    assert one.place.levels == ("mid", "apex")
    assert one.level in one.place.levels


def test_a_lesion_outside_the_zones_has_the_nearest(prostate):
    assert place_of(ball(30, 8, 10), prostate).place.zone == "PZ"
    assert place_of(ball(30, 50, 10), prostate).place.zone == "TZ"


def test_numbers_of_the_zones_do_not_matter(prostate):
    turned = prostate.zones._replace(voxels=np.array([0, 2, 1], np.int16)[prostate.zones.voxels])
    other = Prostate(Labels(prostate.mask.astype(np.int16), AFFINE), turned)
    for centre in ((24, 15, 10), (21, 40, 10)):
        assert place_of(ball(*centre), other) == place_of(ball(*centre), prostate)


def test_without_zones_or_prostate_less_is_known(prostate):
    mask = Labels(prostate.mask.astype(np.int16), AFFINE)
    for zones in (None, mask):  # one zone is none
        one = place_of(ball(24, 15, 10), Prostate(mask, zones))
        assert (one.place.zone, one.place.sector, one.place.side, one.level) == (None, None, "left", "mid")
    nowhere = place_of(ball(24, 15, 10), None)
    assert (nowhere.place.side, nowhere.place.levels, nowhere.size_mm) == (None, (), one.size_mm)


def test_axes_of_a_box_and_of_a_turned_one():
    box = np.zeros((40, 40, 5), bool)
    box[5:25, 10:18, 1:4] = True
    assert axes_mm(box, np.array([0.5, 0.5, 3.0]))[0] == pytest.approx(np.hypot(10, 4), abs=0.3)
    x, y = np.meshgrid(np.arange(200), np.arange(200), indexing="ij")
    along, across = (x + y - 200) / np.sqrt(2), (x - y) / np.sqrt(2)
    turned = ((along / 60) ** 2 + (across / 25) ** 2 <= 1)[:, :, None]
    assert axes_mm(turned, np.array([0.25, 0.25, 3.0])) == pytest.approx((30, 12.5), abs=0.3)


def test_lesions_are_parts_of_one_value_and_specks_are_none(prostate):
    voxels = ball(24, 15, 10) * 3 + ball(44, 22, 10) * 2
    voxels[30, 45, 10] = 2
    found = foci(Labels(voxels.astype(np.int16), AFFINE), prostate)
    assert sorted(one.isup for one in found) == [2, 3]


def test_masks_are_read_along_ras_and_onto_another_grid(tmp_path, prostate):
    """A mask stored in LPS, or on another grid, says the same."""
    mask = (ball(44, 22, 10) * 3).astype(np.uint8)
    lps = nib.Nifti1Image(
        mask[::-1, ::-1], AFFINE @ np.array([[-1, 0, 0, 59], [0, -1, 0, 59], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    )
    nib.save(lps, tmp_path / "lps.nii.gz")
    read = read_labels(tmp_path / "lps.nii.gz")
    assert np.array_equal(read.voxels, mask)
    assert np.allclose(read.affine, AFFINE)
    shifted = nib.Nifti1Image(mask[10:], AFFINE @ nib.affines.from_matvec(np.eye(3), [10, 0, 0]))
    nib.save(shifted, tmp_path / "cropped.nii.gz")
    assert np.array_equal(read_labels(tmp_path / "cropped.nii.gz", like=read).voxels, mask)


def test_what_is_no_mask_is_refused(tmp_path, refused):
    (tmp_path / "broken.nii.gz").write_bytes(b"\x1f\x8bnothing")
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 2), np.uint8), AFFINE), tmp_path / "four.nii.gz")
    with refused("broken.nii.gz: is no readable NIfTI mask"):
        read_labels(tmp_path / "broken.nii.gz")
    with refused("must be 3D"):
        read_labels(tmp_path / "four.nii.gz")
    with refused("empty"):
        Prostate(Labels(np.zeros((4, 4, 4), np.int16), AFFINE))
