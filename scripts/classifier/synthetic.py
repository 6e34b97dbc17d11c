"""Synthetic volumes to train on: which of the generator's output an arm may see, on the grid of the real ones."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from scripts.classifier.arms import Arm
from scripts.classifier.centre import image_path
from scripts.classifier.origin import Origins
from scripts.common.problems import Problems, UserError
from scripts.data.datalists import Case, patient_of
from scripts.data.grid import SPACING_TOLERANCE, by, read_grid
from scripts.data.names import is_folder_name, name_of, shown
from scripts.data.outputs import SHEET
from scripts.data.tables import cell_flag, cell_name, read_table

logger = logging.getLogger(__name__)


def read_synthetic(
    root: str | os.PathLike[str],
    arm: Arm,
    *,
    sources: Sequence[Mapping[str, Any]],
    origins: Origins,
    real: Sequence[Case],
    channels: Sequence[str] = ("axt2",),
) -> list[Case]:
    """Synthetic volumes made from the reports of `sources`; those of all other reports are passed over, and counted.

    Args:
        root: the generator's output.
        arm: says how many volumes of a report are taken, and whether the label is the real case's or the one that the
            generator predicted from the report.
        sources: the real training cases, and the reports without images, that may be trained on.
        origins: tells whose report a volume was made from, and refuses what is not what its name says.
        real: real cases, whose grid the volumes must have.
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
    patients = {case["folder"]: patient_of(case) for case in sources}
    cases, volumes, others = [], Counter[str](), 0
    for row, cell, label in zip(table.index, table["folder"], table[column], strict=True):
        folder, place = cell_name(cell), f"{sheet.name} row {row}"
        if folder is None or not is_folder_name(folder):
            problems.add(place, f"folder {shown(cell)} is not a folder's name", "format the column as Text")
            continue
        origin = origins.find(folder, name_of(folder, place), problems)
        if origin is None:
            continue
        if origin.source not in patients:
            others += 1
        elif arm.replicates is None or origin.replicate < arm.replicates:
            volumes[origin.source] += 1
            case = _synthetic(Path(root), folder, label, column, channels, problems)
            cases.append(case | {"patient": patients[origin.source]})
    for name, count in Counter(case["folder"] for case in cases).items():
        if count > 1:
            problems.add(name, f"has {count} rows", "keep one")
    _check_replicates(volumes, arm.replicates, problems)
    _check_grids(cases, real, problems)
    problems.raise_if_any()
    if not cases:
        raise UserError(f"{sheet}: no volume was made from a training report; run ccella_ldm's inference on train.json")
    if others:
        logger.info("passed over %d synthetic volumes, which were made from no report of a training case", others)
    return cases


def _check_replicates(volumes: Mapping[str, int], replicates: int | None, problems: Problems) -> None:
    few = [source for source, count in volumes.items() if count < (replicates or 1)]
    if few:
        what = f"has fewer than {replicates} volumes of {len(few)} reports, the first of them {few[0]}"
        problems.add("replicates", what, f"generate with --replicates {replicates}, or give fewer")


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
