"""A classifier's curves, and where it looks, as PNG."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

from scripts.common.files import atomic
from scripts.data.montage import BACKGROUND, INK, plane
from scripts.evaluation.class_metrics import Estimate, bootstrap_weights, wilson

BLUE, RED, GREY = "#2b6ca3", "#c0392b", "#8a949e"
BINS = 10  # of the reliability diagram, as many cases in each
FEWEST = 5  # cases in a bin
BAND_DRAWS = 200  # of the bootstrap, for the band around the ROC curve


def draw_curves(
    frame: pd.DataFrame,
    metrics: Mapping[str, Estimate],
    threshold: float,
    path: str | os.PathLike[str],
    *,
    seed: int = 0,
) -> None:
    """ROC and precision-recall curve, reliability, and the probabilities of both classes.

    Args:
        frame: `label`, `probability`, `patient`; both classes.
        metrics: figures that are written beside the curves.
        threshold: from which a case counts as positive.
        path: the PNG file.
        seed: of the band around the ROC curve.
    """
    figure = Figure(figsize=(10.5, 9.5), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    labels, scores = frame["label"].to_numpy(), frame["probability"].to_numpy()
    panels = figure.subplots(2, 2).ravel()
    drawn = bootstrap_weights(labels, frame["patient"], seed)[:BAND_DRAWS]
    _draw_roc(panels[0], labels, scores, drawn, metrics, threshold)
    _draw_precision(panels[1], labels, scores, metrics)
    _draw_reliability(panels[2], labels, scores, metrics)
    _draw_probabilities(panels[3], labels, scores, threshold)
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _draw_roc(
    axes: Axes, labels: NDArray, scores: NDArray, drawn: NDArray, metrics: Mapping[str, Estimate], threshold: float
) -> None:
    grid = np.linspace(0, 1, 101)
    bands = []
    for weights in drawn:
        if len(np.unique(labels[weights > 0])) == 2:
            false_positive, true_positive, _ = roc_curve(labels, scores, sample_weight=weights)
            bands.append(np.interp(grid, false_positive, true_positive))
    axes.fill_between(grid, *np.quantile(bands, (0.025, 0.975), axis=0), color=BLUE, alpha=0.15, linewidth=0)
    false_positive, true_positive, _ = roc_curve(labels, scores)
    axes.plot(false_positive, true_positive, color=BLUE, label=f"ROC AUC {metrics['roc_auc']}")
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--")
    point = 1 - metrics["specificity"].value, metrics["sensitivity"].value
    axes.plot(*point, "o", color=RED, label=f"threshold {threshold:.2f}")
    _finish(axes, "ROC curve, with 95 % band", "1 - specificity", "sensitivity")


def _draw_precision(axes: Axes, labels: NDArray, scores: NDArray, metrics: Mapping[str, Estimate]) -> None:
    precision, recall, _ = precision_recall_curve(labels, scores)
    axes.step(recall, precision, where="post", color=BLUE, label=f"average precision {metrics['average_precision']}")
    share = labels.mean()
    axes.axhline(share, color=GREY, linewidth=0.8, linestyle="--", label=f"share of positives {share:.2f}")
    axes.plot(metrics["sensitivity"].value, metrics["ppv"].value, "o", color=RED)
    _finish(axes, "Precision and recall", "sensitivity (recall)", "PPV (precision)")


def _draw_reliability(axes: Axes, labels: NDArray, scores: NDArray, metrics: Mapping[str, Estimate]) -> None:
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--", label="as many as predicted")
    points = []
    for part in np.array_split(np.argsort(scores, kind="stable"), max(1, min(BINS, len(scores) // FEWEST))):
        share = wilson(int(labels[part].sum()), len(part))
        points.append((scores[part].mean(), share.value))
        axes.plot([points[-1][0]] * 2, [share.low, share.high], color=BLUE, linewidth=1)
    axes.plot(*zip(*points, strict=True), "o-", color=BLUE, markersize=4, label=f"Brier score {metrics['brier']}")
    _finish(axes, f"Reliability, {len(points)} groups of equal size", "predicted probability", "share of positives")


def _draw_probabilities(axes: Axes, labels: NDArray, scores: NDArray, threshold: float) -> None:
    edges = np.linspace(0, 1, 21)
    for label, colour, name in ((0, BLUE, "negative"), (1, RED, "positive")):
        own = scores[labels == label]
        axes.hist(own, edges, color=colour, alpha=0.5, label=f"{name} ({len(own)})")
    axes.axvline(threshold, color="black", linewidth=1, label=f"threshold {threshold:.2f}")
    axes.set(title="Probabilities of both classes", xlabel="predicted probability", ylabel="cases", xlim=(0, 1))
    axes.legend(frameon=False, fontsize=8)


def _finish(axes: Axes, title: str, across: str, up: str) -> None:
    axes.set(title=title, xlabel=across, ylabel=up, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.legend(frameon=True, framealpha=0.85, edgecolor="none", fontsize=8, loc="lower right")


class Looked(NamedTuple):
    """A volume (X, Y, Z) in 0..1, where the network looks in it (X, Y, Z) in 0..1, and a title."""

    volume: NDArray[np.float32]
    weight: NDArray[np.float32]
    title: str


def draw_looked(cases: Sequence[Looked], spacing: Sequence[float], path: str | os.PathLike[str]) -> None:
    """One row a case, through the place that counts most: axial alone, the same with what counts in colour, coronal.

    Args:
        cases: RAS volumes of one shape.
        spacing: of the voxels, in mm.
        path: the PNG file.
    """
    extent = np.asarray(cases[0].volume.shape) * spacing
    heights = extent[1], extent[1], extent[2]
    figure = Figure(figsize=(9.6, 3.4 * len(cases)), facecolor=BACKGROUND, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(cases), 3, squeeze=False, width_ratios=[1, 1, heights[0] / max(heights)])
    for row, case in zip(panels, cases, strict=True):
        place = _strongest(case.weight)
        cuts = (("axial", place[2], False), ("axial", place[2], True), ("coronal", place[1], True))
        for axes, (name, index, coloured) in zip(row, cuts, strict=True):
            _draw_plane(axes, case, name, int(index), extent, coloured)
        row[0].set_title(case.title, loc="left", color=INK, fontsize=9)
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100, facecolor=BACKGROUND)


def _strongest(weight: NDArray[np.float32]) -> NDArray[np.intp]:
    """The voxel with the largest weight; the middle where all are alike, as where nothing spoke for the class."""
    if weight.max() == weight.min():
        return np.array(weight.shape) // 2
    return np.array(np.unravel_index(np.argmax(weight), weight.shape))


def _draw_plane(axes: Axes, case: Looked, name: str, index: int, extent: NDArray, coloured: bool) -> None:
    up = extent[1] if name == "axial" else extent[2]
    common: dict[str, Any] = {"extent": (0, extent[0], 0, up), "interpolation": "bicubic"}
    axes.imshow(plane(case.volume, name, index), cmap="gray", vmin=0, vmax=1, **common)
    if coloured:
        weight = np.clip(plane(case.weight, name, index), 0, 1)
        axes.imshow(weight, cmap="inferno", vmin=0, vmax=1, alpha=0.6 * weight, **common)
    axes.set_axis_off()
    for x, letter, side in ((0.02, "R", "left"), (0.98, "L", "right")):
        axes.text(x, 0.5, letter, ha=side, va="center", color=INK, fontsize=7, transform=axes.transAxes)
    axes.text(0.98, 0.02, name, ha="right", va="bottom", color=INK, fontsize=7, transform=axes.transAxes)
