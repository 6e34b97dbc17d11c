"""The table of exams against the folders that are there, and against itself: one patient under two names is refused."""

from __future__ import annotations

import logging
import unicodedata
from datetime import date

import openpyxl
import pandas as pd
import pytest

from scripts.common.problems import Problems, UserError
from scripts.data.names import alike, clean
from scripts.exams.roster import check_patients, match, read_rows
from scripts.exams.trees import exam_folders

COLUMNS = {"folder": "folder", "report": "report", "pirads": "pirads", "patient": "patient"}


def table(tmp_path, rows, columns=("folder", "report", "pirads", "patient"), suffix="csv"):
    path = tmp_path / f"table.{suffix}"
    frame = pd.DataFrame(rows, columns=list(columns), dtype=object)
    frame.to_csv(path, index=False) if suffix == "csv" else frame.to_excel(path, index=False)
    return path


def problems_of(path, columns=COLUMNS, folders=None):
    """What is wrong with a table whose folders are all there, or these."""
    problems = Problems("test")
    rows = read_rows(path, columns, "exam", problems)
    folders = {row["folder"] for row in rows} if folders is None else folders
    check_patients(match(rows, folders, False, problems), problems)
    return str(problems) if problems else ""


def with_patients(tmp_path, *patients, suffix="csv"):
    return table(tmp_path, [(f"e{i}", "text", 4, patient) for i, patient in enumerate(patients)], suffix=suffix)


# ---- patients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    ["P1\u200b", "\ufeffP1", "P\u00ad1", " P1\u00a0", "P1\u2060", "P1\ufe0f", "P1\u3164", "P1\n"],
)
def test_what_looks_like_one_patient_is_one(tmp_path, other):
    rows = read_rows(with_patients(tmp_path, "P1", other, suffix="xlsx"), COLUMNS, "exam", Problems("test"))
    assert [row["patient"] for row in rows] == ["P1", "P1"]


def test_composed_and_decomposed_letters_are_one_patient(tmp_path):
    names = [unicodedata.normalize(form, "Müller") for form in ("NFC", "NFD")]
    assert names[0] != names[1]
    rows = read_rows(with_patients(tmp_path, *names), COLUMNS, "exam", Problems("test"))
    assert len({row["patient"] for row in rows}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("0017", "17"),
        ("P-0017", "P-17"),
        ("17", "17.0"),
        ("17", "１７"),
        ("17", "١٧"),
        ("P1", "p1"),
        ("Straße", "STRASSE"),
        ("P1", "Р1"),  # the second one Cyrillic
        ("P-1", "P–1"),
        ("P 1", "P1"),
        ("ﬁ1", "fi1"),
        ("P²", "P2"),
    ],
)
def test_what_may_be_one_patient_is_refused(tmp_path, one, other):
    assert one != other
    assert "e1  patient is" in problems_of(with_patients(tmp_path, one, other))


def test_different_patients_stay_different(tmp_path):
    names = ["17", "170", "71", "1-7", "1.7", "P17", "Q17", "Müller", "Muller", "100", "10"]
    assert not problems_of(with_patients(tmp_path, *names))
    assert len({alike(name) for name in names}) == len(names)


def test_numbers_and_text_of_the_same_digits_are_one_patient(tmp_path):
    assert not problems_of(with_patients(tmp_path, 17, "17", 17.0, suffix="xlsx"))


@pytest.mark.parametrize("nobody", ["nan", "N/A", "-", "NULL", "unknown"])
def test_a_word_for_nothing_is_no_patient(tmp_path, nobody):
    assert "names nobody" in problems_of(with_patients(tmp_path, "P1", nobody))


def test_a_number_whose_last_digits_excel_has_forgotten_is_no_patient(tmp_path):
    assert "write the patient's pseudonym as text" in problems_of(
        with_patients(tmp_path, 12345678901234567, suffix="xlsx")
    )


def test_a_number_that_excel_has_shortened_is_no_patient(tmp_path):
    assert "Excel has shortened the number" in problems_of(with_patients(tmp_path, "1.23457E+15", "P1E2"))


def test_without_a_column_of_patients_the_folders_stand_for_them(tmp_path):
    columns = {key: name for key, name in COLUMNS.items() if key != "patient"}
    path = table(tmp_path, [("0017", "text", 4, ""), ("17", "text", 2, "")])
    assert "17  may be another name of 0017" in problems_of(path, columns)


def test_clean_keeps_what_is_seen():
    assert clean("  Fall  12 (links)\t") == "Fall 12 (links)"
    assert clean("前列腺\u200b１") == "前列腺１"


# ---- folders ---------------------------------------------------------------------------------------------------------


def test_a_folder_in_another_unicode_form_is_found(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "Müller") for form in ("NFC", "NFD"))
    problems = Problems("test")
    path = table(tmp_path, [(composed, "text", 4, "P1")])
    (row,) = match(read_rows(path, COLUMNS, "exam", problems), {decomposed}, False, problems)
    assert (row["found"], row["case"]) == (True, decomposed)
    assert not problems


@pytest.mark.parametrize(("cell", "folder"), [("E1", "e1"), ("e-1", "e–1"), ("17.0", "17")])
def test_a_folder_written_otherwise_is_told_as_that(tmp_path, cell, folder):
    assert "there is" in problems_of(table(tmp_path, [(cell, "text", 4, "P1")]), folders={folder})


def test_a_folder_that_may_not_be_read_is_told(tmp_path, monkeypatch):
    def forbidden(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.scandir", forbidden)
    with pytest.raises(UserError, match="cannot be read: Permission denied"):
        exam_folders(tmp_path, tmp_path / "out", "exam")


# ---- reports ---------------------------------------------------------------------------------------------------------


def test_words_for_nothing_are_absent_reports_and_told(tmp_path, caplog):
    reports = ["nan", "N/A", " - ", "NULL", "\u200b", "—", "no lesion", "N/A of the left lobe", "病灶"]
    path = table(tmp_path, [(f"e{i}", report, 4, f"P{i}") for i, report in enumerate(reports)])
    with caplog.at_level(logging.WARNING):
        rows = read_rows(path, COLUMNS, "exam", Problems("test"))
    assert [row["report"] for row in rows] == [None] * 6 + reports[6:]
    assert "6 reports that are words for nothing" in caplog.text
    assert "table.csv row 2, table.csv row 3" in caplog.text


@pytest.mark.parametrize("report", [4, 4.5, date(2024, 1, 2), True])
def test_a_number_or_a_date_is_no_report(tmp_path, report):
    path = table(tmp_path, [("e1", report, 4, "P1")], suffix="xlsx")
    assert "table.xlsx row 2  the report is a number or a date" in problems_of(path)


@pytest.mark.parametrize("report", ["4", "2024-01-02", "2024-01-02 00:00:00", "01.02.2024", "3,5", "12/11/24"])
def test_a_number_or_a_date_as_text_is_no_report(tmp_path, report):
    assert "row 2  the report is a number" in problems_of(table(tmp_path, [("e1", report, 4, "P1")]))


def test_reports_stay_as_they_are(tmp_path):
    reports = ["Läsion\r\nlinks,  12 mm ", "前列腺左侧外周带病灶", "Очаг; 12 мм", "آفة في\u200f المنطقة", "x" * 200_000]
    path = table(tmp_path, [(f"e{i}", report, 4, f"P{i}") for i, report in enumerate(reports)])
    assert [row["report"] for row in read_rows(path, COLUMNS, "exam", Problems("test"))] == reports


# ---- broken cells ----------------------------------------------------------------------------------------------------


def workbook(tmp_path, *rows, name="table.xlsx"):
    book = openpyxl.Workbook()
    for row in (["folder", "report", "pirads", "patient", "note"], *rows):
        book.active.append(row)
    book.save(tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("error", ["#N/A", "#REF!", "#DIV/0!", "#VALUE!", "#NAME?"])
@pytest.mark.parametrize("column", [0, 1, 2, 3])
def test_an_excel_error_is_no_empty_cell(tmp_path, error, column):
    row = ["e2", "text", 2, "P2", ""]
    row[column] = error
    with pytest.raises(UserError, match=r"table.xlsx row 3 +column .* holds an Excel error"):
        read_rows(workbook(tmp_path, ["e1", "text", 4, "P1", ""], row), COLUMNS, "exam", Problems("test"))


@pytest.mark.parametrize("error", ["#N/A", "#NV", "#WERT!", "#BEZUG!", "#¡VALOR!", "#NOM?", "########", "#DIV/0!"])
def test_an_excel_error_in_a_csv_is_no_report(tmp_path, error):
    with pytest.raises(UserError, match=r"row 2 +column 'report' holds an Excel error"):
        read_rows(table(tmp_path, [("e1", error, 4, "P1")]), COLUMNS, "exam", Problems("test"))


def test_a_formula_without_a_stored_value_is_no_empty_cell(tmp_path):
    with pytest.raises(UserError, match=r"row 2 +column 'report' is a formula without a stored value"):
        read_rows(workbook(tmp_path, ["e1", '="a"&"b"', 4, "P1", ""]), COLUMNS, "exam", Problems("test"))


def test_errors_of_columns_that_are_not_read_do_not_matter(tmp_path):
    (row,) = read_rows(workbook(tmp_path, ["e1", "text", 4, "P1", "#N/A"]), COLUMNS, "exam", Problems("test"))
    assert row["report"] == "text"
