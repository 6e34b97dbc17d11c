"""UCLA's Prostate-MRI-US-Biopsy of The Cancer Imaging Archive: DICOM, the targets' table, STL surfaces.

There are surfaces of the prostate and of each target, but not of its zones, so a lesion's zone is unknown.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from scripts.common.problems import Problems, UserError
from scripts.public.exams import Focus, PublicExam
from scripts.public.masks import Prostate, axes_mm, focus
from scripts.public.series import Series, latest, read_series
from scripts.public.surfaces import grid_around, inside, read_stl, volume_ml
from scripts.public.tables import check_options, gather, number, read_columns, write_exams

UID, VOLUME, SCORE = "seriesInstanceUID_MR", "ROI Volume (cc)", "UCLA Score (Similar to PIRADS v2)"
NAME = re.compile(r"(?P<patient>.+)-(?:ProstateSurface|Target(?P<target>\d+))-seriesUID-(?P<uid>[\d.]+)\.stl", re.I)
CENTRE = "UCLA"
SPACING = 0.75  # mm of the grid that surfaces are measured on
ALIKE = 1.5  # by which factor a target's volume in the table and inside its surface may differ
NO_TARGET = 2  # the exam's class where nothing was targeted


class Surfaces(NamedTuple):
    """The STL files of one MRI series."""

    patient: str
    gland: Path
    targets: tuple[Path, ...]


def ucla(
    images_dir: str,
    stl_dir: str,
    targets: str,
    output_dir: str,
    *,
    adc: str = "*adc*",
    dwi: str = "*bval*",
    test_centres: Sequence[str] | None = None,
    wordings: int = 3,
    seed: int = 0,
) -> None:
    """UCLA: targets and prostate from their surfaces, reports of them, and the table that `prepare` takes.

    An exam is a T2w with a surface of the prostate; without a target it is one in which nothing suspicious was seen.

    Args:
        images_dir: the DICOM download, one folder a series.
        stl_dir: the folder with the STL files, at any depth.
        targets: the table of the targets, Target Data_2019-12-05.xlsx.
        output_dir: the folder to write exams.csv, images/, cases.csv and lesions.csv into.
        adc: pattern of the ADC map's SeriesDescription, among the series of the T2w's study.
        dwi: pattern of the high b-value's.
        test_centres: UCLA, if all exams shall test; without it `prepare` splits by patient.
        wordings: reports of each exam.
        seed: of their wording.

    Raises:
        UserError: everything that is wrong with options, tables and surfaces.
    """
    check_options(wordings, seed)
    rows = defaultdict(list)
    for row in read_columns(targets, (UID, VOLUME, SCORE)).to_dict("records"):
        rows[str(row[UID]).strip()].append(row)
    surfaces = _surfaces(Path(stl_dir))
    series = {uid: one for uid, one in read_series(images_dir).items() if one.modality == "MR"}
    studies = defaultdict(list)
    for one in series.values():
        studies[one.study].append(one)

    def read(folder: str, uid: str, problems: Problems) -> PublicExam | str:
        if uid not in series:
            return "whose surface is of another image than the MRI that is there (most are of ultrasound)"
        study = studies[series[uid].study]
        images = {"t2w": series[uid], "adc": latest(study, adc), "dwi": latest(study, dwi)}
        exam = _exam(folder, surfaces[uid], images, rows[uid], problems)
        return exam or "of which no target has a score of 1 to 5"

    exams, left_out = gather("ucla", _named(surfaces, series), read)
    write_exams(exams, output_dir, test_centres=test_centres, wordings=wordings, seed=seed, left_out=left_out)


def _named(surfaces: Mapping[str, Surfaces], series: Mapping[str, Series]) -> Iterator[tuple[str, str]]:
    """Exams' names and their UIDs: a patient's are numbered; those without an image have the patient's name alone."""
    counts = Counter()
    for uid, files in sorted(surfaces.items(), key=lambda item: (item[1].patient, item[0])):
        counts[files.patient] += uid in series
        yield (f"{files.patient}_{counts[files.patient]}" if uid in series else files.patient), uid


def _surfaces(stl_dir: Path) -> dict[str, Surfaces]:
    """The surfaces by the UID of the series that they are of."""
    glands: dict[str, tuple[str, Path]] = {}
    targets = defaultdict(list)
    for path in sorted(stl_dir.rglob("*")):
        if not (name := NAME.fullmatch(path.name)):
            continue
        if name["target"]:
            targets[name["uid"]].append(path)
        else:
            glands[name["uid"]] = (name["patient"], path)
    if not glands:
        raise UserError(f"--stl_dir {stl_dir} holds no ...-ProstateSurface-seriesUID-....STL; give the STL download")
    return {uid: Surfaces(patient, path, tuple(targets[uid])) for uid, (patient, path) in glands.items()}


def _exam(
    folder: str,
    files: Surfaces,
    images: Mapping[str, Series | None],
    rows: Sequence[Mapping[str, Any]],
    problems: Problems,
) -> PublicExam | None:
    """One exam; None where it has targets and none of them a score, so that its class is unknown."""
    gland, targets = read_stl(files.gland), [read_stl(path) for path in files.targets]
    grid = grid_around([gland, *targets], SPACING)
    prostate = Prostate(grid._replace(voxels=inside(gland, grid).astype(np.int16)))
    scores = _scores([volume_ml(target) for target in targets], rows, folder, problems)
    foci = []
    for target, score in zip(targets, scores, strict=True):
        mask = inside(target, grid)
        if mask.any():
            one = focus(np.argwhere(mask), grid, prostate, axes_mm(mask, grid.spacing))
            foci.append(Focus(one.place, one.level, one.size_mm, one.centre_mm, pirads=score))
    foci.sort(key=lambda one: (one.pirads or 0, one.size_mm[0]), reverse=True)
    known = [one.pirads for one in foci if one.pirads is not None]
    if foci and not known:
        return None
    return PublicExam(
        folder=folder,
        patient=files.patient,
        centre=CENTRE,
        images={name: one.files for name, one in images.items() if one is not None},
        foci=tuple(foci),
        pirads=max(known, default=NO_TARGET),
        gland_ml=round(prostate.millilitres, 1),
        gland_mm=prostate.size_mm,
        gland_centre=prostate.centre_mm,
    )


def _scores(
    volumes: Sequence[float], rows: Sequence[Mapping[str, Any]], case: str, problems: Problems
) -> list[int | None]:
    """The score of each target, None where it is unknown.

    Table and files name targets differently, but both know their volumes: those that are most alike belong together.
    """
    told = [(number(row[VOLUME], VOLUME, case, problems), number(row[SCORE], SCORE, case, problems)) for row in rows]
    told = [(volume, score) for volume, score in told if volume]
    scores: list[int | None] = [None] * len(volumes)
    apart = np.abs(np.log(np.reshape(volumes, (-1, 1)) / np.reshape([volume for volume, _ in told], (1, -1))))
    for target, row in zip(*linear_sum_assignment(apart), strict=True):
        score = told[row][1]
        if apart[target, row] <= np.log(ALIKE) and score is not None and 1 <= score <= 5:
            scores[target] = int(score)
    return scores
