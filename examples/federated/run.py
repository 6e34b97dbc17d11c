"""Hospitals that train together: phantoms of several institutions, federated, each alone, and pooled; and a table.

    python examples/federated/run.py --output_dir out/federated [--size short] [--institutes North,East,West]

The generator is fine-tuned from the shipped weights, the classifier begins at random. Every stage is a command that a
user would type, with its own log; what is done is not done again. It ends with `federated.md`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from joblib import cpu_count
from monai.bundle import ConfigParser

from pooling import pool
from scripts.classifier.arms import ARMS
from scripts.classifier.weights import header
from scripts.cli.run import run
from scripts.common.files import atomic
from scripts.common.tensors import write_tensors
from scripts.evaluation.class_metrics import Estimate, as_text, class_metrics, markdown, mean
from scripts.showcase.stages import (
    BUNDLES,
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

FOLDER = Path(__file__).resolve().parent
FEDERATED, POOLED = "federated", "pooled"
# What the classifier sees: of T2w alone it would learn nothing in so few steps, and finer voxels would take their time.
SEEN = {"channels": ["axt2", "b1600", "adc"], "spacing": [1.875, 1.875, 2.8125], "spatial_size": [40, 40, 20]}
# Of the generator, wherever it is trained here: few steps from weights that have learnt much.
FINE_TUNING = {"lr": 2e-4, "lr_warmup": 10, "batch_size": 8, "val_fraction": 0.1}

Values = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Size:
    """How much of everything; the networks are those of the `demo` overlays in every size."""

    train: int  # phantom patients of each institution
    tests: int  # and those that its models are judged on
    reports: int  # of these, whose reports the federated generator makes a volume of
    classifier: tuple[int, int]  # rounds, epochs of a round; the others train as many steps in one go
    generator: tuple[int, int]  # the same, but as many epochs


SIZES = {
    "smoke": Size(train=16, tests=8, reports=2, classifier=(2, 1), generator=(2, 1)),
    "short": Size(train=110, tests=30, reports=8, classifier=(4, 4), generator=(2, 1)),
    "long": Size(train=400, tests=130, reports=40, classifier=(8, 1), generator=(8, 1)),
}


def federated(
    output_dir: str = "out/federated",
    size: str = "short",
    institutes: tuple[str, ...] = ("North", "East", "West"),
    seed: int = 0,
) -> None:
    """Run what is not done yet, print the table and write `<output_dir>/<size>/federated.md`.

    Args:
        output_dir: gets everything: data, weights, volumes, logs, the table.
        size: `short` (about ten minutes on two cores), `long`, or `smoke` (minutes; tests the chain, means nothing).
        institutes: names, with commas between them; a name decides on scanner and style of reports.
        seed: of the phantom data and of every training.

    Raises:
        UserError: no such size, or a stage failed.
    """
    amount, names = choose_size(SIZES, size), list(institutes)
    folder = Path(output_dir).resolve() / size
    data = data_stages(folder, amount, names, seed)
    run_stages(data, folder, together=cpu_count())
    roots = [folder / "data" / name for name in names]
    pool(roots, folder / "data" / POOLED)
    pool(roots, folder / "judged", tests=amount.reports)
    begin_classifier(folder / "start.safetensors", seed)
    learning = classifier_stages(folder, amount, names, seed) + generator_stages(folder, amount, names, seed)
    # A federation keeps all cores busy itself; what runs beside others stands together.
    stages = data + pooled_stages(folder, names) + sorted(learning, key=lambda stage: stage.beside)
    seconds = run_stages(stages, folder, together=cpu_count())
    write_table(folder, names, seconds)


# ---- stages ----------------------------------------------------------------------------------------------------------


def data_stages(folder: Path, size: Size, names: list[str], seed: int) -> list[Stage]:
    """Each institution makes its patients, and encodes its own reports and images with the shipped networks."""
    stages = []
    for number, name in enumerate(names):
        root, cases = folder / "data" / name, size.train + size.tests
        make = module(
            "phantom", "make", output_dir=root, cases=cases, seed=seed + number, test_fraction=size.tests / cases,
            institute=name,
        )  # fmt: skip
        embed = module("encode_reports", data_dir=root, encoder=DEMO_T5)
        encode = bundle("vae", "inference", ("demo",), dataset_dir=root, latent_dir=root / "latents", mode="encode")
        stages += [
            Stage(f"phantom_{name}", make, beside=True),
            Stage(f"embed_{name}", embed, (f"phantom_{name}",), reads=DEMO_T5_FILES, beside=True),
            Stage(f"encode_{name}", encode, (f"phantom_{name}",), reads=(DEMO_VAE,), beside=True),
        ]
    return stages


def pooled_stages(folder: Path, names: list[str]) -> list[Stage]:
    """The reports of all institutions, for what no hospital could do: train on all, and judge on all."""
    needs = tuple(f"phantom_{name}" for name in names)
    stages = []
    for root in (folder / "data" / POOLED, folder / "judged"):
        embed = module("encode_reports", data_dir=root, encoder=DEMO_T5)
        stages.append(Stage(f"embed_{root.name}", embed, needs, reads=DEMO_T5_FILES, beside=True))
    return stages


def federate(kind: str, folder: Path, start: Path, overlays: str, rounds: tuple[int, int], values: Values) -> Stage:
    """The stage that runs the federation of a bundle in NVFlare's simulator.

    Args:
        kind: the bundle.
        values: of each site's train.yaml, by the site's name.
    """
    sites = folder / kind / "sites"
    files = {name: sites / f"{name}.yaml" for name in values}
    for other in set(sites.glob("*.yaml")) - set(files.values()):  # of a run with more institutions
        other.unlink()
    for name, own in values.items():
        own = {"bundle_root": BUNDLES / kind} | own
        with atomic(files[name]) as part:
            part.write_text(yaml.safe_dump({k: str(v) if isinstance(v, Path) else v for k, v in own.items()}))
    out = folder / kind / FEDERATED
    command = (
        sys.executable, str(FOLDER / "job.py"), "--output_dir", str(out), "--start", str(start),
        "--overlays", overlays, "--sites_dir", str(sites), "--rounds", str(rounds[0]), "--epochs", str(rounds[1]),
    )  # fmt: skip
    needs = tuple(f"{done}_{name}" for name in values for done in ("embed", "encode"))
    return Stage(f"{kind}_{FEDERATED}", command, needs, folder / kind / "at_sites", tuple(files.values()))


def classifier_stages(folder: Path, size: Size, names: list[str], seed: int) -> list[Stage]:
    """Train it federated, alone and pooled, and let each predict the tests of all institutions."""
    kind, data, (rounds, epochs) = "classifier", folder / "data", size.classifier
    learning = {**SEEN, "batch_size": 8}
    values = {
        name: {"dataset_dir": data / name, "models_dir": folder / kind / "at_sites" / name, "seed": seed, **learning}
        for name in names
    }
    stages = [federate(kind, folder, folder / "start.safetensors", "demo,federated", size.classifier, values)]
    for name in [*names, POOLED]:
        command = bundle(
            kind, "train", ("demo",),
            dataset_dir=data / name, models_dir=folder / kind / name, seed=seed, **learning,
            epochs=max(1, round(rounds * epochs / (len(names) if name == POOLED else 1))),  # so all take as many steps
        )  # fmt: skip
        needs = tuple(f"phantom_{one}" for one in (names if name == POOLED else [name]))
        stages.append(Stage(f"{kind}_{name}", command, needs, folder / kind / name, beside=True))
    for name in [FEDERATED, *names, POOLED]:
        file = classifier_file(folder, name)
        command = bundle(
            kind, "inference", ("demo",), dataset_dir=data / POOLED, model_file=file, saliency=0,
            output_dir=folder / "classes" / name, **SEEN,
        )  # fmt: skip
        stages.append(Stage(f"classes_{name}", command, (f"{kind}_{name}",), beside=True))
    return stages


def generator_stages(folder: Path, size: Size, names: list[str], seed: int) -> list[Stage]:
    """Fine-tune it federated, alone and pooled; losses of all, volumes of the federated one and what they show."""
    kind, data, (rounds, epochs) = "ccella_ldm", folder / "data", size.generator
    tuning = {"initial_weights": DEMO_LDM, "seed": seed, **FINE_TUNING}
    values = {
        name: {"dataset_dir": data / name, "ckpt_dir": folder / kind / "at_sites" / name, **tuning} for name in names
    }
    stages = [federate(kind, folder, DEMO_LDM, "demo,federated", size.generator, values)]
    for name in [*names, POOLED]:
        command = bundle(
            kind, "train", ("demo", "federated"),
            dataset_dir=data / name, ckpt_dir=folder / kind / name, epochs=rounds * epochs, **tuning,
        )  # fmt: skip
        needs = tuple(f"{done}_{one}" for done in ("embed", "encode") for one in names)
        stages.append(Stage(f"{kind}_{name}", command, needs, folder / kind / name, beside=True))
    trained = tuple(f"{kind}_{name}" for name in [FEDERATED, *names, POOLED])
    look = (
        sys.executable, str(FOLDER / "losses.py"), "--dataset_dir", str(data / POOLED),
        "--models_dir", str(folder / kind), "--output_csv", str(folder / "losses.csv"),
    )  # fmt: skip
    generate = bundle(
        kind, "inference", ("demo",), dataset_dir=folder / "judged", splits="['test']",
        model_file=folder / kind / FEDERATED / "model.safetensors", output_dir=folder / "volumes",
        batch_size=8, seed=seed,
    )  # fmt: skip
    judge = bundle(kind, "evaluate", dataset_dir=folder / "judged", generated_dir=folder / "volumes")
    return [
        *stages,
        Stage("losses", look, (*trained, f"embed_{POOLED}"), beside=True),
        Stage("volumes", generate, (f"{kind}_{FEDERATED}", "embed_judged"), folder / "volumes", beside=True),
        Stage("judge", judge, ("volumes",), beside=True),
    ]


def classifier_file(folder: Path, name: str) -> Path:
    """Where the weights of a training lie: the bundle's own have the arm's name in their path."""
    within = folder / "classifier" / name
    return within / "model.safetensors" if name == FEDERATED else within / ARMS[0].name / "model.safetensors"


def begin_classifier(path: Path, seed: int) -> None:
    """Random weights of the demo's classifier, with the header that inference reads, for the server to begin with."""
    parser = ConfigParser()
    parser.read_config([str(BUNDLES / "classifier" / "configs" / f"{name}.yaml") for name in ("train", "demo")])
    parser.update(SEEN)
    torch.manual_seed(seed)
    network = parser.get_parsed_content("network_def")
    seen = {name: parser.get_parsed_content(name) for name in ("arm", "channels", "centre", "spacing", "spatial_size")}
    write_tensors(path, network.state_dict(), header(seen))


# ---- the table -------------------------------------------------------------------------------------------------------


def write_table(folder: Path, names: list[str], seconds: Mapping[str, float]) -> None:
    """Write and print what the stages have found."""
    cases = json.loads((folder / "data" / POOLED / "test.json").read_text(encoding="utf-8"))
    where = pd.Series({case["folder"]: case["dataset"] for case in cases})

    def row(found: pd.DataFrame, figure: Callable[[pd.DataFrame], Estimate]) -> dict[str, str]:
        parts = {name: found[found.index.map(where) == name] for name in names} | {"all": found}
        return {name: str(figure(part)) for name, part in parts.items()}

    aucs = {}
    for name in [FEDERATED, *names, POOLED]:
        (file,) = (folder / "classes" / name).rglob("predictions.csv")
        found = pd.read_csv(file, dtype={"folder": str}).set_index("folder")
        aucs[name] = row(found, lambda part: class_metrics(part["label"], part["probability"])["roc_auc"])
    found = pd.read_csv(folder / "losses.csv", dtype={"folder": str}).set_index("folder")
    means = {}
    for name in found:
        means[name] = row(found, lambda part, name=name: mean(part[name]))
        means[name][f"less {POOLED}"] = str(mean(found[name] - found[POOLED]))
    judged = json.loads((folder / "volumes" / "metrics.json").read_text(encoding="utf-8"))
    shares = {
        kind: {row: {part: as_text(figure, percent=True) for part, figure in figures.items()}
               for row, figures in judged[kind].items()}
        for kind in ("adherence", "copies")
    }  # fmt: skip
    tables = {
        "Classifier: AUC on the tests of each institution, and of all": pd.DataFrame(aucs).T,
        "Generator: validation loss on the held-out cases of each institution": pd.DataFrame(means).T,
        **{f"Volumes of the federated generator: {kind}": pd.DataFrame(rows).T
           for kind, rows in shares.items()},
        "Seconds": pd.DataFrame({"seconds": {name: f"{value:.0f}" for name, value in seconds.items()}}),
    }  # fmt: skip
    text = "\n".join(f"## {title}\n\n{markdown(table.rename_axis('trained'))}\n" for title, table in tables.items())
    with atomic(folder / "federated.md") as part:
        part.write_text(text, encoding="utf-8")
    print(f"\n{text}\n{folder / 'federated.md'}")


if __name__ == "__main__":
    run(federated)
