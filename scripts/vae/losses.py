"""What a reconstruction and its latent are held against; what a discriminator adds is in `adversarial`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from scripts.vae.perceptual import PerceptualDistance


def first_differences(volume: Tensor) -> list[Tensor]:
    """Differences between neighbours along the three axes of (B, C, X, Y, Z)."""
    return [volume.diff(dim=axis) for axis in (2, 3, 4)]


class VAELoss(nn.Module):
    """Faithful values and edges, small latents: L1 + g·L1 of image gradients + multi-scale L1 + k·KL + p·perceptual.

    L1 alone lets a small network smooth away what is small. Averages over 2- and 4-fold coarser voxels carry no noise,
    so what is left there is the contrast of lesions; the gradients keep their edges.

    KL is to the standard normal, the mean over latent elements (not the sum: the weight then does not depend on size).

    Args:
        kl_weight, gradient_weight, coarse_weight, perceptual_weight: of the terms beside the L1.
        perceptual: the distance by a trained network, or None.
    """

    def __init__(
        self,
        kl_weight: float = 1e-4,
        gradient_weight: float = 0.5,
        coarse_weight: float = 1.0,
        perceptual_weight: float = 0.3,
        perceptual: PerceptualDistance | None = None,
    ) -> None:
        super().__init__()
        self.kl_weight, self.gradient_weight, self.coarse_weight = kl_weight, gradient_weight, coarse_weight
        self.perceptual_weight, self.perceptual = perceptual_weight, perceptual

    def parts(self, prediction: tuple[Tensor, Tensor, Tensor], image: Tensor) -> dict[str, Tensor]:
        """Each unweighted term, a scalar."""
        reconstruction, mu, sigma = (tensor.float() for tensor in prediction)
        error = reconstruction - image
        coarse = functional.avg_pool3d(error, 2)
        return {
            "l1": error.abs().mean(),
            "gradient": torch.stack([d.abs().mean() for d in first_differences(error)]).mean(),
            "coarse": coarse.abs().mean() + functional.avg_pool3d(coarse, 2).abs().mean(),
            "kl": 0.5 * (mu**2 + sigma**2 - 2 * sigma.log() - 1).mean(),
        }

    def forward(self, prediction: tuple[Tensor, Tensor, Tensor], image: Tensor) -> Tensor:
        """Scalar loss of the VAE's output (reconstruction, mu, sigma) against `image` (B, 1, X, Y, Z)."""
        parts = self.parts(prediction, image)
        loss = (
            parts["l1"]
            + self.gradient_weight * parts["gradient"]
            + self.coarse_weight * parts["coarse"]
            + self.kl_weight * parts["kl"]
        )
        if self.perceptual is not None:
            loss = loss + self.perceptual_weight * self.perceptual(prediction[0].float(), image)
        return loss
