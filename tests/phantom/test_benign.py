"""Benign changes: who has them, that they keep away from lesions, and that the images show them for what they are."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from scripts.common.problems import UserError
from scripts.data.grid import GRIDS, Grid
from scripts.phantom.anatomy import check_difficulty, sample_anatomy
from scripts.phantom.benign import SIZE_MM
from scripts.phantom.imaging import make_case
from scripts.phantom.tissues import benign_signal, lesion_signal

FINE = Grid((110, 110, 60), (0.75, 0.75, 1.0))


@pytest.fixture(scope="module")
def patients():
    return [sample_anatomy(seed) for seed in range(800)]


def first(patients, kind):
    """The first change of a kind, of a patient who has no other and no lesion."""
    return next(
        (p.findings.seed, p.findings.changes[0])
        for p in patients
        if len(p.findings.changes) == 1 and p.findings.changes[0].kind == kind and not p.findings.lesions
    )


def test_categories_2_and_3_have_changes_and_1_has_none_but_blood(patients):
    kinds = {pirads: Counter() for pirads in range(1, 6)}
    without = Counter()
    for patient in patients:
        kinds[patient.findings.pirads].update(change.kind for change in patient.findings.changes)
        without[patient.findings.pirads] += not patient.findings.changes
    assert set(kinds[1]) == {"haemorrhage"}
    assert set(kinds[2]) == set(SIZE_MM)
    cases = Counter(patient.findings.pirads for patient in patients)
    assert without[2] / cases[2] < 0.05
    assert without[3] / cases[3] < 0.1
    assert without[5] / cases[5] > 0.4
    blood = sum(count["haemorrhage"] for count in kinds.values()) / len(patients)
    assert 0.08 < blood < 0.17


def test_changes_keep_away_from_lesions_and_from_one_another(patients):
    for patient in patients:
        findings = patient.findings
        for number, change in enumerate(findings.changes):
            focal = [one for one in findings.changes[:number] if "diffuse" not in (one.kind, change.kind)]
            others = [(one.centre_mm, one.size_mm) for one in focal]
            if change.kind != "diffuse":
                others += [(lesion.centre_mm, lesion.diameter_mm) for lesion in findings.lesions]
            for centre, size in others:
                assert np.linalg.norm(np.subtract(centre, change.centre_mm)) >= (size + change.size_mm) / 2 + 3
            if change.kind == "diffuse":
                assert all(lesion.side != change.side for lesion in findings.lesions)
                assert change.side != "bilateral" or not findings.lesions


def test_changes_lie_where_they_are_said_to_lie(patients):
    for patient in patients:
        for change in patient.findings.changes:
            u, v, w = patient.gland.coordinates(*change.centre_mm)
            assert change.side == "bilateral" or (u < 0) == (change.side == "left")
            assert (patient.gland.transition_distance(u, v, w) < 0) == (change.zone == "TZ")
            assert change.level == ("base" if w > 1 / 3 else "apex" if w < -1 / 3 else "mid")
            low, high = SIZE_MM[change.kind]
            assert low <= change.size_mm <= high


def test_without_difficulty_there_are_none_and_the_patient_is_the_same():
    for seed in range(50):
        easy, hard = sample_anatomy(seed, 0.0), sample_anatomy(seed, 1.0)
        assert easy.findings.changes == ()
        assert (easy.gland, easy.blobs, easy.findings.lesions) == (hard.gland, hard.blobs, hard.findings.lesions)


@pytest.mark.parametrize("kind", ["wedge", "stromal", "haemorrhage"])
def test_a_change_is_darker_than_its_zone_where_it_lies(patients, kind):
    seed, change = first(patients, kind)
    phantom = make_case(seed, FINE)
    centre = np.linalg.inv(phantom.affine) @ (*change.centre_mm, 1)
    x, y, z = np.round(centre[:3]).astype(int)
    zone = phantom.masks["zones"] == (2 if change.zone == "TZ" else 1)
    here = (slice(x - 1, x + 2), slice(y - 1, y + 2), slice(z - 1, z + 2))
    t2, adc = (np.median(phantom.volumes[n][here]) / np.median(phantom.volumes[n][zone]) for n in ("axt2", "adc"))
    assert t2 < 0.87
    assert adc > 0.8  # lesions of PI-RADS 4 and 5 lie lower
    if kind == "haemorrhage":
        assert adc > 0.9


def test_lesions_are_fainter_in_category_3_and_where_it_is_harder():
    for zone in ("PZ", "TZ"):
        for difficulty in (0.0, 0.5, 1.0):
            t2, high_b, adc = zip(*(lesion_signal(zone, pirads, difficulty) for pirads in (3, 4, 5)), strict=True)
            assert t2[0] > t2[1] > t2[2]
            assert adc[0] > adc[1] > adc[2]
            assert high_b[0] < high_b[1] < high_b[2]
        for pirads in (3, 4, 5):
            t2 = [lesion_signal(zone, pirads, difficulty)[0] for difficulty in (0.0, 0.5, 1.0)]
            assert t2 == sorted(t2)
    # However hard, no benign change restricts diffusion as a lesion does.
    for difficulty in (0.5, 1.0):
        darkest = min(benign_signal(kind, difficulty)[2] for kind in ("wedge", "diffuse", "haemorrhage", "stromal"))
        assert darkest > max(lesion_signal(zone, 3, difficulty)[2] for zone in ("PZ", "TZ"))


def test_fine_structure_is_lost_where_a_volume_is_smoothed():
    def detail(volume):
        gland = volume[20:44, 20:44, 10:22].astype(float)
        return np.mean([np.abs(np.diff(gland, n=2, axis=axis)).mean() for axis in range(3)]) / gland.mean()

    easy, usual = (make_case(11, GRIDS["demo"], difficulty).volumes["axt2"] for difficulty in (0.0, 0.5))
    assert detail(usual) > 1.2 * detail(easy)


@pytest.mark.parametrize("difficulty", [-0.1, 1.5, float("nan")])
def test_what_is_no_difficulty_is_refused(difficulty):
    with pytest.raises(UserError, match="difficulty is"):
        check_difficulty(difficulty)
