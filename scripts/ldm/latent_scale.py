"""How latents enter the network, each channel with mean 0 and deviation 1, and how they leave it: measured, applied."""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from scripts.common.problems import UserError
from scripts.engine.share import for_all
from scripts.ldm.dataset import LatentDataset
from scripts.networks.weights import LatentScale, read_header
from scripts.vae.network import LATENT_CHANNELS

KINDS = ("channel", "single")


# ---- applied ---------------------------------------------------------------------------------------------------------


def normalised(latents: Tensor, scale: LatentScale) -> Tensor:
    """Latents (B, C, X, Y, Z) of the VAE as they enter the network: one multiplication and addition."""
    factor, _, offset = _on(latents.device, scale, latents.shape[1])
    return torch.addcmul(offset, latents, factor)


def restored(latents: Tensor, scale: LatentScale) -> Tensor:
    """Latents (B, C, X, Y, Z) as the network makes them, as the VAE decodes them: one division and addition."""
    factor, mean, _ = _on(latents.device, scale, latents.shape[1])
    return torch.addcdiv(mean, latents, factor)


@lru_cache
def _on(device: torch.device, scale: LatentScale, channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Factor, mean and -mean·factor of each channel, which stay on the device: a copy a step would wait for it."""
    factor, mean = per_channel(scale, channels)
    return tuple(part.float().view(-1, 1, 1, 1).to(device) for part in (factor, mean, -mean * factor))


def per_channel(scale: LatentScale, channels: int) -> tuple[Tensor, Tensor]:
    """Factor and mean (C,) float64 of each channel, from one for all, one for each sequence, or one for each channel.

    Raises:
        UserError: they are as many as none of these.
    """
    sequences, count = channels // LATENT_CHANNELS, len(scale.factor)
    if count not in (1, sequences, channels):
        raise UserError(
            f"the weights hold {count} scale factors and latents of {channels} channels, {LATENT_CHANNELS} for each "
            "sequence: there must be one factor for each channel, for each sequence, or for all; give other weights"
        )
    factor, mean = (torch.tensor(part, dtype=torch.float64) for part in (scale.factor, scale.mean))
    return tuple(part.repeat_interleave(channels // len(part)) for part in (factor, mean))


# ---- measured --------------------------------------------------------------------------------------------------------


class Moments(NamedTuple):
    """Of a latent's channels (C,), float64: how many values each has, their mean, and the summed squares around it."""

    count: Tensor
    mean: Tensor
    squares: Tensor


def latent_scale(how: str, dataset: LatentDataset, count: int | None = None) -> LatentScale:
    """Give what the training's latents are normalised by, the same on every process, whatever their number.

    Args:
        how: `channel` measures mean and deviation of each channel; `single` the deviation of each sequence, as the
            authors do; else the path of weights, whose own is taken: what they were trained with, to train them on, and
            what the clients of a federation share.
        dataset: of the training cases.
        count: so many of them are measured, evenly spread over the list; all without it.

    Raises:
        UserError: a channel is constant, or holds NaN or infinity; the weights are missing, or made for latents of
            another VAE or of other channels; `how` is none of these.
    """
    if how not in KINDS:
        return _of_weights(Path(how), dataset)
    picks = torch.linspace(0, len(dataset) - 1, min(count or len(dataset), len(dataset))).round().long().tolist()
    parts = torch.tensor(for_all(partial(_moments_of, dataset), picks), dtype=torch.float64)
    found = joined([Moments(*part) for part in parts])
    if how == "single":
        found = joined([Moments(*parts) for parts in zip(*(p.view(-1, LATENT_CHANNELS).T for p in found), strict=True)])
    variance = found.squares / (found.count - 1)
    # What rounding to float32 alone leaves of a constant.
    least = (torch.finfo(torch.float32).eps * found.mean) ** 2
    for number, (one, rounding) in enumerate(zip(variance.tolist(), least.tolist(), strict=True), start=1):
        if not rounding < one < float("inf"):
            part = "channel" if how == "channel" else "sequence"
            raise UserError(
                f"the variance of the latents' {part} {number} of {len(variance)} is {one:.3g}, so that they cannot be "
                "normalised; look at the encoded latents: constant images or another VAE's weights are the usual cause"
            )
    factor = tuple(variance.rsqrt().tolist())
    return LatentScale(factor, tuple(found.mean.tolist())) if how == "channel" else LatentScale(factor)


def _moments_of(dataset: LatentDataset, index: int) -> list[list[float]]:
    """A case's, as numbers: processes exchange them."""
    return torch.stack(moments(dataset.latent(0, index))).tolist()


def moments(latent: Tensor) -> Moments:
    """Of the channels of a latent (C, X, Y, Z)."""
    values = latent.double().flatten(1)
    mean = values.mean(dim=1)
    squares = (values - mean[:, None]).square().sum(dim=1)
    return Moments(torch.full_like(mean, values.shape[1]), mean, squares)


def joined(parts: list[Moments]) -> Moments:
    """The moments of all parts together (Chan et al. 1979, eq. 2.1): nothing large is subtracted from another."""
    counts, means, squares = (torch.stack(part) for part in zip(*parts, strict=True))
    count = counts.sum(dim=0)
    mean = (counts * means).sum(dim=0) / count
    return Moments(count, mean, squares.sum(dim=0) + (counts * (means - mean).square()).sum(dim=0))


def _of_weights(path: Path, dataset: LatentDataset) -> LatentScale:
    if not path.is_file():
        raise UserError(f"latent_scale is {str(path)!r}; give {', '.join(KINDS)}, or the path of a model.safetensors")
    header = read_header(path)
    made_by, ours = header.meta.get("vae_fingerprint"), dataset.cases[0].fingerprint
    if None not in (made_by, ours) and made_by != ours:
        raise UserError(
            f"latent_scale: {path} tells mean and deviation of latents of VAE {made_by}, but these were made by VAE "
            f"{ours}; encode the images with that VAE, or give latent_scale channel"
        )
    per_channel(header.scale, dataset.shape[0])
    return header.scale
