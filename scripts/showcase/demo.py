"""The demo: reports that differ -> volumes that differ, on the phantom with the shipped weights, in two minutes.

    python -m scripts.showcase.demo --output_dir out/demo

Every step is a command that a user would type (see the logs); this file writes the reports, runs the commands, asks the
phantom's analyser what the volumes show, and makes one page of it all.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pandas as pd

from scripts.cli.run import run
from scripts.common.files import atomic
from scripts.data.grid import GRIDS
from scripts.data.images import load_volume
from scripts.data.montage import montage
from scripts.data.outputs import images_of, read_record
from scripts.data.page import Page
from scripts.phantom.analyser import Analysis, analyse
from scripts.phantom.imaging import make_case
from scripts.showcase.stages import DEMO_LDM, DEMO_T5_FILES, DEMO_VAE, Stage, bundle, run_stages

DIFFICULTY = 0.0  # of the phantoms that the shipped weights have learnt from
SEEDS = 3  # volumes for each report


@dataclass(frozen=True)
class Example:
    """A report as a user would type it.

    Attributes:
        sector: zone, side and level that it names, None without a lesion.
        phantom: seed of a patient of whom it could have been written.
    """

    title: str
    report: str
    sector: tuple[str, str, str] | None
    phantom: int


class Volume(NamedTuple):
    """A volume's images by sequence, all (X, Y, Z) on one grid, and what the analyser sees in them."""

    images: dict[str, np.ndarray]
    spacing: tuple[float, ...]
    affine: np.ndarray
    seen: Analysis


EXAMPLES = {
    "no_lesion": Example(
        "No lesion",
        "Prostate volume 40 mL. Homogeneously bright peripheral zone, no focus of restricted diffusion. "
        "Impression: No suspicious lesion. PI-RADS 1.",
        None,
        3_000_609,
    ),
    "left_base": Example(
        "Left base",
        "Prostate volume 55 mL. Impression: 16 mm lesion in the left peripheral zone at the base, PI-RADS 5.",
        ("PZ", "left", "base"),
        3_019_415,
    ),
    "right_apex": Example(
        "Right apex",
        "Prostate volume 50 mL. Impression: 13 mm lesion in the right peripheral zone at the apex, PI-RADS 4.",
        ("PZ", "right", "apex"),
        3_000_511,
    ),
}


def demo(output_dir: str = "out/demo") -> None:
    """Generate volumes from three reports with three seeds each, and write one HTML page.

    Args:
        output_dir: gets `index.html`, `volumes/`, `pictures/` and `logs/`. What is already there is kept.

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
    return [
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
    ]


def write_page(folder: Path, seconds: dict[str, float]) -> None:
    """Draw the pictures and write `index.html` from what the stages left."""
    page = Page(
        "From a radiology report to a prostate volume",
        "Synthetic volumes of the prostate phantom, each generated from the report shown above it, and for comparison "
        "phantoms of whom the same reports could have been written. "
        "Nothing here is a real patient, and nothing is fit for clinical use.",
    )
    rows, overview = [], []
    for name, example in EXAMPLES.items():
        volumes = [_read(folder / "volumes" / case) for case in cases_of(name)]
        real = _phantom(example.phantom, tuple(volumes[0].images))
        rows += [_row(folder, case, example, one.seen) for case, one in zip(cases_of(name), volumes, strict=True)]
        seeds, beside = (folder / "pictures" / f"{name}{part}.png" for part in ("", "_beside_a_phantom"))
        _draw(seeds, [(f"{example.title}, seed {k + 1}", one, "axt2") for k, one in enumerate(volumes)])
        pairs = [("generated", volumes[0]), ("phantom", real)]
        _draw(beside, [(f"{kind}, {sequence}", one, sequence) for sequence in real.images for kind, one in pairs])
        overview += [(f"{example.title}: {example.report}", volumes[0], "axt2")]
        overview += [("A phantom of whom the same could be said", real, "axt2")]
        page.section(example.title).quote(example.report).figure(
            seeds, f"The same report with {SEEDS} seeds: what the report says stays, the rest of the patient changes."
        ).figure(beside, "The first of them, and a phantom of whom the same report could have been written.")
    _draw(folder / "pictures" / "overview.png", overview)
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


def _read(folder: Path) -> Volume:
    """Give a generated volume."""
    loaded = {name: load_volume(path) for name, path in images_of(folder).items()}
    _, spacing, affine = loaded["axt2"]
    return _volume({name: data for name, (data, _, _) in loaded.items()}, spacing, affine)


def _phantom(seed: int, sequences: tuple[str, ...]) -> Volume:
    """Give a phantom's volume of these sequences."""
    case = make_case(seed, GRIDS["demo"], DIFFICULTY)
    return _volume({name: case.volumes[name] for name in sequences}, GRIDS["demo"].spacing, case.affine)


def _volume(images: dict[str, np.ndarray], spacing: tuple[float, ...], affine: np.ndarray) -> Volume:
    others = {name: image for name, image in images.items() if name != "axt2"}
    return Volume(images, spacing, affine, analyse(images["axt2"], affine, **others))


def _voxel(volume: Volume) -> np.ndarray:
    """Give the voxel of the lesion's centre, or the volume's centre."""
    shape = np.asarray(volume.images["axt2"].shape)
    if not volume.seen.lesion:
        return shape // 2
    voxel = nib.affines.apply_affine(np.linalg.inv(volume.affine), volume.seen.centre_mm).round().astype(int)
    return np.clip(voxel, 0, shape - 1)


def _draw(path: Path, rows: list[tuple[str, Volume, str]]) -> None:
    """Draw images one below the other, each a title, a volume and a sequence, cut where its volume's lesion is."""
    titles, volumes, sequences = zip(*rows, strict=True)
    images = [volume.images[sequence] for volume, sequence in zip(volumes, sequences, strict=True)]
    montage(images, titles, volumes[0].spacing, path, [_voxel(volume) for volume in volumes])


if __name__ == "__main__":
    run(demo)
