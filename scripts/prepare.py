"""Exams as a hospital has them -> one grid, `train.json`, `test.json`, `clinical.xlsx`: `python -m scripts.prepare`.

Everything is checked first; all problems are told in one table and nothing is written while there is one.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from monai.data import MetaTensor
from tqdm import tqdm

from scripts.cli.run import run
from scripts.common.problems import Problems, UserError
from scripts.data.clinical import write_clinical
from scripts.data.datalists import SEQUENCES, Case, is_spacing, one_hot, patient_of, write_datalist
from scripts.data.grid import FACTOR, GRIDS, Grid, field_of_view, grid_affine, resample
from scripts.data.nifti import save_int16
from scripts.data.readers import ImageError, read_volume
from scripts.data.root import LISTS
from scripts.data.roster import check_patients, exam_folders, grade, match, read_rows
from scripts.data.tables import cell_name

LOW_COVERAGE = 0.6  # share of the grid that the T2w should at least cover
ADC_UNIT = 1e-6  # mm²/s, the unit of adc on disk
# What the 99th percentile of tissue's ADC can be, in 1e-6 mm²/s; free water at body temperature has 3000.
ADC_PLAUSIBLE = (300, 10_000)

logger = logging.getLogger(__name__)


@dataclass
class Exam:
    """One row of the table with the images that belong to it."""

    folder: str
    patient: str | None
    report: str
    pirads: int | None  # 1 to 5
    isup: int | None  # 0 to 5
    centre: tuple[float, ...] | None  # RAS world, mm
    images: dict[str, Path]

    @property
    def positive(self) -> bool:
        """PI-RADS 3 or more; without PI-RADS, ISUP 2 or more."""
        return self.pirads >= 3 if self.pirads is not None else self.isup >= 2


def prepare(
    table: str,
    images_dir: str,
    output_dir: str,
    *,
    t2w: str,
    adc: str | None = None,
    dwi: str | None = None,
    grid: str = "reference",
    size: Sequence[int] | None = None,
    spacing: Sequence[float] | None = None,
    folder_column: str = "folder",
    report_column: str = "report",
    pirads_column: str | None = None,
    isup_column: str | None = None,
    patient_column: str | None = None,
    centre_columns: Sequence[str] | None = None,
    centre_world: str | None = None,
    adc_unit: float = ADC_UNIT,
    leave_out_unmatched: bool = False,
    test_fraction: float = 0.2,
    seed: int = 0,
    institute: str = "Institute1",
) -> None:
    """Check every exam, then resample all of them and write the datalists and the clinical sheet.

    Args:
        table: .csv or .xlsx with one row an exam.
        images_dir: the folder that holds one folder an exam.
        output_dir: the data root to write.
        t2w: pattern of the T2w within an exam's folder, e.g. "*_t2w.mha" or "t2" for a folder with a DICOM series.
        adc: pattern of the ADC map, where there is one.
        dwi: pattern of the high b-value image, where there is one.
        grid: "reference" (256x256x128 at 0.5x0.5x0.5625 mm) or "demo" (64x64x32 at 1.25x1.25x1.875 mm).
        size: voxels x,y,z of another grid, together with `spacing`.
        spacing: mm x,y,z of another grid.
        folder_column: column with the name of the exam's folder.
        report_column: column with the report; an empty cell is an absent report.
        pirads_column: column with PI-RADS 1 to 5.
        isup_column: column with the ISUP grade 0 to 5; it is the label where PI-RADS is empty.
        patient_column: column that tells the patient; without it every exam is a patient of its own.
        centre_columns: three columns x,y,z with the point that the grid lies around; without it the T2w's centre.
        centre_world: "ras" (NIfTI) or "lps" (DICOM, ITK): which way the x and y of that point run.
        adc_unit: mm²/s that one grey level of the ADC map stands for.
        leave_out_unmatched: leave out, and tell, rows without a folder and folders without a row, which are problems
            without it.
        test_fraction: share of the patients that go into the test list, of positive and negative ones alike.
        seed: of the split.
        institute: written as `dataset` into the datalists.

    Raises:
        UserError: all problems of the options, the table and the images.
    """
    target = _grid(grid, size, spacing)
    columns = {"folder": folder_column, "report": report_column, "pirads": pirads_column, "isup": isup_column}
    columns |= {"patient": patient_column} | _centre_columns(centre_columns, centre_world)
    patterns = {"axt2": str(t2w), "b1600": dwi, "adc": adc}
    _check_folders(Path(images_dir), Path(output_dir))
    _check_options(columns, test_fraction, seed, adc_unit)

    problems = Problems("prepare")
    rows = read_rows(Path(table), columns, problems)
    rows = match(rows, exam_folders(Path(images_dir), Path(output_dir)), leave_out_unmatched, problems)
    exams = [_exam(row, Path(images_dir), patterns, str(centre_world).lower(), problems) for row in rows]
    check_patients(rows, problems)
    coverage = {
        exam.folder: _check_images(exam, target, adc_unit, problems) for exam in tqdm(exams, "check", disable=None)
    }
    problems.raise_if_any()

    output = Path(output_dir)
    for name in LISTS:  # merged ones hold the split of the run before
        (output / name).unlink(missing_ok=True)
    for exam in tqdm(exams, "resample", disable=None):
        for sequence, volume in _resampled(exam, target, adc_unit):
            save_int16(output / exam.folder / f"{sequence}.nii.gz", volume[0].numpy(), volume.affine.numpy())
    cases = [_case(exam, target, institute) for exam in sorted(exams, key=lambda exam: exam.folder)]
    train, test = split(cases, test_fraction, seed)
    _write_lists(output, train, test, {exam.folder: exam for exam in exams})
    _summarise(output, target, train, test, coverage)


# ---- options ---------------------------------------------------------------------------------------------------------


def _grid(name: str, size: Sequence[int] | None, spacing: Sequence[float] | None) -> Grid:
    if (size is None) != (spacing is None):
        raise UserError("--size and --spacing belong together; give both or neither")
    if size is None:
        if name not in GRIDS:
            raise UserError(f"--grid {name} is unknown; choose {' or '.join(GRIDS)}, or give --size and --spacing")
        return GRIDS[name]
    if not is_spacing(spacing):
        raise UserError("--spacing must be three positive numbers in mm, e.g. 0.5,0.5,0.5625")
    if not is_spacing(size) or any(n != int(n) or n % FACTOR for n in size):
        raise UserError(f"--size must be three whole numbers that {FACTOR} divides, e.g. 256,256,128")
    return Grid(tuple(map(int, size)), tuple(map(float, spacing)))


def _centre_columns(names: Sequence[str] | None, world: str | None) -> dict[str, str]:
    if names is None:
        return {}
    if isinstance(names, str) or len(names) != 3:
        raise UserError("--centre_columns must name three columns, e.g. x,y,z")
    if str(world).lower() not in ("ras", "lps"):
        raise UserError("--centre_columns needs --centre_world ras (points from NIfTI tools) or lps (DICOM, ITK)")
    return dict(zip("xyz", map(str, names), strict=True))


def _check_folders(images_dir: Path, output_dir: Path) -> None:
    if not images_dir.is_dir():
        raise UserError(f"--images_dir {images_dir} is not a folder; give the one that holds the exams")
    if images_dir.resolve() == output_dir.resolve():
        raise UserError("--output_dir is the folder of the exams; give another one, so that no exam is overwritten")
    if output_dir.exists() and not output_dir.is_dir():
        raise UserError(f"--output_dir {output_dir} is a file; give a folder")


def _check_options(columns: Mapping[str, str | None], test_fraction: Any, seed: Any, adc_unit: Any) -> None:
    problems = Problems("prepare")
    if columns["pirads"] is None and columns["isup"] is None:
        problems.add("--pirads_column", "and --isup_column are both missing", "name at least one column with labels")
    if not isinstance(test_fraction, (int, float)) or not 0 <= test_fraction < 1:
        problems.add("--test_fraction", f"is {test_fraction}", "give a share from 0 to below 1, e.g. 0.2")
    if not isinstance(seed, int) or seed < 0:
        problems.add("--seed", f"is {seed}", "give a whole number")
    if not isinstance(adc_unit, (int, float)) or not adc_unit > 0:
        problems.add("--adc_unit", f"is {adc_unit}", "give mm²/s of one grey level, e.g. 1e-6")
    problems.raise_if_any()


# ---- an exam ---------------------------------------------------------------------------------------------------------


def _exam(
    row: Mapping[str, Any], root: Path, patterns: Mapping[str, str | None], world: str, problems: Problems
) -> Exam:
    case = row["case"]
    images = {}
    if row["found"]:
        images = {key: _find(root / case, key, p, problems) for key, p in patterns.items() if p is not None}
    patient = cell_name(row["patient"])
    pirads, isup = (grade(row, name, low, problems) for name, low in (("pirads", 1), ("isup", 0)))
    if row["pirads"] is None and row["isup"] is None:
        problems.add(case, "has neither PI-RADS nor ISUP", "fill one of them or take the row out")
    report = "" if row["report"] is None else str(row["report"])
    images = {key: path for key, path in images.items() if path is not None}
    return Exam(case, patient, report, pirads, isup, _centre(row, case, world, problems), images)


def _find(folder: Path, key: str, pattern: str, problems: Problems) -> Path | None:
    """The one file or folder that the pattern names."""
    try:
        found = sorted(path for path in folder.glob(str(pattern)) if not path.name.startswith("."))
        if all(path.resolve().is_relative_to(folder.resolve()) for path in found):
            if len(found) == 1:
                return found[0]
            todo = "correct the pattern or the folder"
            if found:
                problems.add(
                    folder.name, f"{key}: {pattern} fits {len(found)}: {found[0].name}, {found[1].name} ...", todo
                )
            else:
                problems.add(folder.name, f"{key}: nothing fits {pattern}", todo)
            return None
    except (ValueError, NotImplementedError):  # an absolute or otherwise unusable pattern
        pass
    problems.add(folder.name, f"{key}: {pattern} leaves the exam's folder", "give a pattern inside it, like *_t2w.mha")
    return None


def _centre(row: Mapping[str, Any], case: str, world: str, problems: Problems) -> tuple[float, ...] | None:
    if not row["has_centre"]:
        return None
    try:
        x, y, z = (float(row[axis]) for axis in "xyz")
    except (TypeError, ValueError):
        problems.add(case, "the centre is not three numbers", "write x, y and z in mm")
        return None
    return (-x, -y, z) if world == "lps" else (x, y, z)


# ---- the images ------------------------------------------------------------------------------------------------------


def _check_images(exam: Exam, grid: Grid, adc_unit: float, problems: Problems) -> float:
    """Read all images of an exam, note what is wrong, and return the share of the grid that the T2w covers."""
    volumes: dict[str, MetaTensor] = {}
    for key, path in exam.images.items():
        try:
            volumes[key] = read_volume(path)
        except ImageError as error:
            problems.add(exam.folder, f"{key} ({path.name}) {error.what}", error.todo)
    if "adc" in volumes:
        level = np.percentile(volumes["adc"].numpy(), 99) * adc_unit / ADC_UNIT
        if not ADC_PLAUSIBLE[0] <= level <= ADC_PLAUSIBLE[1]:
            what = f"adc is {level:.3g}e-6 mm²/s in its brightest hundredth: not a plausible unit"
            problems.add(exam.folder, what, "give --adc_unit, e.g. 1e-3 for maps in 1e-3 mm²/s")
    if "axt2" not in volumes:
        return 0.0
    affine = _affine(grid, volumes["axt2"], exam)
    covered = {key: field_of_view(volume, grid, affine).float().mean().item() for key, volume in volumes.items()}
    for key, share in covered.items():
        if share == 0:
            what = f"{key} ({exam.images[key].name}) does not reach the grid around the {_centre_name(exam)}"
            problems.add(exam.folder, what, "correct the point or the image's geometry")
    return covered["axt2"]


def _centre_name(exam: Exam) -> str:
    return "T2w's centre" if exam.centre is None else "given point"


def _affine(grid: Grid, axt2: MetaTensor, exam: Exam) -> np.ndarray:
    """The affine of all of an exam's images: along its T2w, around its centre."""
    return grid_affine(grid, axt2.affine, axt2.shape[1:], exam.centre)


def _resampled(exam: Exam, grid: Grid, adc_unit: float) -> Iterator[tuple[str, MetaTensor]]:
    """Every image of an exam on the grid, adc in 1e-6 mm²/s; the others keep their scanner's units."""
    affine = _affine(grid, read_volume(exam.images["axt2"]), exam)
    for key, path in exam.images.items():
        volume = resample(read_volume(path), grid, affine)
        if key == "adc":
            volume = torch.round(volume * (adc_unit / ADC_UNIT)).clamp(0, np.iinfo(np.int16).max)
        yield key, volume


# ---- the lists -------------------------------------------------------------------------------------------------------


def _case(exam: Exam, grid: Grid, institute: str) -> Case:
    absent = not exam.report.strip()
    return {
        **{key: f"./{exam.folder}/{key}.nii.gz" for key in SEQUENCES if key in exam.images},
        "dataset": str(institute),
        "folder": exam.folder,
        **({"patient": exam.patient} if exam.patient else {}),
        "pirads": one_hot(exam.positive),
        "spacing": list(grid.spacing),
        "text": "" if absent else exam.report,
        "text_isnull": int(absent),
    }


def split(cases: Sequence[Case], test_fraction: float, seed: int) -> tuple[list[Case], list[Case]]:
    """Split by patient: of the patients with a positive exam, and of the others, the same share goes to the test list.

    The split depends on the patients' names, labels and the seed, not on the order of the cases. scikit-learn's grouped
    splitters take no share or refuse classes of one patient, which small data sets have.

    Returns:
        The training and the test cases, each in the order of `cases`.
    """
    positive: dict[str, bool] = defaultdict(bool)
    for case in cases:
        positive[patient_of(case)] |= case["pirads"] == [0, 1]
    generator = np.random.default_rng(seed)
    test_patients: set[str] = set()
    for label in (False, True):
        patients = sorted(patient for patient, is_positive in positive.items() if is_positive == label)
        count = int(len(patients) * test_fraction + 0.5)
        test_patients.update(patients[i] for i in generator.permutation(len(patients))[:count])
    in_test = [patient_of(case) in test_patients for case in cases]
    return (
        [case for case, is_test in zip(cases, in_test, strict=True) if not is_test],
        [case for case, is_test in zip(cases, in_test, strict=True) if is_test],
    )


def _write_lists(output: Path, train: Sequence[Case], test: Sequence[Case], exams: Mapping[str, Exam]) -> None:
    """Last of all, so that a run that was cut off does not look complete."""
    rows = []
    for name, cases in (("train", train), ("test", test)):
        for exam in (exams[case["folder"]] for case in cases):
            pirads = None if exam.pirads is None else int(exam.pirads >= 3)
            isup = None if exam.isup is None else int(exam.isup >= 2)
            rows.append({"folder": exam.folder, "PosPIRADS": pirads, "PosISUP": isup, "Label": name})
            if exam.patient:
                rows[-1]["patient"] = exam.patient
    write_clinical(output / "clinical.xlsx", pd.DataFrame(rows))
    write_datalist(output / "test.json", test)
    write_datalist(output / "train.json", train)


def _summarise(
    output: Path, grid: Grid, train: Sequence[Case], test: Sequence[Case], coverage: Mapping[str, float]
) -> None:
    logger.info("%s: grid %s at %s mm", output, "x".join(map(str, grid.size)), "x".join(map(str, grid.spacing)))
    for name, cases in (("train", train), ("test", test)):
        positive = sum(case["pirads"] == [0, 1] for case in cases)
        absent = sum(case["text_isnull"] for case in cases)
        patients = len({patient_of(case) for case in cases})
        logger.info(
            "%-5s %d exams of %d patients: %d positive, %d negative; %d without a report",
            name, len(cases), patients, positive, len(cases) - positive, absent,
        )  # fmt: skip
    for folder, share in sorted(coverage.items()):
        if share < LOW_COVERAGE:
            logger.warning("%s: the T2w covers only %.0f %% of the grid; the rest is 0", folder, 100 * share)


if __name__ == "__main__":
    run(prepare)
