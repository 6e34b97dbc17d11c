"""Phantom data on disk: the project's own format, complete or not at all, the same whatever the number of workers."""

from __future__ import annotations

import json
import sys

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from scripts.common.problems import Problems, UserError
from scripts.data.grid import Grid, grid_affine
from scripts.data.root import check_root, read_reports, read_splits
from scripts.phantom import dataset
from scripts.phantom.__main__ import make
from scripts.phantom.anatomy import sample_findings
from scripts.phantom.dataset import read_findings, write_dataset
from scripts.phantom.wording import report_text

TINY = Grid((20, 20, 16), (4.0, 4.0, 3.75))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("phantom") / "data"
    write_dataset(path, cases=10, seed=2, grid=TINY, test_fraction=0.2, workers=2)
    return path


def test_the_data_root_is_valid(root):
    train, test = read_splits(root)
    assert (len(train), len(test)) == (8, 2)
    assert all(case["spacing"] == [4.0, 4.0, 3.75] for case in train)


def test_datalists_hold_what_the_format_asks_for(root):
    for entry in json.loads((root / "train.json").read_text()):
        findings = sample_findings(int(entry["folder"].removeprefix("phantom_")))
        assert entry["axt2"] == f"./{findings.folder}/axt2.nii.gz"
        assert entry["pirads"] == ([0, 1] if findings.pirads >= 3 else [1, 0])
        assert entry["text_isnull"] == int(findings.report_is_missing) == int(entry["text"] == "")


def test_images_and_masks_lie_on_one_ras_grid_in_mm(root):
    for name in ("axt2", "b1600", "adc", "gland", "zones", "lesions"):
        image = nib.load(root / "phantom_200003" / f"{name}.nii.gz")
        np.testing.assert_allclose(image.affine, grid_affine(TINY), atol=1e-5)
        assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
        assert (int(image.header["qform_code"]), int(image.header["sform_code"])) == (1, 1)
        assert image.header.get_xyzt_units()[0] == "mm"
        np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-5)
    assert nib.load(root / "phantom_200003" / "axt2.nii.gz").get_data_dtype() == np.int16


def test_ground_truth_can_be_read_back(root):
    truth = read_findings(root)
    assert len(truth) == 10
    for folder, lesions in truth.items():
        assert tuple(lesions) == sample_findings(int(folder.removeprefix("phantom_"))).lesions


def test_clinical_sheet_agrees_with_the_cases(root):
    sheet = pd.read_excel(root / "clinical.xlsx").set_index("folder")
    truth = read_findings(root)
    for folder, row in sheet.iterrows():
        assert row["PosPIRADS"] == int(bool(truth[folder]))
        assert pd.isna(row["PosISUP"]) == (not truth[folder])


def test_cases_do_not_depend_on_workers_or_count(root, tmp_path):
    write_dataset(tmp_path / "few", cases=3, seed=2, grid=TINY, test_fraction=0.0, workers=1)
    many = {
        entry["folder"]: entry
        for split in ("train", "test")
        for entry in json.loads((root / f"{split}.json").read_text())
    }
    for entry in json.loads((tmp_path / "few" / "train.json").read_text()):
        assert entry == many[entry["folder"]]
        for name in ("axt2", "adc", "lesions"):
            one, other = (nib.load(path / entry["folder"] / f"{name}.nii.gz") for path in (root, tmp_path / "few"))
            np.testing.assert_array_equal(np.asarray(one.dataobj), np.asarray(other.dataobj))


def test_an_interrupted_dataset_has_no_datalists(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(dataset, "_write_tables", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_dataset(tmp_path / "data", cases=1, seed=0, grid=TINY, test_fraction=0.0, workers=1)
    assert not any((tmp_path / "data" / name).exists() for name in dataset.DATALISTS)


def test_an_interrupted_dataset_keeps_its_complete_cases(tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    write_dataset(whole, cases=3, seed=2, grid=TINY, test_fraction=0.4, workers=1)
    with monkeypatch.context() as patch:
        patch.setattr(dataset, "_write_tables", lambda *_: sys.exit("killed"))
        with pytest.raises(SystemExit):
            write_dataset(parts, cases=3, seed=2, grid=TINY, test_fraction=0.4, workers=1)
    (parts / "phantom_200001" / "lesions.nii.gz").unlink()  # the last file that a case gets
    (parts / "phantom_200001" / ".part-abcaxt2.nii.gz").write_bytes(b"half a fi")
    (parts / "train_merged.json").touch()  # of datalists that are there no more
    before = {path: path.stat().st_mtime_ns for path in parts.rglob("*.nii.gz")}

    for _ in range(2):  # the second time there is nothing to do
        write_dataset(parts, cases=3, seed=2, grid=TINY, test_fraction=0.4, workers=1)
    changed = {path.parent.name for path, time in before.items() if path.exists() and path.stat().st_mtime_ns != time}
    assert changed == {"phantom_200001"}
    names = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(parts) for path in parts.rglob("*") if path.is_file())
    for name in ("train.json", "test.json", "cases.csv"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"cases": 4}, "cases 10"),
        ({"seed": 3}, "seed 2"),
        ({"test_fraction": 0.3}, "test_fraction 0.2"),
        ({"difficulty": 0.0}, "difficulty 0.5"),
        ({"grid": Grid((24, 20, 16), TINY.spacing)}, r"size \[20, 20, 16\]"),
    ],
)
def test_other_settings_are_not_mixed_into_a_dataset(root, change, named):
    settings = {"cases": 10, "seed": 2, "grid": TINY, "test_fraction": 0.2, "workers": 1}
    with pytest.raises(UserError, match=named):
        write_dataset(root, **(settings | change))


def test_reports_are_those_of_the_institutes(root):
    for case in json.loads((root / "train.json").read_text()):
        findings = sample_findings(int(case["folder"].removeprefix("phantom_")))
        assert case["text"] == report_text(findings, np.random.default_rng([findings.seed, 4]))


def test_a_dataset_with_reports_of_an_earlier_grammar_is_another_one(tmp_path):
    settings = {"cases": 1, "seed": 2, "grid": TINY, "test_fraction": 0.0, "workers": 1}
    write_dataset(tmp_path, **settings)
    path = tmp_path / "phantom.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"wording": "narrow"}))
    with pytest.raises(UserError, match="wording narrow"):
        write_dataset(tmp_path, **settings)


def test_difficulty_and_institute_belong_to_a_dataset(tmp_path):
    settings = {"cases": 4, "seed": 2, "grid": TINY, "test_fraction": 0.25, "workers": 1}
    write_dataset(tmp_path / "north", **settings, difficulty=1.0, institute="North")
    train, test = read_splits(tmp_path / "north")
    assert {entry["dataset"] for entry in [*train, *test]} == {"North"}
    benign = pd.read_csv(tmp_path / "north" / "benign.csv")
    drawn = [sample_findings(200_000 + i, 1.0) for i in range(4)]
    assert list(benign["kind"]) == [change.kind for findings in drawn for change in findings.changes]
    with pytest.raises(UserError, match=r"difficulty 1\.0, institute North"):
        write_dataset(tmp_path / "north", **settings)


def test_reports_without_images_are_of_patients_of_their_own(root, tmp_path):
    settings = {"cases": 10, "seed": 2, "grid": TINY, "test_fraction": 0.2, "workers": 1, "reports": 3}
    write_dataset(tmp_path, **settings)
    assert (tmp_path / "train.json").read_bytes() == (root / "train.json").read_bytes()
    assert (tmp_path / "clinical.xlsx").is_file()
    noted = Problems("root")
    check_root(tmp_path, noted)
    assert not noted
    reports, truth = read_reports(tmp_path), read_findings(tmp_path)
    assert len({case["folder"] for case in reports}) == 3
    for case in reports:
        assert "axt2" not in case
        assert not (tmp_path / case["folder"]).exists()
        assert case["text"]
        assert case["pirads"] == ([0, 1] if truth[case["folder"]] else [1, 0])
    write_dataset(tmp_path, **settings)
    with pytest.raises(UserError, match="reports 3"):
        write_dataset(tmp_path, **(settings | {"reports": 4}))


@pytest.mark.parametrize("left", ["train.json", "train_merged.json", "phantom_0/axt2.nii.gz"])
def test_a_folder_of_another_origin_is_not_written_to(tmp_path, left):
    (tmp_path / left).parent.mkdir(exist_ok=True)
    (tmp_path / left).touch()
    with pytest.raises(UserError, match="already holds a dataset"):
        write_dataset(tmp_path, cases=1, seed=0, grid=TINY, test_fraction=0.0, workers=1)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / left]


def test_all_wrong_options_are_told_at_once_and_nothing_is_written(tmp_path):
    with pytest.raises(UserError) as caught:
        write_dataset(tmp_path / "data", cases=0, seed=-1, grid=TINY, test_fraction=1.0, workers=0, reports=-1)
    assert all(name in str(caught.value) for name in ("cases", "seed", "test_fraction", "workers", "reports"))
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "options",
    [{"difficulty": 2.0}, {"grid": "huge"}, {"size": (64, 64)}, {"spacing": (1.0, 0.0, 1.0)}],
)
def test_make_refuses_an_impossible_option(tmp_path, options):
    with pytest.raises(UserError):
        make(str(tmp_path / "data"), cases=1, **options)
    assert not (tmp_path / "data").exists()


def test_a_folder_without_ground_truth_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"cases\.csv and no lesions\.csv"):
        read_findings(tmp_path)
