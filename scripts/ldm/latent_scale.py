"""The factors that bring latents to unit variance, one for each sequence, measured on the training cases."""

from __future__ import annotations

import math
from collections.abc import Iterable

import ignite.distributed as idist
import torch
from monai.utils import ensure_tuple
from torch import Tensor

from scripts.common.problems import UserError
from scripts.ldm.dataset import LatentDataset
from scripts.networks.weights import ScaleFactor
from scripts.vae.network import LATENT_CHANNELS


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


def latent_scale(dataset: LatentDataset, count: int) -> ScaleFactor:
    """1/std of each sequence's latents over `count` cases, evenly spread over the list and shared out over the ranks.

    Returns:
        a number where there is one sequence, else one for each.
    """
    picks = torch.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().long().tolist()
    share = [dataset.latent(0, index) for index in picks[idist.get_rank() :: idist.get_world_size()]]
    factors = tuple(
        scale_factor(latent[first : first + LATENT_CHANNELS] for latent in share)
        for first in range(0, dataset.shape[0], LATENT_CHANNELS)
    )
    return factors if len(factors) > 1 else factors[0]


def per_channel(factors: ScaleFactor, channels: int) -> Tensor:
    """The factor of each channel (C, 1, 1, 1) of a latent, from one for all sequences or one for each.

    Raises:
        UserError: they are as many as neither.
    """
    factors, sequences = ensure_tuple(factors), channels // LATENT_CHANNELS
    if len(factors) not in (1, sequences):
        raise UserError(
            f"the weights hold {len(factors)} scale factors and latents of {channels} channels, {LATENT_CHANNELS} for "
            "each sequence: there must be one factor for all sequences or one for each; give other weights"
        )
    return torch.tensor(factors).repeat_interleave(channels // len(factors)).view(-1, 1, 1, 1)
