"""The clinical sheet: names keep their zeros, labels fall back as published, and broken rows are told."""

from __future__ import annotations

import pandas as pd
import pytest

from data_root import entry, refused, sheet
from scripts.data.clinical import check_sheet, read_clinical, sheet_labels, write_clinical
from scripts.data.tables import read_table


def test_leading_zeros_survive_writing_and_reading_a_sheet(root):
    frame = read_clinical(root / "clinical.xlsx")
    assert list(frame["folder"]) == ["0017", "b", "c"]
    assert sheet_labels(frame).to_dict() == {"0017": True, "b": False, "c": False}


@pytest.mark.parametrize("name", ["NA", "null", "1e5", "TRUE", "007"])
def test_a_name_that_looks_like_something_else_stays_a_name(tmp_path, name):
    write_clinical(tmp_path / "clinical.xlsx", sheet([name, 1, None, "positive"]))
    assert list(read_clinical(tmp_path / "clinical.xlsx")["folder"]) == [name]
    (tmp_path / "table.csv").write_text(f"folder,report\n{name},\n")
    assert read_table(tmp_path / "table.csv").to_dict("records") == [{"folder": name, "report": None}]


def test_a_number_in_the_sheet_matches_only_the_folder_with_these_very_digits(tmp_path):
    sheet([17, 1, None, "train"]).to_excel(tmp_path / "clinical.xlsx", index=False)
    frame = read_clinical(tmp_path / "clinical.xlsx")
    assert check_sheet(frame, [entry("17")]) is None
    refused(lambda: check_sheet(frame, [entry("0017")]), "0017 is 17", "leading zeros", "as Text and type 0017")
    refused(lambda: check_sheet(frame, [entry("17"), entry("017")]), "017 has no row")


@pytest.mark.parametrize("cell", [17.5, pd.Timestamp("2024-01-02"), True])
def test_a_folder_that_excel_made_something_else_of_is_refused(tmp_path, cell):
    sheet([cell, 1, None, "train"]).to_excel(tmp_path / "clinical.xlsx", index=False)
    refused(lambda: read_clinical(tmp_path / "clinical.xlsx"), "row 2", "format the column as Text")


def test_a_folder_number_too_long_for_excel_is_refused(tmp_path):
    sheet([1234567890123456789, 1, None, "train"]).to_excel(tmp_path / "clinical.xlsx", index=False)
    refused(lambda: read_clinical(tmp_path / "clinical.xlsx"), "row 2", "format the column as Text")


def test_a_sheet_with_an_unknown_a_missing_or_a_double_column_is_refused(tmp_path):
    path = tmp_path / "clinical.xlsx"
    sheet(["a", 1, None, "train"]).rename(columns={"PosISUP": "PosIsup"}).to_excel(path, index=False)
    refused(lambda: read_clinical(path), "unknown column 'PosIsup'", "no column PosISUP")
    pd.DataFrame([["a", "b"]], columns=["folder", "folder"]).to_excel(path, index=False)
    refused(lambda: read_clinical(path), "'folder' is there more than once")


def test_the_same_folder_in_two_rows_is_refused(tmp_path):
    write_clinical(tmp_path / "clinical.xlsx", sheet(["a", 1, None, "train"], ["a", 0, None, "train"]))
    refused(lambda: read_clinical(tmp_path / "clinical.xlsx"), "a has 2 rows")


def test_labels_fall_back_on_isup_only_where_pirads_is_empty(tmp_path):
    rows = [["a", 1, 0, "train"], ["b", 0, 1, "test"], ["c", None, 1, "positive"], ["d", "1.0", None, "negative"]]
    write_clinical(tmp_path / "clinical.xlsx", sheet(*rows))
    assert list(sheet_labels(read_clinical(tmp_path / "clinical.xlsx"))) == [True, False, True, True]
