"""Running the autoencoder on volumes larger than memory: overlapping windows that share their norms' statistics.

A group norm averages over the whole map it sees, so a window alone is normalised differently from the whole volume
and blended windows show seams. Here the statistics of all windows' cores are pooled first; then the windows,
all normalised by the pool, are blended. What remains differs from the whole only near window borders, where a
convolution sees padding instead of the neighbour, and there the blending weights are smallest.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import torch
from torch import nn

from scripts.common.problems import UserError
from scripts.data.grid import by
from scripts.vae.memory import available
from scripts.vae.network import FACTOR

logger = logging.getLogger(__name__)

_TOLD: set[tuple[str, tuple[int, ...], tuple[int, ...]]] = set()  # choices that were logged

# Bytes at the peak of a pass for each value of the widest map at full resolution, where numbers inside the network take
# four bytes or two. Of a whole volume on a CPU it is four maps (measured: 3.9 of the demo's decoder, 3.4 of the
# reference's). The others are counted from PyTorch's allocations: a GPU's autocast runs norms in fp32, and norms that
# pool their statistics over windows keep copies in fp32 anywhere.
WHOLE_ON_CPU = {4: 16, 2: 8}
WHOLE = {4: 16, 2: 12}
WINDOW = {4: 21, 2: 17}
SHARE = 0.8  # of the free memory that a pass may take
GATHERINGS = 3  # passes for the statistics: those of deep norms are right once the shallow ones are
SMALLEST = 32  # voxels along an axis of a window; below, borders would dominate


def peak_bytes(window: Sequence[int], shape: Sequence[int], channels: int, itemsize: int, device: str = "cpu") -> int:
    """Memory of one pass over a window (voxels) of an image of `shape`, with `channels` at full resolution.

    Args:
        itemsize: bytes of a number inside the network, 4 or 2.
        device: its type.
    """
    whole = WHOLE_ON_CPU if device == "cpu" else WHOLE
    return math.prod(window) * channels * (whole if tuple(window) == tuple(shape) else WINDOW)[itemsize]


def fitting_window(
    shape: Sequence[int], channels: int, itemsize: int, free: int, device: str = "cpu"
) -> tuple[int, ...]:
    """The largest window (voxels) of an image of `shape` whose pass fits into `free` bytes.

    The longest axis is halved until it fits, so that windows stay near to cubes; all of `shape` where memory allows.

    Raises:
        UserError: not even the smallest window fits.
    """
    window = tuple(shape)
    while peak_bytes(window, shape, channels, itemsize, device) > SHARE * free:
        smaller = halved(window)
        if smaller is None:
            raise UserError(
                f"{free / 2**30:.1f} GiB of free memory do not hold a window of {SMALLEST} voxels a side "
                f"({channels} channels): free memory, or use another device"
            )
        window = smaller
    return window


def halved(window: tuple[int, ...]) -> tuple[int, ...] | None:
    """The window with half its longest axis, a multiple of 4; None where that would be too small."""
    longest = max(window)
    if longest <= SMALLEST:
        return None
    axis = window.index(longest)
    return (*window[:axis], max(SMALLEST, math.ceil(longest / 2 / FACTOR) * FACTOR), *window[axis + 1 :])


class _PooledNorm(nn.Module):
    """Stands in for a group norm: normalises by pooled statistics, once there are any, and gathers new ones.

    Statistics are gathered from the window's core only, away from borders where padding stands for the neighbour.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm
        self.core = ((0.0, 1.0),) * 3  # begin and end along each axis, as fractions of the window
        self.pool: tuple[torch.Tensor, torch.Tensor] | None = None  # mean and mean square of each group
        self.sums: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.count = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, C, X, Y, Z), one window."""
        cut = [slice(round(low * n), round(high * n)) for (low, high), n in zip(self.core, x.shape[2:], strict=True)]
        core = self._groups(x[(..., *cut)])
        self.sums.append((core.sum(2), core.square().sum(2)))
        self.count += core.shape[2]
        groups = self._groups(x)
        if self.pool is None:
            variance, mean = torch.var_mean(groups, dim=2, correction=0)
        else:
            mean, square = self.pool
            variance = square - mean**2
        groups = (groups - mean[..., None]) * (variance + self.norm.eps).rsqrt()[..., None]
        weight, bias = (parameter[:, None, None, None] for parameter in (self.norm.weight, self.norm.bias))
        return (groups.view_as(x) * weight + bias).to(x.dtype)

    def _groups(self, x: torch.Tensor) -> torch.Tensor:
        """(1, C, X, Y, Z) as (1, groups, rest) in float32."""
        return x.float().unflatten(1, (self.norm.num_groups, -1)).flatten(2)

    def settle(self) -> None:
        """Take what was gathered as the statistics from now on."""
        sums, squares = (torch.stack(values).sum(0) for values in zip(*self.sums, strict=True))
        self.pool, self.sums, self.count = (sums / self.count, squares / self.count), [], 0


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


def _places(size: int, window: int) -> list[tuple[int, float, float]]:
    """Windows along one axis, at most half a window apart: their begin, and their core in fractions of the window.

    Cores meet in the middle of overlaps, so that together they cover each cell once.
    """
    step = window // 2 // FACTOR * FACTOR or window // 2  # images begin where latent cells do
    starts = [*range(0, size - window, step), size - window]
    meets = [(left + window + right) / 2 for left, right in itertools.pairwise(starts)]
    borders = itertools.pairwise([0.0, *meets, float(size)])
    return [
        (start, (low - start) / window, (high - start) / window)
        for start, (low, high) in zip(starts, borders, strict=True)
    ]


def _ramp(cells: int, first: bool, last: bool) -> torch.Tensor:
    """Blending weights along one axis: 1 in the middle half and where the volume ends, falling to 0 at other borders.

    The outer eighth has next to no weight: there the padding is felt most.
    """
    place = (torch.arange(cells) + 0.5) / cells
    rise = ((place - 0.125) / 0.25).clamp(1e-6, 1)
    return (torch.ones(cells) if first else rise) * (torch.ones(cells) if last else rise.flip(0))


@torch.no_grad()
def in_windows(
    function: Callable[[torch.Tensor], torch.Tensor], network: nn.Module, x: torch.Tensor, window: Sequence[int]
) -> torch.Tensor:
    """`function` (which runs `network`) over overlapping windows of `x` (B, C, X, Y, Z), blended; case by case.

    Args:
        function: one direction of the autoencoder; every axis of its output is the input's times one factor.
        network: whose group norms share their statistics over the windows of a case.
        x: image or latent.
        window: its size along X, Y, Z in cells of `x`, nowhere larger than `x`.
    """
    sizes = x.shape[2:]
    places = list(itertools.product(*map(_places, sizes, window)))
    done = []
    for case in x.split(1):
        with _pooled_norms(network) as norms:

            def run(
                place: Sequence[tuple[int, float, float]], case: torch.Tensor = case, norms: Any = norms
            ) -> tuple[torch.Tensor, torch.Tensor]:
                for norm in norms:
                    norm.core = [(low, high) for _, low, high in place]
                cut = tuple(slice(start, start + w) for (start, _, _), w in zip(place, window, strict=True))
                made = function(case[(..., *cut)])
                ramps = [
                    _ramp(n, low == 0, high == 1).to(made)
                    for n, (_, low, high) in zip(made.shape[2:], place, strict=True)
                ]
                return made, torch.einsum("x,y,z->xyz", *ramps)

            for _ in range(GATHERINGS):
                for place in places:
                    run(place)
                for norm in norms:
                    norm.settle()
            parts = (([start for start, _, _ in place], *run(place)) for place in places)
            done.append(_blend(parts, sizes, window))
    return torch.cat(done)


def _blend(
    parts: Iterable[tuple[Sequence[int], torch.Tensor, torch.Tensor]], sizes: Sequence[int], window: Sequence[int]
) -> torch.Tensor:
    """The weighted mean of windows (begin in input cells, output (1, C, ...), weights) over an input of `sizes`."""
    total = weights = None
    for at, made, weight in parts:
        scale = [Fraction(n, w) for n, w in zip(made.shape[2:], window, strict=True)]
        if total is None:
            total = made.new_zeros(*made.shape[:2], *(int(n * s) for n, s in zip(sizes, scale, strict=True)))
            weights = made.new_zeros(total.shape[2:])
        begins = [int(start * s) for start, s in zip(at, scale, strict=True)]
        cut = tuple(slice(begin, begin + n) for begin, n in zip(begins, made.shape[2:], strict=True))
        total[(..., *cut)] += made * weight
        weights[cut] += weight
    return total / weights


def itemsize_of(x: torch.Tensor) -> int:
    """Bytes of a value inside the network: two under autocast, else as in `x`."""
    return 2 if torch.is_autocast_enabled(x.device.type) else x.element_size()


def choose_window(x: torch.Tensor, shape: Sequence[int], channels: int, what: str) -> tuple[int, ...]:
    """The window for an image of `shape` (voxels), by the memory that is free now; the choice is logged."""
    free = available(x.device)
    itemsize, device = itemsize_of(x), x.device.type
    window = fitting_window(shape, channels, itemsize, free, device)
    how = "whole volume" if window == tuple(shape) else f"windows of {by(window)} voxels"
    if (what, window, tuple(shape)) not in _TOLD:  # once, not for every case
        _TOLD.add((what, window, tuple(shape)))
        needed = peak_bytes(shape, shape, channels, itemsize, device) / 2**30
        logger.info(f"{what}: {how} (whole needs {needed:.1f} GiB, {free / 2**30:.1f} GiB are free)")
    return window


def within_memory(
    run: Callable[[tuple[int, ...]], torch.Tensor], x: torch.Tensor, shape: Sequence[int], channels: int, what: str
) -> torch.Tensor:
    """What `run` makes of `x` with the window that `choose_window` gives, or with half of it where the GPU says no.

    What is free may lie in pieces, or go to another process meanwhile: the choice is an estimate.

    Args:
        run: takes a window (voxels).
    """
    window = choose_window(x, shape, channels, what)
    try:
        return run(window)
    except torch.OutOfMemoryError:
        smaller = halved(window)
        if smaller is None:
            raise
    # Not inside the block, where the error would keep what the first attempt had taken.
    logger.warning(f"{what}: {by(window)} voxels at once did not fit into memory, now in windows of {by(smaller)}")
    return run(smaller)
