"""Sizes of the smallest networks that hold every kind of layer; tests change what they are about."""

from __future__ import annotations

from typing import Any

UNET: dict[str, Any] = {
    "num_channels": [8, 16],
    "attention_levels": [False, True],
    "num_head_channels": [0, 8],
    "num_res_blocks": 1,
    "norm_num_groups": 4,
}
CCELLA: dict[str, Any] = UNET | {
    "width": 16,
    "layers": 2,
    "heads": 2,
    "num_latents": 4,
    "input_dim": 12,
    "time_channel": 8,
    "time_embed_dim": 20,
    "class_hidden": 6,
}
VAE: dict[str, Any] = {"num_channels": [8, 8, 8], "num_res_blocks": [1, 1, 1], "norm_num_groups": 4}

# As a config has them.
CCELLA_DEF = {"_target_": "scripts.networks.ccella.CCELLA", "variant": "@variant", **CCELLA}
VAE_DEF = {"_target_": "scripts.vae.network.maisi_vae", **VAE}
DISCRIMINATOR_DEF = {
    "_target_": "monai.networks.nets.PatchDiscriminator",
    "spatial_dims": 3,
    "in_channels": 1,
    "channels": 4,
    "num_layers_d": 1,
    "norm": ["BATCH", {"track_running_stats": False}],
}
