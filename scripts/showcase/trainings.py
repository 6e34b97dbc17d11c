"""How far the small networks of the demo come in a few minutes each: what `make gpu ARGS=--train` adds.

The commands are those that a user would type. Each training is run for two epochs first, the second of which tells how
long one takes, and then goes on to as many as fit into its minutes: a run that is given more epochs is one that had
them from the start.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from joblib import cpu_count
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from scripts.classifier.arms import ARMS
from scripts.data.datalists import read_datalist
from scripts.data.images import image_transforms, load_volume
from scripts.data.montage import montage
from scripts.showcase.stages import DEMO_T5, Stage, bundle, module, run_stages
from scripts.showcase.subjects import demo_size
from scripts.vae.decode import decode
from scripts.vae.encode import encode
from scripts.vae.network import load_vae, maisi_vae

CASES, TESTS = 1000, 20  # phantom patients, and those of them whose reports volumes are made from
SHOWN = 4  # cases in a picture
SPEED = "images_per_second"
TRIED = 2  # epochs: in the first kernels are chosen

Result = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """Phantom patients, and the epochs of each network."""

    cases: int
    vae_epochs: int = TRIED
    ldm_epochs: int = TRIED
    arm_epochs: int = TRIED


Chain = Callable[[Size], list[Stage]]


def trainings(output_dir: Path, minutes: float, cases: int = CASES, tests: int = TESTS) -> Iterator[Result]:
    """Train VAE, diffusion model and the classifier of real volumes, so many minutes each, start-up among them.

    Data, latents and checkpoints lie in a temporary folder.

    Args:
        output_dir: gets `vae.safetensors` and `ldm.safetensors`, pictures of reconstructions and of generated volumes.

    Yields:
        the seconds that data take, and of each training epochs, speed and the last validation's figures.

    Raises:
        UserError: a stage failed; the message ends with its log.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = Size(cases)

        def generator(size: Size) -> list[Stage]:
            return generator_chain(folder, size, tests)

        seconds = run_stages(_until(generator(size), "embed"), folder)
        yield {"title": "data", **seconds}
        images = (cases - tests) * len(demo_size().sequences)
        size, told = _train(folder, generator, size, "vae", folder / "vae", minutes, images)
        shutil.copy(folder / "vae" / "model.safetensors", output_dir / "vae.safetensors")
        show_reconstructions(folder, output_dir / "reconstructions.png")
        yield told
        size, told = _train(folder, generator, size, "ldm", folder / "ldm", minutes, cases - tests)
        shutil.copy(folder / "ldm" / "model.safetensors", output_dir / "ldm.safetensors")
        yield told
        run_stages(generator(size), folder)
        show_generated(folder, output_dir / "generated.png")

        def classifier(size: Size) -> list[Stage]:
            return [*generator(size), arm_stage(folder, size)]

        trained = folder / "classifier" / ARMS[0].name
        _, told = _train(folder, classifier, size, "arm", trained, minutes, cases - tests)
        yield told


def generator_chain(folder: Path, size: Size, tests: int) -> list[Stage]:
    """The stages up to generated volumes, with the shipped text encoder and a VAE of its own."""
    data, vae, ldm, latents = folder / "data", folder / "vae", folder / "ldm", folder / "latents"
    vae_file = vae / "model.safetensors"
    return [
        Stage(
            "phantom",
            module(
                "phantom", "make",
                output_dir=data, cases=size.cases, test_fraction=tests / size.cases, workers=cpu_count(),
            ),
        ),
        Stage("embed", module("encode_reports", data_dir=data, encoder=DEMO_T5), ("phantom",)),
        Stage(
            "vae_train",
            bundle(
                "vae", "train", ("demo",),
                dataset_dir=data, model_dir=vae, epochs=size.vae_epochs, val_interval=2,
                adversarial_after=0,  # the second epoch, which tells how many fit, is as the others are
            ),
            ("phantom",),
            vae,
        ),
        Stage(
            "vae_encode",
            bundle(
                "vae", "inference", ("demo",), dataset_dir=data, weights=vae_file, latent_dir=latents, mode="encode"
            ),
            ("vae_train",),
        ),
        Stage(
            "ldm_train",
            bundle(
                "ccella_ldm", "train", ("demo",),
                dataset_dir=data, latent_dir=latents, ckpt_dir=ldm, epochs=size.ldm_epochs, batch_size=8,
            ),
            ("vae_encode", "embed"),
            ldm,
        ),
        Stage(
            "generate",
            bundle(
                "ccella_ldm", "inference", ("demo",),
                dataset_dir=data, output_dir=folder / "volumes", model_file=ldm / "model.safetensors",
                vae_file=vae_file, splits="['test']", batch_size=8,
            ),
            ("ldm_train",),
            folder / "volumes",
        ),
    ]  # fmt: skip


def arm_stage(folder: Path, size: Size) -> Stage:
    """The training of the classifier of real volumes."""
    models = folder / "classifier"
    train = bundle(
        "classifier", "train", ("demo",), dataset_dir=folder / "data", models_dir=models, epochs=size.arm_epochs
    )
    return Stage("arm_train", train, ("phantom",), models / ARMS[0].name)


def _until(chain: list[Stage], name: str) -> list[Stage]:
    return chain[: [stage.name for stage in chain].index(name) + 1]


def _train(
    folder: Path, chain: Chain, size: Size, network: str, trained: Path, minutes: float, images: int
) -> tuple[Size, Result]:
    """Run a training for two epochs, then for all that fit.

    Args:
        chain: gives the stages of a size, which names the epochs.
        network: vae, ldm or arm, as stages and sizes call it.
        trained: the folder that the training writes to.
        images: about as many as an epoch has.

    Returns:
        the size with these epochs, and what the training has told.
    """
    stage, epochs = f"{network}_train", f"{network}_epochs"
    first = run_stages(_until(chain(size), stage), folder)[stage]
    epoch = images / last_figures(trained)[SPEED]
    size = replace(size, **{epochs: fitting_epochs(60 * minutes, first, epoch)})
    rest = run_stages(_until(chain(size), stage), folder)[stage]
    told = {"title": stage, "epochs": getattr(size, epochs), "seconds": first + rest, "epoch_seconds": epoch}
    return size, told | last_figures(trained)


def fitting_epochs(seconds: float, first: float, epoch: float) -> int:
    """Epochs in all that fit into `seconds`, of which a run of `TRIED` took `first`, and each of its epochs `epoch`.

    The second run starts up as the first one did. At least one more, so that something goes on.
    """
    start = max(first - TRIED * epoch, 0.0)
    return TRIED + max(1, math.floor((seconds - first - start) / epoch))


def last_figures(trained: Path) -> dict[str, float]:
    """The last of each figure that an epoch, or a validation, has left in a training's log."""
    log = EventAccumulator(str(trained / "logs")).Reload()
    names = [name for name in log.Tags()["scalars"] if not name.endswith("loss_of_step")]
    return {name: log.Scalars(name)[-1].value for name in names}


def show_reconstructions(folder: Path, path: Path) -> None:
    """Draw test volumes, each above what the VAE makes of it."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vae = load_vae(maisi_vae(**demo_size().vae), folder / "vae" / "model.safetensors", device)
    read, volumes, titles = image_transforms(("axt2",)), [], []
    for case in read_datalist(folder / "data" / "test.json", folder / "data")[: SHOWN // 2]:
        _, spacing, _ = load_volume(case["axt2"])
        image = read(case)["axt2"].as_tensor()[None].to(device)
        made = decode(vae, encode(vae, image)[0])
        volumes += [image[0, 0].cpu().numpy(), made[0, 0].cpu().numpy()]
        titles += [f"{case['folder']}", f"{case['folder']}, reconstructed"]
    montage(volumes, titles, spacing, path)


def show_generated(folder: Path, path: Path) -> None:
    """Draw volumes that were made from test reports, each below the case whose report it was."""
    volumes, titles = [], []
    for case in read_datalist(folder / "data" / "test.json", folder / "data")[: SHOWN // 2]:
        (real, spacing, _), (made, _, _) = (
            load_volume(place / case["folder"] / "axt2.nii.gz") for place in (folder / "data", folder / "volumes")
        )
        volumes += [real, made]
        titles += [f"{case['folder']}", f"{case['folder']}, generated from its report"]
    montage(volumes, titles, spacing, path)
