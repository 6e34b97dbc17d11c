import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from scripts.classifier.arms import ARMS, arm_name, compare, delong, make_arm, mcnemar, merge
from scripts.common.problems import UserError


def test_there_are_five_arms_with_the_published_names():
    assert [arm.name for arm in ARMS] == [
        "ds_enb0_r1_s0_l0", "ds_enb0_r0_s1_l0", "ds_enb0_r0_s1_l1", "ds_enb0_r1_s1_l0", "ds_enb0_r1_s1_l1",
    ]  # fmt: skip


def test_every_other_combination_is_refused_with_what_to_do():
    valid = {(arm.real, arm.synthetic, arm.synthetic_labels) for arm in ARMS}
    for flags in itertools.product((0, 1), repeat=3):
        if flags in valid:
            assert arm_name(*flags).endswith("r{}_s{}_l{}".format(*flags))
        else:
            with pytest.raises(UserError, match=r"nothing to train on|without synthetic"):
                make_arm(*flags)
    with pytest.raises(UserError, match="write 0 or 1"):
        make_arm("yes", 0, 0)


def test_mcnemar_is_the_sign_test_on_the_cases_that_differ():
    first = np.array([True] * 8 + [False] * 5)
    second = np.array([True] * 3 + [False] * 5 + [True] + [False] * 4)
    # 5 right only by the first, 1 only by the second: 2 · P(X <= 1), X binomial(6, 1/2) = 2 · 7/64
    assert mcnemar(first, second) == pytest.approx(14 / 64)
    assert mcnemar(first, first) == 1


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
    difference, error = delong_by_definition(labels, first, second)
    estimate, p = delong(labels, first, second)
    assert estimate.value == pytest.approx(difference)
    assert estimate.value == pytest.approx(roc_auc_score(labels, second) - roc_auc_score(labels, first))
    assert (estimate.high - estimate.low) / 2 == pytest.approx(1.96 * error)
    assert p == pytest.approx(2 * norm.sf(abs(difference) / error))


def test_delong_of_a_classifier_and_itself_finds_nothing():
    labels, scores = np.array([0, 1, 0, 1, 1]), np.array([0.1, 0.4, 0.5, 0.6, 0.9])
    estimate, p = delong(labels, scores, scores)
    assert (estimate.value, p) == (0, 1)
    assert np.isnan(delong(np.array([0, 0, 1]), scores[:3], scores[:3])[1])


def predictions(seed, labels=(0, 1) * 10):
    rng = np.random.default_rng(seed)
    probability = rng.uniform(size=len(labels)).round(3)
    return pd.DataFrame(
        {
            "folder": [f"{i:03d}" for i in range(len(labels))],
            "patient": [f"P{i:03d}" for i in range(len(labels))],
            "probability": probability,
            "threshold": 0.5,
            "prediction": (probability >= 0.5).astype(int),
            "label": labels,
        }
    )


def test_all_arms_stand_in_one_table_with_tests_against_real(tmp_path, capsys):
    for seed, arm in enumerate(ARMS[:4]):
        (tmp_path / arm.name).mkdir()
        predictions(seed).sample(frac=1, random_state=seed).to_csv(tmp_path / arm.name / "predictions.csv", index=False)
    merge(tmp_path)
    table = pd.read_csv(tmp_path / "arms.csv", index_col="arm")
    assert list(table.index) == [arm.name for arm in ARMS[:4]]
    assert {"accuracy", "roc_auc", "accuracy p (McNemar)", "AUC p (DeLong)"} <= set(table.columns)
    assert table["AUC p (DeLong)"].isna().tolist() == [True, False, False, False]
    assert (tmp_path / "arms.md").read_text().count("\n") == 6
    assert f"not there yet: {ARMS[4].name}" in capsys.readouterr().out


def test_arms_tested_on_other_cases_are_not_compared():
    other = predictions(1)
    other.loc[3, "folder"] = "999"
    with pytest.raises(UserError, match=ARMS[1].name):
        compare({ARMS[0]: predictions(0), ARMS[1]: other})


def test_no_arm_and_broken_predictions_are_told(tmp_path):
    with pytest.raises(UserError, match="inference"):
        merge(tmp_path)
    (tmp_path / ARMS[0].name).mkdir()
    (tmp_path / ARMS[0].name / "predictions.csv").write_text("folder,probability\n1,2\n")
    with pytest.raises(UserError, match=r"predictions\.csv"):
        merge(tmp_path)
