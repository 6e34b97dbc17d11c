"""Latent to image: whole where memory allows, else in windows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi

from scripts.vae.network import FACTOR
from scripts.vae.windows import in_windows, within_memory


@torch.no_grad()
def decode(vae: AutoencoderKlMaisi, latent: torch.Tensor, window: Sequence[int] | None = None) -> torch.Tensor:
    """Decode latents (B, 4, X, Y, Z) to images (B, 1, 4X, 4Y, 4Z), float32, clipped to 0..1, one case at a time.

    Args:
        vae: in evaluation mode, on the device of `latent`.
        latent: as the encoder's mean, not scaled.
        window: voxels of a window, multiples of 4; None lets the free memory decide.
    """
    if window is not None:
        return _decode(vae, latent, window)
    shape = [n * FACTOR for n in latent.shape[2:]]
    return within_memory(partial(_decode, vae, latent), latent, shape, vae.config["num_channels"][1], "decode")


def _decode(vae: AutoencoderKlMaisi, latent: torch.Tensor, window: Sequence[int]) -> torch.Tensor:
    return in_windows(vae.decode, vae.decoder, latent, window).float().clamp(0, 1)
