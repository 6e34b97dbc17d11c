"""What happens around each optimizer step: clipping before it; moving average and learning rate after it."""

from __future__ import annotations

import logging
import math

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.optim.swa_utils import AveragedModel

from scripts.common.problems import UserError

logger = logging.getLogger(__name__)


def polynomial_decay(optimizer: Optimizer, steps: int, power: float = 2.0, warmup: int = 0) -> LambdaLR:
    """Learning rate lr·(1 - n/steps)^power after n steps (CCELLA: power 2), rising linearly over the first `warmup`.

    The rate follows from the step's number alone, so a run that is continued with more epochs follows the longer curve;
    PyTorch's PolynomialLR makes a rate from the last one, and a checkpoint's OneCycleLR keeps the steps planned then.
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


# Steps in a row without a finite gradient that end a training.
MOST_BROKEN = 5  # in fp32 and bf16; one step at times is a case's or a kernel's fault, several are the weights'
MOST_OVERFLOWS = 20  # where gradients are scaled, for fp16; the scale is then a millionth of what it was


def ends_step(engine: Engine) -> bool:
    """Whether the trainer's pass is the last of those whose gradients make a step."""
    return engine.state.iteration % engine.accumulation_steps == 0


class OptimizerStep:
    """Clips the gradient's norm before the optimizer's step; updates moving average and learning rate after it.

    With gradient accumulation only the passes that end a step count. A step whose gradient, or whose loss in any
    process, is not finite is left out: it moves neither weights nor the optimizer's state, nor running statistics,
    moving average or learning rate. All processes leave out the same steps, since the loss marks the gradient that
    they share, and a continued run leaves out the same, since nothing of it is random. They are counted in a row: a
    case that breaks its step once an epoch costs its step, and weights that have diverged break all.

    MONAI's scaler of fp16 gradients knows CUDA only and is made anew for every run, so a trainer that has one gets
    another, for its own device and for good. It lowers its scale after such a step.

    Args:
        network: whose gradients are clipped; not wrapped by data parallelism.
        schedule: of the learning rate, one value a step; None where another handler steps it.
        average: the weights' moving average, or None.
        gradient_clip: largest norm of the gradient; 0 leaves it as it is.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: LRScheduler | None = None,
        average: AveragedModel | None = None,
        gradient_clip: float = 0.0,
    ) -> None:
        self.network, self.schedule, self.average, self.gradient_clip = network, schedule, average, gradient_clip
        self.scaler: torch.amp.GradScaler | None = None
        self.buffers: list[Tensor] = []  # as they were before the step
        self.folders: list[str] = []  # of the step's passes so far
        self.losses: list[Tensor] = []
        self.left_out = 0  # steps in a row

    def attach(self, engine: Engine) -> None:
        """Register with the trainer, before the handler that restores its state."""
        if engine.amp:
            scales = engine.amp_kwargs.get("dtype") is not torch.bfloat16  # which has the range of fp32
            self.scaler = engine.scaler = torch.amp.GradScaler(engine.state.device.type, enabled=scales)
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_STARTED, self.begin)
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self.mark)
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self.before)
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self.after)

    def start(self, engine: Engine) -> None:
        """Give the trainer its scaler back."""
        engine.scaler = self.scaler

    def begin(self, engine: Engine) -> None:
        """Keep what a forward pass changes, when the first of a step begins.

        Gradients are averaged over the processes in the pass that ends a step: what `no_sync` does for the others.
        """
        if isinstance(engine.network, DistributedDataParallel):
            engine.network.require_backward_grad_sync = ends_step(engine)
        if (engine.state.iteration - 1) % engine.accumulation_steps == 0:
            self.buffers = [buffer.clone() for buffer in self.network.buffers()]
            self.folders, self.losses = [], []

    def mark(self, engine: Engine) -> None:
        """Make the gradient NaN where the loss is not finite, which alone would not always do so."""
        loss = engine.state.output["loss"]
        value = loss.detach()
        self.losses.append(value)
        engine.state.output["loss"] = loss * (1 + (value - value))  # one, or NaN

    def before(self, engine: Engine) -> None:
        """Clip, or leave out the step, when the backward pass that ends it is done.

        Raises:
            UserError: time after time the loss or the gradient is NaN or infinite; it has not reached the weights.
        """
        self.folders += engine.state.batch["folder"]
        if not ends_step(engine):
            return
        if engine.scaler is not None:
            engine.scaler.unscale_(engine.optimizer)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.gradient_clip or math.inf)
        if torch.isfinite(norm):
            self.left_out = 0
            return
        self.left_out += 1
        engine.optimizer.zero_grad(set_to_none=True)  # it passes over weights that have no gradient
        for buffer, kept in zip(self.network.buffers(), self.buffers, strict=True):
            buffer.copy_(kept)
        self._tell(engine, norm.item())

    def after(self, engine: Engine) -> None:
        """Follow the weights, when the optimizer has stepped."""
        if not ends_step(engine) or self.left_out:
            return
        if self.average is not None:
            self.average.update_parameters(self.network)
        if self.schedule is not None:
            self.schedule.step()

    def _tell(self, engine: Engine, norm: float) -> None:
        """Log the step that is left out, or end the training; a scale that is found needs no words."""
        loss = idist.all_reduce(sum(loss.item() for loss in self.losses))
        folders = [folder for part in idist.all_gather(self.folders) for folder in part]
        what = f"the gradient's norm is {norm}" if math.isfinite(loss) else f"the loss is {loss}"
        where = f"in epoch {engine.state.epoch}, iteration {engine.state.iteration}"
        step = f"{what} {where}; the step holds the cases {', '.join(folders)}"
        scales = engine.scaler is not None and engine.scaler.is_enabled()
        if self.left_out >= (MOST_OVERFLOWS if scales else MOST_BROKEN):
            raise UserError(
                f"{step}. It is so in {self.left_out} steps in a row, and none has reached the weights. The last "
                "checkpoint is intact: look at these cases, go on with --amp fp32, or start anew with a lower lr"
            )
        if idist.get_rank() == 0 and not (scales and math.isfinite(loss)):
            logger.warning(f"{step}. It is left out")
