"""Which volumes an arm is trained, validated and tested on.

Tested on the real test cases, which nothing else touches. Validated on real cases of patients taken out of the training
cases. Trained on the rest: real volumes, and synthetic volumes made from the reports of those same cases.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from scripts.classifier.arms import make_arm
from scripts.classifier.centre import add_centres
from scripts.classifier.synthetic import read_synthetic
from scripts.common.problems import Problems, UserError
from scripts.data.clinical import read_clinical, sheet_labels
from scripts.data.datalists import SEQUENCES, Case, patient_of
from scripts.data.outputs import SHEET
from scripts.data.root import read_splits

logger = logging.getLogger(__name__)

VALIDATE_ON = ("training", "test")


class OneClassError(UserError):
    """All cases to train from, or to validate on, are of one class."""


class Cases(NamedTuple):
    """Training and validation cases: dicts of `folder`, `patient`, `label` (0 or 1), a path for each channel, and
    `centre` (mm) where volumes are cropped around the gland."""

    train: list[Case]
    validation: list[Case]


def check_channels(channels: Sequence[str]) -> tuple[str, ...]:
    """The sequences that a network looks at, in its order.

    Raises:
        UserError: there is none, one that is not known, or one twice.
    """
    if not channels or len(set(channels)) < len(channels) or set(channels) - set(SEQUENCES):
        raise UserError(f"channels is {list(channels)}; give different ones of {', '.join(SEQUENCES)}")
    return tuple(channels)


def read_real(
    dataset_dir: str | os.PathLike[str],
    *,
    channels: Sequence[str] = ("axt2",),
    centre: str = "foreground",
    skip_unlabelled: bool = False,
) -> tuple[list[Case], list[Case]]:
    """The real training and test cases of a data root.

    Args:
        dataset_dir: train.json, test.json, clinical.xlsx.
        channels: sequences that every case must have.
        centre: see `add_centres`.
        skip_unlabelled: leave out cases without a label, and say which, instead of refusing them.

    Raises:
        UserError: everything that is wrong with the data root; cases without a label, all of them named.
    """
    train, test, _ = _read(dataset_dir, channels, centre, skip_unlabelled)
    return train, test


def read_test(dataset_dir: str | os.PathLike[str], **options: Any) -> list[Case]:
    """The real test cases; options as of `read_real`.

    Raises:
        UserError: everything that is wrong with the data root, or there is no test case.
    """
    _, test = read_real(dataset_dir, **options)
    if not test:
        raise UserError(f"{dataset_dir}: test.json holds no case; there is nothing to test on")
    return test


def read_training(
    dataset_dir: str | os.PathLike[str],
    synthetic_dir: str | os.PathLike[str],
    *,
    real: int,
    synthetic: int,
    synthetic_labels: int,
    validation_fraction: float,
    seed: int,
    validate_on: str = "training",
    **options: Any,
) -> Cases:
    """Training and validation cases of an arm.

    Args:
        dataset_dir: real cases: train.json, test.json, clinical.xlsx.
        synthetic_dir: what the generator's inference wrote: `<folder>/axt2.nii.gz` and `synthsheet_all.xlsx`.
        real, synthetic, synthetic_labels: the arm, each 0 or 1.
        validation_fraction: share of the training patients that are held out for validation.
        seed: of that choice; all arms of one seed have the same validation cases.
        validate_on: `training` patients that are held out, or, as the authors did, the `test` cases.
        options: of `read_real`.

    Raises:
        UserError: everything that is wrong, at once where it can be.
        OneClassError: nothing is wrong, but all cases are of one class.
    """
    arm = make_arm(real, synthetic, synthetic_labels)
    if validate_on not in VALIDATE_ON:
        raise UserError(f"validate_on is {validate_on!r}; give one of {', '.join(VALIDATE_ON)}")
    if arm.synthetic:
        _need_folder(synthetic_dir, "synthetic_dir", f"the folder with {SHEET} that ccella_ldm's inference wrote")
    train, test, known = _read(dataset_dir, **options)
    kept, validation = train, test
    if validate_on == "training":
        held_out = draw_patients(train, validation_fraction, seed)
        kept = [case for case in train if case["patient"] not in held_out]
        validation = [case for case in train if case["patient"] in held_out]
    training = list(kept) if arm.real else []
    if arm.synthetic:
        channels = options.get("channels", ("axt2",))
        training += read_synthetic(synthetic_dir, arm, sources=kept, known=known, channels=channels)
    check_classes(training, f"training cases of {arm.name}")
    check_classes(validation, "validation cases")
    logger.info(f"{arm.name}: {len(training)} training, {len(validation)} validation cases")
    return Cases(training, validation)


def draw_patients(cases: Sequence[Case], fraction: float, seed: int) -> set[str]:
    """A share of the patients, drawn at random with as many positive ones as there are on the whole.

    A patient is positive when any of their exams is. The choice depends on the patients and the seed alone, not on the
    order of the cases.

    Raises:
        UserError: the fraction is out of range, or leaves a class without a patient on one side.
    """
    if not 0 < fraction < 1:
        raise UserError(f"validation_fraction is {fraction}; give a share between 0 and 1, e.g. 0.2")
    positive: dict[str, bool] = {}
    for case in cases:
        positive[case["patient"]] = positive.get(case["patient"], False) or bool(case["label"][0])
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


def positive_share(cases: Sequence[Case]) -> float:
    """The share of positive cases."""
    return float(np.mean([case["label"][0] for case in cases]))


def check_classes(cases: Sequence[Case], what: str) -> None:
    """Make sure that both classes are there.

    Raises:
        OneClassError: all cases are of one class.
    """
    positive = sum(int(case["label"][0]) for case in cases)
    if positive in (0, len(cases)):
        raise OneClassError(f"{what}: {positive} of {len(cases)} are positive; both classes are needed")


def _read(
    dataset_dir: str | os.PathLike[str],
    channels: Sequence[str] = ("axt2",),
    centre: str = "foreground",
    skip_unlabelled: bool = False,
) -> tuple[list[Case], list[Case], set[str]]:
    """As `read_real`, and the folders of all cases, of those without a label too, which are not among the others."""
    channels = check_channels(channels)
    _need_folder(dataset_dir, "dataset_dir", "the folder with train.json, test.json and clinical.xlsx")
    splits = read_splits(dataset_dir, keys=channels, need_labels=False)
    known = {case["folder"] for cases in splits for case in cases}
    labels = sheet_labels(read_clinical(Path(dataset_dir) / "clinical.xlsx", need_labels=False))
    splits = _labelled(splits, labels, skip_unlabelled)
    train, test = ([_real(case, labels, channels) for case in cases] for cases in splits)
    add_centres([*train, *test], [case for cases in splits for case in cases], centre)
    return train, test, known


def _labelled(splits: Sequence[Sequence[Case]], labels: pd.Series, skip: bool) -> list[list[Case]]:
    """The cases that have a label; the others are refused, or named."""
    missing = [case["folder"] for cases in splits for case in cases if case["folder"] not in labels.index]
    problems = Problems("clinical.xlsx")
    for folder in missing:
        problems.add(
            folder, "has no label, PosPIRADS and PosISUP are both empty",
            "fill one of them with 0 or 1, or leave out all cases without a label with --skip_unlabelled true",
        )  # fmt: skip
    if not skip:
        problems.raise_if_any()
    elif missing:
        logger.warning(f"left out, without a label ({len(missing)}): {', '.join(missing)}")
    return [[case for case in cases if case["folder"] in labels.index] for cases in splits]


def _real(case: Case, labels: pd.Series, channels: Sequence[str]) -> Case:
    label = np.array([int(labels[case["folder"]])])
    images = {channel: case[channel] for channel in channels}
    return {"folder": case["folder"], "patient": patient_of(case), **images, "label": label}


def _need_folder(path: str | os.PathLike[str], name: str, what: str) -> None:
    if not str(path) or not Path(path).is_dir():
        raise UserError(f"{name}: {str(path)!r} is not a folder; give {what}")
