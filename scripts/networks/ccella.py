"""The report-conditioned denoiser: adapter and U-Net joined, in nine variants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from scripts.networks.adapter import Adapter, ClassHead
from scripts.networks.unet import ClassConditionedUNet
from scripts.networks.variants import find_variant

# Class vector and spacing enter the U-Net multiplied by this (CCELLA, as MAISI does with its conditions).
CONDITION_SCALE = 100.0
REFERENCE_SPACING = (0.5, 0.5, 0.5625)

# The reference U-Net: 205 M parameters.
UNET: dict[str, Any] = {
    "spatial_dims": 3,
    "in_channels": 4,
    "out_channels": 4,
    "num_channels": [64, 128, 256, 512],
    "attention_levels": [False, False, True, True],
    "num_head_channels": [0, 0, 32, 32],
    "num_res_blocks": 2,
    "norm_num_groups": 32,
    "include_spacing_input": True,
    "upcast_attention": True,
    "use_flash_attention": True,
}


class AdapterOutput(NamedTuple):
    """What the adapter says about a report: context (B, L, W) and class logits (B, 2), each None without its part."""

    context: Tensor | None
    class_logits: Tensor | None


class Prediction(NamedTuple):
    """What the network says: the noise (B, C, X, Y, Z), and the class logits (B, 2) or None."""

    noise_pred: Tensor
    class_logits: Tensor | None


class CCELLA(nn.Module):
    """Class-Conditioned Efficient Large Language model Adapter with its U-Net; the defaults are the reference size.

    Every parameter gets a gradient in every variant, from the noise alone: the class heads get theirs through the class
    vector. `DistributedDataParallel` therefore needs no search for unused parameters.

    Args:
        variant: one of the nine in `scripts.networks.variants.VARIANTS`.
        width, layers, heads, num_latents: width of the context, perceiver blocks, attention heads, context vectors.
        input_dim: width of the report embeddings.
        time_channel, time_embed_dim: the adapter's sinusoidal time feature and its embedding.
        class_hidden: width inside a class head.
        gradient_checkpointing: compute activations again in the backward instead of keeping them.
        unet: what differs from `UNET`, as arguments of MONAI's `DiffusionModelUNetMaisi`. `with_conditioning`,
            `cross_attention_dim` and `include_pirads_input` may be there, and follow from the variant all the same.

    Raises:
        ValueError: unknown variant, or sizes that MONAI refuses.
    """

    def __init__(
        self,
        variant: str = "CCELLA",
        *,
        width: int = 768,
        layers: int = 6,
        heads: int = 8,
        num_latents: int = 256,
        input_dim: int = 4096,
        time_channel: int = 320,
        time_embed_dim: int = 768,
        class_hidden: int = 256,
        gradient_checkpointing: bool = False,
        **unet: Any,
    ) -> None:
        super().__init__()
        self.variant = find_variant(variant)
        adapter: dict[str, Any] = {
            "width": width,
            "layers": layers,
            "heads": heads,
            "num_latents": num_latents,
            "input_dim": input_dim,
            "time_channel": time_channel,
            "time_embed_dim": time_embed_dim,
            "class_hidden": class_hidden,
        }
        followed = {
            "with_conditioning": self.variant.adapter,
            "cross_attention_dim": width if self.variant.adapter else None,
            "include_pirads_input": self.variant.class_vector is not None,
        }
        unet = {**UNET, **unet, **followed}
        self.config: dict[str, Any] = {"variant": variant, **adapter, **unet}
        self.unet = ClassConditionedUNet(**unet, gradient_checkpointing=gradient_checkpointing)
        if self.variant.adapter:
            self.ella = Adapter(
                **adapter, heads_after=self.variant.heads, gradient_checkpointing=gradient_checkpointing
            )
        if self.variant.heads == "last":
            self.classifier = ClassHead(num_latents * width, class_hidden)
        elif self.variant.heads in ("shared", "each"):
            self.classifier = nn.Linear(2 * layers, 2)

    def condition(
        self, text_encoding: Tensor | None, timesteps: Tensor, text_mask: Tensor | None = None
    ) -> AdapterOutput:
        """Run the adapter alone. One report and many timesteps, or many reports and one timestep, are broadcast.

        Args:
            text_encoding: (B or 1, T, D) token embeddings; not looked at by variants without an adapter.
            timesteps: (B,) or (1,), in the scheduler's units of 0..1000.
            text_mask: (B or 1, T), True at real tokens; without it all positions are attended (the authors' way).

        Raises:
            ValueError: no text, or embeddings of another width.
        """
        if not self.variant.adapter:
            return AdapterOutput(None, None)
        expected = self.config["input_dim"]
        if text_encoding is None or text_encoding.ndim != 3 or text_encoding.shape[-1] != expected:
            found = "none were given" if text_encoding is None else f"they have shape {tuple(text_encoding.shape)}"
            raise ValueError(
                f"variant {self.config['variant']} needs report embeddings (B, T, {expected}), but {found}; "
                "encode the reports with the text encoder that the network was trained with"
            )
        context, logits = self.ella(text_encoding, timesteps, text_mask)
        if self.variant.heads == "last":
            return AdapterOutput(context, self.classifier(context))
        if self.variant.heads == "first":
            return AdapterOutput(context, logits[0])
        if self.variant.heads is not None:
            return AdapterOutput(context, self.classifier(torch.cat(logits, dim=1)))
        return AdapterOutput(context, None)

    def class_vector(
        self, class_logits: Tensor | None, pirads: Tensor | None, class_keep: Tensor | None = None
    ) -> Tensor | None:
        """Give the U-Net's class vector (B, 2), scaled, or None where the variant has none.

        Args:
            class_logits: (B, 2), used by variants that predict the class.
            pirads: (B, 2) one-hot [negative, positive], used by variants that take the case's own class.
            class_keep: (B,) bool; where False the vector is zero, "class unknown".

        Raises:
            ValueError: the variant takes the case's own class and there is none.
        """
        if self.variant.class_vector is None:
            return None
        probabilities = pirads if self.variant.class_vector == "own" else class_logits.softmax(dim=1)
        if probabilities is None:
            raise ValueError(f"variant {self.config['variant']} needs the class of each case: give pirads, (B, 2)")
        if class_keep is not None:
            probabilities = probabilities * class_keep.to(probabilities.dtype).unsqueeze(1)
        return probabilities * CONDITION_SCALE

    def denoise(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,
        class_vector: Tensor | None = None,
        spacing_tensor: Tensor | None = None,
    ) -> Tensor:
        """Run the U-Net alone: noise (B, C, X, Y, Z) in x (B, C, X, Y, Z) at timesteps (B,).

        Args:
            context: (B, L, W) from `condition`.
            class_vector: (B, 2) from `class_vector`.
            spacing_tensor: (B, 3) voxel spacing of the image in mm.
        """
        spacing = None if spacing_tensor is None else spacing_tensor.to(x.dtype) * CONDITION_SCALE
        return self.unet(x, timesteps, context=context, class_labels=class_vector, spacing_tensor=spacing)

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        text_encoding: Tensor | None = None,
        spacing_tensor: Tensor | None = None,
        pirads: Tensor | None = None,
        text_mask: Tensor | None = None,
        class_keep: Tensor | None = None,
    ) -> Prediction:
        """Predict the noise in x (B, C, X, Y, Z), and the class; arguments as in the three methods above.

        Which of report, spacing and class are asked for is the variant's and the U-Net's to say.
        """
        context, class_logits = self.condition(text_encoding, timesteps, text_mask)
        class_vector = self.class_vector(class_logits, pirads, class_keep)
        return Prediction(self.denoise(x, timesteps, context, class_vector, spacing_tensor), class_logits)


class LatentDenoiser(nn.Module):
    """Noisy latent to noise, everything else fixed, for MONAI's bundle tools, which know networks of one tensor."""

    def __init__(self, network: CCELLA) -> None:
        super().__init__()
        self.network = network

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Its weights are the network's, by the names that they have there: `ckpt_export` reads models/model.pt."""
        return self.network.load_state_dict(state_dict, strict, assign)

    def forward(self, x: Tensor) -> Tensor:
        """The noise in x (B, C, X, Y, Z), same shape: timestep 0, a report of one zero token, a negative class."""
        batch = len(x)
        return self.network(
            x,
            timesteps=x.new_zeros(batch),
            text_encoding=x.new_zeros(batch, 1, self.network.config["input_dim"]),
            spacing_tensor=x.new_tensor([REFERENCE_SPACING] * batch),
            pirads=x.new_tensor([[1.0, 0.0]] * batch),
        ).noise_pred
