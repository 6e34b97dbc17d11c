"""Inference and training as their configs put them together, timed from embeddings to files and from batch to batch.

Data roots and weights are random, and written into a temporary folder: what is measured is what a user runs.
"""

from __future__ import annotations

import ctypes
import itertools
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow, create_workflow

from scripts.data.grid import Grid, grid_affine
from scripts.data.latents import latent_path, write_latent
from scripts.networks.ccella import REFERENCE_SPACING
from scripts.networks.weights import LatentScale, save_weights
from scripts.reports.embeddings import EMPTY_REPORT, write_embedding
from scripts.showcase.measure import Marks, Seconds, clock, forget_peak, peak_bytes
from scripts.showcase.stages import BUNDLES
from scripts.showcase.subjects import Size, ccella
from scripts.vae.network import LATENT_CHANNELS, maisi_vae, save_vae

ALONE = 3  # volumes that are timed one by one
TOGETHER = 8  # volumes that share what a run costs, in two batches: one is written while the other is sampled
GUIDANCE = 2.0  # of report and class alike: two answers a step
WARM_STEPS, STEPS = 4, 10  # of a training: those that are not timed, and those that are
REPORTS = TOGETHER + 1  # that differ, so that the adapter has none of them twice in a row

Figures = dict[str, float]


def write_root(root: Path, size: Size, cases: int, split: str) -> None:
    """A data root of embedded reports: `<split>_merged.json`, which names no images."""
    names = [f"embeddings/{number}.safetensors" for number in range(min(cases, REPORTS))]
    for name in names:
        write_embedding(root / name, torch.randn(size.tokens, size.width).half(), "random")
    write_embedding(root / EMPTY_REPORT, torch.randn(1, size.width).half(), "random")
    entries = [
        {
            "folder": f"case{number}",
            "dataset": "random",
            "pirads": [number % 2, 1 - number % 2],
            "spacing": list(REFERENCE_SPACING),
            "text": names[number % len(names)],
            "text_isnull": 0,
        }
        for number in range(cases)
    ]
    (root / f"{split}_merged.json").write_text(json.dumps(entries), encoding="utf-8")


def write_latents(folder: Path, size: Size, cases: int) -> None:
    """Latents for each case; all are one file under many names, which the disk need not hold twice."""
    affine = grid_affine(Grid(size.image, REFERENCE_SPACING))
    mu, first = torch.randn(LATENT_CHANNELS, *size.latent[1:]), latent_path(folder, "case0", size.sequences[0])
    write_latent(first, mu, torch.full_like(mu, 0.1), fingerprint="random", affine=affine, shape=size.image)
    for number, sequence in itertools.product(range(cases), size.sequences):
        path = latent_path(folder, f"case{number}", sequence)
        path.parent.mkdir(exist_ok=True)
        if path != first:
            path.hardlink_to(first)


def write_networks(folder: Path, size: Size, device: torch.device) -> None:
    """Random weights of denoiser and VAE, in files as training leaves them."""
    network = ccella(size, device)
    about = {"objective": "rflow", "timestep_shift": 1.0, "trained_with_dropout": {"class": 0.1, "both": 0.1}}
    about |= {"channels": list(size.sequences), "embedding_width": size.width, "latent_shape": list(size.latent)}
    save_weights(
        folder / "model.safetensors",
        {name: tensor.half() for name, tensor in network.state_dict().items()},
        config=network.config,
        scale=LatentScale((1.0,)),
        spacing=list(REFERENCE_SPACING),
        **about,
    )
    with device:
        save_vae(maisi_vae(**size.vae), folder / "vae.safetensors")


def workflow(config: str, **options: Any) -> ConfigWorkflow:
    """The workflow of a config of ccella_ldm, ready to run."""
    bundle = BUNDLES / "ccella_ldm"
    return create_workflow(
        config_file=str(bundle / "configs" / f"{config}.yaml"),
        workflow_type="train" if config == "train" else "infer",
        logging_file=False,
        bundle_root=str(bundle),
        **options,
    )


def network_def(size: Size) -> dict[str, Any]:
    """The denoiser as a config has it."""
    sizes = {"input_dim": size.width, "num_channels": [64, 128, 256, 512], **size.network}
    channels = {"in_channels": size.latent[0], "out_channels": size.latent[0]}
    return {"_target_": "scripts.networks.ccella.CCELLA", "variant": "@variant", **channels, **sizes}


# ---- volumes ---------------------------------------------------------------------------------------------------------


class Volumes:
    """The inference workflow of ccella_ldm, whose volumes are made some at a time.

    Args:
        folder: gets data root, weights and volumes.
        options: replace the config's values.
    """

    def __init__(self, folder: Path, size: Size, device: torch.device, **options: Any) -> None:
        write_root(folder / "data", size, ALONE + 1 + 2 * TOGETHER, "test")
        write_networks(folder, size, device)
        self.device, self.output_dir = device, folder / "volumes"
        parser = workflow(
            "inference",
            dataset_dir=str(folder / "data"),
            splits=["test"],
            output_dir=str(self.output_dir),
            model_file=str(folder / "model.safetensors"),
            vae_file=str(folder / "vae.safetensors"),
            network_def=network_def(size),
            vae_def={"_target_": "scripts.vae.network.maisi_vae", **size.vae},
            steps=size.steps,
            guidance_report=GUIDANCE,
            guidance_class=GUIDANCE,
            **options,
        ).parser
        self.evaluator, self.dataset = (parser.get_parsed_content(name) for name in ("evaluator", "dataset"))
        self.left = list(self.dataset.data)

    def make(self, count: int, batch_size: int) -> tuple[float, float]:
        """Make so many of the volumes that are left; give the seconds by the clock and of the processor for each."""
        self.dataset.data, self.left = self.left[:count], self.left[count:]
        loader = self.evaluator.data_loader
        loader.batch_sampler.batch_size = batch_size
        self.evaluator.state.epoch_length = len(loader)
        seconds, busy = clock(self.evaluator.run, self.device)
        for job in self.dataset.data:
            nib.load(self.output_dir / job.folder / "axt2.nii.gz")
        return seconds / count, busy / count


def volumes(
    size: Size, device: torch.device, precision: str, folder: Path, **options: Any
) -> Iterator[tuple[str, Figures]]:
    """Time volumes made alone, and several in two batches, each from its embedding until its files are written.

    Args:
        folder: gets data root, weights and volumes.
        options: replace the config's values.

    Yields:
        a name and its figures, which are those of one volume.
    """
    asleep = sleep_while_waiting() if device.type == "cuda" else True
    made = Volumes(folder, size, device, amp=precision, **options)
    for name, runs, count, batch_size in (
        ("volume alone", ALONE, 1, 1),
        (f"volume of {TOGETHER}", 1, TOGETHER, TOGETHER // 2),
    ):
        made.make(count, batch_size)  # chooses kernels, and captures
        forget_peak(device)
        found, busy = zip(*(made.make(count, batch_size) for _ in range(runs)), strict=True)
        processor = {"processor_seconds": Seconds.of(busy).median} if asleep else {}
        yield name, as_figures(Seconds.of(found), device) | processor


def as_figures(taken: Seconds, device: torch.device) -> Figures:
    """Seconds and peak memory as a row has them."""
    return {
        "seconds": taken.median,
        "least": taken.least,
        "n": taken.count,
        "peak_gib": peak_bytes(device) / 2**30,
    }


def sleep_while_waiting() -> bool:
    """Let this process sleep while it waits for its GPU; as CUDA has it, a processor asks time and again.

    To be called before CUDA starts. What is measured as processor time is then work.

    Returns:
        whether the driver has agreed.
    """
    blocking = 4  # CU_CTX_SCHED_BLOCKING_SYNC
    try:
        driver, gpu = ctypes.CDLL("libcuda.so.1"), ctypes.c_int()
        calls = driver.cuInit(0), driver.cuDeviceGet(ctypes.byref(gpu), 0)
        return not any(calls) and driver.cuDevicePrimaryCtxSetFlags_v2(gpu, blocking) == 0
    except (OSError, AttributeError):
        return False


# ---- training --------------------------------------------------------------------------------------------------------


class _Measured(Exception):
    """Ends a training whose steps are timed, before it writes a checkpoint."""


def training(
    size: Size, device: torch.device, precision: str, folder: Path, **options: Any
) -> Iterator[tuple[str, Figures]]:
    """Time steps of the training workflow of ccella_ldm, from batch to batch, its loading among them.

    Args:
        folder: gets the data root.
        options: replace the config's values.

    Yields:
        its name and its figures; `first_seconds` are those of the first step, which chooses kernels, and compiles.
    """
    steps = WARM_STEPS + STEPS
    cases = size.batch * (steps + 2)  # so that no epoch ends, which may save
    write_root(folder, size, cases, "train")
    write_latents(folder / "latents", size, cases)
    trainer = workflow(
        "train",
        dataset_dir=str(folder),
        ckpt_dir=str(folder / "run"),
        network_def=network_def(size),
        batch_size=size.batch,
        epochs=1,
        val_fraction=0,
        channels=list(size.sequences),
        amp=precision,
        **options,
    ).trainer
    marks = Marks(device)
    trainer.add_event_handler(Events.ITERATION_STARTED, marks.set)
    trainer.add_event_handler(Events.ITERATION_STARTED(once=WARM_STEPS), partial(forget_peak, device))
    trainer.add_event_handler(Events.ITERATION_STARTED(once=steps + 1), _stop)
    try:
        trainer.run()
    except _Measured:
        first, *found = marks.seconds()
    taken = Seconds.of(found[WARM_STEPS - 1 :])
    yield (
        "training step",
        as_figures(taken, device) | {"first_seconds": first, "images_per_second": size.batch / taken.median},
    )


def _stop(_: Engine) -> None:
    raise _Measured
