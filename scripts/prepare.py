"""Exams as a hospital has them -> one grid, `train.json`, `test.json`, `clinical.xlsx`: `python -m scripts.prepare`.

Everything is checked first; all problems are told in one table and nothing is written while there is one. What was
decided is written into `plan.json`, and shown with a picture of every exam on `prepare.html`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from scripts.cli.run import run
from scripts.common.problems import Problems, UserError
from scripts.data.datalists import SEQUENCES, Case, check_split, is_size, is_spacing
from scripts.data.grid import FACTOR, GRIDS, Grid
from scripts.data.names import shown
from scripts.data.plan import PLAN, Plan, read_plan, write_plan
from scripts.data.root import LISTS
from scripts.exams.check import Seen, Target
from scripts.exams.exam import LISTED, Exam, read_exam
from scripts.exams.figures import figures, summarise
from scripts.exams.finished import Looked, finish, look
from scripts.exams.lists import withdraw, write_lists
from scripts.exams.page import PAGE, write_page
from scripts.exams.roster import check_patients, match, read_rows
from scripts.exams.sources import Finder, read_choices, write_choices
from scripts.exams.split import split
from scripts.exams.trees import check_tree, exam_folders
from scripts.exams.workers import for_each

CHOICES = "series.csv"

logger = logging.getLogger(__name__)


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
    grid: str | None = None,
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
    adc_unit_column: str | None = None,
    remove_withdrawn: bool = False,
    leave_out_unmatched: bool = False,
    test_fraction: float = 0.2,
    seed: int = 0,
    split_column: str | None = None,
    institute: str = "Institute1",
    institute_column: str | None = None,
    workers: int | None = None,
) -> None:
    """Check every exam, then resample all of them and write the datalists, the clinical sheet, the plan and its page.

    Stopped and given again, it goes on with the exams that are not finished.

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
        grid: "reference" (256x256x128 at 0.5x0.5x0.5625 mm) or "demo" (64x64x32 at 1.25x1.25x1.875 mm); by default that
            of the plan.json in `output_dir`, and where there is none the first.
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
        adc_unit_column: column that says it of each exam, as a number or as a unit such as µm²/s; what is above holds
            where its cell is empty.
        remove_withdrawn: remove the images that an earlier run left in `output_dir` and that no exam of the table has
            any more; without it they are told.
        leave_out_unmatched: leave out, and tell, rows without a folder and folders without a row, which are problems
            without it.
        test_fraction: share of the patients that go into the test list, of positive and negative ones alike.
        seed: of the split.
        split_column: column that says train or test of each exam, in place of the two above.
        institute: written as `dataset` into the datalists.
        institute_column: column that holds it, where exams are from several.
        workers: processes; by default one for each core. What comes out does not depend on it.

    Raises:
        UserError: all problems of the options, the table and the images.
    """
    output = Path(output_dir)
    chosen, why = _grid(grid, size, spacing, output)
    columns = {"folder": folder_column, "report": report_column, "pirads": pirads_column, "isup": isup_column}
    columns |= {"patient": patient_column, "split": split_column, "institute": institute_column}
    columns |= {"adc_unit": adc_unit_column, **_centre_columns(centre_columns, centre_world)}
    patterns = {"axt2": str(t2w), "b1600": dwi, "adc": adc}
    _check_folders(Path(images_dir), output)
    check_tree(tree)
    _check_options(
        columns, test_fraction, adc_unit, {"seed": seed, "b_value": b_value, "volume": volume, "workers": workers}
    )

    problems = Problems("prepare")
    folders = exam_folders(Path(images_dir), output, tree)
    rows = read_rows(Path(table), columns, tree, problems)
    rows = match(rows, set(folders), leave_out_unmatched, problems)
    choices = {} if series is None else read_choices(series, SEQUENCES, problems)
    for folder in sorted({str(folder) for folder, _ in choices} - set(folders)):
        problems.add(Path(series).name, f"folder {shown(folder)} is no exam", "correct it or take its rows out")
    finder = Finder(folders, patterns, b_value, volume, choices)
    exams = [read_exam(row, finder, str(centre_world).lower(), institute, problems) for row in rows]
    exams.sort(key=lambda exam: exam.folder)
    check_patients(rows, problems)
    if split_column is not None:
        check_split(*([exam.whose for exam in exams if exam.listed == name] for name in LISTED), problems=problems)
    target = Target(output, chosen, adc_unit, any_plane)
    looked = _each(look, exams, target, workers, "check")
    problems.rows += [row for _, wrong, _ in looked for row in wrong]
    problems.raise_if_any()

    for name in (*LISTS, PAGE):  # they are of the run before; merged lists hold its split
        (output / name).unlink(missing_ok=True)
    withdraw(output, exams, remove_withdrawn)
    seen = _finished(exams, looked, target, workers)
    lists, parted = _lists(exams, chosen, split_column is not None, test_fraction, seed)
    write_choices(output / CHOICES, ((exam.folder, folders[exam.folder], exam.images) for exam in exams))
    sequences = tuple(key for key in SEQUENCES if all(key in exam.images for exam in exams))
    plan = Plan(chosen.size, chosen.spacing, sequences, found=figures(output, chosen, lists, seen))
    plan.found.update(grid=why, split=parted)
    write_plan(output, plan)
    write_page(output, plan, lists, seen)
    write_lists(output, lists, {exam.folder: exam for exam in exams})  # last, so that nothing cut off looks complete
    summarise(output, chosen, lists, seen)
    logger.info("%s: look through %s; later steps read %s", output, PAGE, PLAN)


def _finished(exams: Sequence[Exam], looked: Sequence[Looked], target: Target, workers: int | None) -> dict[str, Seen]:
    """Finish the exams that are not, and give what the images of each tell, in the exams' order."""
    done = sum(is_finished for _, _, is_finished in looked)
    if done:
        logger.info("%d of %d exams are finished already", done, len(exams))
    jobs = [(exam, seen) for exam, (seen, _, is_finished) in zip(exams, looked, strict=True) if not is_finished]
    finished = iter(_each(finish, jobs, target, workers, "resample"))
    return {
        exam.folder: seen if is_finished else next(finished)
        for exam, (seen, _, is_finished) in zip(exams, looked, strict=True)
    }


def _lists(
    exams: Sequence[Exam], grid: Grid, as_listed: bool, test_fraction: float, seed: int
) -> tuple[dict[str, list[Case]], str]:
    """The cases of the training and of the test list, and in words what parts them."""
    cases = [exam.case(grid) for exam in exams]
    if as_listed:
        listed = list(zip(exams, cases, strict=True))
        lists = {name: [case for exam, case in listed if exam.listed == name] for name in LISTED}
        return lists, "As the table says it, by a column."
    parted = f"By patient, {test_fraction:g} of those with and without a positive exam for testing; seed {seed}."
    return dict(zip(LISTED, split(cases, test_fraction, seed), strict=True)), parted


def _each(function: Any, items: Sequence[Any], target: Target, workers: int | None, label: str) -> list[Any]:
    """`function` of every item.

    Raises:
        UserError: it was stopped.
    """
    try:
        return for_each(partial(function, target=target), items, workers, label)
    except KeyboardInterrupt:
        raise UserError("stopped; the same command goes on with the exams that are not finished") from None


# ---- options ---------------------------------------------------------------------------------------------------------


def _grid(
    name: str | None, size: Sequence[int] | None, spacing: Sequence[float] | None, output: Path
) -> tuple[Grid, str]:
    """The grid, and why it is this one."""
    if (size is None) != (spacing is None):
        raise UserError("--size and --spacing belong together; give both or neither")
    if size is None and name is None and (plan := read_plan(output)) is not None:
        return plan.grid, "the plan's, as it stood in the data root"
    if size is None:
        name = name or "reference"
        if name not in GRIDS:
            raise UserError(f"--grid {name} is unknown; choose {' or '.join(GRIDS)}, or give --size and --spacing")
        return GRIDS[name], f"--grid {name}"
    if not is_spacing(spacing):
        raise UserError("--spacing must be three positive numbers in mm, e.g. 0.5,0.5,0.5625")
    if not is_size(size):
        raise UserError(f"--size must be three whole numbers that {FACTOR} divides, e.g. 256,256,128")
    return Grid(tuple(map(int, size)), tuple(map(float, spacing))), "--size and --spacing"


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
    columns: Mapping[str, str | None], test_fraction: Any, adc_unit: Any, numbers: Mapping[str, Any]
) -> None:
    problems = Problems("prepare")
    if columns["pirads"] is None and columns["isup"] is None:
        problems.add("--pirads_column", "and --isup_column are both missing", "name at least one column with labels")
    if not isinstance(test_fraction, (int, float)) or not 0 <= test_fraction < 1:
        problems.add("--test_fraction", f"is {test_fraction}", "give a share from 0 to below 1, e.g. 0.2")
    for name, number in numbers.items():
        least = 1 if name in ("volume", "workers") else 0
        if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < least):
            problems.add(f"--{name}", f"is {number}", f"give a whole number from {least}")
    if adc_unit is not None and (not isinstance(adc_unit, (int, float)) or not adc_unit > 0):
        problems.add("--adc_unit", f"is {adc_unit}", "give mm²/s of one grey level, e.g. 1e-6")
    problems.raise_if_any()


if __name__ == "__main__":
    run(prepare)
