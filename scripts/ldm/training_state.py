"""What the diffusion model's training saves beside its parts: the latents' scale, and the weights to sample with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ignite.engine import Engine
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from scripts.common.tensors import in_half
from scripts.engine.loading import Epochs
from scripts.engine.resume import EXPORT, Resume
from scripts.ldm.objective import NoisyBatch
from scripts.networks.ccella import CCELLA
from scripts.networks.weights import LatentScale, save_weights

MODULE = "module."  # before the names of what PyTorch averages


class TrainingState(Resume):
    """Handler: saves and restores a run of the latent diffusion model, see `Resume`.

    Args:
        folder, batches, settings, minutes, resume: see `Resume`.
        network, optimizer, schedule, average: what is trained; `average` is exported where there is one.
        prepare: told the latents' scale of the checkpoint.
        about: what the exported weights shall say about themselves, see `save_weights`.
        half: export the weights in half precision, half the size; the checkpoint keeps them whole.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        network: CCELLA,
        optimizer: Optimizer,
        schedule: LambdaLR,
        average: AveragedModel | None,
        batches: Epochs,
        prepare: NoisyBatch,
        settings: Mapping[str, Any],
        about: Mapping[str, Any],
        minutes: float = 0.0,
        half: bool = False,
        resume: bool = True,
    ) -> None:
        parts = {"network": network, "optimizer": optimizer, "schedule": schedule}
        if average is not None:
            parts["average"] = average
        super().__init__(folder, parts, settings, batches=batches, minutes=minutes, resume=resume)
        self.network, self.average = network, average
        self.prepare = prepare
        self.about, self.half = dict(about), half

    def extra_state(self, engine: Engine) -> dict[str, Any]:
        """The latents' scale, which is measured once."""
        return {"latent_scale": asdict(self.prepare.scale)}

    def load_extra_state(self, engine: Engine, state: Mapping[str, Any]) -> None:
        """Tell the latents' scale to who prepares batches."""
        self.prepare.scale = LatentScale(**state["latent_scale"])

    def export(self, state: Mapping[str, Any]) -> None:
        """Write the weights to sample with: the moving average where there is one."""
        weights = state["network"]
        if self.average is not None:
            weights = {name[len(MODULE) :]: one for name, one in state["average"].items() if name.startswith(MODULE)}
        save_weights(
            self.folder / EXPORT,
            in_half(weights) if self.half else weights,
            config=self.network.config,
            scale=LatentScale(**state["latent_scale"]),
            epoch=state["epoch"],
            averaged=self.average is not None,
            **self.about,
        )
