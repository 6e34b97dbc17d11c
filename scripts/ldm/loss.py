"""The joint loss of the denoiser and its class heads (CCELLA, arXiv 2506.10230)."""

from __future__ import annotations

import torch.nn.functional as F
from monai.losses import FocalLoss
from torch import Tensor, nn

from scripts.common.problems import UserError

# What the answer is compared with the truth by. L1 learns the median of what is possible, L2 the mean.
NOISE_LOSSES = {"l1": F.l1_loss, "l2": F.mse_loss}

# The authors' focal loss sees the one-hot that they feed into the U-Net, which is multiplied by 100.
TARGET_SCALE = 100.0
# How much a negative and a positive case weigh there. MONAI's `alpha` is read back from the device in every step.
NEGATIVE, POSITIVE = 0.25, 0.75


class JointLoss(nn.Module):
    """The noise's loss plus `class_weight` times the focal loss of the class, over the cases that have a report.

    As the authors have it, with L1:

    loss = mean |noise_pred - noise| + w / R * sum over cases with a report, classes of
           a_c * (1 - p_c)^2 * (-log p_c) * 100 y_c,   a = (0.25, 0.75), p = softmax(logits), y = one-hot

    R is the number of cases with a report, at least 1.

    Args:
        class_weight: w; with 0, or without logits, the loss is the noise's alone.
        noise_loss: `l1` as the authors, or `l2`. A sampler follows the mean of what is possible (Liu et al., arXiv
            2209.03003, eq. 1; Ho et al., arXiv 2006.11239, eq. 14), which only `l2` learns: `l1` leaves out what
            is likely but not certain in a place, as a lesion is where the report names no more than a region.

    Raises:
        UserError: an unknown noise_loss.
    """

    def __init__(self, class_weight: float = 1e-4, noise_loss: str = "l1") -> None:
        super().__init__()
        if noise_loss not in NOISE_LOSSES:
            raise UserError(f"noise_loss is {noise_loss!r}; it must be one of {', '.join(NOISE_LOSSES)}")
        self.noise_loss = NOISE_LOSSES[noise_loss]
        self.class_weight = class_weight
        self.focal = FocalLoss(gamma=2.0, use_softmax=True, reduction="none")

    def forward(
        self,
        noise_pred: Tensor,
        noise: Tensor,
        class_logits: Tensor | None = None,
        pirads: Tensor | None = None,
        text_isnull: Tensor | None = None,
        reports: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compare noise (B, C, X, Y, Z) and class.

        Args:
            noise_pred, noise: what the network said and what was asked of it (noise, or velocity for rectified flow).
            class_logits: (B, 2), or None for networks without a class head.
            pirads: (B, 2) one-hot [negative, positive].
            text_isnull: (B,), 1 where the case has no report: its class cannot be read from it and is not asked.
            reports: R, (), where it is not this batch's own: a part of a larger batch that is spread over ranks or
                passes needs the larger batch's R in proportion.
            weight: (B, 1, X, Y, Z) or what broadcasts to it, how much the noise of each place counts; 1 without it.

        Returns:
            the loss to minimise, and its parts for the log, detached: `noise`, and `class` before weighting.
        """
        error = self.noise_loss(noise_pred.float(), noise.float(), reduction="none")
        loss = (error if weight is None else error * weight).mean()
        parts = {"noise": loss.detach()}
        if class_logits is None or self.class_weight == 0:
            return loss, parts
        has_report = 1.0 - text_isnull.float()
        negative, positive = self.focal(class_logits, pirads * TARGET_SCALE).unbind(dim=1)
        focal = NEGATIVE * negative + POSITIVE * positive
        count = has_report.sum().clamp(min=1) if reports is None else reports
        class_loss = (focal * has_report).sum() / count
        parts["class"] = class_loss.detach()
        return loss + self.class_weight * class_loss, parts
