"""Image to latent: whole where memory allows, else in windows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi

from scripts.vae.windows import in_windows, within_memory


@torch.no_grad()
def encode(
    vae: AutoencoderKlMaisi, image: torch.Tensor, window: Sequence[int] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode images (B, 1, X, Y, Z) in 0..1 to mean and standard deviation (B, 4, X/4, Y/4, Z/4), float32.

    Args:
        vae: in evaluation mode, on the device of `image`.
        image: sizes divisible by 4.
        window: voxels of a window, multiples of 4; None lets the free memory decide.
    """
    if window is not None:
        both = _encode(vae, image, window)
    else:
        shape, channels = image.shape[2:], vae.config["num_channels"][0]
        both = within_memory(partial(_encode, vae, image), image, shape, channels, "encode")
    mu, sigma = both.float().chunk(2, dim=1)
    return mu, sigma


def _encode(vae: AutoencoderKlMaisi, image: torch.Tensor, window: Sequence[int]) -> torch.Tensor:
    """Mean and standard deviation one behind the other, (B, 8, X/4, Y/4, Z/4)."""
    return in_windows(lambda part: torch.cat(vae.encode(part), dim=1), vae.encoder, image, window)
