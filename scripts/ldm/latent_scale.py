"""The factor that brings latents to unit variance, measured on the training cases."""

from __future__ import annotations

import math
from collections.abc import Iterable

import ignite.distributed as idist
import torch
from torch import Tensor

from scripts.common.problems import UserError
from scripts.ldm.dataset import LatentDataset


def scale_factor(latents: Iterable[Tensor]) -> float:
    """Give 1 / std over all values of all latents, those of the other ranks included.

    Each rank passes its share of the cases; a rank may pass none. Sums are kept in float64, so the result does not
    depend on how the cases are shared out, beyond rounding.

    Raises:
        UserError: the latents are constant, or hold NaN or infinity, or there are none.
    """
    count = total = squares = 0.0
    for latent in latents:
        values = latent.double()
        count += values.numel()
        total += values.sum().item()
        squares += values.square().sum().item()
    count, total, squares = (idist.all_reduce(float(value)) for value in (count, total, squares))
    variance = (squares - total**2 / count) / (count - 1) if count > 1 else math.nan
    if not (math.isfinite(variance) and variance > 0):
        raise UserError(
            f"the latents' variance is {variance}, so there is no scale factor; look at the encoded latents: "
            "constant images or another VAE's weights are the usual cause"
        )
    return 1 / math.sqrt(variance)


def latent_scale(dataset: LatentDataset, count: int) -> float:
    """1/std of the latents of `count` cases, evenly spread over the list and shared out over the ranks."""
    picks = torch.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().long().tolist()
    return scale_factor(dataset.latent(0, index) for index in picks[idist.get_rank() :: idist.get_world_size()])
