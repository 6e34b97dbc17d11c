"""Make phantom exams, and judge volumes without knowing the truth.

python -m scripts.phantom make --output_dir data/phantom --cases 1000 --seed 0
"""

from __future__ import annotations

from pathlib import Path

from scripts import cli
from scripts.data.phantom.dataset import write_dataset
from scripts.data.phantom.imaging import GRIDS, Grid
from scripts.problems import UserError


def make(
    output_dir: str,
    cases: int,
    seed: int = 0,
    grid: str = "demo",
    size: tuple[int, int, int] | None = None,
    spacing: tuple[float, float, float] | None = None,
    test_fraction: float = 0.2,
    workers: int = 2,
) -> None:
    """Write a phantom dataset: images, masks, datalists, clinical sheet and ground truth.

    Args:
        output_dir: a new folder for the dataset.
        cases: how many patients.
        seed: dataset seed; different seeds share no patient.
        grid: `demo` (64×64×32, around the gland) or `reference` (256×256×128).
        size: voxels along x, y, z, instead of the grid's.
        spacing: mm along x, y, z, instead of the grid's.
        test_fraction: part of the cases in test.json.
        workers: processes.
    """
    if grid not in GRIDS:
        raise UserError(f"grid is {grid!r}; give one of {', '.join(GRIDS)}")
    chosen = Grid(tuple(size or GRIDS[grid].shape), tuple(spacing or GRIDS[grid].spacing))
    for name, values in (("size", chosen.shape), ("spacing", chosen.spacing)):
        if len(values) != 3 or min(values) <= 0:
            raise UserError(f"{name} is {values}; give three positive numbers, e.g. --{name} 64,64,32")
    write_dataset(Path(output_dir), int(cases), int(seed), chosen, float(test_fraction), int(workers))


if __name__ == "__main__":
    cli.run({"make": make})
