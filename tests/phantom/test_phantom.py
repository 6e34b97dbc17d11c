"""The phantom: which patients are drawn, where things lie in the world, how they look."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from scripts.data.grid import GRIDS, Grid, coordinates, grid_affine
from scripts.phantom.anatomy import sample_anatomy, sample_findings
from scripts.phantom.gland import Gland
from scripts.phantom.imaging import make_case

FINE = Grid((80, 60, 60), (1.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def patients():
    return [sample_anatomy(seed) for seed in range(1000)]


@pytest.fixture(scope="module")
def cases():
    return [make_case(seed, GRIDS["demo"]) for seed in range(20)]


def centre_voxel(phantom, point):
    return tuple(np.rint(np.linalg.inv(phantom.affine) @ [*point, 1])[:3].astype(int))


# ---- patients --------------------------------------------------------------------------------------------------------


def test_findings_depend_on_the_seed_alone(patients):
    assert sample_findings(7) == patients[7].findings
    assert len({patient.findings.psa for patient in patients[:50]}) > 25
    assert patients[7].findings.folder == "phantom_00007"


def test_numbers_stay_in_their_ranges(patients):
    for patient in patients:
        findings = patient.findings
        assert 20 <= findings.gland_ml <= 90
        assert findings.psa_density == pytest.approx(findings.psa / findings.gland_ml, abs=6e-4)
        assert bool(findings.lesions) == (findings.pirads >= 3)
        for lesion in findings.lesions:
            assert 5 <= lesion.diameter_mm <= 20
            assert (lesion.diameter_mm >= 15) == (lesion.pirads == 5)
        sizes = [lesion.diameter_mm for lesion in findings.lesions]
        assert sizes == sorted(sizes, reverse=True)


def test_prevalences(patients):
    positive = [patient for patient in patients if patient.findings.lesions]
    assert len(positive) / len(patients) == pytest.approx(0.60, abs=0.04)
    assert np.mean([len(patient.findings.lesions) > 1 for patient in positive]) == pytest.approx(0.08, abs=0.03)
    assert np.mean([patient.findings.report_is_missing for patient in patients]) == pytest.approx(0.10, abs=0.03)


def test_sectors_are_balanced(patients):
    lesions = [patient.findings.lesions[0] for patient in patients if patient.findings.lesions]
    sectors = Counter((lesion.zone, lesion.side, lesion.level) for lesion in lesions)
    assert len(sectors) == 12
    assert min(sectors.values()) > 0.5 * len(lesions) / 12


def test_every_lesion_lies_clearly_inside_its_sector(patients):
    for patient in patients:
        for lesion in patient.findings.lesions:
            u, v, w = (float(value) for value in patient.gland.coordinates(*lesion.centre_mm))
            across = lesion.centre_mm[0] - patient.gland.centre[0]
            assert abs(across) >= 6.0
            assert (across < 0) == (lesion.side == "left")  # RAS+: the patient's left has the smaller x
            assert {"base": w > 0.5, "mid": abs(w) < 0.15, "apex": w < -0.5}[lesion.level]
            assert patient.gland.distance(u, v, w) < -2
            assert (patient.gland.transition_distance(u, v, w) < 0) == (lesion.zone == "TZ")


def test_two_lesions_are_in_different_sectors(patients):
    pairs = [patient.findings.lesions for patient in patients if len(patient.findings.lesions) == 2]
    assert pairs
    for first, second in pairs:
        assert (first.zone, first.side, first.level) != (second.zone, second.side, second.level)


def test_psa_grows_with_the_gland(patients):
    size, psa = zip(*((patient.findings.gland_ml, patient.findings.psa) for patient in patients), strict=True)
    assert np.corrcoef(np.log(size), np.log(psa))[0, 1] > 0.5


# ---- the gland -------------------------------------------------------------------------------------------------------


def test_gland_volume_has_a_closed_form():
    gland = Gland.of_volume(47.0, (1.28, 0.93, 1.0), (1.0, -2.0, 0.5))
    u, v, w = gland.coordinates(*coordinates(FINE))
    drawn = np.sum(gland.distance(u, v, w) < 0) / 1000
    assert gland.millilitres == pytest.approx(47.0)
    assert drawn == pytest.approx(47.0, rel=0.02)


def test_gland_size_is_that_of_the_drawn_gland():
    gland = Gland.of_volume(60.0, (1.28, 0.93, 1.0), (0.0, 0.0, 0.0))
    u, v, w = gland.coordinates(*coordinates(FINE))
    inside = np.argwhere(gland.distance(u, v, w) < 0)
    assert np.ptp(inside, axis=0) == pytest.approx(gland.size_mm, abs=2.0)


def test_gland_is_wider_than_deep_and_narrow_at_the_apex():
    gland = Gland.of_volume(40.0, (1.28, 0.93, 1.0), (0.0, 0.0, 0.0))
    assert gland.size_mm[0] > gland.size_mm[1]
    u, v, w = gland.coordinates(*coordinates(FINE))
    sections = np.sum(gland.distance(u, v, w) < 0, axis=(0, 1))
    axis = coordinates(FINE)[2].ravel() / gland.semi[2]
    at = [sections[np.argmin(np.abs(axis - level))] for level in (-0.7, 0.7)]
    assert at[0] < 0.75 * at[1]


def test_world_undoes_coordinates():
    gland = Gland.of_volume(33.0, (1.3, 0.9, 1.0), (1.5, -0.5, 2.0))
    point = gland.world(0.3, -0.4, 0.5)
    assert [float(value) for value in gland.coordinates(*point)] == pytest.approx([0.3, -0.4, 0.5])


def test_transition_zone_takes_more_of_a_large_gland():
    def share(millilitres):
        gland = Gland.of_volume(millilitres, (1.28, 0.93, 1.0), (0.0, 0.0, 0.0))
        u, v, w = gland.coordinates(*coordinates(FINE))
        inside = gland.distance(u, v, w) < 0
        return np.sum(inside & (gland.transition_distance(u, v, w) < 0)) / inside.sum()

    assert share(25.0) < share(50.0) < share(80.0)


# ---- images ----------------------------------------------------------------------------------------------------------


def test_same_seed_same_images(cases):
    again = make_case(3, GRIDS["demo"])
    for name, volume in (cases[3].volumes | cases[3].masks).items():
        np.testing.assert_array_equal((again.volumes | again.masks)[name], volume)


def test_image_centre_is_the_origin_of_a_ras_world():
    grid = Grid((64, 64, 32), (1.25, 1.25, 1.875))
    np.testing.assert_allclose(grid_affine(grid) @ [31.5, 31.5, 15.5, 1], [0, 0, 0, 1], atol=1e-6)
    x, y, z = coordinates(grid)
    np.testing.assert_allclose([x[5, 0, 0], y[0, 9, 0], z[0, 0, 30]], (grid_affine(grid) @ [5, 9, 30, 1])[:3])


def test_masks_agree_with_the_findings(cases):
    voxel_ml = np.prod(GRIDS["demo"].spacing) / 1000
    for phantom in cases:
        gland, zones, lesions = (phantom.masks[name] for name in ("gland", "zones", "lesions"))
        assert gland.sum() * voxel_ml == pytest.approx(phantom.findings.gland_ml, rel=0.03)
        np.testing.assert_array_equal(zones > 0, gland > 0)
        assert set(np.unique(lesions)) == set(range(len(phantom.findings.lesions) + 1))
        for number, lesion in enumerate(phantom.findings.lesions, start=1):
            assert lesions[centre_voxel(phantom, lesion.centre_mm)] == number
            assert set(np.unique(zones[lesions == number])) == {1 if lesion.zone == "PZ" else 2}


def test_lesion_is_as_large_as_stated():
    phantom = next(make_case(seed, FINE) for seed in range(99) if sample_findings(seed).lesions)
    points = np.argwhere(phantom.masks["lesions"] == 1)
    directions = np.random.default_rng(0).standard_normal((400, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    extent = np.ptp(points @ directions.T, axis=0).max()
    assert extent == pytest.approx(phantom.findings.lesions[0].diameter_mm, abs=1.8)


def test_lesion_is_dark_on_t2w_and_adc_and_bright_on_high_b(cases):
    checked = 0
    for phantom in cases:
        for number, lesion in enumerate(phantom.findings.lesions, start=1):
            inside = phantom.masks["lesions"] == number
            tissue = (phantom.masks["zones"] == (1 if lesion.zone == "PZ" else 2)) & (phantom.masks["lesions"] == 0)
            ratio = {
                name: np.median(volume[inside]) / np.median(volume[tissue]) for name, volume in phantom.volumes.items()
            }
            assert ratio["axt2"] < 0.75
            assert ratio["adc"] < 0.85
            assert ratio["b1600"] > 1.3
            checked += 1
    assert checked >= 10


def test_peripheral_zone_is_brighter_than_transition_zone(cases):
    for phantom in cases:
        healthy, zones = phantom.masks["lesions"] == 0, phantom.masks["zones"]
        peripheral, transition = (np.median(phantom.volumes["axt2"][healthy & (zones == zone)]) for zone in (1, 2))
        assert peripheral > 1.4 * transition


def test_noise_in_the_gland_is_mild():
    phantom = make_case(8, GRIDS["demo"], difficulty=0.0)  # without fine texture, which would count as noise
    deep = phantom.masks["zones"] == 1
    values = phantom.volumes["axt2"][deep].astype(float)
    # Neighbours along z share tissue and shading, so half their difference's variance is noise.
    pair = deep[:, :, 1:] & deep[:, :, :-1]
    steps = np.diff(phantom.volumes["axt2"].astype(float), axis=2)[pair]
    spread = 1.4826 * np.median(np.abs(steps)) / np.sqrt(2)
    assert 10 < np.median(values) / spread < 60


def test_volumes_are_int16_in_scanner_like_units(cases):
    for phantom in cases:
        for volume in phantom.volumes.values():
            assert volume.dtype == np.int16
            assert volume.min() >= 0
        assert 600 < np.percentile(phantom.volumes["axt2"], 99.5) < 1300
        assert phantom.volumes["adc"].max() < 4096


def test_the_same_patient_on_another_grid():
    coarse = make_case(4, Grid((40, 40, 30), (2.0, 2.0, 2.0)))
    fine = make_case(4, Grid((80, 80, 60), (1.0, 1.0, 1.0)))
    assert coarse.findings == fine.findings
    pooled = fine.volumes["axt2"].reshape(40, 2, 40, 2, 30, 2).mean((1, 3, 5))
    assert np.corrcoef(pooled.ravel(), coarse.volumes["axt2"].ravel())[0, 1] > 0.95


def test_a_wide_field_of_view_ends_in_air_and_shows_bone():
    phantom = make_case(4, Grid((104, 72, 24), (4.0, 4.0, 4.0)))
    t2 = phantom.volumes["axt2"]
    assert np.median(t2[:6]) < 60  # air beside the body
    assert np.median(t2[25:30, 34:38, 16:18]) > 200  # marrow of the left femoral head
