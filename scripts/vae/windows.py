"""Running the autoencoder on volumes larger than memory: overlapping windows that share their norms' statistics.

A group norm averages over the whole map it sees, so a window alone is normalised differently from the whole volume
and blended windows show seams. Here the statistics of windows side by side are pooled first, twice; then overlapping
windows, all normalised by the pool, are blended. What remains differs from the whole only near window borders, where a
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
GATHERINGS = 2  # passes for the statistics: deep norms see the effect of the shallow ones only in the second
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
    """Stands in for a group norm: normalises by pooled statistics, once there are any, and gathers new ones."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm
        self.pool: tuple[torch.Tensor, torch.Tensor] | None = None  # mean and mean square of each group
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, C, X, Y, Z), one window."""
        groups = x.float().unflatten(1, (self.norm.num_groups, -1)).flatten(2)  # (1, G, rest)
        variance, mean = torch.var_mean(groups, dim=2, correction=0)
        self.seen.append((mean, variance + mean**2))
        if self.pool is not None:
            mean, square = self.pool
            variance = square - mean**2
        groups = (groups - mean[..., None]) * (variance + self.norm.eps).rsqrt()[..., None]
        shaped = [parameter[:, None, None, None] for parameter in (self.norm.weight, self.norm.bias)]
        return (groups.view_as(x) * shaped[0] + shaped[1]).to(x.dtype)

    def settle(self) -> None:
        """Take what was gathered, every window counting the same, as the statistics from now on."""
        means, squares = zip(*self.seen, strict=True)
        self.pool, self.seen = (torch.stack(means).mean(0), torch.stack(squares).mean(0)), []


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
    # Side by side for the statistics, so that each voxel counts once; overlapping for the result.
    gather = SlidingWindowInferer(window, sw_batch_size=1, overlap=0.0)
    blend = SlidingWindowInferer(window, sw_batch_size=1, overlap=OVERLAP, mode="gaussian")
    done = []
    for case in x.split(1):
        with _pooled_norms(network) as norms:
            for _ in range(GATHERINGS):
                gather(case, function)
                for norm in norms:
                    norm.settle()
            done.append(blend(case, function))
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
