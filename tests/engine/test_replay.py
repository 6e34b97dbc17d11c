"""What a function gives is the same, however a device is told of it; graphs themselves need a GPU (tests/gpu)."""

from __future__ import annotations

import torch
from torch import nn

from scripts.engine.parallel import parallel
from scripts.engine.replay import Replayed, ReplayedPasses


def test_without_a_gpu_the_function_is_called_each_time():
    calls = []

    def scale(factor, x, other):
        calls.append(factor)
        return factor * x if other is None else factor * x + other

    replayed, x = Replayed(scale), torch.arange(3.0)
    assert torch.equal(replayed(2.0, x, None), 2 * x)
    assert torch.equal(replayed(3.0, x, x), 4 * x)
    assert calls == [2.0, 3.0]
    assert not replayed.graphs


def test_without_a_gpu_a_network_learns_as_it_is():
    network, x = nn.Linear(3, 2), torch.randn(4, 3)
    passes = parallel(network, replay=True)
    assert isinstance(passes, ReplayedPasses)
    passes(x).square().sum().backward()
    gradient = network.weight.grad.clone()
    network.zero_grad()
    network(x).square().sum().backward()
    assert torch.equal(gradient, network.weight.grad)
    assert not passes.recorded
    assert parallel(network) is network
