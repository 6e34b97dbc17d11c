"""What the analyser's verdicts are worth: shares with intervals, and volumes that show nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scripts.data.grid import GRIDS
from scripts.evaluation.adherence import PARTS, index_lesions, shares, verdict
from scripts.phantom.__main__ import make
from scripts.phantom.imaging import make_case


def test_shares_count_each_part_where_it_was_judged_with_wilson_intervals():
    hit = dict.fromkeys(PARTS, True)
    counted = shares([{"presence": True, "all": True}, hit, hit, {**hit, "side": False, "all": False}])
    assert (counted["presence"].value, counted["presence"].n) == (1, 4)
    assert (counted["side"].value, counted["side"].n) == (pytest.approx(2 / 3), 3)
    # Wilson's score interval for 2 of 3, by hand.
    z, p, n = 1.959964, 2 / 3, 3
    middle, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert counted["side"].low == pytest.approx((middle - half) / (1 + z**2 / n), abs=1e-5)
    assert counted["side"].high == pytest.approx((middle + half) / (1 + z**2 / n), abs=1e-5)


def test_a_phantom_shows_its_lesion_and_an_empty_volume_nothing():
    phantoms = (make_case(seed, GRIDS["demo"]) for seed in range(700_000, 700_040))
    phantom = next(phantom for phantom in phantoms if phantom.findings.lesions)
    volume, lesion = phantom.volumes["axt2"].astype(np.float32), phantom.findings.lesions[0]
    assert verdict(volume, phantom.affine, lesion) == dict.fromkeys(PARTS, True)
    speck = np.zeros_like(volume)
    speck[30:32, 30:32, 15] = 1
    for nothing in (np.zeros_like(volume), np.full_like(volume, np.nan), speck):
        assert verdict(nothing, phantom.affine, lesion) == dict.fromkeys(PARTS, False)
        assert verdict(nothing, phantom.affine, None) == {"presence": False, "all": False}


def test_the_truth_of_a_phantom_root_and_of_another(tmp_path):
    make(str(tmp_path / "data"), cases=4, seed=7, size=(16, 16, 8), spacing=(5, 5, 7.5), test_fraction=0.5, workers=1)
    table = pd.read_csv(tmp_path / "data" / "lesions.csv", dtype={"folder": str})
    first = table[table["number"] == 1].set_index("folder")["diameter_mm"]
    found = index_lesions(tmp_path / "data")
    assert len(found) == 4
    assert {folder: lesion.diameter_mm for folder, lesion in found.items() if lesion} == first.to_dict()
    assert index_lesions(tmp_path) == {}
