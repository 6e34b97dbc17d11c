"""A client of a federation, as MONAI's own, that trains a bundle for several rounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, FlStatistics
from monai.fl.utils.exchange_object import ExchangeObject
from torch import Tensor

# Adam moves a weight by at most this many learning rates in a step, and mostly by one.
FARTHEST = 3.5


class Client:
    """MONAI's client of the bundle with tiny options, whose outputs go to `folder`."""

    def __init__(self, bundle: Path, folder: Path, options: Mapping[str, Any]) -> None:
        self.folder, self.lr = folder, options["lr"]
        config = ["configs/train.yaml"]
        if options.pop("demo", False):
            config.append("configs/demo.yaml")
        self.algo = MonaiAlgo(
            str(bundle), local_epochs=1, send_weight_diff=False, config_train_filename=config,
            train_kwargs=dict(options), config_evaluate_filename=config, eval_kwargs=dict(options),
        )  # fmt: skip
        self.algo.initialize({ExtraItems.CLIENT_NAME: "hospital"})
        self.trainer, self.begun_with = self.algo.trainer, {}
        self.trained_on: list[Tensor] = []  # what came of the data in each step
        self.trainer.add_event_handler(Events.EPOCH_STARTED, self._note)
        self.trainer.add_event_handler(Events.ITERATION_STARTED, self._look)

    def _note(self) -> None:
        self.begun_with = {name: tensor.clone() for name, tensor in self.trainer.network.state_dict().items()}

    def _look(self) -> None:
        data = (value for value in self.trainer.state.batch.values() if isinstance(value, Tensor))
        self.trained_on.append(next(data).flatten().clone())

    def weights_of_round(self, number: int) -> dict[str, Tensor]:
        """What the server hands out: far, in steps of training, from what any other round began or ended with."""
        generator = torch.Generator().manual_seed(number)
        weights = {name: tensor.clone() for name, tensor in self.trainer.network.state_dict().items()}
        for name, _ in self.trainer.network.named_parameters():
            weights[name] += 0.05 * torch.randn(weights[name].shape, generator=generator)
        return weights

    def round(self, number: int) -> None:
        """Train and evaluate, and look at what came of the weights that were handed out."""
        handed_out = self.weights_of_round(number)
        self.algo.train(ExchangeObject(weights=dict(handed_out)))
        assert self.begun_with.keys() == handed_out.keys()
        assert all(torch.equal(self.begun_with[name], tensor) for name, tensor in handed_out.items())

        steps = self.trainer.state.epoch_length
        *earlier, latest = (
            torch.cat(self.trained_on[first:][:steps]) for first in range(0, len(self.trained_on), steps)
        )
        assert not any(torch.equal(latest, one) for one in earlier), "a round draws anew, as an epoch does"
        farthest = FARTHEST * steps * self.lr
        parameters = [name for name, _ in self.trainer.network.named_parameters()]
        found = self.algo.get_weights()
        checkpoint = torch.load(self.folder / "checkpoint.pt", weights_only=True)
        for weights in (found.weights, checkpoint["network"], _averaged(checkpoint)):
            moved = max((weights[name] - handed_out[name]).abs().max() for name in parameters)
            assert 0 < moved < farthest
        assert found.statistics[FlStatistics.NUM_EXECUTED_ITERATIONS] == steps
        # The optimizer and the count of epochs go on.
        assert checkpoint["epoch"] == self.trainer.state.epoch == number
        assert checkpoint["optimizer"]["state"][0]["step"] == number * steps

        evaluator = self.algo.evaluator
        metrics = self.algo.evaluate(ExchangeObject(weights=dict(handed_out))).metrics
        assert metrics
        assert all(math.isfinite(value) for value in metrics.values())
        assert all(torch.equal(evaluator.network.state_dict()[name], tensor) for name, tensor in handed_out.items())


def _averaged(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    if "average" not in checkpoint:
        return checkpoint["network"]
    return {name.removeprefix("module."): tensor for name, tensor in checkpoint["average"].items()}


def three_rounds_and_one_after_a_restart(bundle: Path, folder: Path, options: dict[str, Any]) -> None:
    """The first client's checkpoint is read by the second, whose weights come from the server all the same."""
    client = Client(bundle, folder, dict(options))
    for number in (1, 2, 3):
        client.round(number)
    Client(bundle, folder, dict(options)).round(4)
