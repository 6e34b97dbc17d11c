"""The demo: reports that differ -> volumes that differ, on the phantom with the shipped weights, in two minutes.

    python -m scripts.showcase.demo --output_dir out/demo

Every step is a command that a user would type (see the logs); this file writes the reports and phantoms of whom they
could have been written, runs the commands, asks the phantom's analyser what all volumes show, and makes one page of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pandas as pd

from scripts.classifier.arms import ARMS
from scripts.cli.run import run
from scripts.common.files import atomic
from scripts.data.datalists import SEQUENCES
from scripts.data.grid import GRIDS
from scripts.data.images import image_transforms, load_volume
from scripts.data.montage import montage, side_by_side
from scripts.data.nifti import save_nifti
from scripts.data.outputs import images_of, read_record
from scripts.data.page import Page
from scripts.phantom.analyser import Analysis, analyse
from scripts.phantom.anatomy import DIFFICULTY
from scripts.phantom.imaging import make_case
from scripts.showcase.stages import (
    DEMO_CLASSIFIER,
    DEMO_LDM,
    DEMO_T5_FILES,
    DEMO_VAE,
    Stage,
    bundle,
    run_stages,
)

SEEDS = 3  # volumes for each report
GENERATED, PHANTOMS = "volumes", "phantoms"  # folders of volumes
KINDS = ("generated", "phantom")
SEQUENCE_NAMES = {"axt2": "T2w", "b1600": "high b", "adc": "ADC"}


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
    """A volume's images by sequence, all (X, Y, Z) on one grid and in units of 0 to 1, and what is seen in them."""

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
        output_dir: gets `index.html`, `volumes/`, `phantoms/`, `pictures/` and `logs/`. What is already there is kept.

    Raises:
        UserError: a step failed; its log says why.
    """
    folder = Path(output_dir).resolve()
    for name, example in EXAMPLES.items():
        with atomic(folder / "reports" / f"{name}.txt") as temporary:
            temporary.write_text(example.report + "\n", encoding="utf-8")
        case = make_case(example.phantom, GRIDS["demo"], DIFFICULTY)
        for sequence, image in case.volumes.items():
            save_nifti(folder / PHANTOMS / name / f"{sequence}.nii.gz", image, case.affine)
    seconds = run_stages(stages(folder), folder)
    write_page(folder, seconds)
    print(
        f"\nVolumes (NIfTI) and pictures: {folder / GENERATED}\nOne page with everything:     {folder / 'index.html'}"
    )


def stages(folder: Path) -> list[Stage]:
    """Give the commands of the demo."""
    made = [
        Stage(
            f"generate_{name}",
            bundle(
                "ccella_ldm",
                "inference",
                ("demo",),
                report_file=folder / "reports" / f"{name}.txt",
                case_name=name,
                output_dir=folder / GENERATED,
                replicates=SEEDS,
                batch_size=SEEDS,
            ),
            reads=(folder / "reports" / f"{name}.txt", DEMO_LDM, DEMO_VAE, *DEMO_T5_FILES),
        )
        for name in EXAMPLES
    ]
    phantoms = tuple(folder / PHANTOMS / name / f"{sequence}.nii.gz" for name in EXAMPLES for sequence in SEQUENCES)
    return [
        *made,
        _classified(folder, GENERATED, needs=tuple(stage.name for stage in made)),
        _classified(folder, PHANTOMS, reads=phantoms),
    ]


def _classified(folder: Path, kind: str, needs: tuple[str, ...] = (), reads: tuple[Path, ...] = ()) -> Stage:
    """Give the command that asks the classifier about a folder of volumes."""
    out = folder / "classes" / kind
    command = bundle("classifier", "inference", ("demo",), input=folder / kind, output_dir=out, saliency=0)
    return Stage(f"classify_{kind}", command, needs, out, (DEMO_CLASSIFIER, *reads))


def write_page(folder: Path, seconds: dict[str, float]) -> None:
    """Draw the pictures and write `index.html` from what the stages left."""
    page = Page(
        "From a radiology report to a prostate volume",
        "Synthetic volumes of the prostate phantom in three sequences, each generated from the report shown above it, "
        "and beside them phantoms of whom the same reports could have been written. "
        "Nothing here is a real patient, and nothing is fit for clinical use.",
    )
    rows, overview = [], {}
    cancer = {kind: _probabilities(folder / "classes" / kind) for kind in (GENERATED, PHANTOMS)}
    for name, example in EXAMPLES.items():
        volumes = {case: _read(folder / GENERATED / case) for case in cases_of(name)}
        first, real = volumes[name], _read(folder / PHANTOMS / name)
        for case, one in volumes.items():
            told = read_record(folder / GENERATED, case).probability
            rows.append(_row(f"{GENERATED}/{case}", example, one.seen, f"{told:.2f}", cancer[GENERATED][case]))
        rows.append(_row(f"{PHANTOMS}/{name}", example, real.seen, "–", cancer[PHANTOMS][name]))
        beside, seeds = (folder / "pictures" / f"{name}{part}.png" for part in ("_beside_a_phantom", ""))
        pair = {example.title: [(one.images, _voxel(one)) for one in (first, real)]}
        side_by_side(pair, KINDS, SEQUENCE_NAMES, first.spacing, beside)
        overview |= {f"{example.title}: {_impression(example)}": pair[example.title]}
        _draw(seeds, {f"{example.title}, seed {k + 1}": one for k, one in enumerate(volumes.values())})
        page.section(example.title).quote(example.report).figure(
            beside,
            "A volume generated from this report, and a phantom of whom it could have been written, each cut where its "
            "lesion lies. T2w and high b are shown from 0 to the 99.5th percentile of each volume, ADC from 0 to "
            "3000·10⁻⁶ mm²/s.",
        ).figure(
            seeds,
            f"T2w of the same report with {SEEDS} seeds: what the report says stays, the rest of the patient changes.",
        )
    side_by_side(overview, KINDS, SEQUENCE_NAMES, first.spacing, folder / "pictures" / "overview.png")
    page.section("What the volumes show").text(
        "The phantom's own analyser looked at each volume without knowing the report: zone, side and level are those "
        "of the lesion that it found. The generator's class head says from the report how likely PI-RADS 3 to 5 is; "
        "the classifier, a network of its own that has learnt from other phantoms, looks at the volume alone."
    ).table(pd.DataFrame(rows))
    page.section("Seconds for each step").table(
        pd.DataFrame({"step": list(seconds), "seconds": [round(value, 1) for value in seconds.values()]})
    )
    page.write(folder / "index.html")


def cases_of(name: str) -> list[str]:
    """Give the folders of an example's volumes: its name, then a number for each further seed."""
    return [name, *(f"{name}_{k}" for k in range(1, SEEDS))]


def _probabilities(folder: Path) -> dict[str, float]:
    """Give what the classifier has told of each volume."""
    table = pd.read_csv(folder / ARMS[0].name / "predictions.csv", dtype={"folder": str})
    return dict(zip(table["folder"], table["probability"], strict=True))


def _row(volume: str, example: Example, found: Analysis, told: str, cancer: float) -> dict[str, object]:
    """Give a table row: what the report asks for, what the volume shows, what class head and classifier say."""
    sector = (found.zone, found.side, found.level) if found.lesion else None
    return {
        "volume": volume,
        "report": " ".join(example.sector) if example.sector else "no lesion",
        "found": " ".join(sector) if sector else "no lesion",
        "diameter (mm)": round(found.diameter_mm, 1) if found.lesion else "–",
        "gland (mL)": round(found.gland_ml, 1),
        "agrees": "yes" if example.sector == sector else "no",
        "P(PI-RADS 3-5), class head": told,
        "P(cancer), classifier": f"{cancer:.2f}",
    }


def _impression(example: Example) -> str:
    """Give the report's last part."""
    return example.report.partition("Impression: ")[2]


def _read(folder: Path) -> Volume:
    """Give a volume: as the networks see it, and what the analyser sees in it."""
    paths = images_of(folder)
    shown = image_transforms(tuple(paths))({"folder": folder.name, **{name: str(path) for name, path in paths.items()}})
    loaded = {name: load_volume(path) for name, path in paths.items()}
    _, spacing, affine = loaded["axt2"]
    seen = analyse(affine=affine, **{name: values for name, (values, _, _) in loaded.items()})
    return Volume({name: shown[name][0].numpy() for name in paths}, spacing, affine, seen)


def _voxel(volume: Volume) -> np.ndarray:
    """Give the voxel of the lesion's centre, or the volume's centre."""
    shape = np.asarray(volume.images["axt2"].shape)
    if not volume.seen.lesion:
        return shape // 2
    voxel = nib.affines.apply_affine(np.linalg.inv(volume.affine), volume.seen.centre_mm).round().astype(int)
    return np.clip(voxel, 0, shape - 1)


def _draw(path: Path, volumes: dict[str, Volume]) -> None:
    """Draw T2w volumes one below the other under their titles, cut where their lesion is."""
    images = [volume.images["axt2"] for volume in volumes.values()]
    places = [_voxel(volume) for volume in volumes.values()]
    montage(images, list(volumes), next(iter(volumes.values())).spacing, path, places)


if __name__ == "__main__":
    run(demo)
