"""Synthetic volumes to train on: which of the generator's output an arm may see, on the grid of the real ones."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from scripts.classifier.arms import Arm
from scripts.classifier.centre import image_path
from scripts.common.problems import Problems, UserError
from scripts.data.datalists import Case
from scripts.data.grid import SPACING_TOLERANCE, by, read_grid
from scripts.data.names import is_folder_name, name_of, shown
from scripts.data.outputs import SHEET, read_record
from scripts.data.tables import cell_flag, cell_name, read_table


def read_synthetic(
    root: str | os.PathLike[str],
    arm: Arm,
    *,
    sources: Sequence[Case],
    known: Collection[str],
    channels: Sequence[str] = ("axt2",),
) -> list[Case]:
    """Synthetic volumes made from the reports of `sources`; those of validation and test reports are left out.

    Args:
        root: the generator's output.
        arm: says whether the label is the real case's or the one that the generator predicted from the report.
        sources: the real cases that may be trained on.
        known: folders of all real cases.
        channels: sequences that every volume must have.

    Raises:
        UserError: everything that is wrong with the sheet and the files, such as a grid that is not the real cases'.
    """
    sheet = Path(root) / SHEET
    table = read_table(sheet)
    column = "PIRADS_synth" if arm.synthetic_labels else "PIRADS_real"
    problems = Problems(str(sheet))
    for name in ("folder", column):
        if name not in table:
            problems.add(sheet.name, f"has no column {name}", "make the volumes again with ccella_ldm's inference")
    problems.raise_if_any()
    patients = {case["folder"]: case["patient"] for case in sources}
    cases = []
    for row, cell, label in zip(table.index, table["folder"], table[column], strict=True):
        folder, place = cell_name(cell), f"{sheet.name} row {row}"
        if folder is None or not is_folder_name(folder):
            problems.add(place, f"folder {shown(cell)} is not a folder's name", "format the column as Text")
            continue
        source = source_of(root, folder)
        if source not in known:
            what = "was made from no report of dataset_dir, maybe from a test case"
            problems.add(name_of(folder, place), what, "give its dataset_dir")
        elif source in patients:
            case = _synthetic(Path(root), folder, label, column, channels, problems)
            cases.append(case | {"patient": patients[source]})
    for name, count in Counter(case["folder"] for case in cases).items():
        if count > 1:
            problems.add(name, f"has {count} rows", "keep one")
    _check_grids(cases, sources, problems)
    problems.raise_if_any()
    if not cases:
        raise UserError(f"{sheet}: no volume was made from a training report; run ccella_ldm's inference on train.json")
    return cases


def source_of(root: str | os.PathLike[str], folder: str) -> str:
    """The real case that a synthetic one was made from: what its record says, or else the case of the same name."""
    record = read_record(Path(root), folder)
    return record.source if record else folder


def _synthetic(
    root: Path, folder: str, label: object, column: str, channels: Sequence[str], problems: Problems
) -> Case:
    flag = cell_flag(label)
    if flag is None:
        problems.add(folder, f"{column} is {shown(label)}", "use a variant with a class head, or synthetic_labels 0")
    paths = {channel: root / folder / f"{channel}.nii.gz" for channel in channels}
    for path in (path for path in paths.values() if not path.is_file()):
        problems.add(folder, f"{path.name} is missing", f"put it at {path}, generate it again, or give other channels")
    images = {channel: str(path) for channel, path in paths.items()}
    return {"folder": folder, **images, "label": np.array([flag or 0])}


def _check_grids(cases: Sequence[Case], real: Sequence[Case], problems: Problems) -> None:
    """Note volumes whose size or spacing is not that of the real ones: a network could tell the two apart by it."""
    affine, size = read_grid(image_path(real[0]))
    spacing = nib.affines.voxel_sizes(affine)
    for case in cases:
        path = image_path(case)
        if not path.is_file():
            continue  # noted
        try:
            own_affine, own_size = read_grid(path)
        except ValueError as error:
            problems.add(case["folder"], f"{path.name} {error}", "generate it again")
            continue
        own = nib.affines.voxel_sizes(own_affine)
        if own_size != size or not np.allclose(own, spacing, rtol=0, atol=SPACING_TOLERANCE):
            theirs = f"{by(size)} of {by(spacing.round(4))} mm"
            what = f"has {by(own_size)} voxels of {by(own.round(4))} mm, the real cases {theirs}"
            problems.add(case["folder"], what, "bring both onto one grid")
