"""What the analyser's verdicts are worth: shares with intervals, and volumes that show nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scripts.data.grid import GRIDS
from scripts.evaluation.adherence import PARTS, Truth, agreement, look, measures, read_truth, shares, verdict
from scripts.phantom.__main__ import make
from scripts.phantom.analyser import Analysis
from scripts.phantom.anatomy import Lesion
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
    found = read_truth(tmp_path / "data")
    assert len(found) == 4
    assert {name: truth.lesion.diameter_mm for name, truth in found.items() if truth.lesion} == first.to_dict()
    assert read_truth(tmp_path) == {}
    glands = pd.read_csv(tmp_path / "data" / "cases.csv", dtype={"folder": str}).set_index("folder")["gland_ml"]
    assert {folder: truth.gland_ml for folder, truth in found.items()} == glands.to_dict()


def seen(**changes) -> Analysis:
    found = {
        "lesion": True, "zone": "PZ", "side": "left", "level": "apex", "diameter_mm": 14.0,
        "centre_mm": (0.0, 0.0, 0.0), "gland_ml": 40.0, "score": 1.0, "contrast": {"axt2": 0.5},
        "nodules": 2, "nodule_contrast": 0.3,
    }  # fmt: skip
    return Analysis(**found | changes)


def test_what_is_not_known_of_a_lesion_is_not_judged(tmp_path):
    """An importer's lesion without a zone and a size, in a gland of unknown volume."""
    (tmp_path / "cases.csv").write_text("folder,gland_ml\na,\nb,40\n")
    columns = "folder,number,zone,side,level,diameter_mm,pirads,isup,x_mm,y_mm,z_mm"
    (tmp_path / "lesions.csv").write_text(f"{columns}\na,1,,left,apex,,,,1,2,3\nb,1,PZ,left,apex,12.0,4,2,1,2,3\n")
    truth = read_truth(tmp_path)
    assert (truth["a"].lesion.zone, truth["a"].lesion.diameter_mm, truth["a"].lesion.pirads) == (None, None, None)
    assert (truth["b"].lesion.zone, truth["b"].lesion.pirads, truth["b"].lesion.isup) == ("PZ", 4, 2)
    assert agreement(seen(), truth["a"].lesion) == dict.fromkeys(("presence", "side", "level", "all"), True)
    assert not agreement(seen(side="right"), truth["a"].lesion)["all"]
    found = measures([(seen(), truth["a"]), (seen(), truth["b"])])
    assert (found["diameter_error_mm"].value, found["diameter_error_mm"].n) == (2.0, 1)
    assert (found["gland_error_ml"].value, found["gland_error_ml"].n) == (0.0, 1)


def test_measures_are_means_over_what_can_be_measured():
    """Errors are what is seen less what is true; a lesion that is missed, or invented, has no size."""
    lesion = Lesion("PZ", "left", "apex", 10.0, 4, 2, (0.0, 0.0, 0.0))
    sick, healthy = Truth(lesion, 50.0), Truth(None, 30.0)
    blind = {"lesion": False, "contrast": {}}
    found = measures(
        [
            (seen(), sick),
            (seen(diameter_mm=12.0, contrast={"axt2": 0.3}, nodules=0, nodule_contrast=np.nan), sick),
            (seen(**blind), sick),
            (seen(), healthy),
            (None, sick),
        ]
    )
    assert (found["diameter_error_mm"].value, found["diameter_error_mm"].n) == (3.0, 2)
    assert found["diameter_error_mm"].high - 3.0 == pytest.approx(12.706 * 1.0, abs=1e-3)  # t of one degree, error 1
    assert found["lesion_signal_axt2"].value == pytest.approx(0.4)
    assert (found["gland_error_ml"].value, found["gland_error_ml"].n) == (-5.0, 4)
    assert found["nodules"].value == 1.5
    assert (found["nodule_contrast"].value, found["nodule_contrast"].n) == (pytest.approx(0.3), 3)


def test_a_phantom_that_is_drawn_too_dark_is_told(tmp_path):
    phantoms = (make_case(seed, GRIDS["demo"]) for seed in range(700_000, 700_040))
    phantom = next(phantom for phantom in phantoms if phantom.findings.lesions)
    truth = Truth(phantom.findings.lesions[0], phantom.findings.gland_ml)
    volume = phantom.volumes["axt2"].astype(np.float32)
    dark = np.where(phantom.masks["lesions"] == 1, 0.5 * volume, volume)
    signal = [measures([(look(v, phantom.affine), truth)])["lesion_signal_axt2"].value for v in (volume, dark)]
    assert signal[1] < 0.75 * signal[0]
