"""What the classifier's training needs beyond MONAI: seeds for every epoch, restart, and the best weights kept."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch import distributed as dist
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from scripts.common.problems import UserError
from scripts.common.tensors import write_tensors
from scripts.engine.loading import Epochs
from scripts.engine.resume import EXPORT, Resume
from scripts.engine.states import in_main_memory


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


class ArmState(Resume):
    """Handler: saves and restores the training of an arm, see `Resume`, and keeps the best weights.

    `model.safetensors` holds the weights of the epoch with the highest key metric in validation, and so does the
    checkpoint, since its own epoch is another.

    Args:
        folder, batches, settings, minutes, resume: see `Resume`.
        network: not wrapped for distributed training.
        optimizer, schedule: its optimizer and learning rate.
        validator: its best metric decides.
        arm: name of the arm; noted in the weights.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        network: nn.Module,
        optimizer: Optimizer,
        schedule: LambdaLR,
        validator: SupervisedEvaluator,
        arm: str,
        batches: Epochs,
        settings: Mapping[str, Any],
        minutes: float = 0.0,
        resume: bool = True,
    ) -> None:
        parts = {"network": network, "optimizer": optimizer, "schedule": schedule}
        super().__init__(folder, parts, settings, batches=batches, minutes=minutes, resume=resume)
        self.network, self.validator, self.arm = network, validator, arm
        self.best: dict[str, Tensor] | None = None  # weights of the best epoch since the run was begun

    def extra_state(self, engine: Engine) -> dict[str, Any]:
        """The best epoch so far."""
        best = self.validator.state
        return {
            "best_metric": float(best.best_metric),
            "best_metric_epoch": best.best_metric_epoch,
            "best": self.best,
        }

    def load_extra_state(self, engine: Engine, state: Mapping[str, Any]) -> None:
        """Tell the validator what is to be bettered."""
        self.validator.state.best_metric = state["best_metric"]
        self.validator.state.best_metric_epoch = state["best_metric_epoch"]
        self.best = in_main_memory(state.get("best"))  # earlier versions left them to model.safetensors

    def save(self, engine: Engine) -> None:
        """Keep the weights where this epoch is the best, and write where it is time."""
        if self.validator.state.best_metric_epoch == engine.state.epoch:
            self.best = in_main_memory(self.network.state_dict())
        super().save(engine)

    def export(self, state: Mapping[str, Any]) -> None:
        """Write the weights of the best epoch."""
        if state.get("best") is None:
            return
        metric = {self.validator.state.key_metric_name: f"{state['best_metric']:.4f}"}
        note = {"arm": self.arm, "epoch": str(state["best_metric_epoch"]), **metric}
        write_tensors(self.folder / EXPORT, state["best"], note)


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


def check_validated(epochs: int, val_interval: int) -> None:
    """Only weights that validation has chosen are kept: there must be a validation.

    Raises:
        UserError: there is none.
    """
    if val_interval > epochs:
        raise UserError(
            f"val_interval {val_interval} is more than epochs {epochs}: no weights would be kept, which validation "
            "chooses; lower val_interval or raise epochs"
        )
