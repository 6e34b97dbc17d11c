"""Tensors on disk."""

from __future__ import annotations

import torch

from scripts.common.tensors import in_half


def test_in_half_precision_a_count_stays_whole():
    """Which would be infinite above 65,504."""
    network = torch.nn.BatchNorm1d(2)
    network.num_batches_tracked += 100_000
    made = in_half(network.state_dict())
    assert (made["weight"].dtype, made["num_batches_tracked"].item()) == (torch.float16, 100_000)
