import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

from scripts.common.problems import UserError
from scripts.evaluation.class_metrics import (
    Estimate,
    as_json,
    as_text,
    bootstrap_weights,
    class_metrics,
    markdown,
    mean,
    probability_metrics,
    table,
    weighted_areas,
    wilson,
)

# 3 true positives, 1 false negative, 2 false positives, 4 true negatives
LABELS = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
SCORES = [0.9, 0.8, 0.5, 0.3, 0.7, 0.6, 0.4, 0.2, 0.1, 0.0]


def test_shares_are_those_of_the_table_counted_by_hand():
    metrics = class_metrics(LABELS, SCORES)
    expected = {"accuracy": 7 / 10, "sensitivity": 3 / 4, "specificity": 4 / 6, "ppv": 3 / 5, "npv": 4 / 5}
    assert {name: metrics[name].value for name in expected} == pytest.approx(expected)
    assert {name: metrics[name].n for name in expected} == {
        "accuracy": 10, "sensitivity": 4, "specificity": 6, "ppv": 5, "npv": 5,
    }  # fmt: skip


def test_roc_auc_is_the_share_of_pairs_in_the_right_order():
    pairs = [float(p > n) for p in SCORES[:4] for n in SCORES[4:]]
    assert class_metrics(LABELS, SCORES)["roc_auc"].value == pytest.approx(np.mean(pairs))


def test_average_precision_sums_precision_over_steps_of_recall():
    # Ranked: 1 1 0 0 1 0 1 0 0 0; precision at each positive: 1/1, 2/2, 3/5, 4/7.
    expected = (1 + 1 + 3 / 5 + 4 / 7) / 4
    assert class_metrics(LABELS, SCORES)["average_precision"].value == pytest.approx(expected)


def test_wilson_interval_is_the_closed_form():
    z, p, n = norm.ppf(0.975), 0.7, 10
    centre, half = (
        (p + z**2 / (2 * n)) / (1 + z**2 / n),
        z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)),
    )
    assert wilson(7, 10) == pytest.approx(Estimate(0.7, centre - half, centre + half, 10))


def test_a_mean_has_the_t_interval():
    half = 3.182446 * np.std([1, 2, 3, 4], ddof=1) / 2  # Student's t of 3 degrees of freedom, from a table
    assert mean([1, 2, 3, 4]) == pytest.approx(Estimate(2.5, 2.5 - half, 2.5 + half, 4), rel=1e-6)


def test_the_mean_of_one_case_has_no_interval():
    assert json.loads(json.dumps(as_json({"a": mean([2.0])}), allow_nan=False)) == {
        "a": {"value": 2.0, "low": None, "high": None, "n": 1}
    }
    assert str(mean([2.0])) == "2.000"


def test_intervals_hold_the_value_and_depend_on_the_seed_alone():
    first, again, other = (class_metrics(LABELS, SCORES, seed=seed)["roc_auc"] for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert first.low <= first.value <= first.high


def test_what_is_undefined_is_null_in_json():
    metrics = class_metrics([0, 0, 0], [0.1, 0.2, 0.3])
    values = json.loads(json.dumps(as_json(metrics), allow_nan=False))
    assert values["specificity"]["value"] == 1
    assert [values[name]["value"] for name in ("sensitivity", "ppv", "roc_auc", "average_precision")] == [None] * 4
    assert str(metrics["roc_auc"]) == "undefined"


@pytest.mark.parametrize(
    ("labels", "scores"),
    [([], []), ([0, 1], [0.5]), ([0, 2], [0.1, 0.2]), ([0, 1], [0.1, np.nan]), ([0, 1], [0.1, 1.5])],
)
def test_broken_input_is_refused(labels, scores):
    with pytest.raises(UserError):
        class_metrics(labels, scores)


def test_tables_name_rows_and_columns():
    text = markdown(table({"arm": {"accuracy": wilson(7, 10)}}))
    assert text.splitlines()[0] == "|  | accuracy |"
    assert "| arm | 0.700 (0.397 to 0.892) |" in text
    assert markdown(pd.DataFrame({"a": [None]}, index=["x"])).splitlines()[-1] == "| x |  |"


def test_areas_of_weighted_cases_are_scikit_learns_also_with_equal_scores():
    rng = np.random.default_rng(0)
    truth, score = rng.integers(0, 2, 30), rng.integers(0, 8, 30) / 8
    weights = rng.integers(0, 4, (5, 30)) + 0.0
    areas = weighted_areas(truth, score, weights)
    assert areas[0] == pytest.approx([roc_auc_score(truth, score, sample_weight=w) for w in weights])
    assert areas[1] == pytest.approx([average_precision_score(truth, score, sample_weight=w) for w in weights])


@pytest.mark.parametrize(
    ("estimate", "percent", "text"),
    [
        (Estimate(0.03125, 0.02, 0.5, 9), False, "0.0312 (0.02 to 0.5)"),
        (Estimate(1216.4, 99.96, 12315.2, 9), False, "1,216 (100 to 12,315)"),
        (Estimate(7.37e13, -1.82e14, 9.99e6, 9), False, "7.4e+13 (-1.8e+14 to 9,990,000)"),
        (Estimate(0.8718, 0.78, 1.0, 9), True, "87.2 % (78.0 to 100.0)"),
        (Estimate(2.5, np.nan, np.nan, 1), False, "2.5"),
        (Estimate(np.nan, np.nan, np.nan, 0), True, "undefined (n = 0)"),
    ],
)
def test_figures_as_text(estimate, percent, text):
    assert as_text(as_json({"it": estimate})["it"], percent) == text


def test_exams_of_one_patient_are_drawn_together():
    truth, patients = np.array([1, 0, 0, 1, 0]), ["b", "b", "a", "c", "d"]
    weights = bootstrap_weights(truth, patients, seed=0)
    assert np.array_equal(weights[:, 0], weights[:, 1])
    assert np.all(weights[:, [0, 3]].sum(1) == 2)  # two positive patients, drawn among themselves
    assert np.all(weights[:, [2, 4]].sum(1) == 2)
    assert np.array_equal(bootstrap_weights(truth, None, 1), bootstrap_weights(truth, list("vwxyz"), 1))


def test_repeating_every_exam_makes_no_interval_narrower():
    """As it would if exams were taken for patients of their own."""
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    scores = np.clip(0.3 * labels + rng.uniform(0, 0.7, 40), 0, 1)
    once = class_metrics(labels, scores, patients=np.arange(40))
    repeated = {"labels": np.tile(labels, 4), "probabilities": np.tile(scores, 4)}
    patients = class_metrics(**repeated, patients=np.tile(np.arange(40), 4))
    exams = class_metrics(**repeated)
    for name in ("roc_auc", "accuracy"):
        widths = [found[name].high - found[name].low for found in (once, patients, exams)]
        assert patients[name].value == pytest.approx(once[name].value)
        assert widths[1] == pytest.approx(widths[0], rel=0.15)
        assert widths[2] < 0.65 * widths[0]


def test_brier_is_the_mean_squared_distance():
    found = probability_metrics(LABELS, SCORES)["brier"]
    assert found.value == pytest.approx(np.mean((np.array(SCORES) - LABELS) ** 2))
    assert found.low < found.value < found.high


def test_sensitivity_at_a_specificity_and_the_reverse_are_read_off_the_curve():
    # Falling: 1 1 0 0 1 0 1 0 0 0 of the labels.
    at = probability_metrics(LABELS, SCORES, fixed=0.75)
    assert at["sensitivity_at_specificity_0.75"].value == pytest.approx(2 / 4)  # one of six negatives may be wrong
    assert at["specificity_at_sensitivity_0.75"].value == pytest.approx(4 / 6)
    perfect = probability_metrics([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9])
    assert perfect["sensitivity_at_specificity_0.9"][:3] == (1, 1, 1)


def test_one_class_leaves_points_of_the_curve_undefined():
    found = probability_metrics([1, 1], [0.5, 0.6])
    assert np.isnan(found["sensitivity_at_specificity_0.9"].value)
    assert found["brier"].value == pytest.approx((0.25 + 0.16) / 2)
