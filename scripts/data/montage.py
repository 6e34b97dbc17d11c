"""Volumes as pictures: slices in the radiologist's orientation, to scale. Nothing here holds report text."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
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
