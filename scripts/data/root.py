"""A data root as a whole: its datalists and its clinical sheet held against each other.

It holds `<folder>/axt2.nii.gz` (`b1600.nii.gz`, `adc.nii.gz`), `train.json`, `test.json` and `clinical.xlsx`.
A folder is one exam. Exams of one patient carry the same `patient`; without it, the folder stands for the patient.
`reports.json` may list reports of further patients, of whom there are no images: volumes can be made of them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from scripts.common.problems import Problems, UserError, collected
from scripts.data.clinical import check_sheet, read_clinical
from scripts.data.datalists import Case, check_headers, check_split, is_positive, patient_of, read_datalist
from scripts.data.names import alike, shown
from scripts.data.plan import PLAN, check_plan, read_plan

DATALISTS = ("train.json", "test.json")
MERGED = ("train_merged.json", "test_merged.json")  # the same cases, `text` being the path of the report's embedding
LISTS = (*DATALISTS, *MERGED, "clinical.xlsx")  # all that a data root says about its cases
REPORTS = "reports"  # the split of reports without images


def read_splits(
    root: str | os.PathLike[str],
    *,
    keys: Sequence[str] = ("axt2",),
    check_files: bool = True,
    names: tuple[str, str] = DATALISTS,
    problems: Problems | None = None,
    need_labels: bool = True,
) -> tuple[list[Case], list[Case]]:
    """Read and check a data root: both datalists, no patient in both, and the clinical sheet against them.

    Args:
        root: the data root.
        keys: the image keys that every case must have.
        check_files: look at every image's header too (`check_headers`).
        names: the datalists; `MERGED` once reports are embedded.
        problems: where to note problems instead of raising them.
        need_labels: every case must have a label in the sheet.

    Returns:
        The training and the test cases, with `patient` from the sheet where only the sheet tells it.

    Raises:
        UserError: everything that is wrong, at once, when `problems` is not given.
    """
    root = Path(root)
    with collected(problems, str(root)) as noted:
        train, test = (read_datalist(root / name, root, keys=keys, check_files=False, problems=noted) for name in names)
        if check_files:
            check_headers([*train, *test], noted)
        _check_together(root, train, test, noted, need_labels)
        if not noted and not train and not test:
            noted.add(root.name, "holds no case", "prepare exams or make a phantom first")
    return train, test


def read_reports(root: str | os.PathLike[str], *, problems: Problems | None = None) -> list[Case]:
    """The reports without images of a data root, none where there is no `reports.json`.

    Each is a datalist's case without images, its class being that of `pirads`: the clinical sheet has no row for it.

    Raises:
        UserError: everything that is wrong with the list, when `problems` is not given.
    """
    path = Path(root) / f"{REPORTS}.json"
    return read_datalist(path, root, keys=(), check_files=False, problems=problems) if path.is_file() else []


def check_reports(reports: Sequence[Case], cases: Sequence[Case], problems: Problems) -> None:
    """Note reports without images that are absent, or of patients who have images and so may test or validate."""
    folders, patients = {case["folder"] for case in cases}, {alike(patient_of(case)) for case in cases}
    for case in reports:
        if case["text_isnull"]:
            problems.add(case["folder"], f"is in {REPORTS}.json without a report", "take it out")
        if case["folder"] in folders or alike(patient_of(case)) in patients:
            what = f"is in {REPORTS}.json, and its patient has images in {' or '.join(DATALISTS)}"
            problems.add(case["folder"], what, f"take it out of {REPORTS}.json: its patients are none of theirs")


def check_root(root: str | os.PathLike[str], problems: Problems) -> None:
    """Hold a data root's datalists against each other and the clinical sheet, for a command that reads one of them.

    The commands that read no labels do without a sheet or a second datalist; what is there must fit all the same, or
    a network would be trained on a patient of the test list. What is wrong with an entry is told by who reads it.
    """
    check_datalists(root, problems)
    for plain, merged in zip(DATALISTS, MERGED, strict=True):
        _check_merged(Path(root), plain, merged, problems)
    _check_merged(Path(root), f"{REPORTS}.json", f"{REPORTS}_merged.json", problems)


def check_datalists(root: str | os.PathLike[str], problems: Problems) -> None:
    """`check_root` for the command that writes the merged datalists: old ones may be there that do not fit any more."""
    root = Path(root)
    unread = Problems("entries")
    lists = [
        read_datalist(path, root, keys=(), check_files=False, problems=unread)
        for path in (root / name for name in DATALISTS)
        if path.is_file()
    ]
    cases = [case for cases in lists for case in cases]
    _check_plan(root, cases, problems)
    check_reports(read_reports(root, problems=unread), cases, problems)
    if len(lists) == len(DATALISTS):
        if (root / "clinical.xlsx").is_file() and not unread:
            _check_together(root, *lists, problems)
        else:
            check_split(*lists, problems=problems)


def _check_plan(root: Path, cases: Sequence[Case], problems: Problems) -> None:
    """Hold the plan, where there is one, against the datalists' cases."""
    try:
        plan = read_plan(root)
    except UserError as error:
        problems.add_error(PLAN, error)
    else:
        if plan is not None:
            check_plan(plan, cases, problems)


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


def _check_together(
    root: Path, train: Sequence[Case], test: Sequence[Case], problems: Problems, need_labels: bool = True
) -> None:
    """Check the clinical sheet, its labels and patients, against the cases, and that no patient is in both lists."""
    cases = [*train, *test]
    try:
        frame = read_clinical(root / "clinical.xlsx", problems=problems, need_labels=need_labels)
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
