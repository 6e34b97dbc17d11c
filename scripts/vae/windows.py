"""Running the autoencoder on volumes larger than memory: overlapping windows that share their norms' statistics.

A group norm averages over the whole map it sees, so a window alone is normalised differently from the whole volume
and blended windows show seams. Here each window first runs with its own statistics, which are pooled over windows;
the second run uses the pooled ones everywhere. What remains differs from the whole only near window borders, where a
convolution sees padding instead of the neighbour, and there the blending weights are smallest.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from monai.inferers import SlidingWindowInferer
from torch import nn

from scripts.problems import UserError
from scripts.vae.memory import available

logger = logging.getLogger(__name__)

# Peak memory of one pass, in maps of the widest layer at full resolution; measured: 3.9 in both directions.
MAPS_AT_PEAK = 4.5
SHARE = 0.8  # of the free memory that a pass may take
OVERLAP = 0.5
SMALLEST = 32  # voxels along an axis of a window; below, borders would dominate


def peak_bytes(channels: int, voxels: int, itemsize: int) -> int:
    """Memory of one pass over an image of `voxels` with `channels` at full resolution."""
    return int(MAPS_AT_PEAK * channels * voxels * itemsize)


def fitting_window(shape: Sequence[int], channels: int, itemsize: int, free: int, factor: int) -> tuple[int, ...]:
    """The largest window (voxels, multiples of `factor`) of an image of `shape` whose pass fits into `free` bytes.

    The longest axis is halved until it fits, so that windows stay near to cubes; all of `shape` where memory allows.

    Raises:
        UserError: not even the smallest window fits.
    """
    window = list(shape)
    while peak_bytes(channels, math.prod(window), itemsize) > SHARE * free:
        axis = window.index(max(window))
        if window[axis] <= SMALLEST:
            raise UserError(
                f"{free / 2**30:.1f} GiB of free memory do not hold a window of {SMALLEST} voxels a side "
                f"({channels} channels): free memory, or use another device"
            )
        window[axis] = max(SMALLEST, math.ceil(window[axis] / 2 / factor) * factor)
    return tuple(window)


class _PooledNorm(nn.Module):
    """Stands in for a group norm: gathers the statistics of windows, then normalises all windows by their pool."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm
        self.mean: torch.Tensor | float = 0.0
        self.square: torch.Tensor | float = 0.0
        self.windows = 0
        self.pooled = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, X, Y, Z), B of one case's windows."""
        groups = x.float().unflatten(1, (self.norm.num_groups, -1)).flatten(2)  # (B, G, rest)
        if not self.pooled:
            variance, mean = torch.var_mean(groups, dim=2, correction=0)
            self.mean = self.mean + mean.sum(0)
            self.square = self.square + (variance + mean**2).sum(0)
            self.windows += len(x)
            return self.norm(x)
        mean = self.mean / self.windows
        scale = (self.square / self.windows - mean**2 + self.norm.eps).rsqrt()
        groups = (groups - mean[None, :, None]) * scale[None, :, None]
        return (groups.view_as(x) * self.norm.weight[:, None, None, None] + self.norm.bias[:, None, None, None]).to(
            x.dtype
        )


@contextmanager
def _pooled_norms(network: nn.Module) -> Iterator[list[_PooledNorm]]:
    """Put stand-ins in place of all group norms of `network` for the time of the block."""
    places = [
        (parent, name, child)
        for parent in network.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.GroupNorm)
    ]
    stand_ins = [_PooledNorm(norm) for _, _, norm in places]
    try:
        for (parent, name, _), stand_in in zip(places, stand_ins, strict=True):
            setattr(parent, name, stand_in)
        yield stand_ins
    finally:
        for parent, name, norm in places:
            setattr(parent, name, norm)


@torch.no_grad()
def in_windows(
    function: Callable[[torch.Tensor], torch.Tensor], network: nn.Module, x: torch.Tensor, window: Sequence[int]
) -> torch.Tensor:
    """`function` (which runs `network`) over overlapping windows of `x` (B, C, X, Y, Z), blended; case by case.

    Args:
        function: one direction of the autoencoder; every axis of its output is the input's times one factor.
        network: whose group norms share their statistics over the windows of a case.
        x: image or latent.
        window: its size along X, Y, Z in cells of `x`.
    """
    inferer = SlidingWindowInferer(window, sw_batch_size=1, overlap=OVERLAP, mode="gaussian", sigma_scale=0.25)
    done = []
    for case in x.split(1):
        with _pooled_norms(network) as norms:
            inferer(case, function)
            for norm in norms:
                norm.pooled = True
            done.append(inferer(case, function))
    return torch.cat(done)


def itemsize_of(x: torch.Tensor) -> int:
    """Bytes of a value inside the network: two under autocast, else as in `x`."""
    return 2 if torch.is_autocast_enabled(x.device.type) else x.element_size()


def choose_window(x: torch.Tensor, shape: Sequence[int], channels: int, factor: int, what: str) -> tuple[int, ...]:
    """The window for an image of `shape` (voxels), by the memory that is free now; the choice is logged."""
    free = available(x.device)
    window = fitting_window(shape, channels, itemsize_of(x), free, factor)
    how = "whole volume" if window == tuple(shape) else f"windows of {'×'.join(map(str, window))} voxels"
    needed = peak_bytes(channels, math.prod(shape), itemsize_of(x))
    logger.info(f"{what}: {how} (whole needs {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free)")
    return window
