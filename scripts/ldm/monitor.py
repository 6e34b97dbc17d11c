"""Numbers to watch: averages over an epoch and over all ranks, where MONAI's handlers find them."""

from __future__ import annotations

from collections.abc import Callable

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import Tensor

from scripts.ldm.objective import WeightedLoss
from scripts.ldm.schedule import TRAIN_STEPS

# A sum and how many it sums, as 0-dimensional tensors.
Sums = dict[str, tuple[Tensor, Tensor]]


class Figures:
    """Averages what `measure` finds in each iteration and puts it into `engine.state.metrics` when the epoch ends.

    MONAI's `StatsHandler`, `TensorBoardStatsHandler` and `MLFlowHandler` take it from there: list them after this.
    Sums stay on the device until then, so nothing waits for it. Ignite's `Average` is of one figure each, that every
    iteration has, and weighs all iterations alike; here a few cases or none may count, and the data say which figures
    there are.
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
