"""A classifier's predictions: collected over all ranks while it runs, and kept as CSV and as an Excel table."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import pandas as pd
from ignite.engine import Engine, Events
from sklearn.metrics import roc_curve

from scripts.common.files import atomic
from scripts.common.problems import Problems, UserError
from scripts.data.tables import read_table

COLUMNS = ("folder", "patient", "probability", "threshold", "prediction", "label")
THRESHOLD = 0.5  # where no validation case has chosen another
UNLABELLED = -1  # the label of a case that has none, while it runs
AS_TEXT = ("folder", "patient")


class Collected:
    """Handler of an evaluator: the predictions of a run over all ranks, sorted by folder, in `frame` at its end.

    They are the same whatever the batch size or the number of ranks.

    Args:
        done: called on the first rank with `folder`, `patient`, `probability`, `label` of all cases.
    """

    def __init__(self, done: Callable[[Engine, pd.DataFrame], None] | None = None) -> None:
        self.done = done
        self.rows: list[tuple[Any, ...]] = []
        self.frame: pd.DataFrame | None = None

    def attach(self, engine: Engine) -> None:
        """Register with `engine`, whose postprocessing leaves `pred` as (2,) probabilities."""
        engine.add_event_handler(Events.STARTED, lambda _: self.rows.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._gather)

    def _collect(self, engine: Engine) -> None:
        for case, output in zip(engine.state.batch, engine.state.output, strict=True):
            label = int(case["label"].reshape(-1)[-1])  # also where it has become one-hot
            self.rows.append((case["folder"], case["patient"], float(output["pred"][1]), label))

    def _gather(self, engine: Engine) -> None:
        rows = [row for part in idist.all_gather(self.rows) for row in part]
        frame = pd.DataFrame(rows, columns=["folder", "patient", "probability", "label"])
        # A validation that has fewer cases than there are ranks repeats some.
        self.frame = frame.drop_duplicates("folder").sort_values("folder", ignore_index=True)
        if self.done is not None and idist.get_rank() == 0:
            self.done(engine, self.frame)


def save_predictions(path: str | os.PathLike[str], threshold: float = THRESHOLD) -> Collected:
    """A handler that writes one row a case, as CSV and as an Excel table beside it, when the run is complete.

    Args:
        path: the CSV file.
        threshold: a case is predicted to be positive where its probability reaches it.

    Raises:
        UserError: when the run is complete, where probabilities are NaN; nothing is written.
    """

    def write(engine: Engine, frame: pd.DataFrame) -> None:
        write_predictions(path, frame, threshold)
        engine.logger.info(f"wrote {len(frame)} predictions to {path}")

    return Collected(write)


def write_predictions(path: str | os.PathLike[str], frame: pd.DataFrame, threshold: float) -> None:
    """Write predictions as CSV and as `.xlsx` beside it; a label that there is not is an empty cell.

    Raises:
        UserError: probabilities are NaN.
    """
    problems = Problems("probabilities")
    for folder in frame.loc[~frame["probability"].between(0, 1), "folder"]:
        problems.add(folder, "has none: it is NaN", "give --amp fp32, or other weights; these may have diverged")
    problems.raise_if_any()
    known = frame["label"].where(frame["label"] != UNLABELLED).astype("Int64")
    predicted = (frame["probability"] >= threshold).astype(int)
    frame = frame.assign(threshold=threshold, prediction=predicted, label=known)[list(COLUMNS)]
    with atomic(path) as part:
        frame.to_csv(part, index=False)
    with atomic(Path(path).with_suffix(".xlsx")) as part, pd.ExcelWriter(part, engine="openpyxl") as writer:
        frame.to_excel(writer, index=False)
        for column in (frame.columns.get_loc(name) + 1 for name in AS_TEXT):  # or Excel drops leading zeros
            for row in range(2, len(frame) + 2):
                writer.sheets["Sheet1"].cell(row, column).number_format = "@"


def read_predictions(path: str | os.PathLike[str], skip_unlabelled: bool = False) -> pd.DataFrame:
    """Read a CSV of predictions of labelled cases.

    Args:
        path: what `write_predictions` wrote.
        skip_unlabelled: leave out cases without a label instead of refusing them.

    Returns:
        `folder`, `patient` (str), `probability`, `threshold` (0..1), `prediction`, `label` (0 or 1).

    Raises:
        UserError: the file is missing or is not what it should be; cases without a label, all of them named.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no predictions there; run the classifier bundle's inference first, with the same arm")
    frame = read_table(path)
    if tuple(frame.columns) != COLUMNS or frame.empty or frame.drop(columns="label").isna().any(axis=None):
        raise UserError(f"{path}: is not a table of {', '.join(COLUMNS)}; run inference again")
    problems = Problems(str(path))
    for folder in frame.loc[frame["label"].isna(), "folder"]:
        problems.add(folder, "has no label", "fill it in, or leave out such cases with --skip_unlabelled true")
    if not skip_unlabelled:
        problems.raise_if_any()
    frame = frame.dropna(subset="label").reset_index(drop=True)
    if frame.empty:
        raise UserError(f"{path}: no case has a label; there is nothing to judge")
    try:
        return frame.astype({"probability": float, "threshold": float, "prediction": int, "label": int})
    except ValueError:
        raise UserError(f"{path}: holds cells that are not numbers; run inference again") from None


def best_threshold(labels: pd.Series, probabilities: pd.Series) -> float:
    """Where sensitivity + specificity is highest (Youden, Cancer 1950), halfway to the next lower probability.

    It depends on the ranks of positives among negatives alone, and so not on the share of positives, nor on where a
    network that never saw a balanced set puts its probabilities.

    Args:
        labels: 0 and 1, both of them.
        probabilities: of validation cases.
    """
    false_positive, true_positive, thresholds = roc_curve(labels, probabilities, drop_intermediate=False)
    best = int(np.argmax(true_positive - false_positive))
    lower = thresholds[best + 1] if best + 1 < len(thresholds) else 0.0
    return float(np.clip((thresholds[best] + lower) / 2, 0, 1)) if np.isfinite(thresholds[best]) else THRESHOLD
