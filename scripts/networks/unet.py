"""MONAI's MAISI U-Net with one more input, a class vector; and a cheaper equivalent of its upsampling for sampling."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi
from monai.networks.nets.diffusion_model_unet import WrappedUpsample
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from scripts.networks.norm import replace_norms


class ClassConditionedUNet(DiffusionModelUNetMaisi):
    """`DiffusionModelUNetMaisi` whose time embedding is [time, class, spacing], with the authors' parameter names.

    Args:
        include_pirads_input: add `pirads_layer`, the embedding of the class vector, which `forward` then takes as
            `class_labels`, (B, 2).
        gradient_checkpointing: keep only the activations between levels and compute the rest again in the backward.
        use_flash_attention: use PyTorch's fused attention; MONAI refuses it without CUDA, where it is left off here, so
            that weights from a GPU also load on a CPU. The result is the same to rounding.
        kwargs: see `DiffusionModelUNetMaisi`; its region indices are not available here.
    """

    def __init__(
        self,
        *,
        include_pirads_input: bool = True,
        gradient_checkpointing: bool = False,
        use_flash_attention: bool = True,
        **kwargs: Any,
    ) -> None:
        # MONAI computes the width of the joint time embedding inside its constructor. The room that it would give to a
        # region index, as wide as any other embedding, is given to the class.
        super().__init__(
            include_top_region_index_input=include_pirads_input,
            use_flash_attention=use_flash_attention and torch.cuda.is_available(),
            **kwargs,
        )
        replace_norms(self)
        self.include_pirads_input = include_pirads_input
        if include_pirads_input:
            del self.top_region_index_layer
            self.include_top_region_index_input = False
            self.pirads_layer = self._create_embedding_module(2, 4 * self.block_out_channels[0])
        if gradient_checkpointing:
            for block in (*self.down_blocks, self.middle_block, *self.up_blocks):
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)

    def _get_time_and_class_embedding(self, x: Tensor, timesteps: Tensor, class_labels: Tensor | None) -> Tensor:
        """Embed time and class side by side; the spacing is appended by MONAI afterwards."""
        embedding = super()._get_time_and_class_embedding(x, timesteps, None)
        if self.include_pirads_input:
            embedding = torch.cat((embedding, self.pirads_layer(class_labels.to(x.dtype))), dim=1)
        return embedding


class FoldedUpsample(nn.ConvTranspose3d):
    """Nearest-neighbour upsampling by two and the convolution (3×3×3) behind it, as one transposed convolution.

    Between equal neighbours three taps along an axis read two cells of the map before: their weights are summed once,
    and a value takes 8 products a channel instead of 27. Equal to rounding (1e-5 of a map of unit variance).
    """

    def __init__(self, convolution: nn.Conv3d) -> None:
        super().__init__(convolution.in_channels, convolution.out_channels, kernel_size=4, stride=2, padding=1)
        weight = convolution.weight.detach()
        for axis in (2, 3, 4):
            first, middle, last = weight.unbind(axis)
            weight = torch.stack((last, middle + last, first + middle, first), axis)
        self.weight, self.bias = nn.Parameter(weight.transpose(0, 1).contiguous()), convolution.bias

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        """(B, C, X, Y, Z) to (B, C, 2X, 2Y, 2Z); the time embedding is not read, as in MONAI's block."""
        return super().forward(x)


def fold_upsampling(unet: DiffusionModelUNetMaisi) -> None:
    """Put a `FoldedUpsample` into the place of each upsampling, for sampling alone: parameters change their names."""
    for block in unet.up_blocks:
        if isinstance(block.upsampler, WrappedUpsample):
            block.upsampler = FoldedUpsample(block.upsampler.postconv.conv)
