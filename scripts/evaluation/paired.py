"""Several classifiers on the same test patients: figures over seeds, differences with intervals, paired tests.

A classifier was trained with several seeds and has answered for every case with each. Its figure is the mean over
seeds; intervals are those of a hierarchical bootstrap, which draws seeds and then patients, the same ones for all
classifiers, so that a difference leaves out what they share. The tests are over patients: DeLong's of the ROC AUC of
the seeds' mean probability, and McNemar's of the seeds' majority. Where many are made, Holm's correction keeps the
chance of a single false one below 5 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest, norm, rankdata

from scripts.evaluation.class_metrics import BOOTSTRAP_DRAWS, Estimate, bootstrap_weights, figures_of, percentiles

LEVEL = 0.05
MAIN = "roc_auc"


class Answers(NamedTuple):
    """What one classifier says of the test cases.

    Attributes:
        labels: (N,) of 0 and 1.
        patients: (N,) names.
        probabilities: (S, N) of the positive class, with each seed.
        thresholds: (S,) from which on a case counts as positive.
    """

    labels: NDArray[np.int64]
    patients: NDArray[np.str_]
    probabilities: NDArray[np.float64]
    thresholds: NDArray[np.float64]

    @property
    def right(self) -> NDArray[np.bool_]:
        """(N,) whether the majority of seeds is; where they are divided, a case counts as positive."""
        votes = (self.probabilities >= self.thresholds[:, None]).mean(axis=0)
        return (votes >= 0.5) == (self.labels == 1)


class Draws(NamedTuple):
    """Bootstrap draws: how often each takes each seed (D, S) and, within it, each case (D, N)."""

    seeds: NDArray[np.float64]
    cases: NDArray[np.float64]


class Difference(NamedTuple):
    """What a classifier is better by than another; p is NaN where a class has fewer than two patients."""

    auc: Estimate
    auc_p: float
    accuracy: Estimate
    accuracy_p: float


def draw(answers: Answers, seed: int = 0) -> Draws:
    """The draws of a hierarchical bootstrap: seeds, then patients with all their exams, by class.

    Of few seeds it draws too little of their spread, by a factor of (S - 1) / S in variance.
    """
    count = len(answers.probabilities)
    rng = np.random.default_rng([seed, count])
    seeds = rng.multinomial(count, np.full(count, 1 / count), size=BOOTSTRAP_DRAWS) / count
    return Draws(seeds, bootstrap_weights(answers.labels, answers.patients, seed))


class Judged(NamedTuple):
    """A classifier's figures: means over seeds (F,), and the same of every draw (F, D), in the order of `names`."""

    names: tuple[str, ...]
    values: NDArray[np.float64]
    draws: NDArray[np.float64]
    n: int

    def estimates(self) -> dict[str, Estimate]:
        """Each figure with its interval."""
        rows = zip(self.names, self.values, self.draws, strict=True)
        return {name: percentiles(float(value), draws, self.n) for name, value, draws in rows}

    def minus(self, other: Judged, name: str) -> Estimate:
        """By how much a figure is larger than another classifier's."""
        row = self.names.index(name)
        value = float(self.values[row] - other.values[row])
        return percentiles(value, self.draws[row] - other.draws[row], self.n)


def judge(answers: Answers, draws: Draws) -> Judged:
    """Accuracy, sensitivity, specificity, PPV, NPV, ROC AUC and average precision, see `class_metrics`."""
    whole = np.ones((1, len(answers.labels)))
    values, drawn = [], []
    for probabilities, threshold in zip(answers.probabilities, answers.thresholds, strict=True):
        values.append(figures_of(answers.labels, probabilities, float(threshold), whole))
        drawn.append(figures_of(answers.labels, probabilities, float(threshold), draws.cases))
    names = tuple(values[0])
    means = [np.mean([seed[name][0] for seed in values]) for name in names]
    of_draws = [np.einsum("ds,sd->d", draws.seeds, np.stack([seed[name] for seed in drawn])) for name in names]
    return Judged(names, np.array(means), np.stack(of_draws), len(answers.labels))


def difference(first: Answers, second: Answers, draws: Draws) -> Difference:
    """How much better the second classifier is than the first, on the same cases."""
    one, other = judge(first, draws), judge(second, draws)
    means = (answers.probabilities.mean(axis=0) for answers in (first, second))
    return Difference(
        other.minus(one, MAIN),
        delong(first.labels, *means, patients=first.patients)[1],
        other.minus(one, "accuracy"),
        mcnemar(first.right, second.right, first.patients),
    )


def compare_pairs(pairs: Mapping[str, tuple[Answers, Answers]], than: str, draws: Draws) -> pd.DataFrame:
    """One row a pair: by how much its second classifier is better, with intervals, p, corrected p, and in words.

    Args:
        pairs: classifiers on the same cases; all pairs are corrected for together.
        than: what the first of each pair is, in words.
        draws: of these cases.
    """
    found = {name: difference(*pair, draws) for name, pair in pairs.items()}
    auc_p, accuracy_p = (holm([getattr(one, p) for one in found.values()]) for p in ("auc_p", "accuracy_p"))
    rows = {
        name: {
            "AUC difference": str(one.auc),
            "AUC p (DeLong)": f"{one.auc_p:.3g}",
            "AUC p corrected (Holm)": f"{corrected:.3g}",
            "accuracy difference": str(one.accuracy),
            "accuracy p (McNemar)": f"{one.accuracy_p:.3g}",
            "accuracy p corrected (Holm)": f"{of_accuracy:.3g}",
            "conclusion": verdict(one.auc, corrected, than),
        }
        for (name, one), corrected, of_accuracy in zip(found.items(), auc_p, accuracy_p, strict=True)
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_], patients: ArrayLike | None = None) -> float:
    """p of the exact McNemar test: do two classifiers, right or wrong on the same cases, differ in accuracy?

    Of a patient with several exams it counts which of the two is right more often; with one it is McNemar's.
    """
    names = np.arange(len(first)) if patients is None else np.asarray(patients)
    _, patient = np.unique(names, return_inverse=True)
    more = np.bincount(patient, np.asarray(first).astype(float) - np.asarray(second).astype(float))
    only_first, only_second = int((more > 0).sum()), int((more < 0).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second, 0.5).pvalue)


def delong(
    labels: NDArray, first: NDArray, second: NDArray, patients: ArrayLike | None = None
) -> tuple[Estimate, float]:
    """Difference of two ROC AUCs on the same cases, second - first, with 95 % interval, and its p.

    DeLong et al., Biometrics 1988, with the midrank form of Sun & Xu, IEEE SPL 2014; where patients have several exams
    with Obuchowski's variance of clustered cases, Biometrics 1997. Undefined with fewer than two patients of a class.
    """
    positive = np.asarray(labels) == 1
    names = np.arange(len(positive)) if patients is None else np.asarray(patients)
    groups, patient = np.unique(names, return_inverse=True)
    counts = np.stack([np.bincount(patient, positive == which, len(groups)) for which in (True, False)])  # (2, P)
    clusters = (counts > 0).sum(axis=1)
    if clusters.min() < 2:
        return Estimate(np.nan, np.nan, np.nan, len(positive)), np.nan
    # What a case adds to the difference of the areas: how many cases of the other class it is ranked above, or below.
    parts = _placements(positive, np.asarray(second)) - _placements(positive, np.asarray(first))
    value = float(parts[positive].mean())
    excess = np.stack([np.bincount(patient, (parts - value) * (positive == which), len(groups)) for which in (1, 0)])
    share = counts.sum(axis=1)
    own = (clusters / (clusters - 1) * (excess**2).sum(axis=1) / share**2).sum()
    shared = 2 * len(groups) / (len(groups) - 1) * (excess[0] * excess[1]).sum() / (share[0] * share[1])
    error = float(np.sqrt(max(own + shared, 0.0)))
    p = 2 * float(norm.sf(abs(value) / error)) if error > 0 else (1.0 if value == 0 else 0.0)
    return Estimate(value, value - 1.96 * error, value + 1.96 * error, len(positive)), p


def _placements(positive: NDArray[np.bool_], scores: NDArray) -> NDArray[np.float64]:
    """(N,) the share of the other class that each case is on the right side of; the mean of either class is the AUC."""
    ranks, placed = rankdata(scores), np.empty(len(scores))
    for group, other in ((positive, ~positive), (~positive, positive)):
        placed[group] = (ranks[group] - rankdata(scores[group])) / other.sum()
    placed[~positive] = 1 - placed[~positive]
    return placed


def holm(p: Sequence[float]) -> NDArray[np.float64]:
    """p values corrected for being many (Holm, Scandinavian Journal of Statistics 1979); undefined ones stay so.

    The smallest of m is taken m times, the next m - 1 times, and none is smaller than one before it.
    """
    values = np.asarray(p, dtype=np.float64)
    corrected, known = np.full(len(values), np.nan), np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    corrected[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(order), 0, -1)), 1)
    return corrected


def verdict(found: Estimate, corrected_p: float, than: str) -> str:
    """In words what a difference in ROC AUC allows to be said, and what its size would not have shown."""
    if np.isnan(found.value) or np.isnan(corrected_p):
        return "nothing can be said: a class has too few patients"
    told = f"AUC {found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f}), corrected p {corrected_p:.3g}"
    if corrected_p < LEVEL and found.low > 0:
        return f"better than {than}: {told}"
    if corrected_p < LEVEL and found.high < 0:
        return f"worse than {than}: {told}"
    half = (found.high - found.low) / 2
    return f"cannot be told apart from {than}: {told}; a difference below about {half:.2f} would not have shown"
