"""A network as one process trains it, or several together, and whether it may be compiled."""

from __future__ import annotations

import ignite.distributed as idist
import torch
from torch import nn

from scripts.common.problems import UserError
from scripts.engine.replay import ReplayedPasses


def may_compile(compile: bool, device: torch.device) -> bool:
    """Whether to compile the network.

    Raises:
        UserError: on the CPU, where the compiler of PyTorch 2.13 fails on convolutions with the channels last, after
            minutes.
    """
    if compile and device.type == "cpu":
        raise UserError("compile is true on the CPU, where PyTorch cannot compile this network; leave it false there")
    return compile


def parallel(network: nn.Module, replay: bool = False) -> nn.Module:
    """The network for the trainer: gradients are averaged over the processes where there are several.

    One process uses one device, however many the machine has: what is learned depends on the command alone. On GPUs
    batch norms, where the network has any, see the batches of all processes. Every parameter gets a gradient in every
    pass, so no search for unused ones is needed. Gradients lie where they are averaged, and not a second time.

    Args:
        replay: a single process with a GPU records its passes and replays them; every pass must have its own step.
    """
    if idist.get_world_size() == 1:
        return ReplayedPasses(network) if replay else network  # Ignite would spread it over all GPUs of the machine
    if idist.device().type == "cpu":
        # Ignite would name a GPU wherever the machine has one.
        return nn.parallel.DistributedDataParallel(network, gradient_as_bucket_view=True)
    return idist.auto_model(network, sync_bn=True, gradient_as_bucket_view=True)
