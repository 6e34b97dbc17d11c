"""Looking at all images of an exam before anything is written: what is wrong with them, and what they tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import combinations
from pathlib import Path

import nibabel as nib
import numpy as np
from monai.data import MetaTensor

from scripts.common.problems import ImageError, Problems
from scripts.data.grid import Grid, field_of_view, grid_affine, slice_angle
from scripts.exams.exam import NAMES, Exam
from scripts.exams.plausible import ADC_UNIT, adc_level, adc_unit_of, is_adc, same_voxels

LARGEST_ANGLE = 45.0  # degrees between the slices and the axial plane; beyond it they are nearer another one
LOW_COVERAGE = 0.6  # share of the grid that an image should at least cover


@dataclass(frozen=True)
class Target:
    """Where exams go and how they are made, the same for all of them.

    Attributes:
        output: the data root.
        adc_unit: mm²/s of a grey level of all ADC maps that the table says nothing of; None is recognised.
        any_plane: sagittal and coronal images are taken, too.
    """

    output: Path
    grid: Grid
    adc_unit: float | None = None
    any_plane: bool = False

    def unit_of(self, exam: Exam) -> float | None:
        """mm²/s of a grey level of an exam's ADC map, as its row says or else the option; None is recognised."""
        return self.adc_unit if exam.adc_unit is None else exam.adc_unit


@dataclass
class Seen:
    """What the images of one exam tell.

    Attributes:
        coverage: share of the grid that each image covers.
        spacing: mm of each image as it was acquired, along the axes closest to R, A, S.
        adc_unit: mm²/s of a grey level.
        notes: what should be told of them.
        digest: of the T2w's voxels.
        levels: 1st, 50th and 99th percentile of each image on the grid, zeros left aside.
        picture: the middle slices, a JPEG in base64.
    """

    adc_unit: float | None = None
    coverage: dict[str, float] = field(default_factory=dict)
    spacing: dict[str, list[float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    digest: str = ""
    levels: dict[str, list[float]] = field(default_factory=dict)
    picture: str = ""


def check_images(exam: Exam, target: Target, problems: Problems) -> Seen:
    """Read all images of an exam, note what is wrong, and return what they tell."""
    volumes: dict[str, MetaTensor] = {}
    seen = Seen(adc_unit=target.unit_of(exam))
    for key, source in exam.images.items():
        try:
            volumes[key] = exam.read(key)
            if not target.any_plane:
                _check_axial(volumes[key])
        except ImageError as error:
            problems.add(exam.folder, f"{key} ({source.name}) {error.what}", error.todo)
        else:
            notes = filter(None, (source.told, *volumes[key].meta["told"]))
            seen.notes += [f"{key} ({source.name}) {note}" for note in notes]
            seen.spacing[key] = _spacing(volumes[key])
    _check_same(exam, volumes, problems)
    if "adc" in volumes:
        _check_adc(exam, volumes["adc"], seen, problems)
    if "axt2" in volumes:
        seen.digest = sha256(volumes["axt2"].numpy().tobytes()).hexdigest()
        _check_places(exam, volumes, target.grid, seen, problems)
    return seen


def affine_of(exam: Exam, grid: Grid, axt2: MetaTensor) -> np.ndarray:
    """The affine of all of an exam's images on the grid: along its T2w, around its centre."""
    return grid_affine(grid, axt2.affine, axt2.shape[1:], exam.centre)


def _spacing(volume: MetaTensor) -> list[float]:
    affine = volume.affine.numpy()
    order = np.argsort(nib.io_orientation(affine)[:, 0])
    return nib.affines.voxel_sizes(affine)[order].round(4).tolist()


def _check_axial(volume: MetaTensor) -> None:
    angle = slice_angle(volume.affine.numpy())
    if angle > LARGEST_ANGLE:
        what = f"has slices at {angle:.0f}° to the axial plane: it is sagittal or coronal"
        raise ImageError(what, "give the axial series, or --any_plane to take it all the same")


def _check_same(exam: Exam, volumes: Mapping[str, MetaTensor], problems: Problems) -> None:
    """One image cannot be two sequences, whether it is one file or a copy under another name."""
    for one, other in combinations(volumes, 2):
        if same_voxels(volumes[one], volumes[other]):
            names = f"{exam.images[one].name} and {exam.images[other].name}"
            what = f"{one} and {other} are one and the same image ({names})"
            problems.add(exam.folder, what, "correct the patterns, or export the right one")


def _check_adc(exam: Exam, adc: MetaTensor, seen: Seen, problems: Problems) -> None:
    """Note values that are no tissue's ADC, and recognise their unit where it is not given."""
    level = adc_level(adc)
    if seen.adc_unit is None:
        seen.adc_unit = adc_unit_of(level)
        if seen.adc_unit is None:
            what = f"adc ({exam.images['adc'].name}) has {level:.3g} in its brightest hundredth, in no plausible unit"
            todo = "give the ADC map, not the DWI; another unit by --adc_unit or --adc_unit_column"
            problems.add(exam.folder, what, todo)
    elif not is_adc(level, seen.adc_unit):
        found = f"{level * seen.adc_unit / ADC_UNIT:.3g}e-6 mm²/s"
        what = f"adc is {found} in its brightest hundredth: not a plausible unit"
        by = "--adc_unit" if exam.adc_unit is None else "unit in the table"
        problems.add(exam.folder, what, f"give another {by}, or none, so that it is recognised")


def _check_places(exam: Exam, volumes: Mapping[str, MetaTensor], grid: Grid, seen: Seen, problems: Problems) -> None:
    """Note how much of the grid every image covers."""
    affine = affine_of(exam, grid, volumes["axt2"])
    seen.coverage = {key: field_of_view(one, grid, affine).float().mean().item() for key, one in volumes.items()}
    centre = "T2w's centre" if exam.centre is None else "given point"
    for key, share in seen.coverage.items():
        if share == 0:
            what = f"{key} ({exam.images[key].name}) does not reach the grid around the {centre}"
            problems.add(exam.folder, what, "correct the point or the image's geometry")
        elif share < LOW_COVERAGE:
            seen.notes.append(f"the {NAMES[key]} covers only {100 * share:.0f} % of the grid; the rest is 0")
