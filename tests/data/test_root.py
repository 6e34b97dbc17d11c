"""A data root as a whole: its lists and its sheet must fit each other, for every command that reads one of them."""

from __future__ import annotations

import json

import pytest

from data_root import SECRET, SPACING, entry, refused, sheet
from scripts.common.problems import Problems
from scripts.data.clinical import read_clinical, write_clinical
from scripts.data.datalists import is_positive, write_datalist
from scripts.data.root import MERGED, check_root, read_reports, read_splits


def test_a_sound_root_is_read_with_absolute_paths_and_text_folders(root):
    train, test = read_splits(root)
    assert [case["folder"] for case in train + test] == ["0017", "b", "c"]
    assert [is_positive(case) for case in train + test] == [True, False, False]
    assert train[0]["axt2"] == str((root / "0017" / "axt2.nii.gz").resolve())
    assert train[0]["spacing"] == SPACING


def test_a_class_that_contradicts_the_sheet_is_refused(root):
    write_datalist(root / "train.json", [entry("0017", False), entry("b")])
    message = refused(
        lambda: read_splits(root), "0017 pirads is [1, 0] in the datalist, PosPIRADS 1 in the clinical sheet"
    )
    assert message.startswith(f"{root}: 1 problem")  # b is negative by PosPIRADS, though positive by PosISUP


def test_all_problems_of_a_root_are_told_at_once(root):
    write_datalist(root / "train.json", [entry("0017", pirads=[1, 1]), entry("b", spacing=[0, 1, 1])])
    write_datalist(root / "test.json", [entry("b"), entry("c", axt2="../x.nii.gz")])
    write_clinical(root / "clinical.xlsx", sheet(["0017", None, None, "train"], ["d", 2, None, "maybe"]))
    message = refused(
        lambda: read_splits(root),
        "not one-hot",
        "three positive numbers",
        "leaves the data root",
        "b is in both train and test",
        "both empty",
        "PosPIRADS is 2",
        "Label is 'maybe'",
        "d is in the clinical sheet but in no datalist",
        "c has no row",
    )
    assert message.startswith(f"{root}: ")


def test_patients_that_only_the_sheet_tells_are_held_apart_too(root):
    frame = read_clinical(root / "clinical.xlsx").assign(patient=["P1", "P2", "P3"])
    write_clinical(root / "clinical.xlsx", frame)
    train, test = read_splits(root)
    assert [case["patient"] for case in train + test] == ["P1", "P2", "P3"]
    write_clinical(root / "clinical.xlsx", frame.assign(patient=["P1", "P2", "P1"]))
    refused(lambda: read_splits(root), "patient P1 has exams in both")
    write_datalist(root / "test.json", [entry("c", patient="P9")])
    refused(lambda: read_splits(root), "c is of patient 'P9' in the datalist, 'P1' in the clinical sheet")


def whole(root):
    """What a command that reads one datalist finds wrong with the rest of the root."""
    problems = Problems("root")
    check_root(root, problems)
    return str(problems)


def test_a_command_that_reads_one_list_sees_a_patient_of_the_other(root):
    assert whole(root) == "root: 0 problems"
    frame = read_clinical(root / "clinical.xlsx")
    write_clinical(root / "clinical.xlsx", frame.assign(patient=["P1", "P2", "P1"]))
    assert "patient P1  has exams in both train and test" in whole(root)
    write_clinical(root / "clinical.xlsx", frame.iloc[1:])
    assert "0017  has no row in the clinical sheet" in whole(root)
    (root / "clinical.xlsx").unlink()
    write_datalist(root / "test.json", [entry("b")])
    assert "b  is in both train and test" in whole(root)
    (root / "test.json").unlink()
    assert whole(root) == "root: 0 problems"


def merge(root, name):
    """The merged datalist of a plain one, as embedding the reports writes it."""
    cases = json.loads((root / f"{name}.json").read_text())
    write_datalist(root / f"{name}_merged.json", [case | {"text": "embeddings/1.safetensors"} for case in cases])


@pytest.mark.parametrize(
    ("cases", "told"),
    [
        ([entry("0017", True)], "1: b"),
        ([entry("0017", True), entry("b", patient="P1")], "1: b"),
        ([entry("0017", True), entry("b", True)], "1: b"),
        ([entry("c")], "3: 0017, b, c"),
    ],
)
def test_a_merged_list_of_another_split_is_refused(root, cases, told):
    merge(root, "train"), merge(root, "test")
    assert whole(root) == "root: 0 problems"
    write_datalist(root / "train.json", cases)
    write_datalist(root / "test.json", [])
    (root / "clinical.xlsx").unlink()
    message = whole(root)
    assert f"train_merged.json  has other cases, patients or classes than train.json ({told})" in message
    assert "embed the reports again (python -m scripts.encode_reports)" in message
    assert "test_merged.json" in message
    assert SECRET not in message


def test_merged_lists_without_plain_ones_are_accepted(root):
    """As the authors have them."""
    for name in ("train", "test"):
        merge(root, name)
        (root / f"{name}.json").unlink()
    assert whole(root) == "root: 0 problems"


def test_merged_datalists_are_read_by_name(root):
    merge(root, "train"), merge(root, "test")
    train, _ = read_splits(root, names=MERGED, check_files=False)
    assert train[0]["text"] == "embeddings/1.safetensors"


def with_reports(root, **changes):
    report = {"folder": "r", "dataset": "x", "pirads": [1, 0], "spacing": SPACING, "text": "More", "text_isnull": 0}
    write_datalist(root / "reports.json", [report | changes])

    def check():
        noted = Problems("root")
        check_root(root, noted)
        noted.raise_if_any()

    return check


def test_reports_without_images_need_no_row_in_the_sheet(root):
    assert read_reports(root) == []
    with_reports(root)()
    assert [case["folder"] for case in read_reports(root)] == ["r"]
    assert len(read_splits(root)) == 2


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"folder": "b"}, "b is in reports.json, and its patient has images in train.json or test.json"),
        ({"patient": "C"}, "r is in reports.json, and its patient has images"),  # the test case's, spelled otherwise
        ({"text_isnull": 1}, "r is in reports.json without a report"),
    ],
)
def test_reports_without_images_are_of_other_patients(root, changes, told):
    refused(with_reports(root, **changes), told)


def test_embedded_reports_without_images_are_those_of_their_list(root):
    check = with_reports(root)
    write_datalist(root / "reports_merged.json", [])
    refused(check, "reports_merged.json has other cases, patients or classes than reports.json (1: r)")
