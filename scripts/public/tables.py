"""What an importer writes: the table that `prepare` takes, the images beside it, and the findings as truth."""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from tqdm import tqdm

from scripts.common.files import atomic, link
from scripts.common.problems import Problems, UserError
from scripts.data.names import shown
from scripts.data.report_cells import is_placeholder
from scripts.data.tables import read_table
from scripts.phantom.dataset import LESION_COLUMNS
from scripts.public.exams import PublicExam, reports

Case = TypeVar("Case")

logger = logging.getLogger(__name__)


def read_columns(path: str | os.PathLike[str], names: Sequence[str]) -> pd.DataFrame:
    """A data set's own table, which must have these columns.

    Raises:
        UserError: it cannot be read, or a column is missing.
    """
    table = read_table(path)
    missing = [name for name in names if name not in table]
    if missing:
        raise UserError(f"{path}: has no column {', '.join(missing)}; give the table as it was downloaded")
    return table


def number(cell: Any, name: str, case: str, problems: Problems) -> float | None:
    """A number out of a cell; None where it is empty or not available."""
    if cell is None or is_placeholder(cell):
        return None
    try:
        return float(cell)
    except ValueError:
        problems.add(case, f"{name} is {shown(cell)}", "give the table as it was downloaded")
        return None


def gather(
    title: str, cases: Iterable[tuple[str, Case]], read: Callable[[str, Case, Problems], PublicExam | str]
) -> tuple[list[PublicExam], dict[str, list[str]]]:
    """The exams of a data set, and those that are left out: the reason -> which.

    Args:
        title: of the table of problems.
        cases: the name of each, and what is known of it.
        read: gives the exam, or why it is left out; may note problems, or raise one as `UserError`.

    Raises:
        UserError: everything that is wrong with the exams.
    """
    problems, left_out, exams = Problems(title), defaultdict(list), []
    for name, case in tqdm(cases, "findings", disable=None):
        try:
            exam = read(name, case, problems)
        except UserError as error:
            problems.add(name, str(error))
        else:
            if isinstance(exam, PublicExam):
                exams.append(exam)
            else:
                left_out[exam].append(name)
    problems.raise_if_any()
    return exams, left_out


def check_options(wordings: int, seed: int) -> None:
    """Refuse numbers out of range, before anything is read.

    Raises:
        UserError: there are some.
    """
    problems = Problems("options")
    if not 1 <= wordings <= 100:
        problems.add("--wordings", f"is {wordings}", "give 1 to 100 reports of each exam")
    if seed < 0:
        problems.add("--seed", f"is {seed}", "give a whole number from 0")
    problems.raise_if_any()


def check_folder(option: str, path: str | os.PathLike[str]) -> None:
    """Make sure that an option names a folder.

    Raises:
        UserError: it does not.
    """
    if not Path(path).is_dir():
        raise UserError(f"--{option} {path} is not a folder; give the download")


def write_exams(
    exams: Sequence[PublicExam],
    output_dir: str | os.PathLike[str],
    *,
    test_centres: Collection[str] | None,
    wordings: int,
    seed: int,
    left_out: Mapping[str, Sequence[str]],
) -> None:
    """Write exams.csv, images/, and last cases.csv and lesions.csv, and tell what there is.

    Args:
        exams: of one data set.
        test_centres: the exams of these are for testing, all others for training; where a patient has exams in both,
            all of them are for testing. Without it, `prepare` splits by patient.
        wordings: reports of each exam, in the columns `report`, `report_2` and so on.
        seed: of their wording.
        left_out: why exams were left out -> which.

    Raises:
        UserError: there is no exam, a centre is unknown, or the folder holds exams of another run.
    """
    output = Path(output_dir)
    for reason, folders in left_out.items():
        if folders:
            some = ", ".join(sorted(folders)[:5]) + (" ..." if len(folders) > 5 else "")
            logger.warning("left out, %d exams %s: %s", len(folders), reason, some)
    if not exams:
        raise UserError("no exam is left; see above why, and give the folders as they were downloaded")
    exams = sorted(exams, key=lambda exam: exam.folder)
    tests = _tests(exams, test_centres)
    strangers = sorted({path.name for path in output.glob("images/*")} - {exam.folder for exam in exams})
    if strangers:
        raise UserError(f"{output}/images already holds {shown(strangers[0])}, which is not of this import; "
                        "give another folder or remove it first")  # fmt: skip
    for exam in tqdm(exams, "images", disable=None):
        _place(exam, output / "images" / exam.folder)
    rows = []
    for exam in exams:
        row = {"folder": exam.folder, "patient": exam.patient, "centre": exam.centre}
        if tests is not None:
            row["split"] = "test" if exam.patient in tests else "train"
        for n, text in enumerate(reports(exam, wordings, seed), start=1):
            row["report" if n == 1 else f"report_{n}"] = text
        row |= {"pirads": exam.pirads, "isup": exam.isup, "psa": exam.psa, "psa_density": exam.psa_density}
        row |= {"age": exam.age, "gland_ml": exam.gland_ml}
        rows.append(row | dict(zip("xyz", exam.gland_centre or (None,) * 3, strict=True)))
    _write(output / "exams.csv", pd.DataFrame(rows))
    _write(output / "cases.csv", pd.DataFrame([_case(exam) for exam in exams]))
    lesions = [_lesion(exam, n) for exam in exams for n in range(len(exam.foci))]
    columns = [*LESION_COLUMNS, "across_mm", "levels", "sector"]
    _write(output / "lesions.csv", pd.DataFrame(lesions, columns=columns))
    _tell(output, exams, tests)


def _tests(exams: Sequence[PublicExam], centres: Collection[str] | None) -> set[str] | None:
    """The patients whose exams are for testing."""
    if centres is None:
        return None
    known = {exam.centre for exam in exams}
    if unknown := sorted(set(centres) - known):
        raise UserError(
            f"--test_centres: there is no exam of {', '.join(unknown)}; choose among {', '.join(sorted(known))}"
        )
    return {exam.patient for exam in exams if exam.centre in centres}


def _place(exam: PublicExam, folder: Path) -> None:
    """The exam's images in a folder of its own: a file under its name, a series as a folder of its files."""
    for name, files in exam.images.items():
        series = not Path(name).suffix
        for source in files:
            target = folder / name / source.name if series else folder / name
            if target.is_file() and target.stat().st_size == source.stat().st_size:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            link(source, target)


def _case(exam: PublicExam) -> dict[str, Any]:
    row = {"folder": exam.folder, "institute": exam.centre, "age": exam.age, "psa": exam.psa}
    row |= {"psa_density": exam.psa_density, "gland_ml": exam.gland_ml}
    row |= dict(zip(("lr_mm", "ap_mm", "cc_mm"), exam.gland_mm or (None,) * 3, strict=True))
    return row | {"pirads": exam.pirads, "lesions": len(exam.foci)}


def _lesion(exam: PublicExam, index: int) -> list[Any]:
    focus = exam.foci[index]
    longest, across = (*focus.size_mm, None, None)[:2]
    row = [exam.folder, index + 1, focus.place.zone, focus.place.side, focus.level, longest, focus.pirads, focus.isup]
    return [*row, *focus.centre_mm, across, " ".join(focus.place.levels), focus.place.sector]


def _write(path: Path, table: pd.DataFrame) -> None:
    for name in ("pirads", "isup", "age"):
        if name in table:
            table[name] = table[name].astype("Int64")  # whole numbers, also where some are missing
    with atomic(path) as part:
        table.round(4).to_csv(part, index=False)


def _tell(output: Path, exams: Sequence[PublicExam], tests: set[str] | None) -> None:
    for centre, count in sorted(Counter(exam.centre for exam in exams).items()):
        here = [exam for exam in exams if exam.centre == centre]
        lesions, positive = sum(len(exam.foci) for exam in here), sum(exam.positive for exam in here)
        patients = len({exam.patient for exam in here})
        logger.info("%s: %d exams of %d patients, %d positive, %d lesions", centre, count, patients, positive, lesions)
    foci = [focus for exam in exams for focus in exam.foci]
    known = {
        "zone": sum(focus.place.zone is not None for focus in foci),
        "side": sum(focus.place.side is not None for focus in foci),
        "level": sum(focus.level is not None for focus in foci),
        "size": sum(bool(focus.size_mm) for focus in foci),
    }
    told = ", ".join(f"{name} of {count}" for name, count in known.items())
    logger.info("of %d lesions known: %s", len(foci), told)
    if tests is not None:
        testing = sum(exam.patient in tests for exam in exams)
        logger.info("%d exams for training, %d for testing", len(exams) - testing, testing)
    common = set.intersection(*(set(exam.images) for exam in exams))
    some = set.union(*(set(exam.images) for exam in exams)) - common
    logger.info(
        "every exam has %s%s", ", ".join(sorted(common)), f"; some have {', '.join(sorted(some))}" if some else ""
    )
    logger.info("%s: exams.csv for `python -m scripts.prepare`, lesions.csv and cases.csv as truth", output)
