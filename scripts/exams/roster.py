"""The user's table of exams, row by row, held against the folders that are there and against itself."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from scripts.common.problems import Problems
from scripts.data.names import alike, clean, is_folder_name, others_alike, shown
from scripts.data.report_cells import is_no_text, is_placeholder
from scripts.data.tables import cell_name, read_table, some
from scripts.exams.trees import TREES, exam_name, patient_folder

NAMES = ("folder", "report", "pirads", "isup", "patient", "split", "institute", "adc_unit")
ZEROS = "Excel drops leading zeros: format the column as Text and type the name again"
ONE_WAY = "write it in one way; capitals alone tell no two names apart, nor do look-alike letters, spaces and dashes"
PATIENT = "write the patient's pseudonym as text"
SHORTENED = re.compile(r"\d(?:[.,]\d+)?[eE]\+\d+")  # what a CSV has of a long number that Excel took for one

logger = logging.getLogger(__name__)

Row = dict[str, Any]


def read_rows(path: Path, columns: Mapping[str, str | None], tree: str, problems: Problems) -> list[Row]:
    """The table's rows with our names for its columns, and the `place` of each for messages.

    Args:
        path: the table.
        columns: its columns by our names: folder, report, pirads, isup, patient, split, institute, adc_unit, x, y, z.
        tree: of `trees.TREES`.
        problems: where to note what is wrong with single rows.

    Raises:
        UserError: the table cannot be read, lacks a column, or has broken cells in one.
    """
    wanted = {ours: str(theirs) for ours, theirs in columns.items() if theirs is not None}
    table = read_table(path, wanted.values())
    for ours, theirs in wanted.items():
        if theirs not in table:
            there = ", ".join(shown(name) for name in table.columns)
            problems.add(path.name, f"has no column {theirs!r} for the {ours}", f"choose among {there}")
        elif ours != "report" and theirs == wanted["report"]:
            problems.add(path.name, f"column {theirs!r} is given for the report and the {ours}", "name another one")
    problems.raise_if_any()
    if table.empty:
        problems.add(path.name, "has no row", "give one row an exam")
    frame = pd.DataFrame({ours: table[theirs] for ours, theirs in wanted.items()}, dtype=object)
    frame = frame.reindex(columns=[*NAMES, *"xyz"])
    if "patient" not in wanted and tree != TREES[0]:
        frame["patient"] = frame["folder"].map(patient_folder)
    frame["folder"] = frame["folder"].map(lambda cell: exam_name(cell, tree))
    frame["patient"] = frame["patient"].map(lambda cell: clean(cell) if isinstance(cell, str) else cell)
    rows = frame.astype(object)
    rows = rows.where(rows.notna(), None).assign(place=[f"{path.name} row {row}" for row in table.index])
    has = {f"has_{name}": name in wanted for name in ("patient", "split", "institute")}
    rows = rows.assign(**has, has_centre="x" in wanted).to_dict("records")
    _check_reports(rows, problems)
    return rows


def _check_reports(rows: Sequence[Row], problems: Problems) -> None:
    """Refuse what is no text, and take what stands for "nothing" as an absent report, which is told."""
    absent = []
    for row in rows:
        if is_no_text(row["report"]):
            what = "the report is a number or a date"
            problems.add(row["place"], what, "write its text, leave it empty, or correct --report_column")
        elif is_placeholder(row["report"]):
            row["report"] = None
            absent.append(row["place"])
    if absent:
        what = "reports that are words for nothing (nan, N/A, -, NULL ...) count as absent"
        logger.warning("%d %s: %s", len(absent), what, some(absent))


# ---- rows and folders ------------------------------------------------------------------------------------------------


def match(rows: Sequence[Row], folders: set[str], leave_out: bool, problems: Problems) -> list[Row]:
    """Hold rows and folders against each other.

    Until its folder is known, an exam is named by its row: what stands in the folder's column may be a report.

    Returns:
        The rows to go on with; `found` says whether the exam's folder is there, `case` what messages call the exam.
    """
    spelled = _by_clean(folders)
    kept, listed, left_out = [], set(), []
    for row in rows:
        folder = cell_name(row["folder"])
        if is_folder_name(folder) and folder not in folders and folder == folder.strip():
            # A file system may keep another Unicode form of the very same letters.
            folder = spelled.get(clean(folder), folder)
        near = others_alike(folder, folders) if is_folder_name(folder) else []
        row["found"] = folder in folders and (isinstance(row["folder"], str) or not near)
        row["case"] = folder if row["found"] else row["place"]
        if row["found"]:
            listed.add(folder)
        elif folder and folder != clean(folder) and clean(folder) in folders:
            listed.add(clean(folder))
            what = f"folder {shown(clean(folder))} has a space or an invisible character too many in the table"
            problems.add(row["case"], what, "take it away")
        elif not is_folder_name(folder):
            what, todo = f"folder {shown(row['folder'])} is no folder's name", "write it as text, without '/' or '..'"
            if patient_folder(folder) is not None:
                todo += "; where there is one folder a patient with one a study, give --tree patient/study"
            if folder and "/" in folder and ".." not in folder:
                todo += "; studies below a patient's folder need folders of their own in images_dir, such as p1_2019"
            problems.add(row["case"], what, todo)
        elif near:
            listed.update([folder, *near])
            there = sorted({folder, *near} & folders)
            what = f"folder is {shown(row['folder'])}, there is {' and '.join(there)}"
            problems.add(row["case"], what, _how_alike(folder, near))
        elif leave_out:
            left_out.append(row["place"])
            continue
        else:
            problems.add(
                row["case"], f"has no folder: {shown(folder)} is not in images_dir", "correct it or add the exam"
            )
        kept.append(row)
    left_out += _without_row(folders, listed, leave_out, problems)
    if left_out:
        logger.warning("left out, because folder or row is missing: %s", ", ".join(left_out))
    if not kept and not problems:
        problems.add("table", "no row names a folder of images_dir", "correct the folders' names or --images_dir")
    _check_twice(kept, problems)
    return kept


def _by_clean(folders: Iterable[str]) -> dict[str, str]:
    """Folders by what is seen of their names, where that tells one."""
    spelled = defaultdict(list)
    for folder in folders:
        spelled[clean(folder)].append(folder)
    return {name: same[0] for name, same in spelled.items() if len(same) == 1}


def _how_alike(name: str, others: Sequence[str]) -> str:
    """What to do about names that may mean the same."""
    numbers = any(other.lstrip("0") == name.lstrip("0") for other in others)
    return ZEROS if numbers else ONE_WAY


def _without_row(folders: set[str], listed: set[str], leave_out: bool, problems: Problems) -> list[str]:
    """Folders to leave out; without that option, and where a row may have meant them, they are problems."""
    left_out = []
    for folder in sorted(folders - listed):
        if near := others_alike(folder, listed):
            what = f"has no row in the table, which has {' and '.join(near)}"
            problems.add(folder, what, _how_alike(folder, near))
        elif leave_out:
            left_out.append(folder)
        else:
            problems.add(folder, "has no row in the table", "add one, or give --leave_out_unmatched")
    return left_out


def _check_twice(rows: Sequence[Row], problems: Problems) -> None:
    by_folder = defaultdict(list)
    for row in rows:
        by_folder[row["case"]].append(row)
    for folder, same in by_folder.items():
        if len(same) > 1:
            problems.add(folder, f"has {len(same)} rows in the table", "keep one")


# ---- what a row says -------------------------------------------------------------------------------------------------


def check_patients(rows: Sequence[Row], problems: Problems) -> None:
    """One patient with two spellings would be two patients, and could be in both lists.

    Without a column of patients the folders stand for them.
    """
    spellings: dict[str, dict[str, str]] = defaultdict(dict)  # of each patient: the case that has it first
    for row in rows:
        patient = cell_name(row["patient"])
        if not row["has_patient"]:
            patient = row["case"] if row["found"] else None
        elif not patient:
            problems.add(row["case"], f"patient is {shown(row['patient'])}", PATIENT)
        elif SHORTENED.fullmatch(patient):
            problems.add(row["case"], f"patient is {shown(patient)}: Excel has shortened the number", PATIENT)
        elif is_placeholder(patient):
            problems.add(row["case"], f"patient is {shown(patient)}, which names nobody", PATIENT)
        if patient:
            spellings[alike(patient)].setdefault(patient, row["case"])
    for (first, place), *others in (cases.items() for cases in spellings.values()):
        for patient, case in others:
            what = f"patient is {shown(patient)}, {place} has {shown(first)}"
            todo = _how_alike(patient, [first])
            if place == first:  # folders
                what, todo = f"may be another name of {first}", "rename one, or name the patients: --patient_column"
            problems.add(case, what, todo)


def grade(row: Mapping[str, Any], name: str, low: int, problems: Problems) -> int | None:
    """The row's whole number from `low` to 5, or None for an empty cell."""
    if row[name] is None:
        return None
    grades = {text: n for n in range(low, 6) for text in (str(n), f"{n}.0")}
    found = grades.get(str(row[name]).strip())
    if found is None:
        problems.add(row["case"], f"{name} is {shown(row[name])}", f"write {low} to 5 or leave it empty")
    return found
