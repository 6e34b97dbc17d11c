"""Exams as a hospital has them -> one grid, `train.json`, `test.json`, `clinical.xlsx`: `python -m scripts.prepare`.

Everything is checked first; all problems are told in one table and nothing is written while there is one.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import combinations
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
from scripts.data.names import shown
from scripts.data.nifti import save_int16
from scripts.data.plausible import ADC_UNIT, LIKE_DWI, adc_level, adc_unit_of, correlation, is_adc, same_voxels
from scripts.data.readers import ImageError, read_volume
from scripts.data.root import LISTS
from scripts.data.roster import check_patients, grade, match, read_rows
from scripts.data.sources import Finder, Source, read_choices, write_choices
from scripts.data.tables import cell_name, some
from scripts.data.trees import check_tree, exam_folders
from scripts.reports.language import guess_language

LISTED = ("train", "test")
CHOICES = "series.csv"
LARGEST_ANGLE = 45.0  # degrees between the slices and the axial plane; beyond it they are nearer another one
LOW_COVERAGE = 0.6  # share of the grid that an image should at least cover
NAMES = {"axt2": "T2w", "adc": "ADC map", "b1600": "DWI"}

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
    listed: str | None  # train or test, where the table says it

    def read(self, key: str) -> MetaTensor:
        """One of its images, (1, X, Y, Z)."""
        source = self.images[key]
        return read_volume(source.path, **source.options)

    @property
    def positive(self) -> bool:
        """PI-RADS 3 or more; without PI-RADS, ISUP 2 or more."""
        return self.pirads >= 3 if self.pirads is not None else self.isup >= 2


@dataclass
class Seen:
    """What the images of one exam tell."""

    coverage: dict[str, float]  # share of the grid that each image covers
    adc_unit: float | None  # mm²/s of a grey level
    notes: list[str]  # what should be told of them
    digest: str  # of the T2w's voxels


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
    adc_unit: float | None = None,
    remove_withdrawn: bool = False,
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
        adc_unit: mm²/s that one grey level of the ADC maps stands for; by default recognised, exam by exam.
        remove_withdrawn: remove the images that an earlier run left in `output_dir` and that no exam of the table has
            any more; without it they are told.
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
    rows = read_rows(Path(table), columns, tree, problems)
    rows = match(rows, set(folders), leave_out_unmatched, problems)
    choices = {} if series is None else read_choices(series, SEQUENCES, problems)
    for folder in sorted({str(folder) for folder, _ in choices} - set(folders)):
        problems.add(Path(series).name, f"folder {shown(folder)} is no exam", "correct it or take its rows out")
    finder = Finder(folders, patterns, b_value, volume, choices)
    exams = [_exam(row, finder, str(centre_world).lower(), institute, problems) for row in rows]
    check_patients(rows, problems)
    if split_column is not None:
        _check_lists(exams, problems)
    seen = {
        exam.folder: _check_images(exam, target, adc_unit, any_plane, problems)
        for exam in tqdm(exams, "check", disable=None)
    }
    problems.raise_if_any()

    output = Path(output_dir)
    for name in LISTS:  # merged ones hold the split of the run before
        (output / name).unlink(missing_ok=True)
    _withdraw(output, exams, remove_withdrawn)
    for exam in tqdm(exams, "resample", disable=None):
        volumes = dict(_resampled(exam, target, seen[exam.folder].adc_unit))
        for sequence, volume in volumes.items():
            save_int16(output / exam.folder / f"{sequence}.nii.gz", volume[0].numpy(), volume.affine.numpy())
        seen[exam.folder].notes += _like_dwi(volumes)
    cases = [_case(exam, target) for exam in sorted(exams, key=lambda exam: exam.folder)]
    by_folder = {exam.folder: exam for exam in exams}
    if split_column is None:
        train, test = split(cases, test_fraction, seed)
    else:
        train, test = ([case for case in cases if by_folder[case["folder"]].listed == name] for name in LISTED)
    write_choices(output / CHOICES, ((exam.folder, folders[exam.folder], exam.images) for exam in exams))
    _write_lists(output, train, test, by_folder)
    _summarise(output, target, train, test, seen)


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
    for name, least in (("b_value", 0), ("volume", 1)):
        number = numbers[name]
        if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < least):
            problems.add(f"--{name}", f"is {number}", f"give a whole number from {least}")
    if adc_unit is not None and (not isinstance(adc_unit, (int, float)) or not adc_unit > 0):
        problems.add("--adc_unit", f"is {adc_unit}", "give mm²/s of one grey level, e.g. 1e-6")
    problems.raise_if_any()


# ---- an exam ---------------------------------------------------------------------------------------------------------


def _exam(row: Mapping[str, Any], finder: Finder, world: str, institute: str, problems: Problems) -> Exam:
    case = row["case"]
    images = finder.images(case, problems) if row["found"] else {}
    patient = cell_name(row["patient"])
    pirads, isup = (grade(row, name, low, problems) for name, low in (("pirads", 1), ("isup", 0)))
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


def _check_lists(exams: Sequence[Exam], problems: Problems) -> None:
    """A patient whom the table has in both lists."""
    lists: dict[str, str | None] = {}
    for exam in exams:
        if lists.setdefault(exam.patient or exam.folder, exam.listed) != exam.listed:
            problems.add(exam.folder, "is of a patient who has exams in train and in test", "write one of them")


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


def _check_images(exam: Exam, grid: Grid, adc_unit: float | None, any_plane: bool, problems: Problems) -> Seen:
    """Read all images of an exam, note what is wrong, and return what they tell."""
    volumes: dict[str, MetaTensor] = {}
    seen = Seen({}, adc_unit, [], "")
    for key, source in exam.images.items():
        try:
            volumes[key] = exam.read(key)
            if not any_plane:
                _check_axial(volumes[key])
        except ImageError as error:
            problems.add(exam.folder, f"{key} ({source.name}) {error.what}", error.todo)
        else:
            notes = filter(None, (source.told, *volumes[key].meta["told"]))
            seen.notes += [f"{key} ({source.name}) {note}" for note in notes]
    _check_same(exam, volumes, problems)
    if "adc" in volumes:
        _check_adc(exam, volumes["adc"], seen, problems)
    if "axt2" in volumes:
        seen.digest = sha256(volumes["axt2"].numpy().tobytes()).hexdigest()
        _check_places(exam, volumes, grid, seen, problems)
    return seen


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
            problems.add(exam.folder, what, "give the ADC map, not the DWI; for another unit give --adc_unit")
    elif not is_adc(level, seen.adc_unit):
        what = (
            f"adc is {level * seen.adc_unit / ADC_UNIT:.3g}e-6 mm²/s in its brightest hundredth: not a plausible unit"
        )
        problems.add(exam.folder, what, "give another --adc_unit, or none, so that it is recognised")


def _check_places(exam: Exam, volumes: Mapping[str, MetaTensor], grid: Grid, seen: Seen, problems: Problems) -> None:
    """Note how much of the grid every image covers."""
    affine = _affine(grid, volumes["axt2"], exam)
    seen.coverage = {key: field_of_view(one, grid, affine).float().mean().item() for key, one in volumes.items()}
    for key, share in seen.coverage.items():
        if share == 0:
            what = f"{key} ({exam.images[key].name}) does not reach the grid around the {_centre_name(exam)}"
            problems.add(exam.folder, what, "correct the point or the image's geometry")
        elif share < LOW_COVERAGE:
            seen.notes.append(f"the {NAMES[key]} covers only {100 * share:.0f} % of the grid; the rest is 0")


def _centre_name(exam: Exam) -> str:
    return "T2w's centre" if exam.centre is None else "given point"


def _affine(grid: Grid, axt2: MetaTensor, exam: Exam) -> np.ndarray:
    """The affine of all of an exam's images: along its T2w, around its centre."""
    return grid_affine(grid, axt2.affine, axt2.shape[1:], exam.centre)


def _resampled(exam: Exam, grid: Grid, adc_unit: float | None) -> Iterator[tuple[str, MetaTensor]]:
    """Every image of an exam on the grid, adc in 1e-6 mm²/s; the others keep their scanner's units."""
    axt2 = exam.read("axt2")
    affine = _affine(grid, axt2, exam)
    for key in exam.images:
        volume = resample(axt2 if key == "axt2" else exam.read(key), grid, affine)
        if key == "adc":
            volume = torch.round(volume * (adc_unit / ADC_UNIT)).clamp(0, np.iinfo(np.int16).max)
        yield key, volume


def _like_dwi(volumes: Mapping[str, MetaTensor]) -> list[str]:
    """What to tell of an ADC map on the grid that is bright where the DWI is, as only another DWI is."""
    if not {"adc", "b1600"} <= volumes.keys():
        return []
    adc, dwi = (volumes[key].as_tensor() for key in ("adc", "b1600"))
    alike = correlation(adc, dwi, (adc > 0) & (dwi > 0))
    return (
        [f"the ADC map is bright where the DWI is (correlation {alike:.2f}): is it a DWI?"] if alike > LIKE_DWI else []
    )


def _withdraw(output: Path, exams: Sequence[Exam], remove: bool) -> None:
    """Tell of images of an earlier run that this one does not write, or remove them."""
    kept = {output / exam.folder / f"{key}.nii.gz" for exam in exams for key in exam.images}
    left = [path for key in SEQUENCES for path in output.glob(f"*/{key}.nii.gz") if path not in kept]
    if not left:
        return
    names = some(sorted({path.parent.name for path in left}))
    if not remove:
        what = "images of an earlier run that the table does not have any more are still in"
        logger.warning("%s %s: %s; --remove_withdrawn removes them", what, output, names)
        return
    for path in left:
        path.unlink()
        if not any(path.parent.iterdir()):
            path.parent.rmdir()
    what = "removed the images that the table does not have any more"
    logger.warning("%s: %s; latents, embeddings and weights made of them are not here and stay", what, names)


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


def _summarise(output: Path, grid: Grid, train: Sequence[Case], test: Sequence[Case], seen: Mapping[str, Seen]) -> None:
    logger.info("%s: grid %s at %s mm", output, "x".join(map(str, grid.size)), "x".join(map(str, grid.spacing)))
    for name, cases in (("train", train), ("test", test)):
        positive = sum(case["pirads"] == [0, 1] for case in cases)
        absent = sum(case["text_isnull"] for case in cases)
        patients = len({patient_of(case) for case in cases})
        logger.info(
            "%-5s %d exams of %d patients: %d positive, %d negative; %d without a report",
            name, len(cases), patients, positive, len(cases) - positive, absent,
        )  # fmt: skip
    languages = Counter(guess_language(case["text"]) for case in (*train, *test) if not case["text_isnull"])
    if languages:
        counts = ", ".join(f"{count} {language}" for language, count in languages.most_common())
        asked = "" if set(languages) == {"English"} else "; does the text encoder know them all?"
        logger.info("reports by language, as guessed: %s%s", counts, asked)
    units: dict[float, list[str]] = defaultdict(list)
    digests: dict[str, list[str]] = defaultdict(list)
    for folder, exam in sorted(seen.items()):
        digests[exam.digest].append(folder)
        if "adc" in exam.coverage:
            units[exam.adc_unit].append(folder)
        for note in exam.notes:
            logger.warning("%s: %s", folder, note)
    if len(units) > 1:
        for unit, folders in sorted(units.items()):
            logger.warning("ADC maps in %g mm²/s, %d: %s", unit, len(folders), some(folders))
    for folders in digests.values():
        if len(folders) > 1:
            logger.warning("the T2w of these exams is one and the same image, are they one exam? %s", some(folders))


if __name__ == "__main__":
    run(prepare)
