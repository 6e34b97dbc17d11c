"""Make phantom exams, and judge volumes without knowing the truth.

python -m scripts.phantom make --output_dir data/phantom --cases 1000 --seed 0
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from scripts.cli.run import run
from scripts.common.files import atomic
from scripts.common.problems import UserError
from scripts.data.datalists import SEQUENCES, read_datalist
from scripts.data.grid import GRIDS, Grid
from scripts.evaluation.adherence import shares
from scripts.phantom.analyser import agrees, analyse_file
from scripts.phantom.anatomy import DIFFICULTY
from scripts.phantom.dataset import read_findings, write_dataset


def make(
    output_dir: str,
    cases: int,
    seed: int = 0,
    grid: str = "demo",
    size: tuple[int, int, int] | None = None,
    spacing: tuple[float, float, float] | None = None,
    test_fraction: float = 0.2,
    workers: int = 2,
    difficulty: float = DIFFICULTY,
    institute: str = "",
    reports: int = 0,
) -> None:
    """Write a phantom dataset: images, masks, datalists, clinical sheet and ground truth.

    Given again after a stop, it keeps the cases that are complete.

    Args:
        output_dir: a new folder for the dataset, or the one that the same command has begun.
        cases: how many patients.
        seed: dataset seed; different seeds share no patient.
        grid: `demo` (64×64×32, around the gland) or `reference` (256×256×128).
        size: voxels along x, y, z, instead of the grid's.
        spacing: mm along x, y, z, instead of the grid's.
        test_fraction: part of the cases in test.json.
        workers: processes.
        difficulty: 0 (lesions alone are dark, all scanners alike) to 1, see docs/phantom.md.
        institute: where all patients go, any name: another name is another scanner and another way to write; left out,
            one of three.
        reports: reports without images, of so many further patients, in reports.json.
    """
    if grid not in GRIDS:
        raise UserError(f"grid is {grid!r}; give one of {', '.join(GRIDS)}")
    chosen = Grid(tuple(size or GRIDS[grid].size), tuple(spacing or GRIDS[grid].spacing))
    for name, values in (("size", chosen.size), ("spacing", chosen.spacing)):
        if len(values) != 3 or min(values) <= 0:
            raise UserError(f"{name} is {values}; give three positive numbers, e.g. --{name} 64,64,32")
    write_dataset(Path(output_dir), cases, seed, chosen, test_fraction, workers, difficulty, institute, reports)


def analyse(
    data_dir: str, datalist: str = "test.json", output_csv: str = "", workers: int = 2, sequences: str = "axt2"
) -> None:
    """Read the volumes of a datalist without their ground truth, and say how often that agrees with it.

    Args:
        data_dir: a phantom data root.
        datalist: which cases, a file in `data_dir`.
        output_csv: where to write one row a case; not written when empty.
        workers: processes.
        sequences: `axt2`, or `all` for high-b and ADC with it.
    """
    if workers < 1:
        raise UserError(f"workers is {workers}; give 1 or more")
    if sequences not in ("axt2", "all"):
        raise UserError(f"sequences is {sequences!r}; give axt2 or all")
    root = Path(data_dir)
    cases, truth = read_datalist(root / datalist, root), read_findings(root)
    strangers = sorted({case["folder"] for case in cases} - truth.keys())
    if strangers:
        raise UserError(f"{datalist}: no ground truth in {root} for {', '.join(strangers[:5])}")
    with ProcessPoolExecutor(workers) as pool:
        names = SEQUENCES if sequences == "all" else ("axt2",)
        seen = list(pool.map(analyse_file, *([case[name] for case in cases] for name in names), chunksize=4))
    index = [next(iter(truth[case["folder"]]), None) for case in cases]
    if output_csv:
        rows = pd.json_normalize(
            [{"folder": case["folder"], **asdict(one)} for case, one in zip(cases, seen, strict=True)]
        )
        with atomic(output_csv) as path:
            rows.to_csv(path, index=False)
    right = shares(agrees(one, lesion) for one, lesion in zip(seen, index, strict=True))
    table = pd.DataFrame.from_dict({part: share._asdict() for part, share in right.items()}, orient="index")
    print(table.to_string(float_format=lambda value: f"{value:.3f}"))
    errors = [
        one.diameter_mm - lesion.diameter_mm for one, lesion in zip(seen, index, strict=True) if lesion and one.lesion
    ]
    if errors:
        print(f"diameter: mean error {np.mean(errors):+.1f} mm, mean absolute error {np.mean(np.abs(errors)):.1f} mm")
    sizes = pd.read_csv(root / "cases.csv", dtype={"folder": str}).set_index("folder")["gland_ml"]
    ratio = np.array([one.gland_ml / sizes[case["folder"]] - 1 for case, one in zip(cases, seen, strict=True)])
    print(f"gland volume: mean error {ratio.mean():+.1%}, mean absolute error {np.abs(ratio).mean():.1%}")


if __name__ == "__main__":
    run({"make": make, "analyse": analyse})
