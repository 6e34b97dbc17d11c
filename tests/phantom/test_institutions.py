"""Institutions: the same patient looks different elsewhere, the same way in every patient, and not at difficulty 0."""

from __future__ import annotations

import numpy as np

from scripts.data.grid import GRIDS
from scripts.phantom.anatomy import sample_findings
from scripts.phantom.imaging import make_case
from scripts.phantom.institutions import Protocol, protocol


def test_a_name_is_a_scanner_and_difficulty_sets_them_apart():
    assert protocol("A", 0.5) == protocol("A", 0.5)
    assert protocol("A", 0.5) != protocol("B", 0.5)
    assert protocol("A", 0.0) == protocol("B", 0.0) == Protocol()
    names = [f"Hospital {number}" for number in range(60)]
    spread = [np.std([protocol(name, difficulty).t2_contrast for name in names]) for difficulty in (0.2, 0.5, 1.0)]
    assert spread == sorted(spread)
    fields = [protocol(name, 0.5).field_t for name in names]
    assert set(fields) == {1.5, 3.0}


def test_the_patient_is_the_same_wherever_they_go():
    here, there = (sample_findings(5, institute=name) for name in ("A", "B"))
    assert here.institute == "A"
    assert (here.lesions, here.changes, here.gland_ml) == (there.lesions, there.changes, there.gland_ml)
    assert sample_findings(5).institute in {"Institute1", "Institute2", "Institute3"}


def test_scanners_differ_in_contrast_and_noise_alike_for_all_patients():
    names = [f"Hospital {number}" for number in range(20)]
    low, high = (f(names, key=lambda name: protocol(name, 1.0).t2_contrast) for f in (min, max))
    for seed in (3, 11):
        ratios = []
        for name in (low, high):
            phantom = make_case(seed, GRIDS["demo"], 1.0, name)
            zones = (np.median(phantom.volumes["axt2"][phantom.masks["zones"] == zone]) for zone in (1, 2))
            ratios.append(np.divide(*zones))
        assert ratios[1] > 1.03 * ratios[0]  # a longer echo time: more contrast between bright and less bright


def test_thick_slices_blur_along_z_alone():
    names = [f"Hospital {number}" for number in range(40)]
    sharp = min(names, key=lambda name: protocol(name, 0.5).slice_mm)
    thick = max(names, key=lambda name: protocol(name, 0.5).slice_mm)
    assert protocol(thick, 0.5).slice_mm > 3
    edges = {}
    for name in (sharp, thick):
        t2 = make_case(11, GRIDS["demo"], 0.5, name).volumes["axt2"].astype(float)
        edges[name] = np.abs(np.diff(t2, axis=2)).mean() / np.abs(np.diff(t2, axis=0)).mean()
    assert edges[thick] < edges[sharp]


def test_a_scanner_of_more_contrast_images_what_textures_have_taken_below_zero():
    """In this patient the signal of a few voxels is negative, which no power can be taken of."""
    assert protocol("Home", 1.0).t2_contrast != 1
    with np.errstate(invalid="raise"):
        make_case(7_000_044, GRIDS["demo"], 1.0, "Home")
