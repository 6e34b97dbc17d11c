"""Cases: the datalists and the clinical sheet of a data root, read with every problem told at once, and written.

A data root holds `<folder>/axt2.nii.gz` (`b1600.nii.gz`, `adc.nii.gz`), `train.json`, `test.json` and `clinical.xlsx`.
A folder is one exam. Exams of one patient carry the same `patient`; without it, the folder stands for the patient.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

from scripts.data.grid import SPACING_TOLERANCE, by, read_grid
from scripts.files import atomic, inside
from scripts.problems import Problems, UserError

SEQUENCES = ("axt2", "b1600", "adc")
DATALISTS = ("train.json", "test.json")
MERGED = ("train_merged.json", "test_merged.json")  # the same cases, `text` being the path of the report's embedding
LISTS = (*DATALISTS, *MERGED, "clinical.xlsx")  # all that a data root says about its cases
LABEL_VALUES = ("positive", "negative", "train", "test")
SHEET_COLUMNS = ("folder", "PosPIRADS", "PosISUP")
OPTIONAL_COLUMNS = ("Label", "patient")
WORD = re.compile(r"[\w.:+/\\-]{0,24}", re.ASCII)  # other scripts write whole reports without a space

Case = dict[str, Any]


# ---- labels ----------------------------------------------------------------------------------------------------------


def one_hot(positive: bool) -> list[int]:
    """The class as `[negative, positive]`."""
    return [0, 1] if positive else [1, 0]


def is_positive(case: Mapping[str, Any]) -> bool:
    """Whether a case of a datalist is PI-RADS 3-5."""
    return case["pirads"] == [0, 1]


def patient_of(case: Mapping[str, Any]) -> str:
    """The patient whom a case belongs to."""
    return case.get("patient") or case["folder"]


def sheet_labels(frame: pd.DataFrame) -> pd.Series:
    """The label of every row, PosPIRADS or else PosISUP, as bool by folder."""
    labels = frame["PosPIRADS"].fillna(frame["PosISUP"]).astype(bool)
    return labels.set_axis(frame["folder"])


def is_word(value: Any) -> bool:
    """Whether `value` is one short word, or nothing: it can be quoted, whichever column it stands in."""
    return isinstance(value, str) and WORD.fullmatch(value) is not None


def shown(value: Any) -> str:
    """A value for a message: numbers and single words as they are written, the rest by its kind and length.

    Any cell may hold a report after a mix-up of columns, and report text is never quoted.
    """
    if value is None or isinstance(value, (bool, int, float)):
        return str(value)
    if isinstance(value, str):
        return repr(value) if is_word(value) else f"text of {len(value)} characters"
    if isinstance(value, (list, tuple)):
        numbers = len(value) <= 4 and all(isinstance(item, (bool, int, float)) for item in value)
        return str(list(value)) if numbers else f"a list of {len(value)}"
    return f"a {type(value).__name__}"


def name_of(folder: str | None, place: str) -> str:
    """What messages call a table's row whose folder may be none: the folder where it can be quoted, else its place."""
    return folder if folder and is_word(folder) else place


# ---- datalists -------------------------------------------------------------------------------------------------------


@contextmanager
def _collected(problems: Problems | None, title: str) -> Iterator[Problems]:
    """Notes into the caller's problems, or into new ones that are raised at the end."""
    own = Problems(title) if problems is None else problems
    yield own
    if problems is None:
        own.raise_if_any()


def read_datalist(
    path: str | os.PathLike[str],
    root: str | os.PathLike[str],
    *,
    keys: Sequence[str] = ("axt2",),
    check_files: bool = True,
    problems: Problems | None = None,
) -> list[Case]:
    """Read and check a datalist; image paths come back absolute, inside `root`.

    Args:
        path: the JSON file; a relative path is taken as it is, not from `root`.
        root: the folder that image paths start from and must not leave.
        keys: the image keys that every case must have; other image keys are checked where they are present.
        check_files: look at every image's header (`check_headers`).
        problems: where to note problems instead of raising them.

    Returns:
        The cases that could be read; `folder` is text, `pirads` a list of two ints, `spacing` of three floats (mm),
        `text` is text and `text_isnull` 0 or 1.
        An empty datalist is allowed.

    Raises:
        UserError: every problem of every case, when `problems` is not given.
    """
    path = Path(path)
    with _collected(problems, str(path)) as noted:
        cases = []
        for index, entry in enumerate(_json_list(path, noted)):
            case = _check_entry(entry, f"{path.name}[{index}]", Path(root), keys, noted)
            if case is not None:
                cases.append(case)
        if check_files:
            check_headers(cases, noted)
        for folder, count in Counter(case["folder"] for case in cases).items():
            if count > 1:
                noted.add(folder, f"is listed {count} times in {path.name}", "keep one entry")
    return cases


def _json_list(path: Path, problems: Problems) -> list[Any]:
    try:
        # The parser's own message may quote the file, which holds report text: only the position is told.
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        problems.add(path.name, f"cannot be read: {error.strerror}", f"put the datalist at {path}")
    except UnicodeDecodeError:
        problems.add(path.name, "is not UTF-8 text", "save it as UTF-8")
    except json.JSONDecodeError as error:
        problems.add(path.name, f"is not valid JSON at line {error.lineno}, column {error.colno}", "correct it there")
    else:
        if isinstance(data, list):
            return data
        problems.add(path.name, "is not a list of cases", "write [{...}, {...}]")
    return []


def _check_entry(entry: Any, place: str, root: Path, keys: Sequence[str], problems: Problems) -> Case | None:
    """The checked case, or None where it is too broken to be looked at further."""
    if not isinstance(entry, dict):
        problems.add(place, "is not a case", 'write {"folder": ..., "axt2": ...}')
        return None
    folder = entry.get("folder")
    if not is_folder_name(folder):
        problems.add(place, f"folder {shown(folder)} is not a plain name", 'give it in quotes, without "/" or ".."')
        return None
    if not is_word(folder) and not (root / folder).is_dir():  # from here on messages and files carry the name
        problems.add(place, f"folder {shown(folder)} is not in {root}", "correct it, or give it a name of one word")
        return None
    case = dict(entry)
    for key in dict.fromkeys([*keys, *(key for key in SEQUENCES if key in entry)]):
        case[key] = _image_path(entry.get(key), key, folder, root, problems)
    case["pirads"] = _one_hot_of(entry.get("pirads"), folder, problems)
    case["spacing"] = _spacing_of(entry.get("spacing"), folder, problems)
    if not isinstance(entry.get("text"), str):
        problems.add(folder, "text is missing or not text", 'write "" for an absent report')
        case["text"] = ""
    if entry.get("text_isnull") not in (0, 1):
        problems.add(folder, "text_isnull is not 0 or 1", "write 1 for an absent report, else 0")
        case["text_isnull"] = 1
    if not isinstance(entry.get("patient", ""), str):
        problems.add(folder, "patient is not text", "give it in quotes")
        del case["patient"]
    return case


def is_folder_name(name: Any) -> bool:
    """Whether `name` can be a case's folder: text that is one plain part of a path on every system.

    A DICOM identifier has at most 64 characters; a longer cell is something else, perhaps a report.
    """
    plain = isinstance(name, str) and bool(name.strip()) and len(name) <= 64 and name.isprintable()
    return plain and name not in (".", "..") and not set(name) & set("/\\")


def _image_path(value: Any, key: str, folder: str, root: Path, problems: Problems) -> str:
    if not isinstance(value, str) or not value:
        problems.add(folder, f"has no image {key}", f'add "{key}": "./{folder}/{key}.nii.gz"')
        return ""
    if not value.endswith((".nii", ".nii.gz")):
        problems.add(folder, f"{key} is {shown(value)}, not the path of a NIfTI image", "write it with .nii.gz")
        return ""
    try:
        return str(inside(root, value))
    except ValueError as error:
        problems.add(folder, f"{key}: {error}")
        return ""


def _one_hot_of(value: Any, folder: str, problems: Problems) -> list[int]:
    if value not in ([0, 1], [1, 0]):
        problems.add(folder, f"pirads is {shown(value)}, not one-hot", "write [1, 0] for PI-RADS 1-2, [0, 1] for 3-5")
        return []
    return [int(number) for number in value]


def _spacing_of(value: Any, folder: str, problems: Problems) -> list[float]:
    if is_spacing(value):
        return [float(number) for number in value]
    problems.add(folder, f"spacing is {shown(value)}", "give three positive numbers in mm")
    return []


def is_spacing(value: Any) -> bool:
    """Whether `value` is three positive, finite numbers."""
    return (
        isinstance(value, (list, tuple))
        and len(value) == 3
        and all(isinstance(n, (int, float)) and not isinstance(n, bool) and math.isfinite(n) and n > 0 for n in value)
    )


def check_headers(cases: Sequence[Case], problems: Problems, factor: int = 1) -> None:
    """Note what the headers of all images tell; the voxels are checked where they are read.

    Every image is there, readable, 3D, of the declared spacing and of a size that `factor` divides; the images of a
    case lie on one grid; all cases have one size.
    """
    sizes = {}
    for case in cases:
        grids = [grid for key in SEQUENCES if case.get(key) and (grid := _check_header(case, key, factor, problems))]
        if any(size != grids[0][1] or not np.allclose(affine, grids[0][0], atol=1e-3) for affine, size in grids):
            problems.add(case["folder"], "its sequences lie on different grids", "resample them onto one")
        elif grids:
            sizes[case["folder"]] = grids[0][1]
    usual = Counter(sizes.values()).most_common(1)
    for folder, size in sizes.items():
        if size != usual[0][0]:
            what = f"has size {by(size)}, the others {by(usual[0][0])}"
            problems.add(folder, what, "resample all exams onto one grid (python -m scripts.prepare)")


def _check_header(case: Case, key: str, factor: int, problems: Problems) -> tuple[np.ndarray, tuple[int, ...]] | None:
    """The grid of one image as `read_grid` gives it, or None where there is none."""
    path = Path(case[key])
    name = f"{key} ({path.name})"
    if not path.is_file():
        problems.add(case["folder"], f"{name} is missing", f"put it at {path}")
        return None
    try:
        affine, size = read_grid(path)
    except ValueError as error:
        problems.add(case["folder"], f"{name} {error}", "write or copy the file again")
        return None
    spacing = nib.affines.voxel_sizes(affine)
    if case["spacing"] and not np.allclose(spacing, case["spacing"], rtol=0, atol=SPACING_TOLERANCE):
        what = f"{name} has spacing {by(spacing.round(4))} mm, declared is {by(case['spacing'])}"
        problems.add(case["folder"], what, "resample the image or correct the datalist")
    if any(n % factor for n in size):
        what = f"{name} has size {by(size)}, not divisible by {factor}"
        problems.add(case["folder"], what, "crop or pad it to such a size")
    return affine, size


def write_datalist(path: str | os.PathLike[str], cases: Sequence[Mapping[str, Any]]) -> None:
    """Write a datalist, one case a line; the same cases give the same bytes."""
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    with atomic(path) as part:
        part.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def check_split(
    train: Sequence[Mapping[str, Any]], test: Sequence[Mapping[str, Any]], *, problems: Problems | None = None
) -> None:
    """Make sure that no patient and no folder is in both lists.

    Raises:
        UserError: some are, when `problems` is not given.
    """
    with _collected(problems, "train and test") as noted:
        shared_folders = {case["folder"] for case in train} & {case["folder"] for case in test}
        for folder in sorted(shared_folders):
            noted.add(folder, "is in both train and test", "take it out of one of them")
        shared_patients = {patient_of(case) for case in train} & {patient_of(case) for case in test}
        for patient in sorted(shared_patients - shared_folders):
            folder = next(case["folder"] for case in train if patient_of(case) == patient)
            name = patient if is_word(patient) else f"of {folder}"
            noted.add(f"patient {name}", "has exams in both train and test", "move all of them into one list")


# ---- tables and the clinical sheet -----------------------------------------------------------------------------------


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


def read_clinical(path: str | os.PathLike[str], *, problems: Problems | None = None) -> pd.DataFrame:
    """Read the clinical sheet.

    Returns:
        `folder` (str), `PosPIRADS` and `PosISUP` (Int64, may be NA), `Label` (str, may be NA), and `patient` (str)
        where the sheet has it; the index is the row in the file.

    Raises:
        UserError: every problem of every row, when `problems` is not given; always, when the file is no table.
    """
    path = Path(path)
    table = read_table(path)
    with _collected(problems, str(path)) as noted:
        for name in SHEET_COLUMNS:
            if name not in table:
                noted.add(path.name, f"has no column {name}", f"columns are {', '.join(SHEET_COLUMNS)}, Label")
                table[name] = None
        for name in table.columns.difference([*SHEET_COLUMNS, *OPTIONAL_COLUMNS]):
            noted.add(path.name, f"has the unknown column {shown(name)}", "remove or rename it")
        records = zip(table.index, table.to_dict("records"), strict=True)
        rows = [_check_row(record, f"{path.name} row {row}", noted) for row, record in records]
        columns = [*SHEET_COLUMNS, "Label", *(["patient"] if "patient" in table else [])]
        frame = pd.DataFrame(rows, columns=columns, index=table.index)
        for folder, same in frame.groupby("folder").groups.items():
            if len(same) > 1:
                noted.add(
                    name_of(folder, f"{path.name} row {same[0]}"), f"has {len(same)} rows in {path.name}", "keep one"
                )
    return frame.astype({"PosPIRADS": "Int64", "PosISUP": "Int64"})


def _check_row(row: Mapping[str, Any], place: str, problems: Problems) -> dict[str, Any]:
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
    if row["PosPIRADS"] is None and row["PosISUP"] is None:
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
    with _collected(problems, "clinical sheet") as noted:
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


def read_splits(
    root: str | os.PathLike[str],
    *,
    keys: Sequence[str] = ("axt2",),
    check_files: bool = True,
    names: tuple[str, str] = DATALISTS,
    problems: Problems | None = None,
) -> tuple[list[Case], list[Case]]:
    """Read and check a data root: both datalists, no patient in both, and the clinical sheet against them.

    Args:
        root: the data root.
        keys: the image keys that every case must have.
        check_files: look at every image's header too (`check_headers`).
        names: the datalists; `MERGED` once reports are embedded.
        problems: where to note problems instead of raising them.

    Returns:
        The training and the test cases, with `patient` from the sheet where only the sheet tells it.

    Raises:
        UserError: everything that is wrong, at once, when `problems` is not given.
    """
    root = Path(root)
    with _collected(problems, str(root)) as noted:
        train, test = (read_datalist(root / name, root, keys=keys, check_files=False, problems=noted) for name in names)
        if check_files:
            check_headers([*train, *test], noted)
        _check_together(root, train, test, noted)
        if not noted and not train and not test:
            noted.add(root.name, "holds no case", "prepare exams or make a phantom first")
    return train, test


def check_root(root: str | os.PathLike[str], problems: Problems) -> None:
    """Hold a data root's datalists against each other and the clinical sheet, for a command that reads one of them.

    The commands that read no labels do without a sheet or a second datalist; what is there must fit all the same, or
    a network would be trained on a patient of the test list. What is wrong with an entry is told by who reads it.
    """
    check_datalists(root, problems)
    for plain, merged in zip(DATALISTS, MERGED, strict=True):
        _check_merged(Path(root), plain, merged, problems)


def check_datalists(root: str | os.PathLike[str], problems: Problems) -> None:
    """`check_root` for the command that writes the merged datalists: old ones may be there that do not fit any more."""
    root = Path(root)
    paths = [root / name for name in DATALISTS]
    if all(path.is_file() for path in paths):
        unread = Problems("entries")
        train, test = (read_datalist(path, root, keys=(), check_files=False, problems=unread) for path in paths)
        if (root / "clinical.xlsx").is_file() and not unread:
            _check_together(root, train, test, problems)
        else:
            check_split(train, test, problems=problems)


def _check_merged(root: Path, plain: str, merged: str, problems: Problems) -> None:
    """A merged datalist has the cases, patients and classes of its plain one; the authors' have no plain one."""
    if not ((root / plain).is_file() and (root / merged).is_file()):
        return
    unread = Problems("entries")
    theirs, ours = (
        {
            case["folder"]: (case.get("patient"), case["pirads"])
            for case in read_datalist(root / name, root, keys=(), check_files=False, problems=unread)
        }
        for name in (plain, merged)
    )
    differing = sorted(folder for folder in theirs.keys() | ours.keys() if theirs.get(folder) != ours.get(folder))
    if differing:
        cases = ", ".join(differing[:3]) + (" ..." if len(differing) > 3 else "")
        what = f"has other cases, patients or classes than {plain} ({len(differing)}: {cases})"
        problems.add(merged, what, "embed the reports again (python -m scripts.encode_reports)")


def _check_together(root: Path, train: Sequence[Case], test: Sequence[Case], problems: Problems) -> None:
    """Check the clinical sheet, its labels and patients, against the cases, and that no patient is in both lists."""
    cases = [*train, *test]
    try:
        frame = read_clinical(root / "clinical.xlsx", problems=problems)
    except UserError as error:
        problems.add("clinical.xlsx", str(error))
    else:
        check_sheet(frame, cases, problems=problems)
        _check_labels(frame, cases, problems)
        _add_patients(frame, cases, problems)
    check_split(train, test, problems=problems)


def _check_labels(frame: pd.DataFrame, cases: Sequence[Case], problems: Problems) -> None:
    """A case is positive in the datalist where it is in the sheet; PosISUP is another question, and may differ."""
    rows = frame.dropna(subset=["folder", "PosPIRADS"]).drop_duplicates("folder")
    flags = rows.set_index("folder")["PosPIRADS"]
    for case in cases:
        flag = flags.get(case["folder"])
        if flag is not None and case["pirads"] and is_positive(case) != bool(flag):
            what = f"pirads is {case['pirads']} in the datalist, PosPIRADS {flag} in the clinical sheet"
            problems.add(case["folder"], what, "correct one of them")


def _add_patients(frame: pd.DataFrame, cases: Sequence[Case], problems: Problems) -> None:
    """Take the patient from the sheet where a case does not tell it, so that the split is checked with it."""
    if "patient" not in frame:
        return
    patients = frame.dropna(subset=["folder", "patient"]).drop_duplicates("folder").set_index("folder")["patient"]
    for case in cases:
        patient = patients.get(case["folder"])
        if patient is not None and case.setdefault("patient", patient) != patient:
            what = f"is of patient {shown(case['patient'])} in the datalist, {shown(patient)} in the clinical sheet"
            problems.add(case["folder"], what, "correct one of them")
