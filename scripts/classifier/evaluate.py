"""How good an arm's predictions are: figures with intervals, and curves."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from scripts.classifier.cases import OneClassError
from scripts.classifier.pictures import draw_curves
from scripts.classifier.predictions import read_predictions
from scripts.common.files import atomic
from scripts.evaluation.class_metrics import as_json, class_metrics, markdown, probability_metrics, table


def evaluate(
    predictions: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    seed: int = 0,
    fixed: float = 0.9,
    skip_unlabelled: bool = False,
) -> dict[str, Any]:
    """Judge one arm's predictions: print a table, write it as JSON, and draw curves as `curves.png` beside it.

    Args:
        predictions: CSV of inference, with the threshold that validation cases have chosen.
        output: JSON file to write.
        seed: of the bootstrap intervals, over patients.
        fixed: specificity at which the sensitivity is told, and the reverse.
        skip_unlabelled: leave out cases without a label instead of refusing them.

    Returns:
        What the JSON file holds: every figure as value, low, high, n.

    Raises:
        UserError: there are no predictions, or they are broken; cases without a label.
        OneClassError: all cases are of one class, of which no figure tells anything.
    """
    frame = read_predictions(predictions, skip_unlabelled)
    positive = int(frame["label"].sum())
    if positive in (0, len(frame)):
        raise OneClassError(f"{predictions}: {positive} of {len(frame)} cases are positive; both classes are needed")
    labels, probabilities, threshold = frame["label"], frame["probability"], float(frame["threshold"].iloc[0])
    by_patient = {"seed": seed, "patients": frame["patient"]}
    metrics = class_metrics(labels, probabilities, threshold=threshold, **by_patient)
    metrics |= probability_metrics(labels, probabilities, fixed=fixed, **by_patient)
    result = as_json(metrics)
    with atomic(output) as part:
        part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    draw_curves(frame, metrics, threshold, Path(output).with_name("curves.png"), seed=seed)
    print(markdown(table({Path(predictions).parent.name: metrics}).T))
    print(f"\n{len(frame)} cases, {positive} positive; a case counts as positive from {threshold:.3f} on")
    return result
