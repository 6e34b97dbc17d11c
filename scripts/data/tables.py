"""Tables, CSV or Excel, with every cell as it stands."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from scripts.common.problems import UserError
from scripts.data.names import shown


def read_table(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a CSV or Excel table with every cell as it stands: CSV cells are text, Excel cells keep their type.

    Empty cells are None, empty rows are left out. Nothing is taken for a number, a date or "not available" that the
    file does not say is one.

    Returns:
        One row a record; the index is the record's row in the file, the first one after the column names being 2.

    Raises:
        UserError: the file is missing, is no table, or has a column name twice.
    """
    path = Path(path)
    try:
        if path.suffix.lower() == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as file:
                # Excel writes CSV with semicolons where the comma is the decimal sign.
                head = file.readline()
                separator = max(",;\t", key=head.count)
                file.seek(0)
                options = {"header": None, "dtype": str, "keep_default_na": False, "skip_blank_lines": False}
                frame = pd.read_csv(file, sep=separator, **options)
        else:
            frame = pd.read_excel(path, header=None, dtype=object, keep_default_na=False, engine="openpyxl")
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
    table = table.loc[:, [bool(name) for name in names]]
    filled = table.notna() & table.map(lambda cell: str(cell).strip() != "")
    table = table.where(filled, None).astype(object).set_axis(table.index + 1)
    return table[filled.any(axis=1).to_numpy()]


def cell_name(cell: Any) -> str | None:
    """A name out of a table cell: text as it stands, a whole number by its digits, else None.

    Excel turns `0017` into the number 17 and `1-2` into a date. 17 becomes "17", which no folder `0017` equals;
    where there is a folder `17` too, only `but_for_zeros` tells that the number may have been either.
    """
    if isinstance(cell, str):
        return cell
    if isinstance(cell, (int, float)) and not isinstance(cell, bool) and float(cell).is_integer():
        return str(int(cell))
    return None


def but_for_zeros(name: str, names: Iterable[str]) -> list[str]:
    """Those of `names` that differ from `name` in leading zeros alone, which Excel drops."""
    return sorted(other for other in names if other != name and other.lstrip("0") == name.lstrip("0"))


def cell_flag(cell: Any) -> int | None:
    """0 or 1 out of a table cell that is not empty, else None."""
    return {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}.get(str(cell).strip().lower())
