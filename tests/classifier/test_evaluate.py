import json

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from scripts.classifier.evaluate import evaluate
from scripts.classifier.predictions import write_predictions
from scripts.common.problems import UserError


def predictions(path, labels, threshold=0.4):
    rng = np.random.default_rng(0)
    labels = np.asarray(labels)
    scores = np.clip(0.3 * labels + rng.uniform(0, 0.7, len(labels)), 0, 1)
    names = [f"{i:03d}" for i in range(len(labels))]
    frame = pd.DataFrame({"folder": names, "patient": names, "probability": scores, "label": labels})
    write_predictions(path, frame, threshold)
    return frame


def test_figures_and_curves_at_the_threshold_of_validation(tmp_path, capsys):
    frame = predictions(tmp_path / "arm" / "predictions.csv", [0, 1] * 30)
    result = evaluate(tmp_path / "arm" / "predictions.csv", tmp_path / "arm" / "metrics.json")
    assert json.loads((tmp_path / "arm" / "metrics.json").read_text()) == result
    positive = frame["label"] == 1
    assert result["sensitivity"]["value"] == pytest.approx((frame["probability"][positive] >= 0.4).mean())
    assert result["brier"]["value"] == pytest.approx(((frame["probability"] - frame["label"]) ** 2).mean())
    assert {"sensitivity_at_specificity_0.9", "specificity_at_sensitivity_0.9"} <= result.keys()
    assert imread(tmp_path / "arm" / "curves.png").std() > 0
    assert "60 cases, 30 positive; a case counts as positive from 0.400 on" in capsys.readouterr().out


@pytest.mark.parametrize("label", [0, 1])
def test_cases_of_one_class_are_not_judged(tmp_path, label):
    predictions(tmp_path / "predictions.csv", [label] * 5)
    with pytest.raises(UserError, match=f"{5 * label} of 5 cases are positive; both classes are needed"):
        evaluate(tmp_path / "predictions.csv", tmp_path / "metrics.json")
    assert not (tmp_path / "metrics.json").exists()
