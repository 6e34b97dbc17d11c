"""Paired tests and intervals over seeds and patients, against closed forms and simulated classifiers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from scripts.evaluation.class_metrics import Estimate, class_metrics
from scripts.evaluation.paired import Answers, compare_pairs, delong, difference, draw, holm, judge, mcnemar, verdict


def simulated(rng, separation, cases=120, seeds=3, of_seed=0.0, scores=None):
    """Answers whose AUC is norm.cdf(separation / sqrt 2); seeds share their noise, and differ in separation."""
    labels = np.arange(cases) % 2
    common = rng.normal(size=cases) if scores is None else scores
    strength = separation + of_seed * rng.normal(size=(seeds, 1))
    probabilities = norm.cdf(strength * (labels - 0.5) + common + 1e-9 * rng.normal(size=(seeds, cases)))
    return Answers(labels, np.array([f"P{n}" for n in range(cases)]), probabilities, np.full(seeds, 0.5))


# ---- McNemar ---------------------------------------------------------------------------------------------------------


def test_mcnemar_is_the_sign_test_on_the_cases_that_differ():
    first = np.array([True] * 8 + [False] * 5)
    second = np.array([True] * 3 + [False] * 5 + [True] + [False] * 4)
    # 5 right only by the first, 1 only by the second: 2 · P(X <= 1), X binomial(6, 1/2) = 2 · 7/64
    assert mcnemar(first, second) == pytest.approx(14 / 64)
    assert mcnemar(first, first) == 1


def test_mcnemar_counts_a_patient_with_several_exams_once():
    first, second = np.array([True, True, True, False, True]), np.array([False, False, False, True, True])
    patients = ["a", "a", "a", "b", "b"]
    assert mcnemar(first, second, patients) == 1  # one patient each way
    assert mcnemar(first, second) == pytest.approx(2 * (1 + 4) / 16)


# ---- DeLong ----------------------------------------------------------------------------------------------------------


def delong_by_definition(labels, first, second):
    positive, negative = labels == 1, labels == 0
    v10, v01 = [], []
    for s in (first, second):
        wins = np.sign(s[positive][:, None] - s[negative][None]) / 2 + 0.5
        v10.append(wins.mean(1))
        v01.append(wins.mean(0))
    s = np.cov(v10) / positive.sum() + np.cov(v01) / negative.sum()
    return v10[1].mean() - v10[0].mean(), (s[0, 0] + s[1, 1] - 2 * s[0, 1]) ** 0.5


def test_delong_is_its_definition_over_pairs_also_with_equal_scores():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 60)
    first, second = (np.round(labels * shift + rng.normal(size=60), 1) for shift in (0.3, 1.5))
    expected, error = delong_by_definition(labels, first, second)
    estimate, p = delong(labels, first, second)
    assert estimate.value == pytest.approx(expected)
    assert estimate.value == pytest.approx(roc_auc_score(labels, second) - roc_auc_score(labels, first))
    assert (estimate.high - estimate.low) / 2 == pytest.approx(1.96 * error)
    assert p == pytest.approx(2 * norm.sf(abs(expected) / error))


def test_delong_of_a_classifier_and_itself_finds_nothing():
    labels, scores = np.array([0, 1, 0, 1, 1]), np.array([0.1, 0.4, 0.5, 0.6, 0.9])
    estimate, p = delong(labels, scores, scores)
    assert (estimate.value, p) == (0, 1)
    assert np.isnan(delong(np.array([0, 0, 1]), scores[:3], scores[:3])[1])


def test_exams_of_a_patient_that_say_the_same_count_as_one():
    """Every case twice, as two exams: the interval of one exam each, but for what is lost by small numbers."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 200)
    first, second = (labels * shift + rng.normal(size=200) for shift in (0.3, 1.0))
    once, _ = delong(labels, first, second)
    twice, _ = delong(*(np.repeat(values, 2) for values in (labels, first, second)), np.repeat(np.arange(200), 2))
    apart, _ = delong(*(np.repeat(values, 2) for values in (labels, first, second)))
    assert tuple(twice) == pytest.approx((*once[:3], 400))
    assert (apart.high - apart.low) < 0.8 * (once.high - once.low)


# ---- Holm ------------------------------------------------------------------------------------------------------------


def test_holm_by_hand():
    # smallest first: 4 · 0.01, 3 · 0.02, 2 · 0.03 = 0.06 (as before), 0.5
    assert holm([0.5, 0.01, 0.03, 0.02]) == pytest.approx([0.5, 0.04, 0.06, 0.06])
    assert holm([0.4, 0.3]) == pytest.approx([0.6, 0.6])
    assert holm([0.9, 0.8, 0.7]) == pytest.approx([1, 1, 1])
    assert holm([0.02, float("nan")]) == pytest.approx([0.02, np.nan], nan_ok=True)
    assert holm([]).tolist() == []


def test_holm_keeps_the_chance_of_any_false_alarm():
    rng = np.random.default_rng(0)
    alarms = [(holm(rng.uniform(size=7)) < 0.05).any() for _ in range(2000)]
    assert np.mean(alarms) == pytest.approx(1 - (1 - 0.05 / 7) ** 7, abs=0.012)


# ---- over seeds ------------------------------------------------------------------------------------------------------


def test_figures_are_means_over_seeds_and_of_one_seed_its_own():
    rng = np.random.default_rng(0)
    answers = simulated(rng, 1.0, of_seed=1.0)
    figures = judge(answers, draw(answers)).estimates()
    singles = [class_metrics(answers.labels, one, patients=answers.patients) for one in answers.probabilities]
    for name in ("accuracy", "sensitivity", "specificity", "roc_auc", "average_precision"):
        assert figures[name].value == pytest.approx(np.mean([one[name].value for one in singles]))
        assert figures[name].low < figures[name].value < figures[name].high
    one = answers._replace(probabilities=answers.probabilities[:1], thresholds=answers.thresholds[:1])
    own = judge(one, draw(one)).estimates()["roc_auc"]
    assert tuple(own) == pytest.approx(tuple(singles[0]["roc_auc"]))  # the bootstrap over patients


def test_a_classifier_and_itself_cannot_be_told_apart():
    answers = simulated(np.random.default_rng(0), 1.0, of_seed=0.5)
    found = difference(answers, answers, draw(answers))
    assert (found.auc, found.accuracy) == (Estimate(0, 0, 0, 120), Estimate(0, 0, 0, 120))
    assert (found.auc_p, found.accuracy_p) == (1, 1)


def test_a_perfect_classifier_beats_guessing():
    rng = np.random.default_rng(0)
    guess = simulated(rng, 0.0)
    perfect = guess._replace(probabilities=np.tile(0.1 + 0.8 * guess.labels, (3, 1)))
    table = compare_pairs({"perfect": (guess, perfect), "itself": (guess, guess)}, "guessing", draw(guess))
    assert table["conclusion"]["perfect"].startswith("better than guessing")
    assert table["conclusion"]["itself"].startswith("cannot be told apart from guessing")
    auc = np.mean([roc_auc_score(guess.labels, one) for one in guess.probabilities])
    assert table["AUC difference"]["perfect"].startswith(f"{1 - auc:.3f} (")
    worse = compare_pairs({"guess": (perfect, guess)}, "the perfect one", draw(guess))
    assert worse["conclusion"]["guess"].startswith("worse than the perfect one")


def test_seeds_that_differ_make_the_interval_wider():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=120)
    widths = [
        (auc := judge(one, draw(one)).estimates()["roc_auc"]).high - auc.low
        for one in (simulated(rng, 1.0, of_seed=spread, scores=scores) for spread in (0.0, 1.0))
    ]
    assert widths[1] > 1.2 * widths[0]


def test_intervals_hold_the_truth_as_often_as_they_say():
    """200 simulated test sets; with no spread of the seeds, since three of them tell too little of it."""
    truth, held, told = norm.cdf(1.0 / np.sqrt(2)), 0, 0
    for number in range(200):
        rng = np.random.default_rng(number)
        first, second = (simulated(rng, 1.0, cases=80, seeds=2) for _ in range(2))
        draws = draw(first, number)
        auc = judge(first, draws).estimates()["roc_auc"]
        held += auc.low <= truth <= auc.high
        found = difference(first, second, draws).auc
        told += found.low <= 0 <= found.high
    assert 0.91 <= held / 200 <= 0.99
    assert 0.91 <= told / 200 <= 0.99


def test_words_say_what_can_be_concluded():
    assert verdict(Estimate(0.05, 0.01, 0.09, 90), 0.02, "real").startswith("better than real: AUC +0.050")
    assert verdict(Estimate(-0.05, -0.09, -0.01, 90), 0.02, "real").startswith("worse than real")
    unclear = verdict(Estimate(0.05, 0.01, 0.09, 90), 0.06, "real")
    assert unclear.startswith("cannot be told apart from real")
    assert unclear.endswith("a difference below about 0.04 would not have shown")
    assert "nothing can be said" in verdict(Estimate(np.nan, np.nan, np.nan, 3), np.nan, "real")
