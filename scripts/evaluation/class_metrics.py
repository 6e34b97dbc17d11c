"""How good a two-class prediction is, each figure with its 95 % interval.

Shares of cases have Wilson intervals, means over cases t-intervals; areas under curves have percentile intervals of a
seeded bootstrap that draws the positives and the negatives separately, so that every draw holds both.
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
from sklearn.metrics import average_precision_score, confusion_matrix, roc_auc_score

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
    labels: ArrayLike, probabilities: ArrayLike, *, threshold: float = 0.5, seed: int = 0
) -> dict[str, Estimate]:
    """Accuracy, sensitivity, specificity, PPV, NPV, ROC AUC and average precision.

    Args:
        labels: (N,) of 0 and 1.
        probabilities: (N,) in 0..1, the probability of class 1; predicted classes as 0 and 1 will do, the areas
            are then those of the one operating point.
        threshold: class 1 is predicted where the probability reaches it.
        seed: of the bootstrap.

    Raises:
        UserError: no cases, lengths that differ, labels that are not 0 or 1, probabilities that are not in 0..1.
    """
    truth, score = _checked(labels, probabilities)
    predicted = score >= threshold
    tn, fp, fn, tp = confusion_matrix(truth, predicted, labels=[0, 1]).ravel().tolist()
    return {
        "accuracy": wilson(tp + tn, len(truth)),
        "sensitivity": wilson(tp, tp + fn),
        "specificity": wilson(tn, tn + fp),
        "ppv": wilson(tp, tp + fp),
        "npv": wilson(tn, tn + fn),
        **_areas(truth, score, seed),
    }


def _checked(labels: ArrayLike, probabilities: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    truth, score = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    if truth.ndim != 1 or truth.shape != score.shape or len(truth) == 0:
        raise UserError(f"class metrics need one label and one probability a case, got {truth.shape} and {score.shape}")
    if not np.isin(truth, (0, 1)).all():
        raise UserError("class metrics need labels that are 0 or 1")
    if not ((score >= 0) & (score <= 1)).all():
        raise UserError("class metrics need probabilities in 0..1; NaN or larger values come from a broken network")
    return truth.astype(np.int64), score


def _areas(truth: NDArray, score: NDArray, seed: int) -> dict[str, Estimate]:
    """ROC AUC and average precision with their bootstrap intervals; undefined without both classes."""
    positives, negatives = int(truth.sum()), int(len(truth) - truth.sum())
    if not positives or not negatives:
        undefined = Estimate(np.nan, np.nan, np.nan, len(truth))
        return {"roc_auc": undefined, "average_precision": undefined}
    rng = np.random.default_rng(seed)
    # How often each draw takes each case.
    weights = np.empty((BOOTSTRAP_DRAWS, len(truth)))
    for group, size in ((truth == 1, positives), (truth == 0, negatives)):
        weights[:, group] = rng.multinomial(size, np.full(size, 1 / size), size=BOOTSTRAP_DRAWS)
    low, high = np.quantile(weighted_areas(truth, score, weights), (0.025, 0.975), axis=1)
    return {
        "roc_auc": Estimate(float(roc_auc_score(truth, score)), float(low[0]), float(high[0]), len(truth)),
        "average_precision": Estimate(
            float(average_precision_score(truth, score)), float(low[1]), float(high[1]), len(truth)
        ),
    }


def weighted_areas(truth: NDArray, score: NDArray, weights: NDArray) -> NDArray[np.float64]:
    """ROC AUC and average precision (2, draws) of weighted cases, as scikit-learn defines them, all draws at once.

    Args:
        truth, score: (N,).
        weights: (draws, N), with some weight on both classes in every draw.
    """
    order = np.argsort(-score, kind="stable")
    # Equal scores are one point of the curve: the last of each group.
    ends = np.flatnonzero(np.diff(score[order], append=-np.inf))
    hits = np.cumsum(weights[:, order] * truth[order], axis=1)[:, ends]
    falls = np.cumsum(weights[:, order] * (1 - truth[order]), axis=1)[:, ends]
    steps = np.diff(hits, axis=1, prepend=0)
    auc = ((hits - steps / 2) * np.diff(falls, axis=1, prepend=0)).sum(1) / (hits[:, -1] * falls[:, -1])
    precision = hits / np.maximum(hits + falls, 1e-12)
    return np.stack([auc, (steps * precision).sum(1) / hits[:, -1]])


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
