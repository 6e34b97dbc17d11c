"""A classifier's predictions: collected over all ranks while it runs, kept as CSV, and judged."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import pandas as pd
from ignite.engine import Engine, Events

from scripts.common.files import atomic
from scripts.common.problems import UserError
from scripts.data.tables import read_table
from scripts.evaluation.class_metrics import as_json, class_metrics, markdown, table

COLUMNS = ("folder", "probability", "prediction", "label")
THRESHOLD = 0.5


class SavePredictions:
    """Handler of an evaluator: writes one CSV row a case when the run is complete; rank 0 writes for all.

    Rows are sorted by folder, so the file is the same whatever the batch size or the number of ranks.

    Args:
        path: the CSV file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.rows: list[tuple[Any, ...]] = []

    def attach(self, engine: Engine) -> None:
        """Register with `engine`, whose postprocessing leaves `pred` as (2,) probabilities."""
        engine.add_event_handler(Events.STARTED, lambda _: self.rows.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _collect(self, engine: Engine) -> None:
        for case, output in zip(engine.state.batch, engine.state.output, strict=True):
            probability = float(output["pred"][1])
            self.rows.append((case["folder"], probability, int(probability >= THRESHOLD), int(case["label"])))

    def _write(self, engine: Engine) -> None:
        rows = [row for part in idist.all_gather(self.rows) for row in part]
        if idist.get_rank() == 0:
            with atomic(self.path) as part:
                pd.DataFrame(rows, columns=list(COLUMNS)).sort_values("folder").to_csv(part, index=False)
            engine.logger.info(f"wrote {len(rows)} predictions to {self.path}")


def read_predictions(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a CSV of predictions: `folder` (str), `probability` (0..1), `prediction` and `label` (0 or 1).

    Raises:
        UserError: the file is missing, or is not what `SavePredictions` writes.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no predictions there; run the classifier bundle's inference first, with the same arm")
    frame = read_table(path)
    if tuple(frame.columns) != COLUMNS or frame.empty or frame.isna().any(axis=None):
        raise UserError(f"{path}: is not a table of {', '.join(COLUMNS)}; run inference again")
    try:
        return frame.astype({"probability": float, "prediction": int, "label": int})
    except ValueError:
        raise UserError(f"{path}: holds cells that are not numbers; run inference again") from None


def evaluate(predictions: str | os.PathLike[str], output: str | os.PathLike[str], *, seed: int = 0) -> dict[str, Any]:
    """Judge one arm's predictions: print a table, write it as JSON.

    Args:
        predictions: CSV of inference.
        output: JSON file to write.
        seed: of the bootstrap intervals.

    Returns:
        What the JSON file holds: every figure as value, low, high, n.

    Raises:
        UserError: there are no predictions, or they are broken.
    """
    frame = read_predictions(predictions)
    metrics = class_metrics(frame["label"], frame["probability"], threshold=THRESHOLD, seed=seed)
    result = as_json(metrics)
    with atomic(output) as part:
        part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(markdown(table({Path(predictions).parent.name: metrics}).T))
    return result
