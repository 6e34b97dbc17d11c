"""The demo: reports that differ -> volumes that differ, on the phantom with the shipped weights, in two minutes.

    python -m scripts.showcase.demo --output_dir out/demo

Every step is a command that a user would type (see the logs); this file writes the reports, runs the commands, asks the
phantom's analyser what the volumes show, and makes one page of it all.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from scripts.cli.run import run
from scripts.common.files import atomic
from scripts.data.images import load_volume
from scripts.data.montage import montage
from scripts.data.outputs import read_record
from scripts.data.root import read_splits
from scripts.phantom.analyser import Analysis, analyse
from scripts.showcase.page import Page
from scripts.showcase.stages import DEMO_LDM, DEMO_T5_FILES, DEMO_VAE, Stage, bundle, module, run_stages

PHANTOM_CASES = 6
PHANTOM_SEED = 3
SEEDS = 3  # volumes for each report


@dataclass(frozen=True)
class Example:
    """A report as a user would type it, and the sector (zone, side, level) that it names, None without a lesion."""

    title: str
    report: str
    sector: tuple[str, str, str] | None


EXAMPLES = {
    "no_lesion": Example(
        "No lesion",
        "Prostate volume 40 mL. Homogeneously bright peripheral zone, no focus of restricted diffusion. "
        "Impression: No suspicious lesion. PI-RADS 1.",
        None,
    ),
    "left_base": Example(
        "Left base",
        "Prostate volume 55 mL. Impression: 16 mm lesion in the left peripheral zone at the base, PI-RADS 5.",
        ("PZ", "left", "base"),
    ),
    "right_apex": Example(
        "Right apex",
        "Prostate volume 50 mL. Impression: 13 mm lesion in the right peripheral zone at the apex, PI-RADS 4.",
        ("PZ", "right", "apex"),
    ),
}


def demo(output_dir: str = "out/demo") -> None:
    """Make phantom cases, generate volumes from three reports with three seeds each, and write one HTML page.

    Args:
        output_dir: gets `index.html`, `phantom/`, `volumes/` and `logs/`. What is already there is kept.

    Raises:
        UserError: a step failed; its log says why.
    """
    folder = Path(output_dir).resolve()
    for name, example in EXAMPLES.items():
        with atomic(folder / "reports" / f"{name}.txt") as temporary:
            temporary.write_text(example.report + "\n", encoding="utf-8")
    seconds = run_stages(stages(folder), folder)
    write_page(folder, seconds)
    print(
        f"\nVolumes (NIfTI) and pictures: {folder / 'volumes'}\nOne page with everything:     {folder / 'index.html'}"
    )


def stages(folder: Path) -> list[Stage]:
    """Give the commands of the demo."""
    make = module(
        "phantom",
        "make",
        output_dir=folder / "phantom",
        cases=PHANTOM_CASES,
        seed=PHANTOM_SEED,
        test_fraction=0.5,
        difficulty=0,  # what the shipped weights have learnt
    )
    return [
        Stage("phantom", make),
        *(
            Stage(
                f"generate_{name}",
                bundle(
                    "ccella_ldm",
                    "inference",
                    ("demo",),
                    report_file=folder / "reports" / f"{name}.txt",
                    case_name=name,
                    output_dir=folder / "volumes",
                    replicates=SEEDS,
                    batch_size=SEEDS,
                ),
                reads=(folder / "reports" / f"{name}.txt", DEMO_LDM, DEMO_VAE, *DEMO_T5_FILES),
            )
            for name in EXAMPLES
        ),
    ]


def write_page(folder: Path, seconds: dict[str, float]) -> None:
    """Draw the pictures and write `index.html` from what the stages left."""
    page = Page(
        "From a radiology report to a prostate volume",
        "Synthetic T2-weighted volumes of the prostate phantom, each generated from the report shown beside it. "
        "Nothing here is a real patient, and nothing is fit for clinical use.",
    )
    rows, first = [], []
    for name, example in EXAMPLES.items():
        volumes = [load_volume(folder / "volumes" / case / "axt2.nii.gz") for case in cases_of(name)]
        found = [analyse(data, affine) for data, _, affine in volumes]
        rows += [_row(folder, case, example, analysis) for case, analysis in zip(cases_of(name), found, strict=True)]
        picture = folder / "pictures" / f"{name}.png"
        _draw(volumes, [f"{example.title}, seed {k + 1}" for k in range(SEEDS)], found, picture)
        first.append((volumes[0], f"{example.title}: {example.report}", found[0]))
        page.section(example.title).quote(example.report).figure(
            picture, f"The same report with {SEEDS} seeds: what the report says stays, the rest of the patient changes."
        )
    _overview(folder, first)
    _phantoms(folder, page)
    page.section("What the volumes show").text(
        "The phantom's own analyser looked at each volume without knowing the report. "
        "Zone, side and level are those of the lesion it found."
    ).table(pd.DataFrame(rows))
    page.section("Seconds for each step").table(
        pd.DataFrame({"step": list(seconds), "seconds": [round(value, 1) for value in seconds.values()]})
    )
    page.write(folder / "index.html")


def cases_of(name: str) -> list[str]:
    """Give the folders of an example's volumes: its name, then a number for each further seed."""
    return [name, *(f"{name}_{k}" for k in range(1, SEEDS))]


def _row(folder: Path, case: str, example: Example, found: Analysis) -> dict[str, object]:
    """Give a table row: what the report asked for, what the volume shows, what the network's class head says."""
    record = read_record(folder / "volumes", case)
    return {
        "volume": f"{case}/axt2.nii.gz",
        "report": " ".join(example.sector) if example.sector else "no lesion",
        "found": f"{found.zone} {found.side} {found.level}" if found.lesion else "no lesion",
        "diameter (mm)": round(found.diameter_mm, 1) if found.lesion else "–",
        "gland (mL)": round(found.gland_ml, 1),
        "P(PI-RADS 3-5)": f"{record.probability:.2f}",
        "agrees": "yes" if example.sector == _sector(found) else "no",
    }


def _sector(found: Analysis) -> tuple[str, str, str] | None:
    return (found.zone, found.side, found.level) if found.lesion else None


def _voxel(affine: np.ndarray, found: Analysis, shape: tuple[int, ...]) -> np.ndarray:
    """Give the voxel of the lesion's centre, or the volume's centre."""
    if not found.lesion:
        return np.asarray(shape) // 2
    voxel = nib.affines.apply_affine(np.linalg.inv(affine), found.centre_mm).round().astype(int)
    return np.clip(voxel, 0, np.asarray(shape) - 1)


def _overview(folder: Path, first: list[tuple[tuple, str, Analysis]]) -> None:
    """Draw one volume a report, each cut where its own lesion is: the picture that opens the README."""
    focus = [_voxel(affine, found, data.shape) for (data, _, affine), _, found in first]
    volumes = [data for (data, _, _), _, _ in first]
    montage(volumes, [title for _, title, _ in first], first[0][0][1], folder / "pictures" / "overview.png", focus)


def _phantoms(folder: Path, page: Page) -> None:
    """Show real (phantom) cases with the three sequences of each, for comparison."""
    train, test = read_splits(folder / "phantom")
    section = page.section("Phantom cases to compare with")
    for case in (train + test)[:2]:
        sequences = ("axt2", "b1600", "adc")
        volumes = [load_volume(Path(case["axt2"]).with_name(f"{name}.nii.gz")) for name in sequences]
        data, spacing, affine = volumes[0]
        picture = folder / "pictures" / f"{case['folder']}.png"
        focus = _voxel(affine, analyse(data, affine), data.shape)
        montage([volume for volume, _, _ in volumes], sequences, spacing, picture, focus)
        section.quote(case["text"] or "(no report)").figure(
            picture, f"{case['folder']}: T2w, high b-value DWI and ADC."
        )


def _draw(volumes: list[tuple], titles: list[str], found: list[Analysis], path: Path) -> None:
    """Draw the volumes of one report, cut where the first one's lesion is."""
    data, spacing, affine = volumes[0]
    montage([volume for volume, _, _ in volumes], titles, spacing, path, focus=_voxel(affine, found[0], data.shape))


if __name__ == "__main__":
    run(demo)
