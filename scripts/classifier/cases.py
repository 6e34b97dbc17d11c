"""Which volumes an arm is trained, validated and tested on.

Tested on the real test cases, which nothing else touches. Validated on real cases of patients taken out of the training
cases. Trained on the rest: real volumes, of all or of a fraction of them, and synthetic volumes made from the reports
of those same cases, and from reports that have no images.
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
from scripts.classifier.origin import Origins, check_report_texts
from scripts.classifier.synthetic import read_synthetic
from scripts.common.problems import Problems, UserError
from scripts.data.clinical import read_clinical, sheet_labels
from scripts.data.datalists import SEQUENCES, Case, patient_of
from scripts.data.outputs import SHEET
from scripts.data.root import REPORTS, check_reports, read_reports, read_splits

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
    return _read(dataset_dir, channels, centre, skip_unlabelled)[:2]


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
    reports: int = 0,
    replicates: int | None = None,
    real_fraction: float = 1.0,
    validate_on: str = "training",
    **options: Any,
) -> Cases:
    """Training and validation cases of an arm.

    Args:
        dataset_dir: real cases: train.json, test.json, clinical.xlsx; reports.json, reports that have no images.
        synthetic_dir: what the generator's inference wrote: `<folder>/axt2.nii.gz` and `synthsheet_all.xlsx`.
        real, synthetic, synthetic_labels, reports, replicates: the arm, see `Arm`.
        validation_fraction: share of the training patients that are held out for validation.
        seed: of that choice; all arms of one seed have the same validation cases.
        real_fraction: share of the other training patients whose real volumes are trained on; of synthetic volumes
            those of all of them are.
        validate_on: `training` patients that are held out, or, as the authors did, the `test` cases.
        options: of `read_real`.

    Raises:
        UserError: everything that is wrong, at once where it can be.
        OneClassError: nothing is wrong, but all cases are of one class.
    """
    arm = make_arm(real, synthetic, synthetic_labels, reports, replicates)
    if validate_on not in VALIDATE_ON:
        raise UserError(f"validate_on is {validate_on!r}; give one of {', '.join(VALIDATE_ON)}")
    if arm.synthetic:
        _need_folder(synthetic_dir, "synthetic_dir", f"the folder with {SHEET} that ccella_ldm's inference wrote")
    train, test, splits = _read(dataset_dir, **options)
    kept, validation = train, test
    if validate_on == "training":
        held_out = draw_patients(train, validation_fraction, seed)
        kept = [case for case in train if case["patient"] not in held_out]
        validation = [case for case in train if case["patient"] in held_out]
    seen = first_patients(kept, real_fraction, seed)
    training = [case for case in kept if case["patient"] in seen] if arm.real else []
    if arm.synthetic:
        training += read_synthetic(
            synthetic_dir,
            arm,
            sources=[*kept, *(_further_reports(dataset_dir, splits) if arm.reports else [])],
            origins=_origins(synthetic_dir, dataset_dir, splits, {case["folder"] for case in [*test, *validation]}),
            real=kept,
            channels=options.get("channels", ("axt2",)),
        )
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
    positive = _positive_patients(cases)
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


def first_patients(cases: Sequence[Case], fraction: float, seed: int) -> set[str]:
    """A share of the patients, with as many positive ones as there are on the whole; smaller shares are part of it.

    The choice depends on the patients and the seed alone.

    Raises:
        UserError: the fraction is out of range, or so small that a class has no patient.
    """
    if not 0 < fraction <= 1:
        raise UserError(f"real_fraction is {fraction}; give a share above 0 and at most 1, e.g. 0.25")
    positive = _positive_patients(cases)
    chosen: set[str] = set()
    for label in (True, False):
        group = sorted(patient for patient in positive if positive[patient] is label)
        count = round(fraction * len(group))
        if group and not count:
            raise UserError(
                f"real_fraction {fraction} of {len(group)} {'positive' if label else 'negative'} training patients "
                f"leaves none; give {1 / len(group):.3g} or more, or add cases"
            )
        order = np.random.default_rng([seed, int(label)]).permutation(len(group))
        chosen |= {group[place] for place in order[:count]}
    return chosen


def _positive_patients(cases: Sequence[Case]) -> dict[str, bool]:
    """Whether any exam of a patient is positive."""
    positive: dict[str, bool] = {}
    for case in cases:
        positive[case["patient"]] = positive.get(case["patient"], False) or bool(case["label"][0])
    return positive


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
) -> tuple[list[Case], list[Case], tuple[list[Case], list[Case]]]:
    """As `read_real`, and both datalists as they stand, with the cases without a label."""
    channels = check_channels(channels)
    _need_folder(dataset_dir, "dataset_dir", "the folder with train.json, test.json and clinical.xlsx")
    splits = read_splits(dataset_dir, keys=channels, need_labels=False)
    labels = sheet_labels(read_clinical(Path(dataset_dir) / "clinical.xlsx", need_labels=False))
    labelled = _labelled(splits, labels, skip_unlabelled)
    train, test = ([_real(case, labels, channels) for case in cases] for cases in labelled)
    add_centres([*train, *test], [case for cases in labelled for case in cases], centre)
    return train, test, splits


def _further_reports(dataset_dir: str | os.PathLike[str], splits: Sequence[Sequence[Case]]) -> list[Case]:
    """The reports without images, none of them of a patient with images, nor the report of a test case."""
    problems = Problems(f"{REPORTS}.json")
    reports = read_reports(dataset_dir, problems=problems)
    check_reports(reports, [case for cases in splits for case in cases], problems)
    problems.raise_if_any()
    if not reports:
        raise UserError(f"{dataset_dir}: holds no {REPORTS}.json with reports; put them there, or give reports 0")
    check_report_texts(reports, splits[1])
    return reports


def _origins(
    synthetic_dir: str | os.PathLike[str],
    dataset_dir: str | os.PathLike[str],
    splits: Sequence[Sequence[Case]],
    held_out: set[str],
) -> Origins:
    everything = [*splits[0], *splits[1], *read_reports(dataset_dir, problems=Problems("entries"))]
    return Origins(
        synthetic_dir,
        dataset_dir,
        listed={case["folder"] for case in splits[0]},
        cases={case["folder"]: case for case in everything},
        held_out=held_out | {case["folder"] for case in splits[1]},
    )


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
