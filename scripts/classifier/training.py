"""What the classifier's training needs beyond MONAI: seeds for every epoch, restart, what to keep, when to end."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator
from torch import Tensor, nn
from torch import distributed as dist
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from scripts.classifier.cases import positive_share
from scripts.classifier.network import check_size, output_layer
from scripts.classifier.predictions import THRESHOLD, Collected, best_threshold
from scripts.classifier.weights import header, load_weights
from scripts.common.problems import UserError
from scripts.common.tensors import in_half, write_tensors
from scripts.data.datalists import Case
from scripts.engine.loading import Epochs
from scripts.engine.resume import EXPORT, Resume
from scripts.engine.states import in_main_memory


def start_network(
    network: nn.Module,
    cases: Sequence[Case],
    spatial_size: Sequence[int],
    *,
    channels: Sequence[str] = ("axt2",),
    initial_weights: str | os.PathLike[str] | None = None,
    at_share: bool = True,
) -> nn.Module:
    """The network as training starts with it: random, or with the weights of an earlier training.

    A new network's first answer is the share of positives among the training cases, whatever it is shown. Where one
    class is rare a network that starts at one half spends its first steps learning that it is. Nothing else is done
    about classes of different size: weighting or repeating the rare one makes probabilities too large without ranking
    cases better (van den Goorbergh et al., JAMIA 2022), and the threshold is chosen from ranks.

    Args:
        network: on its device.
        cases: training cases.
        spatial_size: voxels along x, y, z.
        channels: the sequences that it will see.
        initial_weights: a `model.safetensors` to go on from, such as one pretrained on synthetic volumes.
        at_share: a new network starts at the share of positives; else as it is.

    Raises:
        UserError: the network cannot take volumes of this size; the weights are of another network or other channels.
    """
    check_size(network, spatial_size)
    if initial_weights:
        device = next(network.parameters()).device
        return load_weights(network, initial_weights, device, seen={"channels": list(channels)}).train()
    if at_share:
        share = positive_share(cases)
        odds = math.log(share / (1 - share))
        with torch.no_grad():
            output_layer(network).bias.copy_(torch.tensor([-odds / 2, odds / 2]))
    return network


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
    """Handler: saves and restores the training of an arm, see `Resume`, and keeps the weights to use.

    `model.safetensors` holds the weights of the epoch with the highest key metric in validation, and so does the
    checkpoint, since its own epoch is another; or those of the last epoch, as the authors have it. Its header holds
    what the network looks at, and the threshold that the validation cases of that epoch have chosen.

    Args:
        folder, batches, settings, minutes, resume: see `Resume`.
        network: not wrapped for distributed training.
        optimizer, schedule: its optimizer and learning rate.
        validator: its best metric decides.
        seen: what the network looks at: the arm, channels, spacing and so on; noted in the weights.
        keep: `best` or `last`.
        predictions: the validator's, which choose the threshold; None where it looks at test cases, which must not.
        half: export the weights in half precision, half the size; the checkpoint keeps them whole.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        network: nn.Module,
        optimizer: Optimizer,
        schedule: LambdaLR,
        validator: SupervisedEvaluator,
        seen: Mapping[str, Any],
        batches: Epochs,
        settings: Mapping[str, Any],
        keep: str = "best",
        predictions: Collected | None = None,
        minutes: float = 0.0,
        half: bool = False,
        resume: bool = True,
    ) -> None:
        parts = {"network": network, "optimizer": optimizer, "schedule": schedule}
        super().__init__(folder, parts, settings, batches=batches, minutes=minutes, resume=resume)
        self.network, self.validator, self.seen = network, validator, dict(seen)
        self.keep, self.predictions, self.half = keep, predictions, half
        self.best: dict[str, Tensor] | None = None  # weights of the best epoch since the run was begun
        self.threshold = THRESHOLD

    def extra_state(self, engine: Engine) -> dict[str, Any]:
        """The best epoch so far."""
        best = self.validator.state
        return {
            "best_metric": float(best.best_metric),
            "best_metric_epoch": best.best_metric_epoch,
            "best": self.best,
            "threshold": self.threshold,
        }

    def load_extra_state(self, engine: Engine, state: Mapping[str, Any]) -> None:
        """Tell the validator what is to be bettered."""
        self.validator.state.best_metric = state["best_metric"]
        self.validator.state.best_metric_epoch = state["best_metric_epoch"]
        self.best = in_main_memory(state["best"])
        self.threshold = state["threshold"]

    def save(self, engine: Engine) -> None:
        """Keep the weights where this epoch is the best, and write where it is time."""
        is_best = self.validator.state.best_metric_epoch == engine.state.epoch
        if is_best and self.keep == "best":
            self.best = in_main_memory(self.network.state_dict())
        if (is_best or self.keep == "last") and self.predictions is not None and self.predictions.frame is not None:
            frame = self.predictions.frame
            self.threshold = best_threshold(frame["label"], frame["probability"])
        super().save(engine)

    def export(self, state: Mapping[str, Any]) -> None:
        """Write the weights to use."""
        weights = state["best"] if self.keep == "best" else state["network"]
        if weights is None:
            return
        epoch = state["best_metric_epoch"] if self.keep == "best" else state["epoch"]
        metric = {self.validator.state.key_metric_name or "metric": f"{state['best_metric']:.4f}"}
        note = {"epoch": str(epoch), "threshold": repr(state["threshold"]), **metric}
        write_tensors(self.folder / EXPORT, in_half(weights) if self.half else weights, header(self.seen) | note)


class StopEarly:
    """Handler of the trainer: ends a training that validation has not found better for some epochs.

    What it looks at is in the checkpoint, so a training that is continued ends where it would have.

    Args:
        validator: whose best epoch counts.
        patience: epochs; None never ends it.
    """

    def __init__(self, validator: SupervisedEvaluator, patience: int | None) -> None:
        self.validator, self.patience = validator, patience

    def attach(self, engine: Engine) -> None:
        """Register with the trainer, after validation and what restores a checkpoint."""
        if self.patience is not None:
            engine.add_event_handler(Events.STARTED | Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """End it where it is time."""
        best, epoch = self.validator.state.best_metric_epoch, engine.state.epoch
        if best > 0 and epoch - best >= self.patience:
            engine.logger.info(f"no better validation since epoch {best}: the training ends after epoch {epoch}")
            engine.terminate()


def check_validated(epochs: int, val_interval: int, keep: str = "best", patience: int | None = None) -> None:
    """Only weights that validation has chosen are kept: there must be a validation.

    Raises:
        UserError: there is none, or patience ends before the second.
    """
    if keep == "best" and val_interval > epochs:
        raise UserError(
            f"val_interval {val_interval} is more than epochs {epochs}: no weights would be kept, which validation "
            "chooses; lower val_interval or raise epochs"
        )
    if patience is not None and patience < val_interval:
        raise UserError(f"patience {patience} is less than val_interval {val_interval}: give as much or more, or null")
