import logging
from types import SimpleNamespace

import numpy as np
import openpyxl
import pandas as pd
import pytest
import torch

from scripts.classifier.predictions import (
    UNLABELLED,
    Collected,
    best_threshold,
    read_predictions,
    save_predictions,
    write_predictions,
)
from scripts.common.problems import UserError


def frame(probabilities, labels):
    folders = [f"00{i}" for i in range(len(labels))]
    return pd.DataFrame({"folder": folders, "patient": folders, "probability": probabilities, "label": labels})


def test_what_is_written_is_read_again_and_names_stay_text_in_excel(tmp_path):
    path = tmp_path / "predictions.csv"
    write_predictions(path, frame([0.25, 0.3, 0.9], [0, 1, 1]), threshold=0.3)
    found = read_predictions(path)
    assert found["folder"].tolist() == ["000", "001", "002"]
    assert found["prediction"].tolist() == [0, 1, 1]
    assert set(found["threshold"]) == {0.3}
    sheet = openpyxl.load_workbook(tmp_path / "predictions.xlsx").active
    assert [cell.value for cell in sheet[1]] == found.columns.tolist()
    assert (sheet["A2"].value, sheet["A2"].number_format, sheet["C4"].value) == ("000", "@", 0.9)


def test_probabilities_that_are_nan_are_named_and_nothing_is_written(tmp_path):
    with pytest.raises(UserError, match="(?s)000.*NaN.*002.*NaN.*--amp fp32"):
        write_predictions(tmp_path / "predictions.csv", frame([np.nan, 0.5, np.nan], [0, 1, 1]), 0.5)
    assert list(tmp_path.iterdir()) == []


def test_cases_without_a_label_are_named_and_left_out_on_request_alone(tmp_path):
    path = tmp_path / "predictions.csv"
    write_predictions(path, frame([0.1, 0.2, 0.3, 0.9], [0, UNLABELLED, UNLABELLED, 1]), 0.5)
    assert pd.read_csv(path)["label"].isna().tolist() == [False, True, True, False]
    with pytest.raises(UserError, match="(?s)001 +has no label.*002 +has no label.*--skip_unlabelled true"):
        read_predictions(path)
    assert read_predictions(path, skip_unlabelled=True)["folder"].tolist() == ["000", "003"]
    write_predictions(path, frame([0.1], [UNLABELLED]), 0.5)
    with pytest.raises(UserError, match="no case has a label"):
        read_predictions(path, skip_unlabelled=True)


def test_the_threshold_is_where_sensitivity_plus_specificity_is_highest():
    labels, scores = pd.Series([0, 0, 1, 0, 0, 1, 1]), pd.Series([0.01, 0.02, 0.05, 0.055, 0.06, 0.1, 0.2])
    # At 0.1: 2/3 + 1; at 0.05: 1 + 1/2.
    threshold = best_threshold(labels, scores)
    assert threshold == pytest.approx((0.1 + 0.06) / 2)
    sums = [
        np.mean(scores[labels == 1] >= t) + np.mean(scores[labels == 0] < t) for t in (threshold, *np.linspace(0, 1))
    ]
    assert sums[0] == max(sums)


def test_the_threshold_does_not_depend_on_the_share_of_positives():
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.2, 0.6, 0.5, 0.9])
    often = np.repeat(np.arange(4), [50, 50, 1, 1])
    assert best_threshold(pd.Series(labels), pd.Series(scores)) == best_threshold(
        pd.Series(labels[often]), pd.Series(scores[often])
    )


def test_all_probabilities_equal_gives_a_threshold_all_the_same():
    assert 0 <= best_threshold(pd.Series([0, 1]), pd.Series([0.3, 0.3])) <= 1


def run(handler, batches):
    """What an evaluator would do with these batches of (folder, probability, label)."""
    for batch in batches:
        cases = [{"folder": name, "patient": name, "label": torch.tensor(label)} for name, _, label in batch]
        output = [{"pred": torch.tensor([1 - p, p])} for _, p, _ in batch]
        handler._collect(SimpleNamespace(state=SimpleNamespace(batch=cases, output=output)))
    handler._gather(SimpleNamespace(logger=logging.getLogger("test")))


def test_predictions_are_the_same_whatever_the_batches_and_labels_may_be_one_hot(tmp_path):
    rows = [("c", 0.75, [1]), ("a", 0.25, [0, 1]), ("b", 0.5, [1, 0])]
    first, second = Collected(), Collected()
    run(first, [rows])
    run(second, [rows[2:], rows[:2]])
    assert first.frame.equals(second.frame)
    assert first.frame["label"].tolist() == [1, 0, 1]
    handler = save_predictions(tmp_path / "p.csv", 0.6)
    run(handler, [rows])
    assert read_predictions(tmp_path / "p.csv")["prediction"].tolist() == [0, 0, 1]
