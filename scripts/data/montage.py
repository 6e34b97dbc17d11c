"""Volumes as pictures: slices in the radiologist's orientation, to scale. Nothing here holds report text."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from scripts.common.files import atomic

BACKGROUND, INK = "#0d0f12", "#e8ebee"
OUTLINE = withStroke(linewidth=1.5, foreground=BACKGROUND)
AXIAL_SLICES = 5
INCHES_PER_MM = 0.024
TITLE_INCHES = 0.34
SIDE_INCHES, SIDE_LETTERS = 1.7, 20  # on the left of rows, and how many letters of a line that is
GAP_INCHES = 0.12
_DRAWING = threading.Lock()  # matplotlib draws in one thread at a time: its caches and fonts are shared


def plane(volume: np.ndarray, name: str, index: int) -> np.ndarray:
    """One slice of a RAS volume (X, Y, Z) as rows and columns on the screen, in the radiologist's orientation.

    Args:
        name: `axial` and `coronal` have the patient's left on the viewer's right, `sagittal` has anterior on the left;
            anterior (axial) or superior (the others) is up.
        index: voxel along the axis that the plane cuts.
    """
    cut = np.take(volume, index, axis={"axial": 2, "coronal": 1, "sagittal": 0}[name])
    # Both array axes grow against the screen: to the right, anterior or superior, and up.
    return cut[::-1, ::-1].T


def montage(
    volumes: Sequence[np.ndarray],
    titles: Sequence[str],
    spacing: Sequence[float],
    path: str | os.PathLike[str],
    focus: Sequence[int] | Sequence[Sequence[int]] | None = None,
) -> None:
    """Draw volumes one below the other, each as axial slices, a coronal and a sagittal one, to scale, as PNG.

    Args:
        volumes: RAS arrays (X, Y, Z) of one shape, in any units; each has its own window, 0 to its 99.5th percentile.
        titles: a line above each; inference puts no report text there.
        spacing: of the voxels, in mm.
        focus: voxel that coronal, sagittal and the middle axial slice go through, one for all volumes or one for each;
            the centre without it.
    """
    with _DRAWING, atomic(path) as temporary:
        figure = _figure(volumes, titles, spacing, focus)
        figure.savefig(temporary, format="png", dpi=110, facecolor=BACKGROUND)


Shown = tuple[Mapping[str, np.ndarray], Sequence[int]]  # a volume's images by sequence, the voxel that is looked at


def side_by_side(
    rows: Mapping[str, Sequence[Shown]],
    kinds: Sequence[str],
    sequences: Mapping[str, str],
    spacing: Sequence[float],
    path: str | os.PathLike[str],
) -> None:
    """Draw axial slices of several volumes beside one another, sequence by sequence, all in one window, as PNG.

    Args:
        rows: by the words on their left volumes, one of each kind: RAS arrays (X, Y, Z) of one shape, whose 0 is black
            and whose 1 is white, and the voxel that the slice goes through.
        kinds: the words above each volume, such as `generated`.
        sequences: those that are drawn, with the words above them.
        spacing: of the voxels, in mm.
    """
    with _DRAWING, atomic(path) as temporary:
        figure = _table_of_slices(rows, kinds, sequences, spacing)
        figure.savefig(temporary, format="png", dpi=110, facecolor=BACKGROUND)


def _table_of_slices(
    rows: Mapping[str, Sequence[Shown]],
    kinds: Sequence[str],
    sequences: Mapping[str, str],
    spacing: Sequence[float],
) -> Figure:
    """The picture of `side_by_side`: volumes that are held against one another touch, and sequences lie apart."""
    (images, _), *_ = next(iter(rows.values()))
    extent = np.asarray(images[next(iter(sequences))].shape) * np.asarray(spacing, dtype=float)
    across, down = extent[0] * INCHES_PER_MM, extent[1] * INCHES_PER_MM
    block = len(kinds) * across + GAP_INCHES
    width, height = SIDE_INCHES + len(sequences) * block, 2 * TITLE_INCHES + len(rows) * (down + GAP_INCHES)
    figure = Figure(figsize=(width, height), facecolor=BACKGROUND)
    FigureCanvasAgg(figure)

    def write(x: float, y: float, words: str, **style: Any) -> None:
        figure.text(x / width, 1 - y / height, words, color=INK, va="center", **style)

    for j, name in enumerate(sequences.values()):
        left = SIDE_INCHES + j * block
        write(left + (block - GAP_INCHES) / 2, TITLE_INCHES / 2, name, ha="center", fontsize=13, weight="bold")
        for k, kind in enumerate(kinds):
            write(left + (k + 0.5) * across, 1.45 * TITLE_INCHES, kind, ha="center", fontsize=10)
    for i, (title, volumes) in enumerate(rows.items()):
        top = 2 * TITLE_INCHES + i * (down + GAP_INCHES)
        write(GAP_INCHES, top + down / 2, fill(title, SIDE_LETTERS), fontsize=10)
        for j, sequence in enumerate(sequences):
            for k, (images, voxel) in enumerate(volumes):
                left = SIDE_INCHES + j * block + k * across
                place = left / width, 1 - (top + down) / height, across / width, down / height
                axes = figure.add_axes(place)
                _draw(axes, images[sequence], "axial", int(voxel[2]), extent, 1.0)
                if j == k == 0:
                    _scale_bar(axes, extent)
    return figure


def _figure(
    volumes: Sequence[np.ndarray],
    titles: Sequence[str],
    spacing: Sequence[float],
    focus: Sequence[int] | Sequence[Sequence[int]] | None,
) -> Figure:
    """The picture of `montage`."""
    shape = np.asarray(volumes[0].shape)
    extent = shape * np.asarray(spacing, dtype=float)
    focus = np.broadcast_to(shape // 2 if focus is None else np.asarray(focus), (len(volumes), 3))
    views = [_views(shape, voxel) for voxel in focus]
    widths = [extent[1] if name == "sagittal" else extent[0] for name, _ in views[0]]
    row = max(extent[1], extent[2]) * INCHES_PER_MM + TITLE_INCHES
    figure = Figure(figsize=(sum(widths) * INCHES_PER_MM + 0.1 * len(widths), row * len(volumes)), facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        len(volumes), len(widths), width_ratios=widths, wspace=0.03, hspace=TITLE_INCHES / (row - TITLE_INCHES),
        left=0.006, right=0.994, bottom=0.01, top=1 - TITLE_INCHES / (row * len(volumes)),
    )  # fmt: skip
    for i, (volume, title) in enumerate(zip(volumes, titles, strict=True)):
        top = max(float(np.percentile(volume, 99.5)), 1e-6)
        for j, (name, index) in enumerate(views[i]):
            axes = figure.add_subplot(grid[i, j])
            _draw(axes, volume, name, index, extent, top)
            if j == 0:
                axes.set_title(title, loc="left", color=INK, fontsize=9, pad=5)
                _scale_bar(axes, extent)
    return figure


def _views(shape: np.ndarray, focus: np.ndarray) -> list[tuple[str, int]]:
    """The cuts of one volume: axial slices over half of it (near an end the stack moves), a coronal, a sagittal one."""
    reach = shape[2] // 4
    middle = int(np.clip(focus[2], reach, shape[2] - 1 - reach))
    axial = np.linspace(middle - reach, middle + reach, AXIAL_SLICES).round().astype(int)
    return [*(("axial", int(k)) for k in axial), ("coronal", int(focus[1])), ("sagittal", int(focus[0]))]


def _draw(axes: Any, volume: np.ndarray, name: str, index: int, extent: np.ndarray, top: float) -> None:
    """One slice in mm, with its position from the centre and the sides of the patient."""
    across, up, normal = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}[name]
    axes.imshow(
        plane(volume, name, index),
        cmap="gray",
        vmin=0,
        vmax=top,
        extent=(0, extent[across], 0, extent[up]),
        interpolation="bicubic",
    )
    axes.set_axis_off()
    position = (index - (volume.shape[normal] - 1) / 2) * extent[normal] / volume.shape[normal]
    note = {"color": INK, "fontsize": 6.5, "transform": axes.transAxes, "path_effects": [OUTLINE]}
    axes.text(0.98, 0.02, f"{name} {position:+.0f} mm", ha="right", va="bottom", **note)
    left, right = ("A", "P") if name == "sagittal" else ("R", "L")
    axes.text(0.02, 0.5, left, ha="left", va="center", **note)
    axes.text(0.98, 0.5, right, ha="right", va="center", **note)


def _scale_bar(axes: Any, extent: np.ndarray) -> None:
    x, y, length = 0.04 * extent[0], 0.04 * extent[1], 20
    axes.plot([x, x + length], [y, y], color=INK, linewidth=1.2, solid_capstyle="butt", path_effects=[OUTLINE])
    axes.text(x, y + 0.02 * extent[1], f"{length} mm", color=INK, fontsize=6.5, path_effects=[OUTLINE])
