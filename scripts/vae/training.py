"""What the VAE's training adds to MONAI's trainer: the sampler, randomness by epoch, checkpoints and validation."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from statistics import fmean
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from monai.engines import PrepareBatch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset

from scripts.common.problems import UserError
from scripts.engine.loading import Epochs, ShuffledEpochs, data_loader
from scripts.engine.moving_average import MovingAverage
from scripts.engine.resume import EXPORT, Resume
from scripts.vae.adversarial import Adversary
from scripts.vae.network import fix_encoder, load_vae, save_vae


class ImageBatch(PrepareBatch):
    """An autoencoder's batch: the image (B, 1, X, Y, Z) is the input and the target."""

    def __call__(
        self, batchdata: Mapping[str, Any], device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Move the images to `device`."""
        image = batchdata["image"].to(device, non_blocking=non_blocking, **kwargs)
        return image, image


def prepare(
    network: AutoencoderKlMaisi,
    initial_weights: str | None,
    seed: int,
    device: torch.device,
    fixed_encoder: bool = False,
) -> AutoencoderKlMaisi:
    """The network with its first weights, from a file or drawn by `seed`, on its device.

    Args:
        fixed_encoder: the decoder alone will learn: latents, and whatever learnt from them, keep what they are worth.

    Raises:
        UserError: the encoder that is to stay as it is would be a random one.
    """
    if fixed_encoder:
        if initial_weights is None:
            raise UserError("fixed_encoder keeps the encoder of initial_weights; give those, too")
        fix_encoder(network)
    if initial_weights is None:
        torch.manual_seed(seed)
        for module in network.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    else:
        load_vae(network, initial_weights)
    # Convolutions in 3D run faster with the channels last: 16 % of the demo's training step on a CPU.
    return network.to(device, memory_format=torch.channels_last_3d)


def epoch_loader(
    dataset: Dataset, batch_size: int, num_workers: int | None, seed: int, accumulate: int = 1
) -> DataLoader:
    """Shuffled batches of every volume; `batch_size` is for each rank, and an epoch's last batch may be smaller.

    Where the volumes do not divide by the ranks, a few are seen twice, so that all ranks take the same steps. An
    epoch's last batches that are too few for a step of `accumulate` are left out.

    Raises:
        UserError: all batches of an epoch are too few for a step.
    """
    batches = ShuffledEpochs(dataset, batch_size, seed, accumulate=accumulate)
    if len(batches) == 0:
        raise UserError(
            f"{len(dataset)} volumes make no step of {accumulate} batches of {batch_size}: lower accumulate"
        )
    return data_loader(dataset, batch_sampler=batches, num_workers=num_workers)


class StepSeeds:
    """Handler: makes latent noise a function of seed, step and rank.

    Nothing random then needs saving, since order and patches are functions of the epoch: a resumed run draws what an
    uninterrupted one would have drawn.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self.start_step)

    def start_step(self, engine: Engine) -> None:
        """Seed the noise of the latents."""
        torch.manual_seed((self.seed * 1_000_003 + engine.state.iteration) * 1_009 + idist.get_rank())


class VAEState(Resume):
    """Handler: saves and restores a run of the VAE, see `Resume`.

    `model.safetensors` is the VAE alone: the moving average of its weights where there is one. Nothing is saved while
    the discriminator wins.

    Args:
        folder, batches, settings, minutes, resume: see `Resume`.
        network, optimizer, schedule, average: what is trained.
        adversary: whose discriminator, where it has one, is trained beside it.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        network: AutoencoderKlMaisi,
        optimizer: Optimizer,
        schedule: LambdaLR,
        average: MovingAverage | None,
        adversary: Adversary,
        batches: Epochs,
        settings: Mapping[str, Any],
        minutes: float = 0.0,
        resume: bool = True,
    ) -> None:
        parts = {"network": network, "optimizer": optimizer, "schedule": schedule}
        if average is not None:
            parts["average"] = average
        if adversary.discriminator is not None:
            parts["discriminator"] = adversary.discriminator
        super().__init__(folder, parts, settings, batches=batches, minutes=minutes, resume=resume)
        self.exported, self.adversary = "network" if average is None else "average", adversary
        self.form = copy.deepcopy(network).to("meta")  # takes in a checkpoint's weights without a copy

    def worth_saving(self) -> bool:
        """Not while the discriminator wins."""
        return not self.adversary.winning()

    def export(self, state: Mapping[str, Any]) -> None:
        """Write the weights to use."""
        weights = {name.removeprefix("module."): one for name, one in state[self.exported].items()}
        weights.pop("n_averaged", None)
        self.form.load_state_dict(weights, assign=True)
        save_vae(self.form, self.folder / EXPORT)
        self.form.to("meta")  # and lets go of them


class Fidelity:
    """Handler of the validator: means of PSNR (dB) and MAE over the volumes of all processes, on 0..1 intensities.

    A volume counts once, however many processes validate on it. MONAI's handlers find `val_psnr` and `val_mae` among
    the metrics: list them after this.
    """

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], tuple[float, float]] = {}

    def attach(self, engine: Engine) -> None:
        """Register with the evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.finish)

    def start(self, _engine: Engine) -> None:
        """Forget the last validation."""
        self.found = {}

    def __call__(self, engine: Engine) -> None:
        """Measure the volumes of a batch."""
        batch, output = engine.state.batch, engine.state.output
        error = (output["pred"]["image"] - output["label"]).flatten(1)
        figures = zip((-10 * error.square().mean(1).log10()).tolist(), error.abs().mean(1).tolist(), strict=True)
        self.found |= zip(zip(batch["folder"], batch["sequence"], strict=True), figures, strict=True)

    def finish(self, engine: Engine) -> None:
        """Average over all processes; each has the same figures then."""
        found = {volume: figures for part in idist.all_gather(self.found) for volume, figures in part.items()}
        for name, values in zip(("val_psnr", "val_mae"), zip(*found.values(), strict=True), strict=True):
            engine.state.metrics[name] = fmean(values)
