"""What came out of the study: its tables and the points of its curve, from the predictions that the arms have left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from scripts.classifier.arms import Arm, align, arm_of, compare, read_arms
from scripts.evaluation.class_metrics import Estimate
from scripts.evaluation.paired import MAIN, Answers, compare_pairs, draw, judge
from scripts.showcase.study.classifiers import REAL, SCRATCH
from scripts.showcase.study.generators import FIRST, Generator, planned_generators
from scripts.showcase.study.sizes import Size

STARTS = {
    SCRATCH: "from nothing",
    FIRST: "pretrained on synthetic volumes",
    "elsewhere": "pretrained on synthetic volumes of the other institution",
}


class Point(NamedTuple):
    """A point of the curve: the AUC of classifiers of one start that saw the real volumes of so many patients."""

    start: str
    one_in: int
    auc: Estimate


class Wrong(NamedTuple):
    """A case that a classifier was sure of and wrong about."""

    folder: str
    label: int
    probability: float


def read_group(folder: Path, group: str) -> dict[Arm, list[pd.DataFrame]]:
    """The predictions of a group of classifiers with each seed; none where it was not tested."""
    root = folder / "results" / group
    return read_arms(root) if root.is_dir() else {}


def answers_of(folder: Path, group: str) -> dict[Arm, Answers]:
    """The same, ready to be compared."""
    predictions = read_group(folder, group)
    return align(predictions) if predictions else {}


def row_of(arm: Arm, generator: Generator) -> str:
    """What an arm is trained on, in words that tell the generators apart."""
    return str(arm) if generator.group == FIRST or not arm.synthetic else f"{arm}, {generator.told}"


def arms_table(folder: Path, size: Size, seed: int = 0) -> pd.DataFrame:
    """The arms of all generators, each generator's held against the arm of real volumes and corrected by themselves."""
    tables, real = [], {REAL: found} if (found := read_group(folder, FIRST).get(REAL)) else {}
    for generator in planned_generators(size):
        if arms := read_group(folder, generator.group):
            table = compare(real | arms, seed=seed)
            table["trained on"] = [row_of(arm_of(name), generator) for name in table.index]
            tables.append(table)
    return pd.concat(tables).drop_duplicates("trained on")


def areas(folder: Path, size: Size, seed: int = 0) -> dict[str, Estimate]:
    """The AUC of every arm of every generator, by its row of the table."""
    return {
        row_of(arm, generator): judge(one, draw(one, seed)).estimates()[MAIN]
        for generator in planned_generators(size)
        for arm, one in answers_of(folder, generator.group).items()
    }


def curve(folder: Path, size: Size, seed: int = 0) -> tuple[list[Point], pd.DataFrame | None]:
    """The points of the curve over fractions, and what pretraining adds at each, all of them corrected for together."""
    answers: dict[tuple[str, int], Answers] = {}
    for start in STARTS:
        for one_in in size.fractions:
            group = FIRST if (start, one_in) == (SCRATCH, 1) else f"curve_{start}_{one_in}"
            if REAL in (found := answers_of(folder, group)):
                answers[start, one_in] = found[REAL]
    points = [
        Point(start, one_in, judge(one, draw(one, seed)).estimates()[MAIN]) for (start, one_in), one in answers.items()
    ]
    pairs = {
        f"{share_of(one_in)} of the real patients, {STARTS[start]}": (answers[SCRATCH, one_in], one)
        for (start, one_in), one in answers.items()
        if start != SCRATCH and (SCRATCH, one_in) in answers
    }
    if not pairs:
        return points, None
    first = next(iter(answers.values()))
    table = compare_pairs(pairs, "the same from nothing", draw(first, seed))
    return points, table.rename_axis("fine-tuned on").reset_index()


def share_of(one_in: int) -> str:
    """A fraction in words."""
    return "all" if one_in == 1 else f"1/{one_in}"


def ceiling(folder: Path, seed: int = 0) -> Estimate | None:
    """The AUC of the classifier that saw many real patients; None where there is none."""
    found = answers_of(folder, "ceiling").get(REAL)
    return None if found is None else judge(found, draw(found, seed)).estimates()[MAIN]


def best_arm(answers: Mapping[Arm, Answers]) -> Arm:
    """The arm with the highest mean AUC."""
    return max(answers, key=lambda arm: float(judge(answers[arm], draw(answers[arm])).estimates()[MAIN].value))


def fooled(predictions: Sequence[pd.DataFrame], most: int) -> list[Wrong]:
    """The cases that the mean of a classifier's seeds is surest and wrong about, at most so many of either class."""
    frames = [frame.sort_values("folder", ignore_index=True) for frame in predictions]
    probability = np.mean([frame["probability"] for frame in frames], axis=0)
    threshold = float(np.mean([frame["threshold"].iloc[0] for frame in frames]))
    label = frames[0]["label"].to_numpy()
    wrong = (probability >= threshold) != (label == 1)
    chosen = []
    for of, sign in ((1, 1), (0, -1)):
        places = np.flatnonzero(wrong & (label == of))
        chosen += places[np.argsort(sign * probability[places], kind="stable")][:most].tolist()
    return [Wrong(frames[0]["folder"].iloc[place], int(label[place]), float(probability[place])) for place in chosen]


def has_learnt(answers: Mapping[Arm, Answers]) -> str:
    """In words whether the arm of real volumes has learnt, without which nothing can be asked of the others."""
    if REAL not in answers:
        return "The arm of real volumes is missing: nothing can be compared with it."
    auc = judge(answers[REAL], draw(answers[REAL])).estimates()[MAIN]
    if auc.low > 0.5:
        return f"The arm of real volumes has learnt: AUC {auc}, an interval that excludes 0.5."
    return (
        f"The arm of real volumes has not been seen to learn: the interval of its AUC, {auc}, holds 0.5. "
        "Nothing in this table says what synthetic volumes are worth."
    )
