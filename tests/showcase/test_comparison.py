"""Generators side by side: which patient is shown, where the cuts go, and what a row without a figure says."""

from __future__ import annotations

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from scripts.data.datalists import SEQUENCES
from scripts.data.grid import Grid
from scripts.phantom.dataset import read_findings, write_dataset
from scripts.showcase import comparison

GRID = Grid((32, 32, 16), (2.5, 2.5, 3.75))
SHARE = {"value": 0.5, "low": 0.25, "high": 0.75, "n": 9}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("comparison")
    write_dataset(root, 8, 0, GRID, 0.9, 1)
    return root


def test_a_patient_with_lesion_and_report_is_shown(data):
    case = comparison.shown_case(data)
    assert read_findings(data)[case["folder"]]
    assert case["text"]


def test_where_no_report_tells_of_a_lesion_another_patient_is_drawn(data, tmp_path):
    root = shutil.copytree(data, tmp_path / "data")
    cases = [case for case in json.loads((data / "test.json").read_text()) if not read_findings(data)[case["folder"]]]
    (root / "test.json").write_text(json.dumps(cases))
    case = comparison.shown_case(root)
    assert case["folder"] in [one["folder"] for one in cases]
    assert case["text"]
    comparison.draw(case, root, {"again": data}, ["adc"], tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes()[1:4] == b"PNG"


def test_all_are_cut_through_the_lesion_below_the_phantom(data, tmp_path, monkeypatch):
    shown = {}

    def montage(volumes, titles, spacing, path, focus):
        shown.update(volumes=volumes, titles=titles, spacing=spacing, focus=focus)

    monkeypatch.setattr(comparison, "montage", montage)
    case = comparison.shown_case(data)
    for name in SEQUENCES:
        image = nib.load(case[name])
        (tmp_path / case["folder"]).mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(image.get_fdata() + 1, image.affine), tmp_path / case["folder"] / f"{name}.nii.gz")
    comparison.draw(case, data, {"ours": tmp_path}, SEQUENCES, tmp_path / "picture.png")
    assert shown["titles"][:3] == ["axt2, the phantom", "axt2, ours", "b1600, the phantom"]
    for real, made in zip(shown["volumes"][::2], shown["volumes"][1::2], strict=True):
        np.testing.assert_allclose(made, real + 1, rtol=1e-3)
    assert np.asarray(nib.load(data / case["folder"] / "lesions.nii.gz").dataobj)[tuple(shown["focus"])] > 0


def test_a_row_that_shows_no_lesion_has_a_dash_for_its_signal():
    def judged(sizes):
        distances = {"phantom: generated to real test": {"frechet": SHARE, "kernel": SHARE}}
        return {"distances": distances, "adherence": {"generated": {"all": SHARE}}, "measures": {"generated": sizes}}

    shows = {"diameter_error_mm": SHARE, "lesion_signal_axt2": SHARE, "lesion_signal_b1600": SHARE}
    rows = {"ours": shows, "theirs": {"diameter_error_mm": {"value": None, "low": None, "high": None, "n": 0}}}
    table = comparison.table({name: comparison.cells(judged(sizes)) for name, sizes in rows.items()})
    assert table.loc["ours", "lesion's signal, b1600"] == "0.5 (0.25 to 0.75)"
    assert table.loc["theirs", ["lesion's signal, axt2", "lesion's signal, b1600"]].tolist() == ["–", "–"]
    assert table.loc["theirs", "diameter error (mm)"] == "undefined (n = 0)"
    assert list(table.index) == ["ours", "theirs"]
