"""Numbers to watch: averages over an epoch and over all ranks, where MONAI's handlers find them, and a progress bar."""

from __future__ import annotations

import time
from collections.abc import Callable

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import Tensor
from tqdm import tqdm

from scripts.ldm.objective import WeightedLoss
from scripts.ldm.schedule import TRAIN_STEPS

# A sum and how many it sums, as 0-dimensional tensors.
Sums = dict[str, tuple[Tensor, Tensor]]


class Figures:
    """Averages what `measure` finds in each iteration and puts it into `engine.state.metrics` when the epoch ends.

    MONAI's `StatsHandler`, `TensorBoardStatsHandler` and `MLFlowHandler` take it from there: list them after this.
    Sums stay on the device until then, so nothing waits for it.
    """

    def __init__(self, measure: Callable[[Engine], Sums]) -> None:
        self.measure = measure
        self.sums: dict[str, Tensor] = {}

    def attach(self, engine: Engine) -> None:
        """Register with a trainer or an evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.finish)

    def start(self, _engine: Engine) -> None:
        """Forget the last epoch."""
        self.sums = {}

    def add(self, engine: Engine) -> None:
        """Take in one iteration."""
        for name, pair in self.measure(engine).items():
            # MPS knows no float64, and an epoch's sums fit float32 well enough for a log.
            new = torch.stack([value.detach().float() for value in pair])
            self.sums[name] = self.sums[name] + new if name in self.sums else new

    def finish(self, engine: Engine) -> None:
        """Average over ranks and iterations; a figure that nothing was counted for is left out."""
        for name, sums in self.sums.items():
            total, count = idist.all_reduce(sums).tolist() if idist.get_world_size() > 1 else sums.tolist()
            if count:
                engine.state.metrics[name] = total / count


def training_sums(loss: WeightedLoss) -> Callable[[Engine], Sums]:
    """What to watch in training: the joint loss, its parts, and how often the class head is right."""

    def measure(engine: Engine) -> Sums:
        targets = engine.state.output["label"]
        cases = targets["case_weight"].sum()
        # The trainer's loss already carries the cases' weight; its parts are plain means.
        sums = {"loss": (engine.state.output["loss"], cases)}
        sums |= {f"{name}_loss": (part * cases, cases) for name, part in loss.parts.items()}
        return sums | class_sums(engine)

    return measure


def validation_sums(buckets: int, loss: WeightedLoss) -> Callable[[Engine], Sums]:
    """What to watch in validation: the noise loss as in training, in all and by timestep, and the class head.

    The timesteps are those that the network saw. Where a shift leaves a bucket without any, its loss is left out.
    """

    def measure(engine: Engine) -> Sums:
        targets, (answer, _) = engine.state.output["label"], engine.state.output["pred"]
        losses = loss.joint.noise_loss(answer.float(), targets["answer"], reduction="none").flatten(1).mean(dim=1)
        # Rounding may make the last draw below 1 the very end of the path.
        bucket = (targets["timesteps"] * buckets / TRAIN_STEPS).long().clamp(max=buckets - 1)
        counts = targets["case_weight"]  # 0 of an example that another process has, too
        sums = {"val_loss": ((losses * counts).sum(), counts.sum())}
        for i in range(buckets):
            name = f"val_loss_t{TRAIN_STEPS * i // buckets:03d}-{TRAIN_STEPS * (i + 1) // buckets:03d}"
            inside = (bucket == i) * counts
            sums[name] = ((losses * inside).sum(), inside.sum())
        return sums | {f"val_{name}": pair for name, pair in class_sums(engine).items()}

    return measure


def class_sums(engine: Engine) -> Sums:
    """How often the class head names the right class, over the cases that have a report; empty without a head.

    A case that weighs nothing in its step counts in another pass.
    """
    targets, (_, logits) = engine.state.output["label"], engine.state.output["pred"]
    if logits is None:
        return {}
    asked = ~targets["text_isnull"].bool() & (targets["case_weight"] > 0)
    right = logits.argmax(dim=1) == targets["pirads"].argmax(dim=1)
    return {"class_accuracy": ((right & asked).sum(), asked.sum())}


class OutputAsList:
    """Leaves an iteration's output as MONAI's `--tracking mlflow` reads it, in a list; list this after the others."""

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Put the output into a list."""
        engine.state.output = [engine.state.output]


class Progress:
    """A progress bar on a terminal; images/s and the learning rate among the epoch's figures everywhere."""

    def __init__(self) -> None:
        self.bar: tqdm | None = None
        self.cases, self.started = 0, 0.0

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.finish)

    def start(self, engine: Engine) -> None:
        """Begin an epoch."""
        self.cases, self.started = 0, time.perf_counter()
        title = f"epoch {engine.state.epoch}/{engine.state.max_epochs}"
        # None: no bar where the output is no terminal, such as a log file.
        self.bar = tqdm(
            total=engine.state.epoch_length, desc=title, leave=False, disable=True if idist.get_rank() else None
        )

    def step(self, engine: Engine) -> None:
        """Show one iteration; the loss is only fetched from the device where a bar shows it."""
        self.cases += len(engine.state.batch["folder"])
        if not self.bar.disable:
            speed = self.cases * idist.get_world_size() / (time.perf_counter() - self.started)
            self.bar.set_postfix_str(f"loss {engine.state.output['loss'].item():.4f}, {speed:.1f} images/s", False)
            self.bar.update()

    def finish(self, engine: Engine) -> None:
        """End an epoch."""
        self.bar.close()
        seconds = time.perf_counter() - self.started
        engine.state.metrics["images_per_second"] = self.cases * idist.get_world_size() / seconds
        engine.state.metrics["lr"] = engine.optimizer.param_groups[0]["lr"]
