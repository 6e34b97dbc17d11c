"""The benchmark: the authors' recipe against ours at fewer and fewer steps, and the nine variants, on the phantom.

    python -m scripts.showcase.bench --output_dir out/bench [--size long]

Both recipes see the same data, through the shipped VAE and text encoder, for the same number of optimizer steps. Every
stage is a command that a user would type; what is done is not done again. It ends with `bench.md` and one HTML page.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from scripts.cli.run import run
from scripts.common.files import atomic
from scripts.data.outputs import find_records
from scripts.data.page import Page
from scripts.evaluation.class_metrics import Figure, as_text, markdown
from scripts.evaluation.generated import REAL
from scripts.networks.variants import VARIANTS
from scripts.showcase.stages import (
    DEMO_LDM,
    DEMO_T5,
    DEMO_T5_FILES,
    DEMO_VAE,
    Stage,
    bundle,
    choose_size,
    module,
    run_stages,
)

# Trainings of the first table: the authors' recipe at our learning rate and at theirs, ours, and one not done here.
AUTHORS, AUTHORS_RATE, OURS, SHIPPED = "authors", "authors_rate", "ours", "shipped"
SEQUENCES = "['axt2']"  # that all but the shipped network make, by the overlay t2w, and that all are judged by
DEMO_RATE = {"lr": 1e-3, "lr_warmup": 200}  # of demo.yaml, in whose place authors.yaml puts the authors'
Judged = dict[str, dict[str, dict[str, Figure]]]  # what evaluate.yaml writes
GOALS = "Goals: 20 steps no worse than the authors' 1,000 in every column, adherence ≥ 90 %, class agreement ≥ 95 %."


@dataclass(frozen=True)
class Size:
    """How much of everything; the networks are those of the `demo` overlays in every size."""

    cases: int  # phantom patients
    tests: int  # of them, held out; one volume is made from each of their reports
    epochs: int  # of every training
    authors_steps: int  # of the authors' sampler
    steps: tuple[int, ...]  # of ours


SIZES = {
    "smoke": Size(cases=24, tests=4, epochs=1, authors_steps=20, steps=(20, 5)),
    "short": Size(cases=864, tests=64, epochs=22, authors_steps=1000, steps=(50, 20, 10, 5)),
    "long": Size(cases=2800, tests=400, epochs=48, authors_steps=1000, steps=(50, 20, 10, 5)),
}
VARIANT_STEPS = 20  # of the ablation; among every size's steps, so that its CCELLA is that row of ours


@dataclass(frozen=True)
class Run:
    """One row of a table: volumes of the test reports, in a folder of that name, from the weights of a training."""

    name: str
    training: str
    steps: int


def bench(output_dir: str = "out/bench", size: str = "short", seed: int = 0) -> None:
    """Run what is not done yet and write `<output_dir>/<size>/bench.md` and `index.html`, after each of the tables.

    Args:
        output_dir: gets everything: data, weights, volumes, logs, the tables.
        size: `short` (an afternoon on two cores), `long` (days, or a GPU), or `smoke` (tests the chain, means nothing).
        seed: of the phantom data and of every training.

    Raises:
        UserError: no such size, or a stage failed.
    """
    amount, folder = choose_size(SIZES, size), Path(output_dir).resolve() / size
    chain, finished = data_stages(folder, amount, seed), []
    for rows in (recipes(amount), ablation()):
        new = [row for row in rows if row not in finished]
        chain += row_stages(folder, amount, seed, new)
        run_stages(chain, folder)
        finished += new
        write_tables(folder, amount, finished)
    print(f"\nTables: {folder / 'bench.md'}\nOne page with everything: {folder / 'index.html'}")


def recipes(size: Size) -> list[Run]:
    """Give the rows of the first table: the authors' recipe twice; ours, then the shipped weights, in fewer steps."""
    ours = [Run(f"{training}_{steps}", training, steps) for training in (OURS, SHIPPED) for steps in size.steps]
    return [*(Run(training, training, size.authors_steps) for training in (AUTHORS, AUTHORS_RATE)), *ours]


def ablation() -> list[Run]:
    """Give the rows of the second table: every variant, trained as ours; CCELLA is ours."""
    others = {variant: Run(variant.lower(), variant.lower(), VARIANT_STEPS) for variant in VARIANTS}
    return list((others | {"CCELLA": Run(f"{OURS}_{VARIANT_STEPS}", OURS, VARIANT_STEPS)}).values())


def data_stages(folder: Path, size: Size, seed: int) -> list[Stage]:
    """Give the commands that make what every training reads."""
    data, fraction = folder / "data", size.tests / size.cases
    return [
        Stage(
            "phantom",
            module(
                "phantom",
                "make",
                output_dir=data,
                cases=size.cases,
                seed=seed,
                test_fraction=fraction,
            ),
        ),
        Stage(
            "embed",
            module("encode_reports", data_dir=data, encoder=DEMO_T5),
            ("phantom",),
            reads=DEMO_T5_FILES,
        ),
        Stage(
            "encode",
            bundle(
                "vae", "inference", ("demo",),
                dataset_dir=data, sequences=SEQUENCES, latent_dir=folder / "latents", mode="encode",
            ),
            ("phantom",),
            reads=(DEMO_VAE,),
        ),
        reconstruct_stage(data, folder / "reconstructions", ("phantom",), sequences=SEQUENCES),
    ]  # fmt: skip


def reconstruct_stage(data: Path, output_dir: Path, needs: tuple[str, ...] = (), **options: object) -> Stage:
    """Give the command that writes what the VAE makes of the test volumes: how near a generator of latents can come."""
    command = bundle(
        "vae", "inference", ("demo",),
        dataset_dir=data, datalists="['test.json']", output_dir=output_dir, mode="reconstruct", **options,
    )  # fmt: skip
    return Stage("reconstruct", command, needs, output_dir, (DEMO_VAE,))


def row_stages(folder: Path, size: Size, seed: int, rows: list[Run]) -> list[Stage]:
    """Give the commands of a table: each training once, then what its rows need."""
    names = dict.fromkeys(row.training for row in rows if row.training != SHIPPED)
    trainings = [_train(folder, size, seed, name) for name in names]
    return [*trainings, *(stage for row in rows for stage in _judge(folder, row))]


def _train(folder: Path, size: Size, seed: int, training: str) -> Stage:
    known = {AUTHORS: "authors", AUTHORS_RATE: "authors", OURS: "variants/ccella"}
    overlay = known.get(training, f"variants/{training}")
    rate = DEMO_RATE if training == AUTHORS else {}
    command = bundle(
        "ccella_ldm", "train", ("demo", "t2w", overlay),
        dataset_dir=folder / "data", latent_dir=folder / "latents", ckpt_dir=folder / "ldm" / training,
        epochs=size.epochs, batch_size=8, val_fraction=0, amp="fp32", seed=seed, **rate,
    )  # fmt: skip
    return Stage(f"train_{training}", command, ("embed", "encode"), folder / "ldm" / training)


def _judge(folder: Path, row: Run) -> list[Stage]:
    """Give the stages that make a row's volumes, one for each test report, and judge them."""
    how: dict[str, object] = {"steps": row.steps, "batch_size": 8}
    overlays = ("demo",) if row.training == SHIPPED else ("demo", "t2w")
    if row.training != SHIPPED:
        how["model_file"] = folder / "ldm" / row.training / "model.safetensors"
    if row.training in (AUTHORS, AUTHORS_RATE):
        how |= {"scheduler": "ddpm", "step_spacing": "uniform", "guidance_report": 1}
    elif row.training not in (OURS, SHIPPED):
        how["variant"] = row.training.upper()
    data, volumes = folder / "data", folder / "volumes" / row.name
    generate = bundle(
        "ccella_ldm", "inference", overlays,
        dataset_dir=data, output_dir=volumes, splits="['test']", **how,
    )  # fmt: skip
    evaluate = bundle(
        "ccella_ldm", "evaluate",
        dataset_dir=data, generated_dir=volumes, reconstructed_dir=folder / "reconstructions",
        output_dir=folder / "judged" / row.name,
    )  # fmt: skip
    needs, reads = (f"train_{row.training}",), (DEMO_VAE,)
    if row.training == SHIPPED:
        needs, reads = ("embed",), (DEMO_VAE, DEMO_LDM)
    return [
        Stage(f"generate_{row.name}", generate, needs, volumes, reads),
        Stage(f"judge_{row.name}", evaluate, (f"generate_{row.name}", "reconstruct")),
    ]


# ---- tables ----------------------------------------------------------------------------------------------------------


def write_tables(folder: Path, size: Size, finished: list[Run]) -> None:
    """Write `bench.md` and `index.html` from what the stages of these rows left."""
    train = len(json.loads((folder / "data" / "train.json").read_text(encoding="utf-8")))
    lead = (
        f"{size.cases} phantom patients, {train} of them to train from, {size.epochs} epochs in batches of 8 for each "
        "network but the shipped one. "
        f"Figures in brackets are 95 % intervals. {GOALS}"
    )
    page = Page("What the recipe is worth: a benchmark on the prostate phantom", lead)
    text = [f"{lead}\n"]
    for title, table in _tables(folder, size, finished).items():
        table = table.rename_axis("volumes")
        page.section(title).table(table.reset_index())
        text.append(f"## {title}\n\n{markdown(table)}\n")
    with atomic(folder / "bench.md") as temporary:
        temporary.write_text("\n".join(text), encoding="utf-8")
    page.write(folder / "index.html")


def _tables(folder: Path, size: Size, finished: list[Run]) -> dict[str, pd.DataFrame]:
    """Give each table that has all of its rows, under its title."""
    real = reference_rows(_judged(folder, finished[0]))
    titles = {
        AUTHORS: "authors' recipe",
        AUTHORS_RATE: "authors' recipe and rate",
        OURS: "ours",
        SHIPPED: "shipped weights",
    }
    named = {row: f"{titles[row.training]}, {row.steps:,} steps" for row in recipes(size)}
    tables = {
        "The authors' recipe and ours": named,
        "Nine variants, trained as ours": dict(zip(ablation(), VARIANTS, strict=True)),
    }
    return {
        title: pd.DataFrame.from_dict(real | {name: _row(folder, row) for row, name in rows.items()}, orient="index")
        for title, rows in tables.items()
        if set(rows) <= set(finished)
    }


def _judged(folder: Path, row: Run) -> Judged:
    return json.loads((folder / "judged" / row.name / "metrics.json").read_text(encoding="utf-8"))


def _row(folder: Path, row: Run) -> dict[str, str]:
    """Give a row's cells; seconds are the median over its volumes of sampling, decoding and writing."""
    judged = _judged(folder, row)
    agreement = judged["class"].get("PIRADS_synth", {}).get("accuracy")
    seconds = np.median([record.seconds for record in find_records(folder / "volumes" / row.name)])
    return {
        **cells(judged, "generated", "generated", "generated"),
        "class agreement": as_text(agreement, percent=True) if agreement else "no class head",
        "s a volume": f"{seconds:.2f}",
    }


def reference_rows(judged: Judged) -> dict[str, dict[str, str]]:
    """Give what a perfect generator would get, and what the VAE alone does to the test volumes.

    That is other real volumes' distance with the analyser's own accuracy, and the reconstructions of the test volumes.
    """
    rest = {"class agreement": "–", "s a volume": "–"}
    real = cells(judged, "real train", REAL, "real") | rest
    again = cells(judged, "reconstructed test", "reconstructed", "reconstructed") | rest
    return {"real training volumes": real, "reconstructions of the test volumes": again}


def cells(judged: Judged, distances: str, adherence: str, measures: str) -> dict[str, str]:
    """Give the cells that any row has, from rows of what `evaluate.yaml` writes."""
    columns = {}
    for kind, name in (("frechet", "Fréchet distance"), ("kernel", "kernel distance")):
        for target, suffix in (("real test", ""), ("reconstructed test", " to reconstructions")):
            figures = judged["distances"].get(f"phantom: {distances} to {target}")
            columns[name + suffix] = as_text(figures[kind]) if figures else "–"
    parts = {"presence": "lesion or none", "all": "everything"}
    shares, sizes = judged["adherence"][adherence], judged["measures"][measures]
    columns |= {parts.get(part, part): as_text(figure, percent=True) for part, figure in shares.items()}
    columns["diameter error (mm)"] = as_text(sizes["diameter_error_mm"])
    columns["lesion's signal"] = as_text(sizes["lesion_signal_axt2"]) if "lesion_signal_axt2" in sizes else "–"
    return columns


if __name__ == "__main__":
    run(bench)
