"""The adapter: turns a report's token embeddings into a few context vectors for the U-Net, and into class logits.

A timestep-aware perceiver resampler (ELLA, arXiv 2403.05135), with class heads on its latents (CCELLA, arXiv
2506.10230). Module names are those of the authors' checkpoints.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from monai.networks.nets.diffusion_model_unet import get_timestep_embedding
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class AdaptiveLayerNorm(nn.Module):
    """LayerNorm without affine, then x * (1 + scale) + shift with shift and scale out of the time embedding."""

    def __init__(self, width: int, time_width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.linear = nn.Linear(time_width, 2 * width)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Normalise x (B or 1, N, W) for each time embedding (B, E)."""
        shift, scale = self.linear(F.silu(time)).unsqueeze(1).chunk(2, dim=-1)
        return self.norm(x) * (1 + scale) + shift


class SquaredReLUMLP(nn.Module):
    """Linear to four times the width, ReLU squared, and back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.relu(self.c_fc(x)).square())


class PerceiverBlock(nn.Module):
    """The latents attend to themselves and to the text, then pass an MLP; the text stays as it is."""

    def __init__(self, width: int, heads: int, time_width: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = SquaredReLUMLP(width)
        self.ln_1 = AdaptiveLayerNorm(width, time_width)
        self.ln_2 = AdaptiveLayerNorm(width, time_width)
        self.ln_ff = AdaptiveLayerNorm(width, time_width)

    def forward(self, latents: Tensor, text: Tensor, time: Tensor, padding: Tensor | None) -> Tensor:
        """Update latents (B, L, W) by text (B or 1, T, W) at time (B, E); padding (B, L + T) is True where ignored."""
        query = self.ln_1(latents, time)
        keys = torch.cat((query, self.ln_2(text, time)), dim=1)
        latents = latents + self.attn(query, keys, keys, key_padding_mask=padding, need_weights=False)[0]
        return latents + self.mlp(self.ln_ff(latents, time))


class ClassHead(nn.Module):
    """Two linear layers on the flattened latents."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(features, hidden)
        self.fc2 = nn.Linear(hidden, 2)

    def forward(self, latents: Tensor) -> Tensor:
        """Give logits (B, 2) for latents (B, L, W)."""
        return self.fc2(F.relu(self.fc1(latents.flatten(1))))


class Connector(nn.Module):
    """The perceiver: learned latents, the text's projection, the blocks, and the class heads that sit between them.

    Args:
        heads_after: where class heads are: `first`, `shared` and `each` live here; `last` reads what comes out.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        num_latents: int,
        input_dim: int,
        time_width: int,
        class_hidden: int,
        heads_after: str | None,
    ) -> None:
        super().__init__()
        self.heads_after = heads_after
        self.latents = nn.Parameter(width**-0.5 * torch.randn(num_latents, width))
        self.time_aware_linear = nn.Linear(time_width, width)
        self.proj_in = nn.Linear(input_dim, width)
        self.perceiver_blocks = nn.ModuleList(PerceiverBlock(width, heads, time_width) for _ in range(layers))
        features = num_latents * width
        if heads_after == "each":
            self.cascade_blocks = nn.ModuleList(ClassHead(features, class_hidden) for _ in range(layers))
        elif heads_after in ("first", "shared"):
            self.classifier = ClassHead(features, class_hidden)

    def forward(self, text: Tensor, time: Tensor, text_mask: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """Run the blocks on text (B or 1, T, D) at time (B, E); text_mask (B or 1, T) is True at real tokens.

        Returns:
            the latents (B, L, W), and the logits (B, 2) of every head in the order of the blocks.
        """
        batch, count = len(time), len(self.latents)
        text = self.proj_in(text.to(self.proj_in.weight.dtype))
        latents = self.latents + self.time_aware_linear(F.silu(time)).unsqueeze(1)
        padding = None if text_mask is None else F.pad(~text_mask.expand(batch, -1), (count, 0), value=False)
        logits = []
        for index, block in enumerate(self.perceiver_blocks):
            latents = block(latents, text, time, padding)
            if self.heads_after == "each":
                logits.append(self.cascade_blocks[index](latents))
            elif self.heads_after == "shared" or (self.heads_after == "first" and index == 0):
                logits.append(self.classifier(latents))
        return latents, logits


class TimeEmbedding(nn.Module):
    """Linear, SiLU, Linear on the sinusoidal time feature."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(channels, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, feature: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(feature)))


class Adapter(nn.Module):
    """The whole adapter: time embedding and connector. Arguments as in `scripts.networks.ccella.CCELLA`."""

    def __init__(
        self,
        *,
        width: int,
        layers: int,
        heads: int,
        num_latents: int,
        input_dim: int,
        time_channel: int,
        time_embed_dim: int,
        class_hidden: int,
        heads_after: str | None,
        gradient_checkpointing: bool,
    ) -> None:
        super().__init__()
        self.time_channel = time_channel
        self.time_embedding = TimeEmbedding(time_channel, time_embed_dim)
        self.connector = Connector(
            width, layers, heads, num_latents, input_dim, time_embed_dim, class_hidden, heads_after
        )
        if gradient_checkpointing:
            for block in self.connector.perceiver_blocks:
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)

    def forward(self, text: Tensor, timesteps: Tensor, text_mask: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Read text (B or 1, T, D) at timesteps (B,) or (1,): whichever is one is shared by the whole batch.

        Without `text_mask` (B or 1, T; True at real tokens) every position is attended, as the authors do.

        Returns:
            context (B, L, W), and the heads' logits, each (B, 2).
        """
        if len(timesteps) == 1:
            timesteps = timesteps.expand(len(text))
        feature = get_timestep_embedding(timesteps, self.time_channel)
        time = self.time_embedding(feature.to(self.time_embedding.linear_1.weight.dtype))
        return self.connector(text, time, text_mask)
