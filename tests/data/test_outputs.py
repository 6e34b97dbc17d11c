"""What inference leaves behind: records, sheets and datalists."""

from __future__ import annotations

import dataclasses

import numpy as np
import openpyxl
import pytest

from scripts.data.datalists import read_datalist
from scripts.data.images import save_volume
from scripts.data.outputs import (
    RECORD,
    Record,
    find_records,
    read_record,
    remove_other_rank_sheets,
    write_merged,
    write_rank_sheets,
)

SPACING = (1.25, 1.25, 1.875)


def record(folder: str, split: str = "train", **changes) -> Record:
    made = Record(
        folder=folder,
        source=folder,
        split=split,
        replicate=0,
        seed=7,
        pirads_real=1,
        pirads_synth=0,
        probability=0.25,
        label="train",
        sequences=["axt2"],
        entry={"dataset": "Institute1", "spacing": list(SPACING)},
        settings={"steps": 20},
    )
    return dataclasses.replace(made, **changes)


def put(output_dir, *records: Record) -> None:
    for made in records:
        for sequence in made.sequences:
            volume = np.linspace(0, 1, 64).reshape(4, 4, 4)
            save_volume(output_dir / made.folder / f"{sequence}.nii.gz", volume, np.diag([*SPACING, 1]), sequence)
        made.write(output_dir)


def test_a_record_comes_back(tmp_path):
    put(tmp_path, record("007"))
    assert read_record(tmp_path, "007") == record("007")


@pytest.mark.parametrize("damage", ["volume missing", "record missing", "record cut short", "record of another format"])
def test_an_incomplete_case_counts_as_not_made(tmp_path, damage):
    put(tmp_path, record("a"))
    place = tmp_path / "a" / RECORD
    if damage == "volume missing":
        (tmp_path / "a" / "axt2.nii.gz").unlink()
    elif damage == "record missing":
        place.unlink()
    else:
        place.write_text(place.read_text()[:40] if damage == "record cut short" else '{"folder": "a"}')
    assert read_record(tmp_path, "a") is None
    assert find_records(tmp_path) == []


def sheet(path) -> list[tuple]:
    return list(openpyxl.load_workbook(path).active.values)


def test_sheets_have_the_authors_columns(tmp_path):
    records = [record("007"), record("b", pirads_real=0, pirads_synth=None), record("c", "test", label=None)]
    put(tmp_path, *records)
    write_rank_sheets(tmp_path, 0, records[:1])
    write_rank_sheets(tmp_path, 1, records[1:])
    write_merged(tmp_path, find_records(tmp_path))
    head = ("folder", "PIRADS_real", "PIRADS_synth", "Label")
    assert sheet(tmp_path / "synthsheet_0_train.xlsx") == [head, ("007", 1, 0, "train")]
    assert sheet(tmp_path / "synthsheet_1_train.xlsx") == [head, ("b", 0, None, "train")]
    assert sheet(tmp_path / "synthsheet_1_test.xlsx") == [head, ("c", 1, 0, None)]
    rows = [("007", 1, 0, "train"), ("b", 0, None, "train"), ("c", 1, 0, None)]
    assert sheet(tmp_path / "synthsheet_all.xlsx") == [head, *rows]


def test_sheets_of_ranks_that_an_earlier_run_had_more_are_removed(tmp_path):
    """Those of its splits alone, and nothing that is not a rank's sheet."""
    for rank in range(4):
        write_rank_sheets(tmp_path, rank, [record("a"), record("b", "test"), record("c", "old_test")])
    for name in ("synthsheet_all.xlsx", "synthsheet_mine_train.xlsx", "1_train.xlsx"):
        (tmp_path / name).touch()
    written = write_rank_sheets(tmp_path, 0, [record("a"), record("b", "test")])
    written += write_rank_sheets(tmp_path, 1, [record("c")])
    before = {path.name for path in tmp_path.iterdir()}
    remove_other_rank_sheets(tmp_path, written)
    gone = {f"synthsheet_{rank}_{split}.xlsx" for rank in (2, 3) for split in ("train", "test")}
    assert before - {path.name for path in tmp_path.iterdir()} == gone | {"synthsheet_1_test.xlsx"}


def test_folders_stay_text_in_excel(tmp_path):
    write_rank_sheets(tmp_path, 0, [record("007")])
    cell = openpyxl.load_workbook(tmp_path / "synthsheet_0_train.xlsx").active["A2"]
    assert (cell.value, cell.data_type, cell.number_format) == ("007", "s", "@")


def test_a_record_belongs_to_the_folder_that_it_names(tmp_path):
    put(tmp_path, record("001"))
    (tmp_path / "001").rename(tmp_path / "renamed")
    assert read_record(tmp_path, "renamed") is None
    assert find_records(tmp_path) == []


def test_datalists_of_generated_cases_can_be_read(tmp_path):
    put(tmp_path, record("007"), record("b", pirads_real=0), record("c", "test"))
    write_merged(tmp_path, find_records(tmp_path))
    train = read_datalist(tmp_path / "train.json", tmp_path)
    assert [(case["folder"], case["pirads"], case["text_isnull"]) for case in train] == [
        ("007", [0, 1], 1),
        ("b", [1, 0], 1),
    ]
    assert [case["folder"] for case in read_datalist(tmp_path / "test.json", tmp_path)] == ["c"]


def test_typed_reports_are_not_found_for_sheets_and_datalists(tmp_path):
    put(tmp_path, record("a"), record("typed", split=""))
    assert [made.folder for made in find_records(tmp_path)] == ["a"]
