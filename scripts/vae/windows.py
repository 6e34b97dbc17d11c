"""Running the autoencoder on volumes larger than memory: in windows, and equal to the whole to rounding.

Nearly all memory goes to the maps at full resolution. The blocks of each resolution are therefore run window by window,
one resolution after the other, and what stays whole is the small map between two of them. A window is cut with as
many cells around it as the convolutions of its blocks see; what they make there is thrown away. A group norm averages
over the whole map: windows are run up to each norm in turn, to gather what it must know, and at last to their end.

The ways to decode in windows that were compared are in docs/timing.md.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from fractions import Fraction
from functools import partial
from typing import NamedTuple

import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import MaisiDownsample, MaisiUpsample
from torch import nn

from scripts.common.problems import UserError
from scripts.data.grid import by
from scripts.vae.layers import Moments, moments, normed, of_groups
from scripts.vae.memory import available
from scripts.vae.network import FACTOR

logger = logging.getLogger(__name__)

_TOLD: set[tuple[str, tuple[int, ...], tuple[int, ...]]] = set()  # choices that were logged

# Values at the peak of a pass for each one of its widest map. Of a whole volume on a CPU 3.9 were measured in fp32 (the
# demo's decoder; 3.4 of the reference's), on an H200 in bf16 3.1 (decode) and 4.0 (encode). Windows also need the map
# between two resolutions (measured in fp32 on a CPU: 4.3 to 4.5; in bf16 on an H200 at most 4.0).
WHOLE = 4.1
WINDOW = 4.5
FP32_GPU = 1.5  # times that: cuDNN keeps copies in another layout (1.0 to 1.5 on an H200 under PyTorch 2.11)
AROUND = 8  # voxels that the convolutions of the published network see beyond a window
SHARE = 0.8  # of the free memory that a pass may take
SMALLEST = 32  # voxels along an axis of a window; below, borders would dominate


def peak_bytes(
    window: Sequence[int], shape: Sequence[int], channels: int, itemsize: int, device: torch.device | str = "cpu"
) -> int:
    """Memory of the passes over windows (voxels) of an image of `shape`, with `channels` at full resolution.

    A map of half that resolution has twice the channels, so that it may be the widest of small windows; the whole one
    between the two resolutions is there beside the windows.

    Args:
        itemsize: bytes of a number inside the network, 4 or 2.
        device: where it runs.
    """
    if itemsize == 4 and torch.device(device).type == "cuda":
        return int(FP32_GPU * peak_bytes(window, shape, channels, itemsize))
    if tuple(window) == tuple(shape):
        return int(math.prod(shape) * channels * itemsize * WHOLE)
    cells = math.prod(min(n + 2 * AROUND, size) for n, size in zip(window, shape, strict=True))
    between = math.prod(shape) // 8
    return int((max(cells, 2 * min(cells, between)) * WINDOW + between) * channels * itemsize)


def fitting_window(
    shape: Sequence[int], channels: int, itemsize: int, free: int, device: torch.device | str = "cpu"
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


@torch.no_grad()
def in_windows(
    function: Callable[[torch.Tensor], torch.Tensor], network: nn.Module, x: torch.Tensor, window: Sequence[int]
) -> torch.Tensor:
    """`function` on `x` (B, C, X, Y, Z), case by case, while `network` runs its blocks in windows.

    Args:
        function: one direction of the autoencoder, which runs `network`.
        network: encoder or decoder, without attention; its blocks are put back.
        window: voxels along X, Y, Z, multiples of 4.
    """
    blocks = network.blocks
    network.blocks = nn.ModuleList(_InWindows(stage, window) for stage in _stages(blocks))
    try:
        return torch.cat([function(case) for case in x.split(1)])
    finally:
        network.blocks = blocks


def _stages(blocks: Iterable[nn.Module]) -> list[nn.Sequential]:
    """The blocks of one resolution each: those after an upsampling with it, those before a downsampling with it."""
    stages: list[list[nn.Module]] = [[]]
    for block in blocks:
        if isinstance(block, MaisiUpsample):
            stages.append([])
        stages[-1].append(block)
        if isinstance(block, MaisiDownsample):
            stages.append([])
    return [nn.Sequential(*stage) for stage in stages]


class _Along(NamedTuple):
    """A window along one axis: its own cells begin..end, and low..high with what its convolutions see around them."""

    begin: int
    end: int
    low: int
    high: int


class _StatisticsGathered(Exception):
    """Ends a pass over a window at the norm that it is made for."""


class _InWindows(nn.Module):
    """Runs a stage window by window: equal to the whole, to rounding."""

    def __init__(self, stage: nn.Sequential, window: Sequence[int]) -> None:
        super().__init__()
        self.stage = stage
        convolutions = [module for module in stage.modules() if isinstance(module, nn.Conv3d)]
        reach = sum(convolution.kernel_size[0] // 2 for convolution in convolutions)
        # In cells of the stage's input: an upsampling looks one cell farther, a downsampling begins at even ones.
        if isinstance(stage[0], MaisiUpsample):
            self.window, self.around = [n // 2 for n in window], reach // 2 + 1
        else:
            self.window, self.around = window, reach + reach % 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, C, X, Y, Z) to the stage's output."""
        places = list(itertools.product(*map(self._places, x.shape[2:], self.window)))
        if len(places) == 1:
            return self.stage(x)
        norms = [module for module in self.stage.modules() if isinstance(module, nn.GroupNorm)]
        try:
            for norm in norms:  # in the order in which they are run
                self._settle(norm, x, places)
            return self._join(x, places)
        finally:
            for norm in norms:
                norm.__dict__.pop("forward", None)

    def _places(self, size: int, window: int) -> list[_Along]:
        begins = range(0, size, window)
        ends = [min(begin + window, size) for begin in begins]
        return [
            _Along(begin, end, max(begin - self.around, 0), min(end + self.around, size))
            for begin, end in zip(begins, ends, strict=True)
        ]

    def _settle(self, norm: nn.GroupNorm, x: torch.Tensor, places: Sequence[Sequence[_Along]]) -> None:
        """Let `norm` use the statistics of the whole map from now on; those before it do so already."""
        parts: list[Moments] = []

        def gather(place: Sequence[_Along], y: torch.Tensor) -> None:
            parts.append(moments(_own(y, place)))
            raise _StatisticsGathered

        for place in places:
            norm.forward = partial(gather, place)
            with suppress(_StatisticsGathered):
                self.stage(_cut(x, place))
        mean, variance = of_groups(norm, parts)
        norm.forward = lambda y: normed(norm, y, mean, variance)

    def _join(self, x: torch.Tensor, places: Sequence[Sequence[_Along]]) -> torch.Tensor:
        whole = None
        for place in places:
            part = _own(self.stage(_cut(x, place)), place)
            if whole is None:
                finer = Fraction(part.shape[-1], place[-1].end - place[-1].begin)
                whole = part.new_empty(*part.shape[:2], *(int(n * finer) for n in x.shape[2:]))
            _part(whole, [(int(along.begin * finer), int(along.end * finer)) for along in place]).copy_(part)
        return whole


def _part(x: torch.Tensor, spans: Iterable[tuple[int, int]]) -> torch.Tensor:
    """What lies between begin and end along X, Y and Z of a map (1, C, X, Y, Z)."""
    for axis, (begin, end) in enumerate(spans, 2):
        x = x.narrow(axis, begin, end - begin)
    return x


def _cut(x: torch.Tensor, place: Sequence[_Along]) -> torch.Tensor:
    """A window of x (1, C, X, Y, Z), with what is around it."""
    return _part(x, [(along.low, along.high) for along in place])


def _own(y: torch.Tensor, place: Sequence[_Along]) -> torch.Tensor:
    """The window's own cells of a map that was made from its cut, in whatever resolution."""
    spans = []
    for n, along in zip(y.shape[2:], place, strict=True):
        size = along.high - along.low
        spans.append(((along.begin - along.low) * n // size, (along.end - along.low) * n // size))
    return _part(y, spans)


def itemsize_of(x: torch.Tensor) -> int:
    """Bytes of a value inside the network: two under autocast, else as in `x`."""
    return 2 if torch.is_autocast_enabled(x.device.type) else x.element_size()


def choose_window(x: torch.Tensor, shape: Sequence[int], channels: int, what: str) -> tuple[int, ...]:
    """The window for an image of `shape` (voxels), by the memory that is free now; the choice is logged."""
    free = available(x.device)
    itemsize = itemsize_of(x)
    window = fitting_window(shape, channels, itemsize, free, x.device)
    how = "whole volume" if window == tuple(shape) else f"windows of {by(window)} voxels"
    if (what, window, tuple(shape)) not in _TOLD:  # once, not for every case
        _TOLD.add((what, window, tuple(shape)))
        needed = peak_bytes(shape, shape, channels, itemsize, x.device) / 2**30
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
