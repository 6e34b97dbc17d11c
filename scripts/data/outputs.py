"""What inference leaves behind: a picture and a record for each generated case, and the sheets and datalists of all.

Nothing here holds report text. A case's record is written last, so that a record means a complete case.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from scripts.data.cases import one_hot, write_datalist
from scripts.files import atomic

RECORD = "generated.json"
SHEET = "synthsheet_all.xlsx"  # one row a generated case
SHEET_COLUMNS = ("folder", "PIRADS_real", "PIRADS_synth", "Label")

BACKGROUND, INK = "#0d0f12", "#e8ebee"
OUTLINE = withStroke(linewidth=1.5, foreground=BACKGROUND)
AXIAL_SLICES = 5
INCHES_PER_MM = 0.024
TITLE_INCHES = 0.34


# ---- pictures --------------------------------------------------------------------------------------------------------


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
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, facecolor=BACKGROUND)


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


# ---- grids -----------------------------------------------------------------------------------------------------------


def grid_affine(
    size: Sequence[int],
    spacing: Sequence[float],
    like: np.ndarray | None = None,
    like_shape: Sequence[int] | None = None,
) -> np.ndarray:
    """Affine (4, 4) in mm of a RAS grid around the world's origin, or around the centre and along the axes of another.

    Args:
        size, spacing: voxels and mm of the grid.
        like: affine of a real image of the case, whose axes run R, A, S; with its shape in `like_shape`.
    """
    size, spacing = np.asarray(size, dtype=float), np.asarray(spacing, dtype=float)
    directions, centre = np.eye(3), np.zeros(3)
    if like is not None:
        directions = like[:3, :3] / np.linalg.norm(like[:3, :3], axis=0)
        centre = like[:3, :3] @ ((np.asarray(like_shape) - 1) / 2) + like[:3, 3]
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    affine[:3, 3] = centre - affine[:3, :3] @ ((size - 1) / 2)
    return affine


# ---- records, sheets and datalists -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """What is known about one generated case.

    Attributes:
        folder: the generated case; `source` is the real case whose report it was made from, "" for a typed report.
        split: the datalist that it belongs to, "" for a typed report.
        pirads_real: the real case's class, 0 or 1; None where there is none.
        pirads_synth: the class that the network predicted from the report; None for variants without a head.
        probability: of the positive class.
        label: the clinical sheet's column Label.
        entry: what else the datalist says: spacing, dataset, patient.
        settings: all that decides how the volume looks; two runs are the same when these are.
        seconds: that sampling (a batch's, shared out), decoding and writing took.
    """

    folder: str
    source: str
    split: str
    replicate: int
    seed: int
    pirads_real: int | None
    pirads_synth: int | None
    probability: float | None
    label: str | None
    sequences: list[str]
    entry: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None

    def write(self, output_dir: Path) -> None:
        """Write it into the case's folder; the volumes must be there already."""
        with atomic(output_dir / self.folder / RECORD) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def read_record(output_dir: Path, folder: str) -> Record | None:
    """The record of a complete case, or None where the case is not there, or not wholly."""
    place = output_dir / folder
    try:
        record = Record(**json.loads((place / RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return record if all((place / f"{sequence}.nii.gz").is_file() for sequence in record.sequences) else None


def find_records(output_dir: Path) -> list[Record]:
    """All complete cases of datalists in the folder, in order of split and folder."""
    names = sorted(path.parent.name for path in output_dir.glob(f"*/{RECORD}"))
    records = [record for name in names if (record := read_record(output_dir, name)) is not None and record.split]
    return sorted(records, key=lambda record: (record.split != "train", record.split))


def write_sheet(path: str | os.PathLike[str], records: Sequence[Record]) -> None:
    """The synthetic sheet: folder, PIRADS_real, PIRADS_synth (empty without a head), Label; one row a case."""
    rows = [(record.folder, record.pirads_real, record.pirads_synth, record.label) for record in records]
    frame = pd.DataFrame(rows, columns=SHEET_COLUMNS).astype({"PIRADS_real": "Int64", "PIRADS_synth": "Int64"})
    with atomic(path) as temporary, pd.ExcelWriter(temporary, engine="openpyxl") as writer:
        frame.to_excel(writer, index=False)
        for row in range(2, len(frame) + 2):
            # As text, or Excel drops the leading zeros of folder names as soon as someone edits the sheet.
            writer.sheets["Sheet1"].cell(row, 1).number_format = "@"


def write_rank_sheets(output_dir: Path, rank: int, records: Sequence[Record]) -> None:
    """One sheet for each split of a rank's own cases, `synthsheet_<rank>_<split>.xlsx`."""
    for split in sorted({record.split for record in records}):
        write_sheet(output_dir / f"synthsheet_{rank}_{split}.xlsx", [r for r in records if r.split == split])


def write_merged(output_dir: Path, records: Sequence[Record]) -> None:
    """`synthsheet_all.xlsx` and a datalist for each split."""
    write_sheet(output_dir / SHEET, records)
    for split in sorted({record.split for record in records}):
        write_datalist(output_dir / f"{split}.json", [datalist_entry(r) for r in records if r.split == split])


def datalist_entry(record: Record) -> Mapping[str, Any]:
    """A generated case as a datalist's case: no report, and the real class where there is one, else the predicted."""
    label = record.pirads_real if record.pirads_real is not None else record.pirads_synth
    return {
        **{sequence: f"./{record.folder}/{sequence}.nii.gz" for sequence in record.sequences},
        **record.entry,
        "folder": record.folder,
        "pirads": one_hot(bool(label)),
        "text": "",
        "text_isnull": 1,
    }
