"""The network as training starts with it: where its weights come from, and several processes that train it together."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import ignite.distributed as idist
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from scripts.cli import switch
from scripts.networks.ccella import CCELLA
from scripts.networks.weights import Weights, load_weights
from scripts.problems import UserError
from scripts.training.pretrained import load_pretrained_unet

logger = logging.getLogger(__name__)


def start_network(
    network: CCELLA,
    device: torch.device,
    *,
    initial_weights: str | os.PathLike[str] | None = None,
    pretrained_unet: str | os.PathLike[str] | None = None,
    freeze_unet: bool = False,
    training: Mapping[str, Any] | None = None,
) -> CCELLA:
    """The network on its device, with random weights or those of a file.

    Args:
        initial_weights: weights of the whole network, to fine-tune.
        pretrained_unet: weights of a U-Net alone, such as MAISI's.
        freeze_unet: the pretrained U-Net does not learn.
        training: what this training works with, under the names by which weights say what theirs did; a difference to
            `initial_weights` is logged.

    Raises:
        UserError: a file that is missing or does not fit; nothing to freeze.
    """
    if freeze_unet and not pretrained_unet:
        raise UserError("freeze_unet is true, but there is no pretrained_unet to freeze: give one, or set it to false")
    if initial_weights:
        _tell_differences(initial_weights, load_weights(initial_weights, network), training or {})
    if pretrained_unet:
        load_pretrained_unet(network, pretrained_unet, freeze=freeze_unet)
    # Convolutions in 3D run faster with the channels last: 15 % of a training step on a CPU.
    return network.to(device, memory_format=torch.channels_last_3d)


def _tell_differences(path: str | os.PathLike[str], weights: Weights, training: Mapping[str, Any]) -> None:
    known = {"objective": weights.objective, **weights.meta}
    for name, value in training.items():
        if value is not None and known.get(name) not in (None, value):
            logger.warning("%s: trained with %s %s, here it is %s", path, name, known[name], value)


def may_compile(compile: bool | str, device: torch.device) -> bool:
    """Whether to compile the network.

    Raises:
        UserError: on the CPU, where the compiler of PyTorch 2.13 fails on convolutions with the channels last, after
            minutes.
    """
    wanted = switch(compile=compile)
    if wanted and device.type == "cpu":
        raise UserError("compile is true on the CPU, where PyTorch cannot compile this network; leave it false there")
    return wanted


def parallel(network: nn.Module) -> nn.Module:
    """The network for the trainer: gradients are averaged over the processes where there are several.

    One process uses one device, however many the machine has: what is learned depends on the command alone. On GPUs
    batch norms, where the network has any, see the batches of all processes. Every parameter gets a gradient in every
    pass, so no search for unused ones is needed.
    """
    if idist.get_world_size() == 1:
        return network
    device = idist.device()
    if device.type == "cuda":
        return DistributedDataParallel(nn.SyncBatchNorm.convert_sync_batchnorm(network), device_ids=[device.index])
    return DistributedDataParallel(network)
