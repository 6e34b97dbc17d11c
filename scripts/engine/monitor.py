"""What to see of a training while it runs, whichever network learns."""

from __future__ import annotations

import sys

import ignite.distributed as idist
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar

READ_EVERY = 10  # iterations between two looks at the loss, for each of which the host waits for the GPU


class Progress:
    """Handler: a progress bar on a terminal; images/s and the learning rate among the epoch's metrics everywhere.

    List it before what logs metrics, and before a handler that steps the learning rate after an epoch. Ignite's
    `Frequency` would cut images/s to whole ones, and a full-size network makes less than one.
    """

    def __init__(self) -> None:
        self.cases = 0

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        if idist.get_rank() == 0 and sys.stderr.isatty():  # else nobody sees it
            ProgressBar().attach(
                engine,
                output_transform=lambda output: {"loss": output["loss"].item()},
                event_name=Events.ITERATION_COMPLETED(every=READ_EVERY),
            )
        engine.add_event_handler(Events.EPOCH_STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.count)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.finish)

    def start(self, _engine: Engine) -> None:
        """Begin an epoch."""
        self.cases = 0

    def count(self, engine: Engine) -> None:
        """Count the cases of one iteration."""
        self.cases += len(engine.state.batch["folder"])

    def finish(self, engine: Engine) -> None:
        """Put the metrics where MONAI's handlers find them."""
        seconds = engine.state.times[Events.EPOCH_COMPLETED.name]
        engine.state.metrics["images_per_second"] = self.cases * idist.get_world_size() / seconds
        engine.state.metrics["lr"] = engine.optimizer.param_groups[0]["lr"]


class OutputAsList:
    """Leaves an iteration's output as MONAI's `--tracking mlflow` reads it, in a list; list this after the others."""

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Put the output into a list."""
        engine.state.output = [engine.state.output]
