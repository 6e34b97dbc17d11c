"""The study's pictures: arms with intervals, ROC curves, the curve over fractions, and what fooled a classifier."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from scripts.classifier.pictures import BLUE, GREY, RED
from scripts.common.files import atomic
from scripts.data.images import load_volume
from scripts.data.montage import montage
from scripts.evaluation.class_metrics import Estimate
from scripts.evaluation.paired import Answers
from scripts.phantom.dataset import read_findings
from scripts.showcase.study.results import STARTS, Point, Wrong, share_of

COLOURS = (BLUE, RED, "#2e8b57", "#8e5ea2", "#d98c21", "#4d5660", "#17a2b8", "#b5739d")
ROC_GRID = np.linspace(0, 1, 101)


def _new(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def draw_forest(rows: Mapping[str, Estimate], path: str | os.PathLike[str], ceiling: Estimate | None = None) -> None:
    """Each arm's AUC with its interval, one below the other; the first is what the others are held against.

    Args:
        rows: AUC by what an arm was trained on.
        path: the PNG file.
        ceiling: of a classifier that saw many real patients, where there is one.
    """
    figure = _new(9.5, 1.6 + 0.42 * len(rows))
    axes: Axes = figure.subplots()
    for place, auc in enumerate(rows.values()):
        colour = BLUE if place == 0 else "#1c2126"
        axes.plot([auc.low, auc.high], [place, place], color=colour, linewidth=1.6)
        axes.plot(auc.value, place, "s", color=colour, markersize=6)
        axes.annotate(
            str(auc), (1.02, place), xycoords=("axes fraction", "data"), va="center", fontsize=8, annotation_clip=False
        )
        if place == 0:
            axes.axvspan(auc.low, auc.high, color=BLUE, alpha=0.10, linewidth=0)
    axes.axvline(0.5, color=GREY, linewidth=0.8, linestyle="--", label="guessing")
    if ceiling is not None:
        axes.axvline(ceiling.value, color=RED, linewidth=1, linestyle=":", label="many real patients")
    axes.set(xlabel="ROC AUC on the real test cases", ylim=(len(rows) - 0.5, -0.5), title="Arms, with 95 % intervals")
    axes.set_yticks(range(len(rows)), list(rows), fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=2)
    _save(figure, path)


def draw_rocs(arms: Mapping[str, tuple[Answers, Estimate]], path: str | os.PathLike[str]) -> None:
    """The ROC curve of each arm, the mean of its seeds' sensitivities at each specificity.

    Args:
        arms: answers and AUC by what an arm was trained on.
        path: the PNG file.
    """
    figure = _new(8.5, 6.5)
    axes: Axes = figure.subplots()
    for (name, (answers, auc)), colour in zip(arms.items(), _colours(len(arms)), strict=True):
        curves = []
        for probabilities in answers.probabilities:
            false_positive, true_positive, _ = roc_curve(answers.labels, probabilities, drop_intermediate=False)
            curves.append(np.interp(ROC_GRID, false_positive, true_positive))
        axes.plot(ROC_GRID, np.mean(curves, axis=0), color=colour, linewidth=1.4, label=f"{name}: {auc.value:.3f}")
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--")
    axes.set(xlabel="1 - specificity", ylabel="sensitivity", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.set_title("ROC curves, mean of the seeds")
    axes.legend(frameon=True, framealpha=0.85, edgecolor="none", fontsize=7.5, loc="lower right")
    _save(figure, path)


def _colours(count: int) -> list[str]:
    return [COLOURS[place % len(COLOURS)] for place in range(count)]


def draw_curve(points: Sequence[Point], path: str | os.PathLike[str]) -> None:
    """The AUC over the share of the real training patients that a classifier saw, a line for each start."""
    figure = _new(8.5, 5)
    axes: Axes = figure.subplots()
    shares = sorted({point.one_in for point in points}, reverse=True)
    starts = [start for start in STARTS if any(point.start == start for point in points)]
    for number, (start, colour) in enumerate(zip(starts, _colours(len(starts)), strict=True)):
        own = sorted((point for point in points if point.start == start), key=lambda point: -point.one_in)
        places = [shares.index(point.one_in) + 0.06 * (number - (len(starts) - 1) / 2) for point in own]
        line = {"color": colour, "label": STARTS[start], "markersize": 4, "linewidth": 1.4}
        axes.plot(places, [point.auc.value for point in own], "o-", **line)
        axes.vlines(places, [point.auc.low for point in own], [point.auc.high for point in own], color=colour)
    axes.axhline(0.5, color=GREY, linewidth=0.8, linestyle="--")
    axes.set_xticks(range(len(shares)), [share_of(one_in) for one_in in shares])
    axes.set(xlabel="share of the real training patients", ylabel="ROC AUC, with 95 % intervals")
    axes.set_title("Fine-tuned on a fraction of the real volumes")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=True, framealpha=0.85, edgecolor="none", fontsize=8, loc="lower right")
    _save(figure, path)


def draw_fooled(cases: Sequence[Wrong], data: Path, path: str | os.PathLike[str]) -> None:
    """The T2w volumes that a classifier was surest and wrong about; missed ones through their lesion.

    Args:
        cases: of one classifier.
        data: the phantoms' data root, which tells where lesions are.
        path: the PNG file.
    """
    truth, volumes, titles, places = read_findings(data), [], [], []
    spacing: Sequence[float] = ()
    for case in cases:
        values, spacing, affine = load_volume(data / case.folder / "axt2.nii.gz")
        place = np.array(values.shape) // 2
        lesion = next(iter(truth[case.folder]), None)
        if case.label and lesion is not None:
            inverse = np.linalg.inv(affine)
            place = np.rint(nib.affines.apply_affine(inverse, lesion.centre_mm)).astype(int)
        volumes.append(values)
        places.append(np.clip(place, 0, np.array(values.shape) - 1).tolist())
        kind = "missed" if case.label else "false alarm"
        titles.append(f"{kind}: {case.folder}, probability of cancer {case.probability:.2f}")
    montage(volumes, titles, spacing, path, focus=places)
