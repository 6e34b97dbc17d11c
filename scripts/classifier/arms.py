"""The five arms of the downstream experiment, and the one table that sets their test results side by side.

`python -m scripts.classifier.arms --results_dir bundles/classifier/eval` reads `<arm>/predictions.csv` of every arm
there and writes `arms.csv` and `arms.md` next to them.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binomtest, norm, rankdata

from scripts.classifier.predictions import read_predictions
from scripts.cli.run import run
from scripts.common.files import atomic
from scripts.common.problems import Problems, UserError
from scripts.evaluation.class_metrics import Estimate, class_metrics, markdown, table


@dataclass(frozen=True)
class Arm:
    """What a classifier is trained on."""

    real: bool
    synthetic: bool
    synthetic_labels: bool

    @property
    def name(self) -> str:
        """`ds_enb0_r{0|1}_s{0|1}_l{0|1}`, as published."""
        return f"ds_enb0_r{self.real:d}_s{self.synthetic:d}_l{self.synthetic_labels:d}"

    @property
    def switches(self) -> dict[str, int]:
        """The options that choose it, each 0 or 1."""
        return {name: int(value) for name, value in asdict(self).items()}

    def __str__(self) -> str:
        parts = ["real"] * self.real
        if self.synthetic:
            parts.append(f"synthetic with {'synthetic' if self.synthetic_labels else 'real'} labels")
        return " + ".join(parts)


ARMS = tuple(Arm(*flags) for flags in ((1, 0, 0), (0, 1, 0), (0, 1, 1), (1, 1, 0), (1, 1, 1)))


def make_arm(real: int, synthetic: int, synthetic_labels: int) -> Arm:
    """The arm with these three switches, each 0 or 1.

    Raises:
        UserError: a switch is neither, or the three together are not one of the five arms.
    """
    problems = Problems("arm")
    for name, value in (("real", real), ("synthetic", synthetic), ("synthetic_labels", synthetic_labels)):
        if value not in (0, 1):
            problems.add(name, f"is {value!r}", "write 0 or 1")
    problems.raise_if_any()
    if not real and not synthetic:
        problems.add("real, synthetic", "are both 0: nothing to train on", "set one of them to 1")
    if synthetic_labels and not synthetic:
        problems.add(
            "synthetic_labels", "is 1 without synthetic volumes", "set synthetic to 1 or synthetic_labels to 0"
        )
    problems.raise_if_any()
    return Arm(bool(real), bool(synthetic), bool(synthetic_labels))


def arm_name(real: int, synthetic: int, synthetic_labels: int) -> str:
    """The name of the arm with these switches; for configs."""
    return make_arm(real, synthetic, synthetic_labels).name


# ---- the table -------------------------------------------------------------------------------------------------------


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """p of the exact McNemar test: do two classifiers, right or wrong on the same cases, differ in accuracy?"""
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second, 0.5).pvalue)


def delong(labels: NDArray, first: NDArray, second: NDArray) -> tuple[Estimate, float]:
    """Difference of two ROC AUCs on the same cases, second - first, with 95 % interval, and its p.

    DeLong et al., Biometrics 1988, with the midrank form of Sun & Xu, IEEE SPL 2014. Undefined with fewer than two
    cases of a class.
    """
    positive = np.asarray(labels) == 1
    m, n = int(positive.sum()), int((~positive).sum())
    if min(m, n) < 2:
        return Estimate(np.nan, np.nan, np.nan, len(positive)), np.nan
    aucs, by_positive, by_negative = [], [], []
    for scores in (np.asarray(first), np.asarray(second)):
        ranks = rankdata(scores)
        v10 = (ranks[positive] - rankdata(scores[positive])) / n
        v01 = 1 - (ranks[~positive] - rankdata(scores[~positive])) / m
        aucs.append(v10.mean())
        by_positive.append(v10)
        by_negative.append(v01)
    covariance = np.cov(by_positive) / m + np.cov(by_negative) / n
    difference = float(aucs[1] - aucs[0])
    error = float(np.sqrt(max(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1], 0.0)))
    p = 2 * float(norm.sf(abs(difference) / error)) if error > 0 else (1.0 if difference == 0 else 0.0)
    return Estimate(difference, difference - 1.96 * error, difference + 1.96 * error, len(positive)), p


def compare(predictions: dict[Arm, pd.DataFrame], *, seed: int = 0) -> pd.DataFrame:
    """One row an arm: figures with intervals, and paired tests against the arm trained on real volumes only.

    Args:
        predictions: of every arm on the same test cases, as `read_predictions` gives them.
        seed: of the bootstrap intervals.

    Raises:
        UserError: no arm, or arms that were not tested on the same cases with the same labels.
    """
    if not predictions:
        raise UserError("no arm to compare: run inference of at least one arm first")
    aligned = {arm: frame.sort_values("folder", ignore_index=True) for arm, frame in predictions.items()}
    reference = aligned.get(ARMS[0], next(iter(aligned.values())))
    problems = Problems("arms")
    for arm, frame in aligned.items():
        if not frame[["folder", "label"]].equals(reference[["folder", "label"]]):
            problems.add(arm.name, "was tested on other cases or labels than the rest", "run its inference again")
    problems.raise_if_any()
    result = table({arm.name: _figures(frame, seed) for arm, frame in aligned.items()})
    result.insert(0, "trained on", [str(arm) for arm in aligned])
    result.insert(1, "n", len(reference))
    result.index.name = "arm"
    return result.join(_paired_tests(aligned)) if ARMS[0] in aligned else result


def _figures(frame: pd.DataFrame, seed: int) -> dict[str, Estimate]:
    """At the threshold that the arm's own validation cases have chosen; intervals over patients."""
    threshold = float(frame["threshold"].iloc[0])
    return class_metrics(
        frame["label"], frame["probability"], threshold=threshold, seed=seed, patients=frame["patient"]
    )


def _paired_tests(aligned: dict[Arm, pd.DataFrame]) -> pd.DataFrame:
    real = aligned[ARMS[0]]
    right = {arm.name: (frame["prediction"] == frame["label"]).to_numpy() for arm, frame in aligned.items()}
    rows = {}
    for arm, frame in aligned.items():
        if arm == ARMS[0]:
            continue
        difference, p = delong(
            real["label"].to_numpy(), real["probability"].to_numpy(), frame["probability"].to_numpy()
        )
        rows[arm.name] = {
            "accuracy p (McNemar)": f"{mcnemar(right[ARMS[0].name], right[arm.name]):.3f}",
            "AUC difference to real": str(difference),
            "AUC p (DeLong)": f"{p:.3f}",
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def merge(results_dir: str | os.PathLike[str], seed: int = 0) -> None:
    """Set the test results of all arms in `results_dir` side by side: `arms.csv`, `arms.md`, and printed.

    Args:
        results_dir: holds `<arm>/predictions.csv`, as the classifier bundle's inference writes them.
        seed: of the bootstrap intervals.

    Raises:
        UserError: there is no arm, or arms do not belong together; a negative seed.
    """
    if seed < 0:
        raise UserError(f"seed is {seed}; give a whole number of at least 0")
    root = Path(str(results_dir))
    found = {arm: root / arm.name / "predictions.csv" for arm in ARMS}
    found = {arm: path for arm, path in found.items() if path.is_file()}
    if not found:
        raise UserError(
            f"{root}: holds no <arm>/predictions.csv; run the classifier bundle's inference for each arm first"
        )
    result = compare({arm: read_predictions(path) for arm, path in found.items()}, seed=seed)
    _write(root, result)
    missing = [arm.name for arm in ARMS if arm not in found]
    print(markdown(result) + (f"\n\nnot there yet: {', '.join(missing)}" if missing else ""))


def _write(root: Path, result: Any) -> None:
    with atomic(root / "arms.csv") as part:
        result.to_csv(part)
    with atomic(root / "arms.md") as part:
        part.write_text(markdown(result) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(merge)
