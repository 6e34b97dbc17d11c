"""Which volumes an arm is trained, validated and tested on.

Tested on the real test cases, which nothing else touches. Validated on real cases of patients taken out of the training
cases. Trained on the rest: real volumes, and synthetic volumes made from the reports of those same cases.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from scripts.classifier.arms import Arm, make_arm
from scripts.common.problems import Problems, UserError
from scripts.data.clinical import read_clinical, sheet_labels
from scripts.data.datalists import Case, patient_of
from scripts.data.names import is_folder_name, name_of, shown
from scripts.data.outputs import SHEET, read_record
from scripts.data.root import read_splits
from scripts.data.tables import cell_flag, cell_name, read_table

logger = logging.getLogger(__name__)

IMAGE = "axt2"


class OneClassError(UserError):
    """All cases to train from, or to validate on, are of one class."""


class Cases(NamedTuple):
    """Training and validation cases: dicts of `folder`, `image` (path), `label` (0 or 1)."""

    train: list[Case]
    validation: list[Case]


def read_test(dataset_dir: str | os.PathLike[str]) -> list[Case]:
    """The real test cases.

    Raises:
        UserError: everything that is wrong with the data root, or there is no test case.
    """
    _need_folder(dataset_dir, "dataset_dir", "the folder with train.json, test.json and clinical.xlsx")
    _, test = read_splits(dataset_dir)
    if not test:
        raise UserError(f"{dataset_dir}: test.json holds no case; there is nothing to test on")
    labels = sheet_labels(read_clinical(Path(dataset_dir) / "clinical.xlsx"))
    return [_real(case, labels) for case in test]


def read_training(
    dataset_dir: str | os.PathLike[str],
    synthetic_dir: str | os.PathLike[str],
    *,
    real: int,
    synthetic: int,
    synthetic_labels: int,
    validation_fraction: float,
    seed: int,
) -> Cases:
    """Training and validation cases of an arm.

    Args:
        dataset_dir: real cases: train.json, test.json, clinical.xlsx.
        synthetic_dir: what the generator's inference wrote: `<folder>/axt2.nii.gz` and `synthsheet_all.xlsx`.
        real, synthetic, synthetic_labels: the arm, each 0 or 1.
        validation_fraction: share of the training patients that are held out for validation.
        seed: of that choice; all arms of one seed have the same validation cases.

    Raises:
        UserError: everything that is wrong, at once where it can be.
        OneClassError: nothing is wrong, but all cases are of one class.
    """
    arm = make_arm(real, synthetic, synthetic_labels)
    _need_folder(dataset_dir, "dataset_dir", "the folder with train.json, test.json and clinical.xlsx")
    if arm.synthetic:
        _need_folder(synthetic_dir, "synthetic_dir", f"the folder with {SHEET} that ccella_ldm's inference wrote")
    train, test = read_splits(dataset_dir)
    labels = sheet_labels(read_clinical(Path(dataset_dir) / "clinical.xlsx"))
    held_out = validation_patients(train, labels, validation_fraction, seed)
    kept = [case for case in train if patient_of(case) not in held_out]
    validation = [_real(case, labels) for case in train if patient_of(case) in held_out]
    training = [_real(case, labels) for case in kept] if arm.real else []
    if arm.synthetic:
        known = {case["folder"] for case in [*train, *test]}
        training += read_synthetic(synthetic_dir, arm, sources={case["folder"] for case in kept}, known=known)
    _check_classes(training, f"training cases of {arm.name}")
    _check_classes(validation, "validation cases")
    logger.info(f"{arm.name}: {len(training)} training, {len(validation)} validation cases")
    return Cases(training, validation)


def validation_patients(train: Sequence[Case], labels: pd.Series, fraction: float, seed: int) -> set[str]:
    """Patients to validate on, drawn at random with as many positive ones as there are on the whole.

    A patient is positive when any of their exams is. The choice depends on the patients and the seed alone, not on the
    order of the datalist.

    Raises:
        UserError: the fraction is out of range, or leaves a class without a patient on one side.
    """
    if not 0 < fraction < 1:
        raise UserError(f"validation_fraction is {fraction}; give a share between 0 and 1, e.g. 0.2")
    positive: dict[str, bool] = {}
    for case in train:
        patient = patient_of(case)
        positive[patient] = positive.get(patient, False) or bool(labels[case["folder"]])
    patients = sorted(positive)
    try:
        _, chosen = train_test_split(
            patients, test_size=fraction, random_state=seed, stratify=[positive[patient] for patient in patients]
        )
    except ValueError:
        raise UserError(
            f"{len(patients)} training patients, {sum(positive.values())} of them positive, are too few to hold out a "
            f"share of {fraction} with both classes on each side; add cases or change validation_fraction"
        ) from None
    return set(chosen)


def read_synthetic(root: str | os.PathLike[str], arm: Arm, *, sources: set[str], known: set[str]) -> list[Case]:
    """Synthetic volumes made from the reports of `sources`; those of validation and test reports are left out.

    Args:
        root: the generator's output.
        arm: says whether the label is the real case's or the one that the generator predicted from the report.
        sources: folders of the real cases that may be trained on.
        known: folders of all real cases.

    Raises:
        UserError: everything that is wrong with the sheet and the files.
    """
    sheet = Path(root) / SHEET
    table = read_table(sheet)
    column = "PIRADS_synth" if arm.synthetic_labels else "PIRADS_real"
    problems = Problems(str(sheet))
    for name in ("folder", column):
        if name not in table:
            problems.add(sheet.name, f"has no column {name}", "make the volumes again with ccella_ldm's inference")
    problems.raise_if_any()
    cases = []
    for row, cell, label in zip(table.index, table["folder"], table[column], strict=True):
        folder, place = cell_name(cell), f"{sheet.name} row {row}"
        if folder is None or not is_folder_name(folder):
            problems.add(place, f"folder {shown(cell)} is not a folder's name", "format the column as Text")
            continue
        source = source_of(root, folder)
        if source not in known:
            what = "was made from no report of dataset_dir, maybe from a test case"
            problems.add(name_of(folder, place), what, "give its dataset_dir")
        elif source in sources:
            cases.append(_synthetic(Path(root), folder, label, column, problems))
    for name, count in Counter(case["folder"] for case in cases).items():
        if count > 1:
            problems.add(name, f"has {count} rows", "keep one")
    problems.raise_if_any()
    if not cases:
        raise UserError(f"{sheet}: no volume was made from a training report; run ccella_ldm's inference on train.json")
    return cases


def source_of(root: str | os.PathLike[str], folder: str) -> str:
    """The real case that a synthetic one was made from: what its record says, or else the case of the same name."""
    record = read_record(Path(root), folder)
    return record.source if record else folder


def _synthetic(root: Path, folder: str, label: object, column: str, problems: Problems) -> Case:
    flag = cell_flag(label)
    if flag is None:
        problems.add(folder, f"{column} is {shown(label)}", "use a variant with a class head, or synthetic_labels 0")
    path = root / folder / f"{IMAGE}.nii.gz"
    if not path.is_file():
        problems.add(folder, f"{IMAGE}.nii.gz is missing", f"put it at {path}, or generate it again")
    return {"folder": folder, "image": str(path), "label": np.array([flag or 0])}


def _real(case: Case, labels: pd.Series) -> Case:
    return {"folder": case["folder"], "image": case[IMAGE], "label": np.array([int(labels[case["folder"]])])}


def _check_classes(cases: Sequence[Case], what: str) -> None:
    positive = sum(int(case["label"][0]) for case in cases)
    if positive in (0, len(cases)):
        raise OneClassError(f"{what}: {positive} of {len(cases)} are positive; both classes are needed")


def _need_folder(path: str | os.PathLike[str], name: str, what: str) -> None:
    if not str(path) or not Path(path).is_dir():
        raise UserError(f"{name}: {str(path)!r} is not a folder; give {what}")
