"""Clients of a federation that train a bundle for several rounds: MONAI's own, and that of examples/federated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, FlStatistics
from monai.fl.utils.exchange_object import ExchangeObject
from torch import Tensor, nn

from client import train_round, workflow_of
from scripts.common.problems import UserError

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


def three_rounds_of_the_example(
    bundle: Path, folder: Path, options: Mapping[str, Any], overlays: Sequence[str] = ()
) -> None:
    """As NVFlare runs it, each round in a workflow of its own, begins with what the server sends, and gives that on.

    Args:
        folder: gets the checkpoint.
    """
    values = {"bundle_root": str(bundle), **options}
    for number in (1, 2, 3):
        workflow = workflow_of(overlays, values | {"resume": number > 1})
        trainer, network = workflow.trainer, workflow.trainer.network
        generator = torch.Generator().manual_seed(number)
        sent = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        for name, parameter in network.named_parameters():
            sent[name] += 0.05 * torch.randn(parameter.shape, generator=generator)
        begun_with: dict[str, Tensor] = {}

        def look(engine: Engine, network: nn.Module = network, found: dict[str, Tensor] = begun_with) -> None:
            found |= {name: tensor.clone() for name, tensor in network.state_dict().items()}

        trainer.add_event_handler(Events.EPOCH_STARTED, look)
        back, examples = train_round(workflow, sent, epochs=1)
        assert all(torch.equal(begun_with[name], tensor) for name, tensor in sent.items())
        steps = trainer.state.epoch_length
        moved = {name: (back[name] - sent[name]).abs().max() for name, _ in network.named_parameters()}
        assert 0 < max(moved.values()) < FARTHEST * steps * options["lr"]
        assert examples == len(trainer.data_loader.dataset)
        checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
        assert all(torch.equal(_averaged(checkpoint)[name], back[name]) for name in moved)
        assert checkpoint["epoch"] == number
        assert checkpoint["optimizer"]["state"][0]["step"] == number * steps
        workflow.finalize()


def weights_of_another_network_are_refused(bundle: Path, options: Mapping[str, Any]) -> None:
    workflow = workflow_of((), {"bundle_root": str(bundle), **options})
    with pytest.raises(UserError, match="another network"):
        train_round(workflow, {"output.weight": torch.zeros(2, 3)}, epochs=1)
