"""PROSTATEx: DICOM of The Cancer Imaging Archive, with ProstateX-Findings-Train.csv and ProstateX-Images-Train.csv.

The findings are points. A zone comes with each; side and level need a mask of the prostate, which PROSTATEx lacks.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from scripts.common.problems import Problems, UserError
from scripts.data.tables import cell_flag
from scripts.public.exams import Focus, Point, PublicExam
from scripts.public.masks import Labels, Prostate, focus, read_labels
from scripts.public.series import Series, read_series
from scripts.public.tables import check_options, gather, read_columns, write_exams
from scripts.wording.findings import Place, Side, Zone

FINDINGS = ("ProxID", "fid", "pos", "zone", "ClinSig")
IMAGES = ("ProxID", "Name", "WorldMatrix", "Dim", "DCMSerUID", "DCMSerNum")
ZONES: dict[str, Zone] = {"PZ": "PZ", "TZ": "TZ", "AS": "AFS"}  # SV, the seminal vesicles, is outside the prostate
NAMES = {"t2w": r"t2_tse_tra", "adc": r".*ADC", "dwi": r".*BVAL"}  # what the images' table calls a sequence
CENTRE = "RUMC"
MIDLINE_MM = 5.0  # that the field of view's middle may lie beside the prostate's
NUMBER = re.compile(r"-?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?")


def prostatex(
    images_dir: str,
    findings: str,
    images_table: str,
    output_dir: str,
    *,
    glands_dir: str | None = None,
    test_centres: Sequence[str] | None = None,
    wordings: int = 3,
    seed: int = 0,
) -> None:
    """PROSTATEx: clinically significant findings, reports of them, and the table that `prepare` takes.

    A lesion is a finding that is clinically significant, as in PI-CAI, which has these exams too; exams whose only such
    finding lies in the seminal vesicles are left out. Without masks of the prostate a lesion's side is told from the
    middle of the T2w's field of view, where the finding lies well beside it, and its level is unknown; size always is.

    Args:
        images_dir: the DICOM download, one folder a series.
        findings: ProstateX-Findings-Train.csv.
        images_table: ProstateX-Images-Train.csv.
        output_dir: the folder to write exams.csv, images/, cases.csv and lesions.csv into.
        glands_dir: masks of the prostate on the T2w, <ProxID>.nii.gz: with them side, level, sector and volume.
        test_centres: RUMC, if all exams shall test; without it `prepare` splits by patient.
        wordings: reports of each exam.
        seed: of their wording.

    Raises:
        UserError: everything that is wrong with options, tables and masks.
    """
    check_options(wordings, seed)
    rows, series = defaultdict(list), defaultdict(list)
    for row in read_columns(findings, FINDINGS).to_dict("records"):
        rows[str(row["ProxID"])].append(row)
    for row in read_columns(images_table, IMAGES).to_dict("records"):
        series[str(row["ProxID"])].append(row)
    there = read_series(images_dir)

    def read(name: str, found: Sequence[Mapping[str, Any]], _: Problems) -> PublicExam | str:
        chosen = _choose(series[name], there)
        if "t2w" not in chosen:
            return "whose T2w is not there"
        exam = _exam(name, found, chosen, there, Path(glands_dir) / f"{name}.nii.gz" if glands_dir else None)
        return exam or "whose only significant finding is in the seminal vesicles"

    exams, left_out = gather("prostatex", sorted(rows.items()), read)
    write_exams(exams, output_dir, test_centres=test_centres, wordings=wordings, seed=seed, left_out=left_out)


def _choose(rows: Sequence[Mapping[str, Any]], there: Mapping[str, Series]) -> dict[str, Mapping[str, Any]]:
    """The row of each sequence among those whose series are there; of one that was taken twice the last."""
    chosen = {}
    for sequence, pattern in NAMES.items():
        fitting = [
            row for row in rows if re.match(pattern, str(row["Name"])) and str(row["DCMSerUID"]).strip() in there
        ]
        if fitting:
            chosen[sequence] = max(fitting, key=lambda row: float(row["DCMSerNum"] or 0))
    return chosen


def _exam(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    chosen: Mapping[str, Mapping[str, Any]],
    there: Mapping[str, Series],
    gland_file: Path | None,
) -> PublicExam | None:
    """One exam; None where its only significant finding is none of the prostate."""
    significant = [row for row in rows if _is_significant(row)]
    inside = [row for row in significant if str(row["zone"]).strip().upper() in ZONES]
    if significant and not inside:
        return None
    gland = read_labels(gland_file) if gland_file and gland_file.is_file() else None
    prostate = Prostate(gland) if gland else None
    middle = _middle(chosen["t2w"])
    return PublicExam(
        folder=name,
        patient=name,
        centre=CENTRE,
        images={sequence: there[str(row["DCMSerUID"]).strip()].files for sequence, row in chosen.items()},
        foci=tuple(_focus(row, middle, gland, prostate) for row in inside),
        isup=2 if significant else 0,
        gland_ml=prostate and round(prostate.millilitres, 1),
        gland_mm=prostate and prostate.size_mm,
        gland_centre=prostate and prostate.centre_mm,
    )


def _is_significant(row: Mapping[str, Any]) -> bool:
    flag = cell_flag(row["ClinSig"])
    if flag is None:
        raise UserError(
            "ClinSig is neither TRUE nor FALSE; give the table of the training findings as it was downloaded"
        )
    return bool(flag)


def _focus(row: Mapping[str, Any], middle: Point, gland: Labels | None, prostate: Prostate | None) -> Focus:
    """A finding at its point."""
    zone = ZONES[str(row["zone"]).strip().upper()]
    x, y, z = _numbers(row["pos"], 3, "pos")
    point = (-x, -y, z)  # DICOM's world is LPS
    if prostate is not None:
        voxel = nib.affines.apply_affine(np.linalg.inv(gland.affine), point)
        return focus(voxel[None], gland, prostate, zone=zone)
    aside = point[0] - middle[0]
    side: Side | None = None if abs(aside) < MIDLINE_MM else "right" if aside > 0 else "left"
    return Focus(Place(zone, side), None, (), point)


def _middle(row: Mapping[str, Any]) -> Point:
    """The middle of an image's field of view in RAS world mm."""
    matrix = np.reshape(_numbers(row["WorldMatrix"], 16, "WorldMatrix"), (4, 4))
    size = np.array(_numbers(str(row["Dim"]).replace("x", " "), 3, "Dim"))
    x, y, z = nib.affines.apply_affine(matrix, (size - 1) / 2).tolist()
    return -x, -y, z


def _numbers(cell: Any, count: int, name: str) -> list[float]:
    """The first numbers of a cell, whatever stands between them."""
    found = [float(text) for text in NUMBER.findall(str(cell))]
    if len(found) < count:
        raise UserError(f"{name} does not hold {count} numbers; give the table as it was downloaded")
    return found[:count]
