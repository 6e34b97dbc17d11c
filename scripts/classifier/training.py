"""What the classifier's training needs beyond MONAI: seeds for every epoch, restart, and the best weights kept."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import distributed as dist
from torch import nn

from scripts.files import atomic
from scripts.problems import UserError

logger = logging.getLogger(__name__)


class EpochState:
    """Handler of the trainer: what happens in an epoch depends on its number, not on what went before or on the rank.

    At its start dropout is seeded, so that a resumed run goes on exactly as an uninterrupted one. At its end all
    processes take over the running statistics of the first, which are those that are saved.

    Args:
        network: the network, not wrapped for distributed training.
        seed: of the run.
    """

    def __init__(self, network: nn.Module, seed: int) -> None:
        self.network = network
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        """Register with a trainer, before its validation handler."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._seed)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._share)

    def _seed(self, engine: Engine) -> None:
        torch.manual_seed((self.seed * 1_000_003 + engine.state.epoch) * idist.get_world_size() + idist.get_rank())

    def _share(self, _: Engine) -> None:
        if idist.get_world_size() > 1:
            for buffer in self.network.buffers():
                dist.broadcast(buffer, 0)


class Checkpoints:
    """Handler of the trainer: resumes where training stopped, saves after every epoch, and keeps the best weights.

    `checkpoint.pt` holds all that training needs to go on; `model.safetensors` the weights of the epoch with the
    highest key metric in validation. The first process writes.

    Args:
        folder: where both files are.
        network: not wrapped for distributed training.
        parts: what else has a state: optimizer and learning-rate schedule.
        validator: its best metric decides.
        arm: name of the arm; noted in the weights.
    """

    def __init__(
        self, folder: str | os.PathLike[str], network: nn.Module, parts: dict[str, Any], validator: SupervisedEvaluator,
        arm: str,
    ) -> None:  # fmt: skip
        self.folder = Path(folder)
        self.parts = {"network": network, **parts}
        self.network = network
        self.validator = validator
        self.arm = arm

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def attach(self, engine: Engine) -> None:
        """Register with a trainer, after its validation and learning-rate handlers."""
        engine.add_event_handler(Events.STARTED, self._resume)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)

    def _resume(self, engine: Engine) -> None:
        if not self.checkpoint.is_file():
            return
        try:
            state = torch.load(self.checkpoint, map_location=engine.state.device, weights_only=True)
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
        except Exception:  # whatever a foreign or broken file leads to
            raise UserError(
                f"{self.checkpoint}: is no checkpoint of this network and optimizer; move it away to start anew"
            ) from None
        engine.state.epoch = state["epoch"]
        engine.state.iteration = state["epoch"] * engine.state.epoch_length
        self.validator.state.best_metric = state["best_metric"]
        self.validator.state.best_metric_epoch = state["best_metric_epoch"]
        logger.info(f"{self.arm}: going on after epoch {state['epoch']} of {engine.state.max_epochs}")

    def _save(self, engine: Engine) -> None:
        if idist.get_rank() > 0:
            return
        best = self.validator.state
        if best.best_metric_epoch == engine.state.epoch:
            self._save_weights(engine.state.epoch, best.key_metric_name, best.best_metric)
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {"epoch": engine.state.epoch, "best_metric_epoch": best.best_metric_epoch}
        state["best_metric"] = float(best.best_metric)
        with atomic(self.checkpoint) as part:
            torch.save(state, part)

    def _save_weights(self, epoch: int, metric: str, value: float) -> None:
        metadata = {"arm": self.arm, "epoch": str(epoch), metric: f"{value:.4f}"}
        with atomic(self.folder / "model.safetensors") as part:
            save_file({name: t.contiguous() for name, t in self.network.state_dict().items()}, part, metadata)


def load_weights(network: nn.Module, path: str | os.PathLike[str], device: torch.device | str = "cpu") -> nn.Module:
    """Load trained weights, strictly, and move the network to a device.

    Raises:
        UserError: the file is missing, is no safetensors file, or belongs to another network.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no weights there; train this arm first or give model_file, a model.safetensors")
    try:
        network.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError):
        raise UserError(f"{path}: holds no weights of this network; use the network_def of its training") from None
    return network.to(device).eval()
