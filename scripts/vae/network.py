"""The autoencoder of MAISI (Guo et al., arXiv 2409.11169), its weights on disk, and its two directions."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import (
    AutoencoderKlMaisi,
    MaisiGroupNorm3D,
    MaisiUpsample,
)
from safetensors.torch import load_file
from torch import nn

from scripts.common.identity import fingerprint
from scripts.common.problems import UserError
from scripts.common.public_weights import tell_other
from scripts.common.tensors import write_tensors
from scripts.engine.precision import half_weights
from scripts.vae.layers import GroupNorm, Upsample

FACTOR = 4  # an image axis of n voxels becomes n / 4 latent cells
LATENT_CHANNELS = 4  # of each image
DECODING = ("decoder.", "post_quant_conv.")  # how the names of the weights begin that make images of latents
REFERENCE: dict[str, Any] = {
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 1,
    "latent_channels": LATENT_CHANNELS,
    "num_channels": (64, 128, 256),
    "num_res_blocks": (2, 2, 2),
    "norm_num_groups": 32,
    "norm_eps": 1e-6,
    "attention_levels": (False, False, False),
    "with_encoder_nonlocal_attn": False,
    "with_decoder_nonlocal_attn": False,
    # These change memory, not results. Half-precision norms need autocast; splits need sizes that they divide.
    "norm_float16": False,
    "num_splits": 1,
    "dim_split": 1,
    "save_mem": False,
}
WHERE = (
    "NVIDIA's MAISI is published on Hugging Face as autoencoder_v1.pt of nvidia/NV-Generate-CT, under NVIDIA's Open "
    "Model License, and autoencoder_v2.pt of nvidia/NV-Generate-MR, non-commercial; put the file into "
    "bundles/vae/models/, or train your own with the train config of the vae bundle"
)


class Autoencoder(AutoencoderKlMaisi):
    """MAISI's network, whose answer outside of training is one tensor, as MONAI's bundle tools ask for."""

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images (B, 1, X, Y, Z) in 0..1 to their reconstruction through the latent mean, clipped to 0..1.

        In training to that of a drawn latent, not clipped, with mean and deviation of the latent.
        """
        if self.training:
            return super().forward(x)
        mu, _ = self.encode(x)
        return self.decode(mu).clamp(0, 1)


def maisi_vae(**overrides: Any) -> Autoencoder:
    """The MAISI autoencoder; without arguments in its published size (20.9 M parameters).

    Input (B, 1, X, Y, Z), sizes divisible by 4; latent (B, 4, X/4, Y/4, Z/4). Its `config` holds the arguments.
    """
    config = REFERENCE | overrides
    network = Autoencoder(**config)
    _replace_layers(network)
    network.config = {name: list(v) if isinstance(v, tuple) else v for name, v in config.items()}
    return network


def _replace_layers(network: AutoencoderKlMaisi) -> None:
    """Put our norms and upsamplings in the place of MAISI's: the same names and numbers, for less memory and time.

    A norm of theirs is a Python loop over its groups.
    """
    for parent in list(network.modules()):
        for name, layer in parent.named_children():
            if isinstance(layer, MaisiGroupNorm3D) and not layer.norm_float16:
                setattr(parent, name, GroupNorm(layer.num_groups, layer.num_channels, layer.eps))
            elif isinstance(layer, MaisiUpsample):
                setattr(parent, name, Upsample(layer))


def save_vae(network: AutoencoderKlMaisi, path: str | os.PathLike[str]) -> None:
    """Write the weights as safetensors with the network's arguments beside them; complete or not at all."""
    write_tensors(path, network.state_dict(), {"config": json.dumps(network.config)})


def load_vae(network: nn.Module, path: str | os.PathLike[str], device: torch.device | str | None = None) -> nn.Module:
    """Load weights (.safetensors, or .pt as published) into `network`, strictly.

    Returns it on `device`, in evaluation mode.

    Raises:
        UserError: the file is missing, damaged, or holds the weights of another architecture.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"VAE weights {path} are missing: {WHERE}")
    tell_other(path)
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # whatever the broken bytes lead the reader to
        raise UserError(f"VAE weights {path} cannot be read ({type(error).__name__}): copy the file again") from None
    for key in ("unet_state_dict", "state_dict", "network"):  # as MAISI's and our training scripts wrap them
        if isinstance(state.get(key), dict):
            state = state[key]
    own = network.state_dict()
    strange = sorted(own.keys() ^ state.keys())
    other = [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
    if strange or other:
        example = strange[0] if strange else min(other)
        raise UserError(
            f"VAE weights {path} are of another architecture: {len(strange)} names and {len(other)} shapes differ "
            f"(first: {example}); check network_def, for the demo weights list configs/demo.yaml after the config"
        )
    network.load_state_dict(state)
    return network.to(device).eval()


def vae_fingerprint(network: nn.Module) -> str:
    """What latents record about the VAE that made them: of its encoding half.

    A decoder that has learnt on (`fixed_encoder`) makes other images of the same latents.
    """
    return fingerprint({name: one for name, one in network.state_dict().items() if not name.startswith(DECODING)})


def is_vae(network: nn.Module, told: str | None) -> bool:
    """Whether latents that tell this fingerprint are the VAE's; those of earlier versions tell that of all weights."""
    return told is None or told == vae_fingerprint(network) or told == fingerprint(network.state_dict())


def fix_encoder(network: nn.Module) -> None:
    """Let the decoding half alone learn."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith(DECODING))


def prepare_inference(network: nn.Module, dtype: torch.dtype | None) -> None:
    """Make the network, in place, one for inference alone, under autocast to `dtype`; its fingerprint becomes another.

    On a GPU it has its channels last, as its convolutions want them; on a CPU that was no faster.
    """
    half_weights(network, dtype)
    if next(network.parameters()).device.type == "cuda":
        network.to(memory_format=torch.channels_last_3d)
