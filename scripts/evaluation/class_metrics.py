"""How good a two-class prediction is, each figure with its 95 % interval.

Shares of cases have Wilson intervals, means over cases t-intervals; what is read off curves has percentile intervals of
a seeded bootstrap. It draws patients with all their exams, positive and negative ones separately; a patient is positive
when any exam is. Where patients have several exams, which are no cases of their own, all figures have such intervals.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest, ttest_1samp
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from scripts.common.files import atomic
from scripts.common.problems import UserError

BOOTSTRAP_DRAWS = 1000

Figure = dict[str, float | int | None]  # an `Estimate` in a metrics file; null is what is undefined


class Estimate(NamedTuple):
    """A figure, its 95 % interval, and the number of cases it rests on; NaN where it is undefined."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if np.isnan(self.value):
            return "undefined"
        if np.isnan(self.low):
            return f"{self.value:.3f}"
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def wilson(hits: int, n: int) -> Estimate:
    """The share `hits / n` with its Wilson interval; undefined for n = 0."""
    if n == 0:
        return Estimate(np.nan, np.nan, np.nan, 0)
    interval = binomtest(hits, n).proportion_ci(method="wilson")
    return Estimate(hits / n, float(interval.low), float(interval.high), n)


def mean(values: ArrayLike) -> Estimate:
    """The mean of a figure (N,) over cases with its t-interval, which a single case has not; undefined for none."""
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2:
        return Estimate(float(values.mean()) if len(values) else np.nan, np.nan, np.nan, len(values))
    interval = ttest_1samp(values, 0).confidence_interval(0.95)
    return Estimate(float(values.mean()), float(interval.low), float(interval.high), len(values))


def class_metrics(
    labels: ArrayLike,
    probabilities: ArrayLike,
    *,
    threshold: float = 0.5,
    seed: int = 0,
    patients: ArrayLike | None = None,
) -> dict[str, Estimate]:
    """Accuracy, sensitivity, specificity, PPV, NPV, ROC AUC and average precision.

    Args:
        labels: (N,) of 0 and 1.
        probabilities: (N,) in 0..1, the probability of class 1; predicted classes as 0 and 1 will do, the areas
            are then those of the one operating point.
        threshold: class 1 is predicted where the probability reaches it.
        seed: of the bootstrap.
        patients: (N,) names; without them every case is a patient.

    Raises:
        UserError: no cases, lengths that differ, labels that are not 0 or 1, probabilities that are not in 0..1.
    """
    truth, score = _checked(labels, probabilities)
    drawn = bootstrap_weights(truth, patients, seed)
    single = patients is None or len(np.unique(patients)) == len(truth)
    shares = {
        name: wilson(int((hit & among).sum()), int(among.sum())) if single else _drawn_share(hit, among, drawn)
        for name, (hit, among) in _shares(truth == 1, score >= threshold).items()
    }
    return shares | _areas(truth, score, drawn)


def _shares(truth: NDArray, predicted: NDArray) -> dict[str, tuple[NDArray, NDArray]]:
    """Which cases (N,) count as hits, and among which."""
    right = truth == predicted
    return {
        "accuracy": (right, np.ones_like(right)),
        "sensitivity": (right, truth),
        "specificity": (right, ~truth),
        "ppv": (right, predicted),
        "npv": (right, ~predicted),
    }


def probability_metrics(
    labels: ArrayLike,
    probabilities: ArrayLike,
    *,
    fixed: float = 0.9,
    seed: int = 0,
    patients: ArrayLike | None = None,
) -> dict[str, Estimate]:
    """How far probabilities can be trusted, and what the ROC curve allows for.

    The Brier score is the mean squared distance of probability and label; guessing the share p of positives gives
    p(1 - p). `sensitivity_at_specificity` is the highest sensitivity that any threshold reaches without leaving the
    fixed specificity, and the reverse: properties of the curve, not of a threshold that was chosen beforehand.

    Args:
        labels, probabilities, seed, patients: see `class_metrics`.
        fixed: the specificity, and the sensitivity, that is kept.

    Raises:
        UserError: see `class_metrics`.
    """
    truth, score = _checked(labels, probabilities)
    drawn = bootstrap_weights(truth, patients, seed)
    whole = np.ones((1, len(truth)))
    squares = (score - truth) ** 2
    result = {"brier": percentiles(brier_score_loss(truth, score), drawn @ squares / drawn.sum(1), len(truth))}
    at = {"sensitivity_at_specificity": (_sensitivity_at, 1), "specificity_at_sensitivity": (_specificity_at, 0)}
    for name, (figure, of) in at.items():
        counted = int((truth == of).sum())
        if 0 < counted < len(truth):
            value, draws = (figure(truth, score, weights, fixed) for weights in (whole, drawn))
            result[f"{name}_{fixed:g}"] = percentiles(float(value[0]), draws, counted)
        else:
            result[f"{name}_{fixed:g}"] = Estimate(np.nan, np.nan, np.nan, counted)
    return result


def figures_of(truth: NDArray, score: NDArray, threshold: float, weights: NDArray) -> dict[str, NDArray[np.float64]]:
    """The figures of `class_metrics` of weighted cases, all draws at once; NaN in a draw that lacks what they need.

    Args:
        truth, score: (N,), labels and probabilities.
        threshold: class 1 is predicted where the probability reaches it.
        weights: (draws, N).

    Returns:
        Each figure as (draws,).
    """
    with np.errstate(invalid="ignore"):
        figures = {
            name: weights @ (hit & among) / (weights @ among)
            for name, (hit, among) in _shares(truth == 1, score >= threshold).items()
        }
    auc, precision = weighted_areas(truth, score, weights)
    return figures | {"roc_auc": auc, "average_precision": precision}


def bootstrap_weights(truth: NDArray, patients: ArrayLike | None, seed: int) -> NDArray[np.float64]:
    """How often each draw takes each case (draws, N): as often as its patient.

    Args:
        truth: (N,) of 0 and 1.
        patients: (N,) names; None where every case is a patient.
        seed: of the draws.
    """
    names = np.arange(len(truth)) if patients is None else np.asarray(patients)
    _, patient = np.unique(names, return_inverse=True)
    positive = np.zeros(patient.max() + 1, dtype=bool)
    np.logical_or.at(positive, patient, truth == 1)
    rng = np.random.default_rng(seed)
    weights = np.zeros((BOOTSTRAP_DRAWS, len(positive)))
    for group in (positive, ~positive):
        if size := int(group.sum()):
            weights[:, group] = rng.multinomial(size, np.full(size, 1 / size), size=BOOTSTRAP_DRAWS)
    return weights[:, patient]


def percentiles(value: float, draws: NDArray, n: int) -> Estimate:
    """A figure with the percentile interval of its draws; those that lack a class count for nothing."""
    low, high = np.nanquantile(draws, (0.025, 0.975)) if np.isfinite(draws).any() else (np.nan, np.nan)
    return Estimate(float(value), float(low), float(high), n)


def _drawn_share(hit: NDArray, among: NDArray, drawn: NDArray) -> Estimate:
    n = int(among.sum())
    if n == 0:
        return Estimate(np.nan, np.nan, np.nan, 0)
    with np.errstate(invalid="ignore"):
        return percentiles((hit & among).sum() / n, drawn @ (hit & among) / (drawn @ among), n)


def _checked(labels: ArrayLike, probabilities: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    truth, score = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    if truth.ndim != 1 or truth.shape != score.shape or len(truth) == 0:
        raise UserError(f"class metrics need one label and one probability a case, got {truth.shape} and {score.shape}")
    if not np.isin(truth, (0, 1)).all():
        raise UserError("class metrics need labels that are 0 or 1")
    if not ((score >= 0) & (score <= 1)).all():
        raise UserError("class metrics need probabilities in 0..1; NaN or larger values come from a broken network")
    return truth.astype(np.int64), score


def _areas(truth: NDArray, score: NDArray, drawn: NDArray) -> dict[str, Estimate]:
    """ROC AUC and average precision with their bootstrap intervals; undefined without both classes."""
    if len(np.unique(truth)) < 2:
        undefined = Estimate(np.nan, np.nan, np.nan, len(truth))
        return {"roc_auc": undefined, "average_precision": undefined}
    auc, precision = weighted_areas(truth, score, drawn)
    return {
        "roc_auc": percentiles(roc_auc_score(truth, score), auc, len(truth)),
        "average_precision": percentiles(average_precision_score(truth, score), precision, len(truth)),
    }


def weighted_curves(truth: NDArray, score: NDArray, weights: NDArray) -> tuple[NDArray, NDArray]:
    """Sums of weights of the positives and of the negatives (draws, points) at or above each score that there is.

    Args:
        truth, score: (N,).
        weights: (draws, N).
    """
    order = np.argsort(-score, kind="stable")
    # Equal scores are one point of the curve: the last of each group.
    ends = np.flatnonzero(np.diff(score[order], append=-np.inf))
    hits = np.cumsum(weights[:, order] * truth[order], axis=1)[:, ends]
    falls = np.cumsum(weights[:, order] * (1 - truth[order]), axis=1)[:, ends]
    return hits, falls


def weighted_areas(truth: NDArray, score: NDArray, weights: NDArray) -> NDArray[np.float64]:
    """ROC AUC and average precision (2, draws) of weighted cases, as scikit-learn defines them, all draws at once.

    Args:
        truth, score: (N,).
        weights: (draws, N); a draw without some weight on both classes comes out as NaN.
    """
    hits, falls = weighted_curves(truth, score, weights)
    steps = np.diff(hits, axis=1, prepend=0)
    with np.errstate(invalid="ignore"):
        auc = ((hits - steps / 2) * np.diff(falls, axis=1, prepend=0)).sum(1) / (hits[:, -1] * falls[:, -1])
        precision = hits / np.maximum(hits + falls, 1e-12)
        return np.stack([auc, (steps * precision).sum(1) / hits[:, -1]])


def _sensitivity_at(truth: NDArray, score: NDArray, weights: NDArray, specificity: float) -> NDArray[np.float64]:
    """The highest sensitivity (draws,) of the thresholds that keep a specificity."""
    hits, falls = weighted_curves(truth, score, weights)
    with np.errstate(invalid="ignore"):
        kept = falls <= (1 - specificity) * falls[:, -1:] + 1e-9
        return np.where(kept, hits, 0).max(axis=1) / hits[:, -1]


def _specificity_at(truth: NDArray, score: NDArray, weights: NDArray, sensitivity: float) -> NDArray[np.float64]:
    """The highest specificity (draws,) of the thresholds that keep a sensitivity."""
    hits, falls = weighted_curves(truth, score, weights)
    with np.errstate(invalid="ignore"):
        kept = hits >= sensitivity * hits[:, -1:] - 1e-9
        return 1 - np.where(kept, falls, np.inf).min(axis=1) / falls[:, -1]


def as_json(estimates: dict[str, Estimate]) -> dict[str, Figure]:
    """Estimates as JSON values; what is undefined becomes null."""
    return {
        name: {key: None if isinstance(part, float) and np.isnan(part) else part for key, part in e._asdict().items()}
        for name, e in estimates.items()
    }


def as_text(figure: Figure, percent: bool = False) -> str:
    """What `as_json` made of an estimate, for a page: the value with its interval, as far as they are defined."""
    value, low, high = (figure[key] for key in ("value", "low", "high"))
    if value is None:
        return f"undefined (n = {figure['n']})"

    def number(part: float) -> str:
        if percent:
            return f"{100 * part:.1f}"
        if abs(part) >= 1e8:
            return f"{part:.1e}"
        return f"{part:,.0f}" if abs(part) >= 999.5 else f"{part:.3g}"

    unit = " %" if percent else ""
    return f"{number(value)}{unit}" + ("" if low is None else f" ({number(low)} to {number(high)})")


def write_report(path: str | os.PathLike[str], result: dict[str, dict[str, dict[str, Estimate]]]) -> dict[str, Any]:
    """Write tables of estimates, by title, row and column, as JSON; print those with rows; give what was written."""
    values = {title: {row: as_json(figures) for row, figures in rows.items()} for title, rows in result.items()}
    with atomic(path) as part:
        part.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    for title, rows in result.items():
        if rows:
            print(f"\n{title}\n{markdown(table(rows))}")
    return values


def table(rows: dict[str, dict[str, Estimate]]) -> pd.DataFrame:
    """Rows of estimates as text, one column a figure."""
    return pd.DataFrame({name: {k: str(e) for k, e in row.items()} for name, row in rows.items()}).T


def markdown(frame: pd.DataFrame) -> str:
    """A frame as a markdown table, the index first."""
    header = [str(frame.index.name or ""), *map(str, frame.columns)]
    body = [[str(name), *("" if pd.isna(cell) else str(cell) for cell in row)] for name, row in
            zip(frame.index, frame.itertuples(index=False), strict=True)]  # fmt: skip
    lines: Sequence[Sequence[str]] = [header, ["---"] * len(header), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
