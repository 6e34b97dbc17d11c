"""Tables, CSV or Excel, with every cell as it stands."""

from __future__ import annotations

import csv
import logging
import os
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pandas as pd

from scripts.common.problems import Problems, UserError
from scripts.data.names import shown

SEPARATORS = ",;\t|"  # Excel writes semicolons where the comma is the decimal sign
# What Excel puts into a cell that it cannot work out, in its languages too, and into a date that is too wide to show.
EXCEL_ERROR = re.compile(r"#(?:[¡¿]?[^\W_][\w/]{2,12}[!?]|N/?[ADBV]|#+)")
MOST_DIGITS = 10**15  # Excel keeps 15 digits of a number and writes zeros for the rest

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Broken:
    """A cell that is not empty and yet holds nothing that can be read."""

    what: str
    todo: str


ERROR = Broken("holds an Excel error, such as #N/A", "correct it, or empty the cell")
UNWORKED = Broken("is a formula without a stored value", "open and save the table in Excel, or paste it as values")


def read_table(path: str | os.PathLike[str], columns: Collection[str] | None = None) -> pd.DataFrame:
    """Read a CSV or Excel table with every cell as it stands: CSV cells are text, Excel cells keep their type.

    Empty cells are None, empty rows are left out. Nothing is taken for a number, a date or "not available" that the
    file does not say is one. Of a workbook the first sheet is read; what else holds rows, and what of it is hidden or
    merged, is told.

    Args:
        path: the .csv or .xlsx file.
        columns: those whose cells must be sound; all of them by default. Broken cells of others come back empty.

    Returns:
        One row a record; the index is the record's row in the file, the first one after the column names being 2.

    Raises:
        UserError: the file is missing, is no table, has a column name twice, or has broken cells: an Excel error is no
            empty cell.
    """
    path = Path(path)
    try:
        frame = _read_csv(path) if path.suffix.lower() == ".csv" else _read_excel(path)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; give the path of a .csv or .xlsx table") from None
    except Exception:  # pandas and openpyxl may quote cells, which hold report text
        raise UserError(f"{path}: is not a readable .csv (UTF-8) or .xlsx table; save it again as one") from None
    if frame.empty:
        raise UserError(f"{path}: is empty; its first row must hold the column names")
    names = ["" if pd.isna(name) else str(name).strip() for name in frame.iloc[0]]
    twice = sorted(name for name, count in Counter(names).items() if count > 1 and name)
    if twice:
        raise UserError(f"{path}: column {', '.join(map(shown, twice))} is there more than once; keep one")
    table = frame.iloc[1:].set_axis(names, axis=1).astype(object)
    # Excel counts formatted empty rows and columns as used.
    table = table.loc[:, [bool(name) for name in names]].set_axis(table.index + 1)
    table = _without_broken(path, table, columns)
    filled = table.notna() & table.map(lambda cell: str(cell).strip() != "")
    return table.where(filled, None).astype(object)[filled.any(axis=1).to_numpy()]


def _read_csv(path: Path) -> pd.DataFrame:
    """The CSV's cells as text, parted by what gives every row as many cells as there are column names.

    Counting the separators of the first row would take the commas of a column's name for them.

    Raises:
        UserError: a row has more cells than there are column names, or a quote is not closed.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        text = file.read()
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # a report is as long as it is
    readings = [rows for separator in SEPARATORS if separator in text and (rows := _parted(text, separator))]
    if not readings:
        if text.count('"') % 2:
            raise UserError(f'{path}: has a quote (") that is not closed; correct it, or save the table as .xlsx')
        return pd.DataFrame(text.splitlines())
    rows = max(readings, key=lambda rows: (np.mean([len(row) == len(rows[0]) for row in rows if row]), len(rows[0])))
    for number, row in enumerate(rows, start=1):
        if any(row[len(rows[0]) :]):
            what = f"row {number} has {len(row)} cells, there are {len(rows[0])} column names"
            raise UserError(f"{path}: {what}; put text that holds the separator into quotes, or save it as .xlsx")
    return pd.DataFrame([row[: len(rows[0])] for row in rows], dtype=object)


def _parted(text: str, separator: str) -> list[list[str]]:
    """The rows of a CSV; none where this separator does not part it into columns."""
    try:
        rows = list(csv.reader(StringIO(text, newline=""), delimiter=separator, strict=True))
    except csv.Error:
        return []
    return rows if rows and len(rows[0]) > 1 else []


def _read_excel(path: Path) -> pd.DataFrame:
    """The cells of the first sheet with their types; what Excel could not work out is `Broken`."""
    book = openpyxl.load_workbook(path, data_only=True)
    sheet = book.worksheets[0]
    formulas = openpyxl.load_workbook(path, read_only=True).worksheets[0]
    unworked = {(c.row, c.column) for row in formulas.iter_rows() for c in row if c.data_type == "f"}

    def value(cell: Any) -> Any:
        if cell.data_type == "e":
            return ERROR
        # A formula whose value is the empty text is stored as that: its type says so.
        if cell.value is None and cell.data_type != "str" and (cell.row, cell.column) in unworked:
            return UNWORKED
        return cell.value

    _tell_layout(path, book)
    return pd.DataFrame([[value(cell) for cell in row] for row in sheet.iter_rows()], dtype=object)


def _tell_layout(path: Path, book: openpyxl.Workbook) -> None:
    """Tell what a person sees otherwise than it is read."""
    sheet, *others = book.worksheets
    for other in others:
        if any(cell is not None for row in other.iter_rows(min_row=2, values_only=True) for cell in row):
            number = book.worksheets.index(other) + 1
            logger.warning("%s: sheet %d has rows too and is not read; only the first sheet is", path.name, number)
    if sheet.sheet_state != "visible":
        logger.warning("%s: the first sheet, which is read, is hidden", path.name)
    hidden = sorted(row for row, how in sheet.row_dimensions.items() if how.hidden and 1 < row <= sheet.max_row)
    if hidden:
        rows = some(hidden)
        logger.warning("%s: hidden rows are read like all others: %s; delete those that are not meant", path.name, rows)
    if merged := [str(cells) for cells in sheet.merged_cells.ranges]:
        what = "only the first of merged cells holds their value, the others are read as empty"
        logger.warning("%s: %s: %s; write it into each", path.name, what, some(merged))


def some(items: Sequence[Any], most: int = 10) -> str:
    """The first of many, for a message."""
    return ", ".join(map(str, items[:most])) + (f" and {len(items) - most} more" if len(items) > most else "")


def _without_broken(path: Path, table: pd.DataFrame, columns: Collection[str] | None) -> pd.DataFrame:
    """Refuse broken cells of `columns`, by row; those of other columns become None."""
    problems = Problems(str(path))
    errors = table.map(lambda cell: isinstance(cell, str) and EXCEL_ERROR.fullmatch(cell.strip()) is not None)
    table = table.mask(errors, ERROR)  # of a CSV that Excel wrote
    for name in table.columns if columns is None else [name for name in table.columns if name in columns]:
        for row, cell in table[name].items():
            if isinstance(cell, Broken):
                problems.add(f"{path.name} row {row}", f"column {shown(name)} {cell.what}", cell.todo)
    problems.raise_if_any()
    return table.mask(table.map(lambda cell: isinstance(cell, Broken)), None)


def cell_name(cell: Any) -> str | None:
    """A name out of a table cell: text as it stands, a whole number by its digits, else None.

    Excel turns `0017` into the number 17 and `1-2` into a date. 17 becomes "17", which no folder `0017` equals;
    where there is a folder `17` too, only `others_alike` tells that the number may have been either. Of a number of
    more than 15 digits Excel has forgotten the last ones.
    """
    if isinstance(cell, str):
        return cell
    is_number = isinstance(cell, (int, float)) and not isinstance(cell, bool)
    if is_number and abs(cell) < MOST_DIGITS and float(cell).is_integer():
        return str(int(cell))
    return None


def cell_flag(cell: Any) -> int | None:
    """0 or 1 out of a table cell that is not empty, else None."""
    return {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}.get(str(cell).strip().lower())
