"""Layers of the autoencoder that leave maps of two-byte numbers as they are, in inference on a GPU.

Autocast runs norms and interpolations in fp32 there: it copies the map to four-byte numbers, and what follows has four
bytes too, up to the next convolution. At full resolution that was most of the memory and of its traffic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import MaisiUpsample
from torch import Tensor, nn

from scripts.networks.norm import GroupNorm as PlainGroupNorm


def stays_as_it_is(x: Tensor) -> bool:
    """Whether a map is one that these layers take care of."""
    return x.is_cuda and x.element_size() == 2 and not torch.is_grad_enabled()


class Upsample(MaisiUpsample):
    """MAISI's interpolation and convolution, with its layers.

    The GPU's kernel interpolates in fp32 whatever it reads and writes, so that the convolution gets the same numbers.
    """

    def __init__(self, theirs: MaisiUpsample) -> None:
        nn.Module.__init__(self)
        self.conv, self.use_convtranspose, self.save_mem = theirs.conv, theirs.use_convtranspose, theirs.save_mem

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, X, Y, Z) to (B, C, 2X, 2Y, 2Z)."""
        if self.use_convtranspose or not stays_as_it_is(x):
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            x = F.interpolate(x, scale_factor=2.0, mode="trilinear")
        return self.conv(x)


class GroupNorm(PlainGroupNorm):
    """PyTorch's group norm, for a case at a time where it is in two-byte numbers on a GPU.

    As exact as theirs: the moments are of fp32 in both, and the result is rounded once.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, X, Y, Z) to the same shape."""
        if len(x) > 1 or not stays_as_it_is(x):
            return super().forward(x)
        return normed(self, x, *of_groups(self, [moments(x)]))


class Moments(NamedTuple):
    """How many numbers each channel of a map has, and their mean and variance, float64 (C,)."""

    count: int
    mean: Tensor
    variance: Tensor


def moments(x: Tensor) -> Moments:
    """Of a map (1, C, X, Y, Z).

    Of two-byte numbers the variance is the mean square less the squared mean, which a GPU sums in fp32, for each plane,
    without another map; planes are added in fp64. Where a channel's mean is r of its standard deviations, the variance
    is off by some r² / 2^24 of itself: far less than the rounding of a bf16 result, 2^-8, up to r = 100. Beyond, the
    map is not worth more: its own numbers were rounded, by up to r / 2^8 standard deviations.
    """
    count = x.numel() // x.shape[1]
    if x.element_size() > 2:
        variance, mean = torch.var_mean(x, (0, 2, 3, 4), correction=0)
        return Moments(count, mean.double(), variance.double())
    sums = x.sum((3, 4), dtype=torch.float32)
    norms = torch.linalg.vector_norm(x, dim=(3, 4), dtype=torch.float32)
    mean, square = (values.sum((0, 2)) / count for values in (sums.double(), norms.double().square()))
    return Moments(count, mean, (square - mean.square()).clamp(min=0))


def of_groups(norm: nn.GroupNorm, parts: Sequence[Moments]) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel's group, float32 (C,), from the moments of the parts of a map."""
    size = norm.num_channels // norm.num_groups
    total = size * sum(part.count for part in parts)
    grouped = [(part.count / total, *(values.unflatten(0, (-1, size)) for values in part[1:])) for part in parts]
    mean = sum(share * means for share, means, _ in grouped).sum(1, keepdim=True)
    variance = sum(share * (variances + (means - mean).square()) for share, means, variances in grouped).sum(1)
    return tuple(values.flatten().float().repeat_interleave(size) for values in (mean, variance))


def normed(norm: nn.GroupNorm, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """x (1, C, X, Y, Z) in its own type, normed with mean and variance of the channels, float32 (C,)."""
    parameters = (mean, variance, norm.weight, norm.bias)
    if not x.is_contiguous():
        return F.batch_norm(x, *parameters, eps=norm.eps)
    # Of a contiguous map, a GPU has one block of threads for each channel, too few to fill it: planes become channels.
    planes = [values.repeat_interleave(x.shape[2]) for values in parameters]
    return F.batch_norm(x.flatten(1, 2), *planes, eps=norm.eps).view_as(x)
