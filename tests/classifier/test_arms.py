import itertools

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from scripts.classifier.arms import ARMS, Arm, arm_name, arm_of, compare, make_arm, merge
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


def test_additions_have_suffixes_and_a_name_tells_its_arm():
    arms = [make_arm(1, 1, 0, 1), make_arm(0, 1, 1, 0, 4), make_arm(0, 1, 0, 1, 4)]
    assert [arm.name for arm in arms] == ["ds_enb0_r1_s1_l0_t1", "ds_enb0_r0_s1_l1_n4", "ds_enb0_r0_s1_l0_t1_n4"]
    assert make_arm(0, 1, 0, 0, 1).name == ARMS[1].name  # as published: one volume a report
    assert all(arm_of(arm.name) == arm for arm in (*ARMS, *arms))
    assert not any(map(arm_of, ["ds_enb0_r1", "ds_enb0_r1_s1_l0_n1", "ds_enb0_r1_s1_l0_n04", "ds_enb0_r1_s1_l0_n4_t1"]))
    assert str(arms[2]) == "synthetic with real labels, 4 a report, further reports"
    assert make_arm(**arms[2].switches) == arms[2]


@pytest.mark.parametrize("given", [{"reports": 1}, {"replicates": 2}, {"reports": 2}, {"replicates": 0}])
def test_additions_are_of_synthetic_volumes(given):
    with pytest.raises(UserError, match=r"reports|replicates"):
        make_arm(1, 0, 0, **given)


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
    lines = (tmp_path / "arms.md").read_text().splitlines()
    assert sum(line.startswith("| ") for line in lines) == 6
    assert sum(line.startswith("- ") for line in lines) == 3
    assert f"not there yet: {ARMS[4].name}" in capsys.readouterr().out


def test_arms_tested_on_other_cases_are_not_compared():
    other = predictions(1)
    other.loc[3, "folder"] = "999"
    with pytest.raises(UserError, match=ARMS[1].name):
        compare({ARMS[0]: [predictions(0)], ARMS[1]: [other]})


def test_test_cases_of_one_class_are_not_compared():
    with pytest.raises(UserError, match="all of one class"):
        compare({ARMS[0]: [predictions(0, labels=(1,) * 20)]})


def write_predictions(root, arm, seed, number=None):
    folder = root / ("" if number is None else f"seed{number}") / arm.name
    folder.mkdir(parents=True)
    predictions(seed).to_csv(folder / "predictions.csv", index=False)


def test_arms_of_several_seeds_stand_in_one_table_in_words(tmp_path, capsys):
    arms = [ARMS[0], ARMS[3], Arm(True, True, False, replicates=4)]
    for place, arm in enumerate(arms):
        for number in (0, 1, 2):
            write_predictions(tmp_path, arm, 10 * place + number, number)
    merge(tmp_path)
    table = pd.read_csv(tmp_path / "arms.csv", index_col="arm")
    assert list(table.index) == [arm.name for arm in arms]
    assert table["seeds"].tolist() == [3, 3, 3]
    aucs = [roc_auc_score(one["label"], one["probability"]) for one in map(predictions, range(3))]
    assert table["roc_auc"].iloc[0].startswith(f"{np.mean(aucs):.3f} (")
    told = (tmp_path / "arms.md").read_text()
    assert "- real + synthetic with real labels, 4 a report: cannot be told apart from real volumes alone" in told
    assert told in capsys.readouterr().out
    merge(tmp_path)
    assert (tmp_path / "arms.md").read_text() == told  # the same table


def test_arms_of_other_seeds_are_named(tmp_path):
    for number in (0, 1):
        write_predictions(tmp_path, ARMS[0], number, number)
    write_predictions(tmp_path, ARMS[1], 5, 0)
    with pytest.raises(UserError, match=rf"{ARMS[1].name} +is not among seed1"):
        merge(tmp_path)
    with pytest.raises(UserError, match=r"2 seeds, others of 1|1 seeds, others of 2"):
        compare({ARMS[0]: [predictions(0)] * 2, ARMS[1]: [predictions(1)]})


def test_probabilities_that_are_nan_are_refused(tmp_path):
    write_predictions(tmp_path, ARMS[0], 0)
    path = tmp_path / ARMS[0].name / "predictions.csv"
    frame = pd.read_csv(path)
    frame.loc[3, "probability"] = float("nan")
    frame.to_csv(path, index=False)
    with pytest.raises(UserError, match=r"predictions\.csv"):
        merge(tmp_path)


def test_no_arm_and_broken_predictions_are_told(tmp_path):
    with pytest.raises(UserError, match="inference"):
        merge(tmp_path)
    (tmp_path / ARMS[0].name).mkdir()
    (tmp_path / ARMS[0].name / "predictions.csv").write_text("folder,probability\n1,2\n")
    with pytest.raises(UserError, match=r"predictions\.csv"):
        merge(tmp_path)
