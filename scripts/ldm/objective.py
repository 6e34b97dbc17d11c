"""From a batch of examples to a loss: noise is added, the network is asked, and its answer is weighed."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from monai.engines.utils import PrepareBatch
from torch import Tensor, nn

from scripts.common.problems import UserError
from scripts.ldm.latent_scale import normalised
from scripts.ldm.loss import JointLoss
from scripts.ldm.schedule import check_prediction, noise_process, training_timesteps
from scripts.networks.weights import LatentScale
from scripts.reports.embeddings import pad_embeddings


class NoisyBatch(PrepareBatch):
    """Makes the network's input and what it should answer.

    The batch's own tensors are all that goes over to the device: nothing else is made from numbers there.

    Args:
        objective, prediction: what the network answers with, see `schedule.py`.
        scale: how latents enter the network.
        timestep_shift: above 1, rectified flow learns more from noisy timesteps, see `shift_timesteps`.
        timestep_std: spread of rectified flow's logit-normal timesteps; None for even ones, see `training_timesteps`.
        min_snr_gamma: the highest signal-to-noise ratio that counts in ddpm's loss, see `min_snr`; None weighs all
            timesteps alike.
        tokens_of: reports are padded to a multiple of so many tokens, so that batches have few shapes.

    Raises:
        UserError: an unknown objective or answer, a shift or spread that is not positive or not rectified flow's, a
            gamma that is not positive or not ddpm's.
    """

    def __init__(
        self,
        objective: str,
        scale: LatentScale,
        *,
        prediction: str | None = None,
        timestep_shift: float = 1.0,
        timestep_std: float | None = None,
        min_snr_gamma: float | None = None,
        tokens_of: int = 1,
    ) -> None:
        self.process = noise_process(objective)
        self.prediction = check_prediction(objective, prediction)
        for name, value, none, owner in (
            ("timestep_shift", timestep_shift, 1, "rflow"),
            ("timestep_std", timestep_std, None, "rflow"),
            ("min_snr_gamma", min_snr_gamma, None, "ddpm"),
        ):
            if value != none and (not value or value < 0 or objective != owner):
                raise UserError(
                    f"{name} is {value} with objective {objective}; "
                    f"it must be positive, and {'null' if none is None else none} for any objective but {owner}"
                )
        self.objective, self.scale = objective, scale
        self.timestep_shift, self.timestep_std = timestep_shift, timestep_std
        self.min_snr_gamma, self.tokens_of = min_snr_gamma, tokens_of

    def __call__(
        self,
        batchdata: dict[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, dict[str, Tensor], tuple[()], dict[str, Tensor | None]]:
        """Noisy latents (B, C, X, Y, Z), the targets for `WeightedLoss`, and the network's other arguments."""
        batch = {
            key: value.to(device, non_blocking=non_blocking) if isinstance(value, Tensor) else value
            for key, value in batchdata.items()
        }
        text, mask = None, None
        if batch["embedding"] is not None:
            text, mask = pad_embeddings(batch["embedding"].split(batch["tokens"])), batch["text_mask"]
            missing = -text.shape[1] % self.tokens_of
            text, mask = F.pad(text, (0, 0, 0, missing)), F.pad(mask, (0, missing))
        latents, noise = normalised(batch["latent"], self.scale), batch["noise"]
        timesteps = training_timesteps(
            self.objective, batch["uniform"], latents.shape[2:], self.timestep_shift, self.timestep_std
        )
        inputs = self.process.add_noise(original_samples=latents, noise=noise, timesteps=timesteps)
        targets = {
            "answer": self._answer(latents, noise, timesteps),
            "timesteps": timesteps,
            "weight": batch["focus"] * self._weight(timesteps),
            **{key: batch[key] for key in ("pirads", "text_isnull", "case_weight", "report_weight")},
        }
        conditions = {
            "timesteps": timesteps,
            "text_encoding": text,
            "text_mask": mask,
            "spacing_tensor": batch["spacing"],
            "pirads": batch["pirads"],
            "class_keep": batch["class_keep"],
        }
        return inputs, targets, (), conditions

    def _answer(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        if self.objective == "rflow":
            return latents - noise
        return noise if self.prediction == "noise" else self.process.get_velocity(latents, noise, timesteps)

    def _weight(self, timesteps: Tensor) -> Tensor | float:
        """How much cases count by their timesteps: (B, 1, 1, 1, 1)."""
        if self.min_snr_gamma is None:
            return 1.0
        signal = self.process.alphas_cumprod[timesteps]  # where `add_noise` has taken it
        return min_snr(signal, self.prediction, self.min_snr_gamma).view(-1, 1, 1, 1, 1)


def min_snr(signal: Tensor, prediction: str, gamma: float) -> Tensor:
    """Weights of ddpm's loss by alpha² (Hang et al., arXiv 2303.09556, sec. 3.4), which are made for `l2`.

    The loss of x0 counts by its signal-to-noise ratio up to gamma: timesteps of little noise, which ask for the finest
    detail, no longer pull against the others. In the loss of the noise, or of the velocity, that is
    min(SNR, gamma) / SNR, or / (SNR + 1).
    """
    ratio = signal / (1 - signal)
    return ratio.clamp(max=gamma) / (ratio if prediction == "noise" else ratio + 1)


class WeightedLoss(nn.Module):
    """The joint loss of a batch, weighed so that all batches of an optimizer step sum to the loss of the whole step.

    `parts` keeps the last batch's noise loss (and class loss before weighting), for the log.
    """

    def __init__(self, class_weight: float, noise_loss: str = "l1") -> None:
        super().__init__()
        self.joint = JointLoss(class_weight, noise_loss)
        self.parts: dict[str, Tensor] = {}

    def forward(self, prediction: tuple[Tensor, Tensor | None], targets: dict[str, Tensor]) -> Tensor:
        """Loss () of a prediction (noise or velocity, class logits); `StepSampler` says what the weights mean."""
        answer, logits = prediction
        share = targets["case_weight"].sum()
        # A pass of a case that weighs nothing has a share of 0: times what is finite that is no gradient.
        reports = (share / targets["report_weight"][0]).clamp(min=1e-6)
        loss, self.parts = self.joint(
            answer, targets["answer"], logits, targets["pirads"], targets["text_isnull"], reports, targets["weight"]
        )
        return share * loss
