"""The benchmark: the authors' recipe against ours at fewer and fewer steps, and the nine variants, on the phantom.

    python -m scripts.showcase.bench --output_dir out/bench [--size long]

All recipes see the same data, through the shipped VAE and text encoder, for the same number of optimizer steps. The
first table is of the demo's three sequences, as the shipped weights are; the second, the paper's ablation, of T2w
alone. Every stage is a command that a user would type; what is done is not done again. It ends with `bench.md` and one
HTML page.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from scripts.cli.run import run
from scripts.common.files import atomic
from scripts.data.outputs import find_records, images_of
from scripts.data.page import Page
from scripts.evaluation.class_metrics import as_text, markdown
from scripts.networks.variants import VARIANTS
from scripts.showcase.comparison import Cells, Judged, cells, draw, read_judged, reference_rows, shown_case, table
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

# Trainings of the first table: the authors' recipe at our learning rate and at theirs, ours, the same with one factor
# for all channels of the latents, and one not done here.
AUTHORS, AUTHORS_RATE, OURS, SINGLE, SHIPPED = "authors", "authors_rate", "ours", "single", "shipped"
DEMO_RATE = {"lr": 1e-3, "lr_warmup": 200}  # of demo.yaml, in whose place authors.yaml puts the authors'
# A lesion of a default phantom differs little from what surrounds it, and is a three-hundredth of a latent's cells: so
# short a training leaves it out, whatever the recipe, where the loss does not weigh it more. So it does in all alike.
FOCUS = {"focus_mask": "lesions.nii.gz", "focus_weight": 20}
GOALS = "Goals: 20 steps no worse than the authors' 1,000 in every column, adherence ≥ 90 %, class agreement ≥ 95 %."


@dataclass(frozen=True)
class Size:
    """How much of everything; the networks are those of the `demo` overlays in every size."""

    cases: int  # phantom patients
    tests: int  # of them, held out; one volume is made from each of their reports
    epochs: int  # of every training
    authors_steps: int  # of the authors' sampler
    steps: tuple[int, ...]  # of ours
    amp: str = "auto"  # precision of whatever a network does, as the bundles' option


SIZES = {
    "smoke": Size(cases=24, tests=4, epochs=1, authors_steps=20, steps=(20, 5)),
    "short": Size(cases=864, tests=64, epochs=22, authors_steps=1000, steps=(50, 20, 10, 5)),
    "long": Size(cases=2800, tests=400, epochs=48, authors_steps=1000, steps=(50, 20, 10, 5)),
}
OUR_STEPS = 20  # where nothing is asked of their number


@dataclass(frozen=True)
class Run:
    """One row of a table: volumes of the test reports, in a folder of that name, from the weights of a training."""

    name: str
    training: str
    steps: int


@dataclass(frozen=True)
class Table:
    """Rows that compare with one another, under what they are called; `note` says what they have in common."""

    title: str
    note: str
    rows: dict[str, Run]


def bench(output_dir: str = "out/bench", size: str = "short", seed: int = 0, amp: str = "auto") -> None:
    """Run what is not done yet and write `<output_dir>/<size>/bench.md` and `index.html`, after each of the tables.

    Args:
        output_dir: gets everything: data, weights, volumes, logs, the tables.
        size: `short` (an afternoon on two cores), `long` (a day, or a GPU) or `smoke` (tests the chain, means nothing).
        seed: of the phantom data and of every training.
        amp: precision of everything, as the bundles' option; `bf16` is faster on a processor with AMX.

    Raises:
        UserError: no such size, or a stage failed.
    """
    amount, folder = replace(choose_size(SIZES, size), amp=amp), Path(output_dir).resolve() / size
    chain, finished = data_stages(folder, amount, seed), []
    for compared in (recipes(amount), ablation()):
        chain += row_stages(folder, amount, seed, list(compared.rows.values()))
        run_stages(chain, folder)
        finished.append(compared)
        write_page(folder, amount, finished)
    print(f"\nTables: {folder / 'bench.md'}\nOne page with everything: {folder / 'index.html'}")


def recipes(size: Size) -> Table:
    """Give the first table: the authors' recipe twice; ours, then the shipped weights, in fewer steps."""
    titles = {OURS: "ours", SHIPPED: "shipped weights"}
    rows = {
        f"authors' recipe, {size.authors_steps:,} steps": Run(AUTHORS, AUTHORS, size.authors_steps),
        f"authors' recipe and rate, {size.authors_steps:,} steps": Run(AUTHORS_RATE, AUTHORS_RATE, size.authors_steps),
        f"ours, but one factor for all channels, {OUR_STEPS:,} steps": Run(SINGLE, SINGLE, OUR_STEPS),
    } | {
        f"{title}, {steps:,} steps": Run(f"{training}_{steps}", training, steps)
        for training, title in titles.items()
        for steps in size.steps
    }
    note = (
        "T2w, high-b and ADC, made together; the phantom's analyser looks at all three in every row. "
        "Distances are those of the T2w."
    )
    return Table("The authors' recipe and ours", note, rows)


def ablation() -> Table:
    """Give the second table: every variant, trained as ours but for the sequences."""
    note = (
        "T2w alone, as in the paper, and in no row does the analyser see more. That shows it less than three sequences "
        "do: these rows compare with one another, and not with those of the other table."
    )
    rows = {variant: Run(variant.lower(), variant.lower(), OUR_STEPS) for variant in VARIANTS}
    return Table("Nine variants, trained as ours", note, rows)


def data_stages(folder: Path, size: Size, seed: int) -> list[Stage]:
    """Give the commands that make what every training reads."""
    data, fraction = folder / "data", size.tests / size.cases
    encode = bundle(
        "vae", "inference", ("demo",),
        dataset_dir=data, latent_dir=folder / "latents", mode="encode", amp=size.amp,
    )  # fmt: skip
    return [
        Stage(
            "phantom",
            module("phantom", "make", output_dir=data, cases=size.cases, seed=seed, test_fraction=fraction),
        ),
        Stage(
            "embed",
            module("encode_reports", data_dir=data, encoder=DEMO_T5),
            ("phantom",),
            reads=DEMO_T5_FILES,
        ),
        Stage(
            "encode",
            encode,
            ("phantom",),
            reads=(DEMO_VAE,),
        ),
        reconstruct_stage(data, folder / "reconstructions", ("phantom",), size.amp),
    ]


def reconstruct_stage(data: Path, output_dir: Path, needs: tuple[str, ...] = (), amp: str = "auto") -> Stage:
    """Give the command that writes what the VAE makes of the test volumes: how near a generator of latents can come."""
    command = bundle(
        "vae", "inference", ("demo",),
        dataset_dir=data, datalists="['test.json']", output_dir=output_dir, mode="reconstruct", amp=amp,
    )  # fmt: skip
    return Stage("reconstruct", command, needs, output_dir, (DEMO_VAE,))


def row_stages(folder: Path, size: Size, seed: int, rows: list[Run]) -> list[Stage]:
    """Give the commands of a table: each training once, then what its rows need."""
    names = dict.fromkeys(row.training for row in rows if row.training != SHIPPED)
    trainings = [_train(folder, size, seed, name) for name in names]
    return [*trainings, *(stage for row in rows for stage in _judge(folder, size, row))]


def _overlays(training: str) -> tuple[str, ...]:
    """Give what says which network and sequences, in training and in inference."""
    whole = training in (AUTHORS, AUTHORS_RATE, OURS, SINGLE, SHIPPED)
    return ("demo",) if whole else ("demo", "t2w", f"variants/{training}")


def _train(folder: Path, size: Size, seed: int, training: str) -> Stage:
    authors = ("authors",) if training in (AUTHORS, AUTHORS_RATE) else ()
    own = {AUTHORS: DEMO_RATE, SINGLE: {"latent_scale": "single"}}.get(training, {})
    command = bundle(
        "ccella_ldm", "train", (*_overlays(training), *authors),
        dataset_dir=folder / "data", latent_dir=folder / "latents", ckpt_dir=folder / "ldm" / training,
        epochs=size.epochs, batch_size=8, val_fraction=0, amp=size.amp, seed=seed, **FOCUS, **own,
    )  # fmt: skip
    return Stage(f"train_{training}", command, ("embed", "encode"), folder / "ldm" / training)


def _judge(folder: Path, size: Size, row: Run) -> list[Stage]:
    """Give the stages that make a row's volumes, one for each test report, and judge them."""
    how: dict[str, object] = {"steps": row.steps, "batch_size": 8, "amp": size.amp}
    if row.training != SHIPPED:
        how["model_file"] = folder / "ldm" / row.training / "model.safetensors"
    if row.training in (AUTHORS, AUTHORS_RATE):
        how |= {"scheduler": "ddpm", "step_spacing": "uniform", "guidance_report": 1}
    data, volumes = folder / "data", folder / "volumes" / row.name
    generate = bundle(
        "ccella_ldm", "inference", _overlays(row.training),
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


# ---- the page --------------------------------------------------------------------------------------------------------


def write_page(folder: Path, size: Size, finished: list[Table]) -> None:
    """Write `bench.md` and `index.html` with pictures, from what the stages of these tables left."""
    train = len(json.loads((folder / "data" / "train.json").read_text(encoding="utf-8")))
    lead = (
        f"{size.cases} phantom patients of the default difficulty, {train} of them to train from, {size.epochs} epochs "
        "in batches of 8 for each network but the shipped one. The loss of these trainings, of all alike, weighs "
        f"the cells of lesions {FOCUS['focus_weight']} times as much as the rest, by the phantom's own masks: without "
        f"that, so short a training draws no lesions. Figures in brackets are 95 % intervals. {GOALS}"
    )
    page = Page("What the recipe is worth: a benchmark on the prostate phantom", lead)
    text, case = [f"{lead}\n"], shown_case(folder / "data")
    for number, compared in enumerate(finished, 1):
        shown = _figures(folder, compared)
        section = page.section(compared.title).text(compared.note).table(shown.reset_index())
        text.append(f"## {compared.title}\n\n{compared.note}\n\n{markdown(shown)}\n")
        volumes = {name: folder / "volumes" / row.name for name, row in compared.rows.items()}
        section.text("What each row made of one test report:").quote(case["text"])
        for sequence in images_of(next(iter(volumes.values())) / case["folder"]):
            picture = folder / "pictures" / f"table{number}_{sequence}.png"
            draw(case, folder / "data", {"reconstruction": folder / "reconstructions", **volumes}, [sequence], picture)
            section.figure(picture, f"{sequence}, below the phantom of whom the report was written.")
    with atomic(folder / "bench.md") as temporary:
        temporary.write_text("\n".join(text), encoding="utf-8")
    page.write(folder / "index.html")


def _figures(folder: Path, compared: Table) -> pd.DataFrame:
    """Give a table's cells, under two rows that say what could be reached.

    Those are of the first row's judgement: they are the same in all, of the sequences that this table is of.
    """
    judged = {name: read_judged(folder / "judged" / row.name) for name, row in compared.rows.items()}
    rows = {name: _row(folder / "volumes" / row.name, judged[name]) for name, row in compared.rows.items()}
    return table(reference_rows(next(iter(judged.values()))) | rows)


def _row(volumes: Path, judged: Judged) -> Cells:
    """Give a row's cells; seconds are the median over its volumes of sampling, decoding and writing."""
    agreement = judged["class"].get("PIRADS_synth", {}).get("accuracy")
    seconds = np.median([record.seconds for record in find_records(volumes)])
    return {
        **cells(judged),
        "class agreement": as_text(agreement, percent=True) if agreement else "no class head",
        "s a volume": f"{seconds:.2f}",
    }


if __name__ == "__main__":
    run(bench)
