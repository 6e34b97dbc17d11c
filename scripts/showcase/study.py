"""The whole chain from nothing, on the phantom: VAE -> latents -> LDM -> volumes -> evaluation -> five classifier arms.

    python -m scripts.showcase.study --output_dir out/study [--size long]

Every stage is a command that a user would type, with its own log; a stage that is done is not done again, and the
training stages go on from their last checkpoint. It ends with one HTML page on which every figure has its interval.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from scripts.classifier.arms import ARMS, Arm
from scripts.classifier.cases import OneClassError, read_training
from scripts.cli.run import run
from scripts.data.datalists import SEQUENCES
from scripts.data.images import load_volume
from scripts.data.montage import montage
from scripts.data.outputs import find_records
from scripts.data.page import Page, Section
from scripts.evaluation.class_metrics import Figure, as_text
from scripts.showcase.stages import Stage, bundle, choose_size, module, run_stages

VALIDATION = 0.2  # share of the training patients that an arm's best epoch is chosen on
SHOWN = 6  # generated test cases on the page
READABLE = {
    "mae": "MAE", "psnr": "PSNR (dB)", "ssim": "SSIM", "ppv": "PPV", "npv": "NPV",
    "roc_auc": "ROC AUC", "average_precision": "average precision",
    "frechet": "Fréchet distance", "kernel": "kernel distance",
    "presence": "lesion or none", "all": "everything",
    "diameter_error_mm": "diameter error (mm)", "gland_error_ml": "gland error (mL)",
    "nodule_contrast": "nodule contrast",
    **{f"lesion_signal_{name}": f"lesion's signal, {name}" for name in SEQUENCES},
}  # fmt: skip
ARM_COLUMNS = [
    "trained on", "n", "accuracy", "sensitivity", "specificity", "roc_auc", "AUC difference to real", "AUC p (DeLong)"
]  # fmt: skip


@dataclass(frozen=True)
class Size:
    """How much of everything; the networks are those of the `demo` overlays in every size."""

    cases: int  # phantom patients, a quarter of them for the test
    reports: int  # written for the text encoder alone, of other patients
    encoder_steps: int
    vae_epochs: int
    ldm_epochs: int
    arm_epochs: int


SIZES = {
    "smoke": Size(cases=40, reports=200, encoder_steps=20, vae_epochs=2, ldm_epochs=12, arm_epochs=1),
    "short": Size(cases=360, reports=20_000, encoder_steps=1000, vae_epochs=24, ldm_epochs=110, arm_epochs=3),
    "long": Size(cases=2500, reports=20_000, encoder_steps=1000, vae_epochs=4, ldm_epochs=24, arm_epochs=20),
}


def study(output_dir: str = "out/study", size: str = "short", seed: int = 0) -> None:
    """Run what is not done yet and write `<output_dir>/index.html`.

    Args:
        output_dir: gets everything: data, weights, volumes, logs, the page.
        size: `short` (under an hour on two cores), `long`, or `smoke` (minutes; tests the chain, means nothing).
        seed: of the phantom data and of every training.

    Raises:
        UserError: no such size, or a stage failed.
    """
    amount, folder = choose_size(SIZES, size), Path(output_dir).resolve() / size
    chain = generator_stages(folder, amount, seed)
    run_stages(chain, folder)
    chain += classifier_stages(folder, amount, seed, trainable_arms(folder, seed))
    seconds = run_stages(chain, folder)
    write_page(folder, amount, seconds)
    print(f"\nOne page with everything: {folder / 'index.html'}")


def generator_stages(folder: Path, size: Size, seed: int) -> list[Stage]:
    """Give the stages from data to judged volumes."""
    data, encoder, vae, ldm = folder / "data", folder / "t5", folder / "vae", folder / "ldm"
    vae_file, latents = vae / "model.safetensors", folder / "latents"
    return [
        Stage("phantom", module("phantom", "make", output_dir=data, cases=size.cases, seed=seed, test_fraction=0.25)),
        Stage("encoder", module("phantom.tiny_t5", output_dir=encoder, reports=size.reports, steps=size.encoder_steps)),
        Stage("embed", module("encode_reports", data_dir=data, encoder=encoder), ("phantom", "encoder")),
        Stage(
            "vae_train",
            bundle(
                "vae", "train", ("demo",),
                dataset_dir=data, model_dir=vae, epochs=size.vae_epochs, val_interval=2, seed=seed,
                adversarial_after=-(-2 * size.vae_epochs // 3),  # the rate falls by then
            ),
            ("phantom",),
            vae,
        ),
        Stage(
            "vae_evaluate",
            bundle(
                "vae", "evaluate", ("demo",),
                dataset_dir=data, weights=vae_file, output_dir=folder / "vae_evaluation",
            ),
            ("vae_train",),
        ),
        Stage(
            "vae_encode",
            bundle(
                "vae", "inference", ("demo",),
                dataset_dir=data, weights=vae_file, latent_dir=latents, mode="encode",
            ),
            ("vae_train",),
        ),
        Stage(
            "ldm_train",
            bundle(
                "ccella_ldm", "train", ("demo",),
                dataset_dir=data, latent_dir=latents, ckpt_dir=ldm, epochs=size.ldm_epochs, batch_size=8, seed=seed,
            ),
            ("vae_encode", "embed"),
            ldm,
        ),
        Stage(
            "generate",
            bundle(
                "ccella_ldm", "inference", ("demo",),
                dataset_dir=data, output_dir=folder / "volumes", model_file=ldm / "model.safetensors",
                vae_file=vae_file, text_encoder=encoder, batch_size=8,
            ),
            ("ldm_train",),
            folder / "volumes",
        ),
        Stage(
            "ldm_evaluate",
            bundle(
                "ccella_ldm", "evaluate",
                dataset_dir=data, generated_dir=folder / "volumes", output_dir=folder / "ldm_evaluation",
            ),
            ("generate",),
        ),
    ]  # fmt: skip


def trainable_arms(folder: Path, seed: int) -> list[Arm]:
    """Give the arms whose training cases hold both classes: a poor generator predicts one class for every report."""
    arms = []
    for arm in ARMS:
        try:
            read_training(
                folder / "data", folder / "volumes", **arm.switches, validation_fraction=VALIDATION, seed=seed
            )
        except OneClassError:
            continue
        arms.append(arm)
    return arms


def classifier_stages(folder: Path, size: Size, seed: int, arms: Sequence[Arm] = ARMS) -> list[Stage]:
    """Give the stages of the arms: each is trained, then tested once on the real test cases; then the table."""
    stages = []
    for arm in arms:
        values = {"dataset_dir": folder / "data", "models_dir": folder / "classifier", **arm.switches}
        train = bundle(
            "classifier", "train", ("demo",),
            **values, synthetic_dir=folder / "volumes", validation_fraction=VALIDATION,
            epochs=size.arm_epochs, seed=seed,
        )  # fmt: skip
        test = bundle("classifier", "inference", ("demo",), **values, output_dir=folder / "arms")
        stages += [
            Stage(f"train_{arm.name}", train, ("generate",), folder / "classifier" / arm.name),
            Stage(f"test_{arm.name}", test, (f"train_{arm.name}",)),
        ]
    tests = tuple(f"test_{arm.name}" for arm in arms)
    return [*stages, Stage("arms", module("classifier.arms", results_dir=folder / "arms"), tests)]


def write_page(folder: Path, size: Size, seconds: dict[str, float]) -> None:
    """Write `index.html` from what the stages left."""
    page = Page(
        "What synthetic volumes are worth: a study on the prostate phantom",
        f"{size.cases} phantom patients; every network was trained here, from nothing. "
        "Figures in brackets are 95 % intervals.",
    )
    volumes = page.section("Volumes generated from test reports")
    _pictures(folder, volumes)
    vae = json.loads((folder / "vae_evaluation" / "reconstruction.json").read_text())
    page.section("Autoencoder: reconstructions of test cases").table(_estimates(vae["fidelity"]))
    page.section("Does the analyser find the lesion where it is?").table(_shares(vae["lesions"]))
    judged = json.loads((folder / "ldm_evaluation" / "metrics.json").read_text())
    titles = {
        "distances": ("Distance to real test volumes", _estimates),
        "adherence": ("Does the volume show what its report says?", _shares),
        "measures": ("How large and how dark is what it shows?", _estimates),
        "class": ("Class that the adapter predicts from the report", _estimates),
        "copies": ("Copies of training cases", _shares),
    }
    for part, (title, tabulate) in titles.items():
        if judged.get(part):
            page.section(title).table(tabulate(judged[part]))
    arms = pd.read_csv(folder / "arms" / "arms.csv").astype(object).fillna("–")
    section = page.section("Five classifier arms, tested on real test cases").table(
        arms[ARM_COLUMNS].rename(columns=READABLE)
    )
    section.text("All figures of the arms are in arms/arms.csv.")
    for arm in ARMS:
        if arm.name not in set(arms["arm"]):
            section.text(f"No classifier was trained on {arm}: the generator predicted one class for every report.")
    page.section("Minutes for each stage").table(
        pd.DataFrame({"stage": list(seconds), "minutes": [round(value / 60, 1) for value in seconds.values()]})
    )
    page.write(folder / "index.html")


def _pictures(folder: Path, section: Section) -> None:
    """Show some generated test cases, each beside the real case whose report it was made from."""
    reports = {case["folder"]: case["text"] for case in json.loads((folder / "data" / "test.json").read_text())}
    shown = [record for record in find_records(folder / "volumes") if record.split == "test"][:SHOWN]
    for record in shown:
        paths = folder / "data" / record.source / "axt2.nii.gz", folder / "volumes" / record.folder / "axt2.nii.gz"
        (real, spacing, _), (made, _, _) = map(load_volume, paths)
        picture = folder / "pictures" / f"{record.folder}.png"
        montage([real, made], ["the real case", "generated from its report"], spacing, picture)
        section.quote(reports[record.source] or "(no report)").figure(picture, record.folder)


def _estimates(rows: dict[str, dict[str, Figure]], percent: bool = False) -> pd.DataFrame:
    """Give a table with one row for each thing judged and `value (low to high)` in each column."""
    shown = {row: {name: as_text(figure, percent) for name, figure in figures.items()} for row, figures in rows.items()}
    table = pd.DataFrame.from_dict(shown, orient="index").fillna("–").rename_axis("").reset_index()
    return table.rename(columns=READABLE)


def _shares(rows: dict[str, dict[str, Figure]]) -> pd.DataFrame:
    """Give the same of shares, in percent."""
    return _estimates(rows, percent=True)


if __name__ == "__main__":
    run(study)
