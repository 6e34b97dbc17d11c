"""What happens around each optimizer step: clipping before it; moving average and learning rate after it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.optim.swa_utils import AveragedModel

from scripts.common.problems import UserError


def polynomial_decay(optimizer: Optimizer, steps: int, power: float = 2.0, warmup: int = 0) -> LambdaLR:
    """Learning rate lr·(1 - n/steps)^power after n steps (CCELLA: power 2), rising linearly over the first `warmup`.

    The rate follows from the step's number alone, so a run that is continued with more epochs follows the longer curve.
    """

    def factor(done: int) -> float:
        rise = min(1.0, (done + 1) / (warmup + 1))
        return rise * (1 - min(done, steps) / steps) ** power

    return LambdaLR(optimizer, factor)


def one_cycle(optimizer: Optimizer, steps: int, rise: float = 0.05) -> LambdaLR:
    """Learning rate that rises from lr/25 to lr over the share `rise` of the steps, then falls to nearly nothing.

    Both ways along a cosine: PyTorch's OneCycleLR, as a function of the step's number like `polynomial_decay`.
    """
    peak = rise * (steps + 1) - 1

    def between(start: float, end: float, share: float) -> float:
        return end + (start - end) * (1 + math.cos(math.pi * share)) / 2

    def factor(done: int) -> float:
        if done < peak:
            return between(1 / 25, 1, done / peak)
        return between(1, 1 / 250_000, (min(done, steps) - peak) / (steps - peak))

    return LambdaLR(optimizer, factor)


MOST_OVERFLOWS = 20  # steps in a row; the scale of fp16 gradients is then a millionth of what it was


class OptimizerStep:
    """Clips the gradient's norm before the optimizer's step; updates moving average and learning rate after it.

    With gradient accumulation only the passes that end a step count. MONAI's scaler of fp16 gradients knows CUDA only,
    so a trainer that has one gets another for its own device. That scaler leaves out a step whose gradient overflows,
    and lowers its scale: such a step moves neither average nor learning rate.

    Args:
        network: whose gradients are clipped; not wrapped by data parallelism.
        schedule: of the learning rate, one value a step.
        average: the weights' moving average, or None.
        gradient_clip: largest norm of the gradient; 0 leaves it as it is.
    """

    def __init__(
        self, network: nn.Module, schedule: LRScheduler, average: AveragedModel | None, gradient_clip: float
    ) -> None:
        self.network, self.schedule, self.average, self.gradient_clip = network, schedule, average, gradient_clip
        self.folders: list[str] = []  # of the step's passes so far
        self.overflows = 0  # steps in a row that the scaler left out

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self.before)
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self.after)

    def start(self, engine: Engine) -> None:
        """Give the trainer a scaler for its device, where it has one."""
        if engine.scaler is not None:
            engine.scaler = torch.amp.GradScaler(engine.state.device.type)

    def before(self, engine: Engine) -> None:
        """Clip, when the backward pass that ends a step is done.

        Raises:
            UserError: the gradient is NaN or infinite, in fp16 time after time; it has not reached the weights.
        """
        self.folders += engine.state.batch["folder"]
        if not self._ends_step(engine):
            return
        folders, self.folders = self.folders, []
        if engine.scaler is not None:
            engine.scaler.unscale_(engine.optimizer)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.gradient_clip or math.inf)
        if torch.isfinite(norm):
            self.overflows = 0
            return
        self.overflows += 1
        if engine.scaler is None:
            raise _diverged(f"the gradient's norm is {norm.item()}", engine, folders)
        if self.overflows >= MOST_OVERFLOWS:
            what = f"the gradient's norm is {norm.item()} in {self.overflows} steps in a row"
            raise _diverged(what, engine, folders)

    def after(self, engine: Engine) -> None:
        """Follow the weights, when the optimizer has stepped."""
        if not self._ends_step(engine) or self.overflows:
            return
        if self.average is not None:
            self.average.update_parameters(self.network)
        self.schedule.step()

    @staticmethod
    def _ends_step(engine: Engine) -> bool:
        return engine.state.iteration % engine.accumulation_steps == 0


class StopOnNan:
    """Ends training when the loss is not finite; the last checkpoint was written before and stays as it is."""

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Look at the loss before it reaches the weights.

        Raises:
            UserError: it is NaN or infinite; names the batch's cases.
        """
        loss = engine.state.output["loss"]
        if not torch.isfinite(loss):
            raise _diverged(f"the loss is {loss.item()}", engine, engine.state.batch["folder"])


def _diverged(what: str, engine: Engine, folders: Sequence[str]) -> UserError:
    whose = "the batch holds" if idist.get_world_size() == 1 else "this process' part of the batch holds"
    return UserError(
        f"{what} in epoch {engine.state.epoch}, iteration {engine.state.iteration}; {whose} the cases "
        f"{', '.join(folders)}. The last checkpoint is intact: look at these cases, go on with --amp fp32, or start "
        "anew with a lower lr"
    )
