"""The clinical sheet: one row a case with its labels, checked row by row, and written."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from scripts.common.files import atomic
from scripts.common.problems import Problems, collected
from scripts.data.names import is_folder_name, name_of, shown
from scripts.data.tables import cell_flag, cell_name, read_table

LABEL_VALUES = ("positive", "negative", "train", "test")
SHEET_COLUMNS = ("folder", "PosPIRADS", "PosISUP")
OPTIONAL_COLUMNS = ("Label", "patient")


def sheet_labels(frame: pd.DataFrame) -> pd.Series:
    """The label of every row that has one, PosPIRADS or else PosISUP, as bool by folder."""
    labels = frame["PosPIRADS"].fillna(frame["PosISUP"]).set_axis(frame["folder"])
    return labels.dropna().astype(bool)


def read_clinical(
    path: str | os.PathLike[str], *, problems: Problems | None = None, need_labels: bool = True
) -> pd.DataFrame:
    """Read the clinical sheet.

    Args:
        problems: where to note problems instead of raising them.
        need_labels: a row without a label is a problem.

    Returns:
        `folder` (str), `PosPIRADS` and `PosISUP` (Int64, may be NA), `Label` (str, may be NA), and `patient` (str)
        where the sheet has it; the index is the row in the file.

    Raises:
        UserError: every problem of every row, when `problems` is not given; always, when the file is no table.
    """
    path = Path(path)
    table = read_table(path)
    with collected(problems, str(path)) as noted:
        for name in SHEET_COLUMNS:
            if name not in table:
                noted.add(path.name, f"has no column {name}", f"columns are {', '.join(SHEET_COLUMNS)}, Label")
                table[name] = None
        for name in table.columns.difference([*SHEET_COLUMNS, *OPTIONAL_COLUMNS]):
            noted.add(path.name, f"has the unknown column {shown(name)}", "remove or rename it")
        records = zip(table.index, table.to_dict("records"), strict=True)
        rows = [_check_row(record, f"{path.name} row {row}", noted, need_labels) for row, record in records]
        columns = [*SHEET_COLUMNS, "Label", *(["patient"] if "patient" in table else [])]
        frame = pd.DataFrame(rows, columns=columns, index=table.index)
        for folder, same in frame.groupby("folder").groups.items():
            if len(same) > 1:
                noted.add(
                    name_of(folder, f"{path.name} row {same[0]}"), f"has {len(same)} rows in {path.name}", "keep one"
                )
    return frame.astype({"PosPIRADS": "Int64", "PosISUP": "Int64"})


def _check_row(row: Mapping[str, Any], place: str, problems: Problems, need_labels: bool) -> dict[str, Any]:
    retype = "format the column as Text and type it again"
    folder = cell_name(row["folder"])
    checked: dict[str, Any] = {"folder": folder if is_folder_name(folder) else None, "Label": row.get("Label")}
    case = name_of(checked["folder"], place)
    if checked["folder"] is None:
        problems.add(place, f"folder {shown(row['folder'])} is not a folder's name", retype)
    for name in ("PosPIRADS", "PosISUP"):
        checked[name] = None if row[name] is None else cell_flag(row[name])
        if row[name] is not None and checked[name] is None:
            problems.add(case, f"{name} is {shown(row[name])}", "write 0, 1 or leave it empty")
    if need_labels and row["PosPIRADS"] is None and row["PosISUP"] is None:
        problems.add(case, "PosPIRADS and PosISUP are both empty", "fill one of them with 0 or 1")
    if checked["Label"] is not None and checked["Label"] not in LABEL_VALUES:
        problems.add(case, f"Label is {shown(checked['Label'])}", f"write one of {', '.join(LABEL_VALUES)}")
    if row.get("patient") is not None:
        checked["patient"] = cell_name(row["patient"])
        if checked["patient"] is None:
            problems.add(case, f"patient {shown(row['patient'])} is not a name", retype)
    return checked


def write_clinical(path: str | os.PathLike[str], frame: pd.DataFrame) -> None:
    """Write a clinical sheet; names are written as text cells, so leading zeros stay."""
    with atomic(path) as part, pd.ExcelWriter(part, engine="openpyxl") as writer:
        frame.to_excel(writer, index=False)
        sheet = writer.sheets[next(iter(writer.sheets))]
        for column in (frame.columns.get_loc(name) for name in ("folder", "patient") if name in frame):
            for row in range(2, len(frame) + 2):
                sheet.cell(row, column + 1).number_format = "@"


def check_sheet(frame: pd.DataFrame, cases: Sequence[Mapping[str, Any]], *, problems: Problems | None = None) -> None:
    """Make sure that the clinical sheet has exactly one row for every case of the datalists.

    Raises:
        UserError: rows without a case or cases without a row, when `problems` is not given.
    """
    with collected(problems, "clinical sheet") as noted:
        folders = {case["folder"] for case in cases}
        rows = set(frame["folder"].dropna())
        missing = sorted(folders - rows)
        for row in sorted(rows - folders):
            changed = next((folder for folder in missing if folder.lstrip("0") == row), None)
            if changed is None:
                name = name_of(row, f"clinical sheet row {frame.index[frame['folder'] == row][0]}")
                noted.add(name, "is in the clinical sheet but in no datalist", "remove the row or add the case")
            else:
                missing.remove(changed)
                what = f"is {row} in the clinical sheet (Excel drops leading zeros)"
                noted.add(changed, what, f"format the column as Text and type {changed}")
        for folder in missing:
            noted.add(folder, "has no row in the clinical sheet", "add one")
