"""Exams as a hospital has them -> one grid, `train.json`, `test.json`, `clinical.xlsx`: `python -m scripts.prepare`.

Everything is checked first; all problems are told in one table and nothing is written while there is one.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
from scripts.data.grid import FACTOR, GRIDS, Grid, field_of_view, grid_affine, resample, slice_angle
from scripts.data.names import is_folder_name, shown
from scripts.data.nifti import save_int16
from scripts.data.readers import ImageError, read_volume
from scripts.data.root import LISTS
from scripts.data.sources import Finder, Source, read_choices, write_choices
from scripts.data.tables import but_for_zeros, cell_name, read_table
from scripts.data.trees import TREES, check_tree, exam_folders, exam_name, patient_folder

LISTED = ("train", "test")
CHOICES = "series.csv"
LARGEST_ANGLE = 45.0  # degrees between the slices and the axial plane; beyond it they are nearer another one
LOW_COVERAGE = 0.6  # share of the grid that the T2w should at least cover
ZEROS = "Excel drops leading zeros: format the column as Text and type the name again"
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
    images: dict[str, Source]
    institute: str
    listed: str | None = None  # train or test, where the table says it
    told: list[str] = field(default_factory=list)  # what a user should know of its images

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
    b_value: int | None = None,
    volume: int | None = None,
    series: str | None = None,
    any_plane: bool = False,
    tree: str = "exam",
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
    split_column: str | None = None,
    institute: str = "Institute1",
    institute_column: str | None = None,
) -> None:
    """Check every exam, then resample all of them and write the datalists and the clinical sheet.

    Args:
        table: .csv or .xlsx with one row an exam.
        images_dir: the folder that holds one folder an exam.
        output_dir: the data root to write.
        t2w: pattern of the T2w within an exam's folder, e.g. "*_t2w.mha", "t2" for a folder with a DICOM series, or
            "t2_tse_tra*" for a series of that description wherever it lies.
        adc: pattern of the ADC map, where there is one.
        dwi: pattern of the high b-value image, where there is one.
        b_value: of the DWI, s/mm²; by default the one that its series holds, or of series of one each the highest.
        volume: number, from 1, of the volume in files that hold several.
        series: a table series.csv that says which file or series each image is, in place of the patterns.
        any_plane: take sagittal and coronal images, too.
        tree: "exam" (one folder an exam) or "patient/study" (one a patient, with one a study); the table then names an
            exam <patient>/<study>, and the data root <patient>_<study>.
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
        split_column: column that says train or test of each exam, in place of the two above.
        institute: written as `dataset` into the datalists.
        institute_column: column that holds it, where exams are from several.

    Raises:
        UserError: all problems of the options, the table and the images.
    """
    target = _grid(grid, size, spacing)
    columns = {"folder": folder_column, "report": report_column, "pirads": pirads_column, "isup": isup_column}
    columns |= {"patient": patient_column, "split": split_column, "institute": institute_column}
    columns |= _centre_columns(centre_columns, centre_world)
    patterns = {"axt2": str(t2w), "b1600": dwi, "adc": adc}
    _check_folders(Path(images_dir), Path(output_dir))
    check_tree(tree)
    _check_options(columns, test_fraction, seed, adc_unit, {"b_value": b_value, "volume": volume})

    problems = Problems("prepare")
    folders = exam_folders(Path(images_dir), Path(output_dir), tree)
    rows = _read_rows(Path(table), columns, tree, problems)
    rows = _match(rows, set(folders), leave_out_unmatched, problems)
    choices = {} if series is None else read_choices(series, SEQUENCES, problems)
    for folder in sorted({str(folder) for folder, _ in choices} - set(folders)):
        problems.add(Path(series).name, f"folder {shown(folder)} is no exam", "correct it or take its rows out")
    finder = Finder(folders, patterns, b_value, volume, choices)
    exams = [_exam(row, finder, str(centre_world).lower(), institute, problems) for row in rows]
    _check_twice(exams, problems)
    _check_patients(rows, problems)
    if split_column is not None:
        _check_lists(exams, problems)
    coverage = {
        exam.folder: _check_images(exam, target, adc_unit, any_plane, problems)
        for exam in tqdm(exams, "check", disable=None)
    }
    problems.raise_if_any()

    output = Path(output_dir)
    for name in LISTS:  # merged ones hold the split of the run before
        (output / name).unlink(missing_ok=True)
    for exam in tqdm(exams, "resample", disable=None):
        for sequence, volume in _resampled(exam, target, adc_unit):
            save_int16(output / exam.folder / f"{sequence}.nii.gz", volume[0].numpy(), volume.affine.numpy())
    cases = [_case(exam, target) for exam in sorted(exams, key=lambda exam: exam.folder)]
    by_folder = {exam.folder: exam for exam in exams}
    if split_column is None:
        train, test = split(cases, test_fraction, seed)
    else:
        train, test = ([case for case in cases if by_folder[case["folder"]].listed == name] for name in LISTED)
    write_choices(output / CHOICES, ((exam.folder, folders[exam.folder], exam.images) for exam in exams))
    _write_lists(output, train, test, by_folder)
    _summarise(output, target, train, test, coverage)
    for exam in exams:
        for told in exam.told:
            logger.warning("%s: %s", exam.folder, told)


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


def _check_options(
    columns: Mapping[str, str | None], test_fraction: Any, seed: Any, adc_unit: Any, numbers: Mapping[str, Any]
) -> None:
    problems = Problems("prepare")
    if columns["pirads"] is None and columns["isup"] is None:
        problems.add("--pirads_column", "and --isup_column are both missing", "name at least one column with labels")
    if not isinstance(test_fraction, (int, float)) or not 0 <= test_fraction < 1:
        problems.add("--test_fraction", f"is {test_fraction}", "give a share from 0 to below 1, e.g. 0.2")
    if not isinstance(seed, int) or seed < 0:
        problems.add("--seed", f"is {seed}", "give a whole number")
    if not isinstance(adc_unit, (int, float)) or not adc_unit > 0:
        problems.add("--adc_unit", f"is {adc_unit}", "give mm²/s of one grey level, e.g. 1e-6")
    for name, number in numbers.items():
        if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 0):
            problems.add(f"--{name}", f"is {number}", "give a whole number")
    problems.raise_if_any()


# ---- the table -------------------------------------------------------------------------------------------------------


def _read_rows(path: Path, columns: Mapping[str, str | None], tree: str, problems: Problems) -> list[dict[str, Any]]:
    """The table's rows with our names for its columns, and the `place` of each for messages."""
    table = read_table(path)
    wanted = {ours: str(theirs) for ours, theirs in columns.items() if theirs is not None}
    for ours, theirs in wanted.items():
        if theirs not in table:
            there = ", ".join(shown(name) for name in table.columns)
            problems.add(path.name, f"has no column {theirs!r} for the {ours}", f"choose among {there}")
        elif ours != "report" and theirs == wanted["report"]:
            problems.add(path.name, f"column {theirs!r} is given for the report and the {ours}", "name another one")
    problems.raise_if_any()
    if table.empty:
        problems.add(path.name, "has no row", "give one row an exam")
    frame = pd.DataFrame({ours: table[theirs] for ours, theirs in wanted.items()}, dtype=object)
    frame = frame.reindex(columns=["folder", "report", "pirads", "isup", "patient", "split", "institute", *"xyz"])
    if "patient" not in wanted and tree != TREES[0]:
        frame["patient"] = frame["folder"].map(patient_folder)
    frame["folder"] = frame["folder"].map(lambda cell: exam_name(cell, tree))
    frame["patient"] = frame["patient"].map(lambda cell: cell.strip() if isinstance(cell, str) else cell)
    rows = frame.astype(object)
    rows = rows.where(rows.notna(), None).assign(place=[f"{path.name} row {row}" for row in table.index])
    has = {f"has_{name}": name in wanted for name in ("patient", "split", "institute")}
    return rows.assign(**has, has_centre="x" in wanted).to_dict("records")


def _match(
    rows: Sequence[dict[str, Any]], folders: set[str], leave_out: bool, problems: Problems
) -> list[dict[str, Any]]:
    """Hold rows and folders against each other.

    Until its folder is known, an exam is named by its row: what stands in the folder's column may be a report.

    Returns:
        The rows to go on with; `found` says whether the exam's folder is there, `case` what messages call the exam.
    """
    kept, listed, left_out = [], set(), []
    for row in rows:
        folder = cell_name(row["folder"])
        alike = but_for_zeros(folder, folders) if is_folder_name(folder) else []
        row["found"] = folder in folders and (isinstance(row["folder"], str) or not alike)
        row["case"] = folder if row["found"] else row["place"]
        if row["found"]:
            listed.add(folder)
        elif folder and folder != folder.strip() and is_folder_name(folder.strip()):
            listed.add(folder.strip())
            what = f"folder {shown(folder.strip())} has a space at its start or end in the table"
            problems.add(row["case"], what, "take the space away")
        elif not is_folder_name(folder):
            what, todo = f"folder {shown(row['folder'])} is no folder's name", "write it as text, without '/' or '..'"
            if patient_folder(folder) is not None:
                todo += "; where there is one folder a patient with one a study, give --tree patient/study"
            problems.add(row["case"], what, todo)
        elif alike:
            listed.update([folder, *alike])
            there = " and ".join(sorted({folder, *alike} & folders))
            problems.add(row["case"], f"folder is {shown(row['folder'])}, there is {there}", ZEROS)
        elif leave_out:
            left_out.append(row["place"])
            continue
        else:
            problems.add(
                row["case"], f"has no folder: {shown(folder)} is not in images_dir", "correct it or add the exam"
            )
        kept.append(row)
    left_out += _without_row(folders, listed, leave_out, problems)
    if left_out:
        logger.warning("left out, because folder or row is missing: %s", ", ".join(left_out))
    if not kept and not problems:
        problems.add("table", "no row names a folder of images_dir", "correct the folders' names or --images_dir")
    return kept


def _without_row(folders: set[str], listed: set[str], leave_out: bool, problems: Problems) -> list[str]:
    """Folders to leave out; without that option, and where a row may have meant them, they are problems."""
    left_out = []
    for folder in sorted(folders - listed):
        if alike := but_for_zeros(folder, listed):
            problems.add(folder, f"has no row in the table, which has {' and '.join(alike)}", ZEROS)
        elif leave_out:
            left_out.append(folder)
        else:
            problems.add(folder, "has no row in the table", "add one, or give --leave_out_unmatched")
    return left_out


def _exam(row: Mapping[str, Any], finder: Finder, world: str, institute: str, problems: Problems) -> Exam:
    case = row["case"]
    images = finder.images(case, problems) if row["found"] else {}
    patient = cell_name(row["patient"])
    if row["has_patient"] and not patient:
        problems.add(case, f"patient is {shown(row['patient'])}", "write the patient's pseudonym as text")
    pirads, isup = (_grade(row, name, low, case, problems) for name, low in (("pirads", 1), ("isup", 0)))
    if row["pirads"] is None and row["isup"] is None:
        problems.add(case, "has neither PI-RADS nor ISUP", "fill one of them or take the row out")
    if row["has_split"] and row["split"] not in LISTED:
        problems.add(case, f"the split is {shown(row['split'])}", "write train or test")
    if row["has_institute"]:
        institute = cell_name(row["institute"])
        if not institute:
            problems.add(case, f"the institute is {shown(row['institute'])}", "write its name as text")
    report = "" if row["report"] is None else str(row["report"])
    centre = _centre(row, case, world, problems)
    return Exam(case, patient, report, pirads, isup, centre, images, str(institute), row["split"])


def _grade(row: Mapping[str, Any], name: str, low: int, case: str, problems: Problems) -> int | None:
    """A whole number from `low` to 5, or None for an empty cell."""
    if row[name] is None:
        return None
    grades = {text: n for n in range(low, 6) for text in (str(n), f"{n}.0")}
    grade = grades.get(str(row[name]).strip())
    if grade is None:
        problems.add(case, f"{name} is {shown(row[name])}", f"write {low} to 5 or leave it empty")
    return grade


def _centre(row: Mapping[str, Any], case: str, world: str, problems: Problems) -> tuple[float, ...] | None:
    if not row["has_centre"]:
        return None
    try:
        x, y, z = (float(row[axis]) for axis in "xyz")
    except (TypeError, ValueError):
        problems.add(case, "the centre is not three numbers", "write x, y and z in mm")
        return None
    return (-x, -y, z) if world == "lps" else (x, y, z)


def _check_twice(exams: Sequence[Exam], problems: Problems) -> None:
    by_folder = defaultdict(list)
    for exam in exams:
        by_folder[exam.folder].append(exam)
    for folder, same in by_folder.items():
        if len(same) > 1:
            problems.add(folder, f"has {len(same)} rows in the table", "keep one")


def _check_lists(exams: Sequence[Exam], problems: Problems) -> None:
    """A patient whom the table has in both lists."""
    lists: dict[str, str | None] = {}
    for exam in exams:
        if lists.setdefault(exam.patient or exam.folder, exam.listed) != exam.listed:
            problems.add(exam.folder, "is of a patient who has exams in train and in test", "write one of them")


def _check_patients(rows: Sequence[Mapping[str, Any]], problems: Problems) -> None:
    """One patient with two spellings would be two patients, and could be in both lists."""
    spellings: dict[str, dict[str, str]] = defaultdict(dict)  # of each patient: the case that has it first
    for row in rows:
        if patient := cell_name(row["patient"]):
            spellings[patient.casefold()].setdefault(patient, row["case"])
    for (first, place), *others in (cases.items() for cases in spellings.values()):
        for patient, case in others:
            what = f"patient is {shown(patient)}, {place} has {shown(first)}"
            problems.add(case, what, "write it in one way; capitals alone tell no two patients apart")
    names = {row["patient"] for row in rows if isinstance(row["patient"], str)}
    for row in rows:
        number = None if isinstance(row["patient"], str) else cell_name(row["patient"])
        if number is not None and (alike := but_for_zeros(number, names)):
            problems.add(row["case"], f"patient is {number}, other rows have {' and '.join(alike)}", ZEROS)


# ---- the images ------------------------------------------------------------------------------------------------------


def _check_images(exam: Exam, grid: Grid, adc_unit: float, any_plane: bool, problems: Problems) -> float:
    """Read all images of an exam, note what is wrong, and return the share of the grid that the T2w covers."""
    volumes: dict[str, MetaTensor] = {}
    for key, source in exam.images.items():
        try:
            volumes[key] = _volume(source)
            if not any_plane:
                _check_axial(volumes[key])
        except ImageError as error:
            problems.add(exam.folder, f"{key} ({source.name}) {error.what}", error.todo)
            continue
        for told in filter(None, (source.told, *volumes[key].meta["told"])):
            exam.told.append(f"{key} ({source.name}) {told}")
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


def _check_axial(volume: MetaTensor) -> None:
    angle = slice_angle(volume.affine.numpy())
    if angle > LARGEST_ANGLE:
        what = f"has slices at {angle:.0f}° to the axial plane: it is sagittal or coronal"
        raise ImageError(what, "give the axial series, or --any_plane to take it all the same")


def _centre_name(exam: Exam) -> str:
    return "T2w's centre" if exam.centre is None else "given point"


def _affine(grid: Grid, axt2: MetaTensor, exam: Exam) -> np.ndarray:
    """The affine of all of an exam's images: along its T2w, around its centre."""
    return grid_affine(grid, axt2.affine, axt2.shape[1:], exam.centre)


def _volume(source: Source) -> MetaTensor:
    return read_volume(source.path, **source.options)


def _resampled(exam: Exam, grid: Grid, adc_unit: float) -> Iterator[tuple[str, MetaTensor]]:
    """Every image of an exam on the grid, adc in 1e-6 mm²/s; the others keep their scanner's units."""
    affine = _affine(grid, _volume(exam.images["axt2"]), exam)
    for key, source in exam.images.items():
        volume = resample(_volume(source), grid, affine)
        if key == "adc":
            volume = torch.round(volume * (adc_unit / ADC_UNIT)).clamp(0, np.iinfo(np.int16).max)
        yield key, volume


# ---- the lists -------------------------------------------------------------------------------------------------------


def _case(exam: Exam, grid: Grid) -> Case:
    absent = not exam.report.strip()
    return {
        **{key: f"./{exam.folder}/{key}.nii.gz" for key in SEQUENCES if key in exam.images},
        "dataset": exam.institute,
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
