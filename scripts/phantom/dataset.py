"""Phantom exams on disk, in the format that every part of the project reads, with the ground truth beside them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scripts.common.files import atomic
from scripts.common.problems import UserError
from scripts.data.clinical import write_clinical
from scripts.data.datalists import SEQUENCES, one_hot, write_datalist
from scripts.data.grid import Grid
from scripts.data.nifti import save_nifti
from scripts.data.root import DATALISTS, MERGED, REPORTS
from scripts.phantom.anatomy import DIFFICULTY, Findings, Lesion, check_difficulty, sample_findings
from scripts.phantom.imaging import MASKS, make_case
from scripts.phantom.wording import report_text

log = logging.getLogger(__name__)

CASES_PER_SEED = 100_000
SETTINGS = "phantom.json"  # what a dataset is made from; written first
LESION_COLUMNS = ["folder", "number", "zone", "side", "level", "diameter_mm", "pirads", "isup", "x_mm", "y_mm", "z_mm"]
BENIGN_COLUMNS = ["folder", "kind", "side", "level", "size_mm", "x_mm", "y_mm", "z_mm"]


def write_dataset(
    root: Path,
    cases: int,
    seed: int,
    grid: Grid,
    test_fraction: float,
    workers: int,
    difficulty: float = DIFFICULTY,
    institute: str = "",
    reports: int = 0,
) -> None:
    """Make a phantom data root: images and masks a case, tables, and last of all the datalists.

    Case i has the seed `seed`·100000 + i whatever the number of cases and workers, so two dataset seeds share no
    patient. A root without datalists is unfinished; called again with the same settings, the cases that are there are
    kept. Of `reports` further patients, whose seeds are counted down from the next dataset's, there is a report alone.

    Raises:
        UserError: a number out of range, or the root holds a dataset of other settings.
    """
    settings = {"cases": cases, "seed": seed, "test_fraction": test_fraction}
    settings |= {"difficulty": float(difficulty), "institute": institute}
    settings |= {"size": list(grid.size), "spacing": list(grid.spacing), "reports": reports}
    check_difficulty(difficulty)
    _check(root, settings, workers)
    if _settings(root) is not None and all((root / name).is_file() for name in DATALISTS):
        log.info("%s is complete", root)
        return
    for name in (*MERGED, f"{REPORTS}_merged.json"):  # of datalists that are made anew
        (root / name).unlink(missing_ok=True)
    with atomic(root / SETTINGS) as temporary:
        temporary.write_text(json.dumps(settings) + "\n", encoding="utf-8")
    seeds = [seed * CASES_PER_SEED + i for i in range(cases)]
    everyone = [sample_findings(case, difficulty, institute) for case in seeds]
    missing = [findings.seed for findings in everyone if not _is_complete(root / findings.folder)]
    if len(missing) < cases:
        log.info("%d of %d phantom cases are there already", cases - len(missing), cases)
    with ProcessPoolExecutor(workers) as pool:
        for done, _ in enumerate(
            pool.map(partial(_write_case, root, grid, difficulty, institute), missing, chunksize=4), start=1
        ):
            if done % 200 == 0 or done == len(missing):
                log.info("%d of %d phantom cases", cases - len(missing) + done, cases)
    in_test = np.zeros(cases, bool)
    in_test[np.random.default_rng([seed, cases]).permutation(cases)[: round(cases * test_fraction)]] = True
    splits = ["test" if test else "train" for test in in_test]
    others = _others(cases, seed, difficulty, institute, reports)
    _write_tables(root, [*everyone, *others], [*splits, *[REPORTS] * reports])
    if reports:
        write_datalist(root / f"{REPORTS}.json", [_entry(f, grid, images=False) for f in others])
    for name in DATALISTS:
        entries = [_entry(f, grid) for f, split in zip(everyone, splits, strict=True) if name == f"{split}.json"]
        write_datalist(root / name, entries)


def read_findings(data_root: str | Path) -> dict[str, list[Lesion]]:
    """The ground truth of a data root: folder -> lesions, the index lesion first, [] where there is none.

    Phantoms' is whole; what an importer of public data does not know of a lesion is None.

    Raises:
        UserError: the root holds no ground truth.
    """
    root = Path(data_root)
    missing = [name for name in ("cases.csv", "lesions.csv") if not (root / name).is_file()]
    if missing:
        raise UserError(
            f"{root}: no {' and no '.join(missing)}; ground truth is written by `python -m scripts.phantom make` and "
            "`python -m scripts.public`"
        )
    lesions: dict[str, list[Lesion]] = {folder: [] for folder in pd.read_csv(root / "cases.csv", dtype=str)["folder"]}
    kinds = {"folder": str, "pirads": "Int64", "isup": "Int64"}
    table = pd.read_csv(root / "lesions.csv", dtype=kinds).sort_values(["folder", "number"]).astype(object)
    table = table.where(table.notna(), None)
    for row in table.itertuples(index=False):
        centre = (row.x_mm, row.y_mm, row.z_mm)
        lesions[row.folder].append(Lesion(row.zone, row.side, row.level, row.diameter_mm, row.pirads, row.isup, centre))
    return lesions


def _check(root: Path, settings: Mapping[str, Any], workers: int) -> None:
    """Refuse numbers out of range and a root that is in use, before anything is written."""
    wrong = []
    if not 1 <= settings["cases"] <= CASES_PER_SEED:
        wrong.append(f"cases is {settings['cases']}; give 1 to {CASES_PER_SEED}")
    most = max(0, CASES_PER_SEED - settings["cases"]) // 2  # some patients have no report
    if not 0 <= settings["reports"] <= most:
        wrong.append(f"reports is {settings['reports']}; give 0 to {most}")
    if settings["seed"] < 0:
        wrong.append(f"seed is {settings['seed']}; give 0 or more")
    if not 0 <= settings["test_fraction"] < 1:
        wrong.append(f"test_fraction is {settings['test_fraction']}; give 0 or more, less than 1")
    if workers < 1:
        wrong.append(f"workers is {workers}; give 1 or more")
    there = _settings(root)
    if there is None and (any((root / name).exists() for name in (*DATALISTS, *MERGED)) or any(root.glob("phantom_*"))):
        wrong.append(f"{root} already holds a dataset; give another folder or remove it first")
    if there is not None and there != settings:
        names = ", ".join(
            f"{name} {there.get(name)}" for name in settings | there if there.get(name) != settings.get(name)
        )
        wrong.append(f"{root} already holds a dataset with {names}; give another folder or remove it first")
    if wrong:
        raise UserError("\n".join(wrong))


def _settings(root: Path) -> dict[str, Any] | None:
    """What the dataset in `root` is made from, None where no dataset was begun."""
    path = root / SETTINGS
    if not path.is_file():
        return None
    return json.loads(path.read_text(encoding="utf-8"))


def _others(cases: int, seed: int, difficulty: float, institute: str, reports: int) -> list[Findings]:
    """So many patients without images who have a report."""
    seeds = range((seed + 1) * CASES_PER_SEED - 1, seed * CASES_PER_SEED + cases - 1, -1)
    drawn = (sample_findings(number, difficulty, institute) for number in seeds)
    return list(islice((findings for findings in drawn if not findings.report_is_missing), reports))


def _is_complete(folder: Path) -> bool:
    return all((folder / f"{name}.nii.gz").is_file() for name in (*SEQUENCES, *MASKS))


def _write_case(root: Path, grid: Grid, difficulty: float, institute: str, seed: int) -> None:
    """Images and masks of one case."""
    phantom = make_case(seed, grid, difficulty, institute)
    folder = root / phantom.findings.folder
    for name, volume in (phantom.volumes | phantom.masks).items():
        save_nifti(folder / f"{name}.nii.gz", volume, phantom.affine)


def _write_tables(root: Path, everyone: list[Findings], splits: list[str]) -> None:
    """cases.csv, lesions.csv, benign.csv (the ground truth) and clinical.xlsx (what a clinic would have)."""
    cases, lesions, changes, clinical = [], [], [], []
    for f, split in zip(everyone, splits, strict=True):
        row = {"folder": f.folder, "split": split, "seed": f.seed, "institute": f.institute, "age": f.age}
        row |= {"psa": f.psa, "psa_density": f.psa_density, "gland_ml": f.gland_ml}
        row |= dict(zip(("lr_mm", "ap_mm", "cc_mm"), f.gland_mm, strict=True))
        cases.append(
            row | {"pirads": f.pirads, "lesions": len(f.lesions), "report_is_missing": int(f.report_is_missing)}
        )
        for number, lesion in enumerate(f.lesions, start=1):
            *values, centre = astuple(lesion)
            lesions.append([f.folder, number, *values, *centre])
        for change in f.changes:
            changes.append([f.folder, change.kind, change.side, change.level, change.size_mm, *change.centre_mm])
        if split == REPORTS:
            continue
        # Without a suspicious lesion there is no biopsy, so no ISUP grade.
        significant = int(any(lesion.isup >= 2 for lesion in f.lesions)) if f.lesions else None
        clinical.append({"folder": f.folder, "PosPIRADS": int(f.pirads >= 3), "PosISUP": significant, "Label": split})
    tables = {
        "cases": pd.DataFrame(cases),
        "lesions": pd.DataFrame(lesions, columns=LESION_COLUMNS),
        "benign": pd.DataFrame(changes, columns=BENIGN_COLUMNS),
    }
    for name, frame in tables.items():
        with atomic(root / f"{name}.csv") as temporary:
            frame.to_csv(temporary, index=False)
    frame = pd.DataFrame(clinical).astype({"PosPIRADS": "Int64", "PosISUP": "Int64"})
    write_clinical(root / "clinical.xlsx", frame)


def _entry(findings: Findings, grid: Grid, images: bool = True) -> dict[str, Any]:
    """A case as the datalists hold it."""
    report = report_text(findings, np.random.default_rng([findings.seed, 4]))
    paths = {name: f"./{findings.folder}/{name}.nii.gz" for name in SEQUENCES}
    return {
        **(paths if images else {}),
        "dataset": findings.institute,
        "folder": findings.folder,
        "pirads": one_hot(findings.pirads >= 3),
        "spacing": list(grid.spacing),
        "text": report,
        "text_isnull": int(not report),
    }
