"""From a batch of examples to a loss: noise is added, the network is asked, and its answer is weighed."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from monai.engines.utils import PrepareBatch
from monai.inferers import SimpleInferer
from monai.utils import ensure_tuple
from torch import Tensor, nn

from scripts.common.problems import UserError
from scripts.engine.precision import precision
from scripts.ldm.latent_scale import per_channel
from scripts.ldm.loss import JointLoss
from scripts.ldm.schedule import noise_process, training_timesteps
from scripts.networks.weights import ScaleFactor
from scripts.reports.embeddings import pad_embeddings


class NoisyBatch(PrepareBatch):
    """Makes the network's input and what it should answer.

    The batch's own tensors are all that goes over to the device: nothing else is made from numbers there.

    Args:
        objective: `ddpm` (the network answers with the noise) or `rflow` (with the velocity, latent minus noise).
        scale_factor: what latents are multiplied by, so that their variance is about 1: one number, or one for each
            sequence.
        timestep_shift: above 1, rectified flow learns more from noisy timesteps, see `shift_timesteps`.

    Raises:
        UserError: an unknown objective, or a shift that is not positive or not rectified flow's.
    """

    def __init__(self, objective: str, scale_factor: ScaleFactor, timestep_shift: float = 1.0) -> None:
        if timestep_shift <= 0 or (timestep_shift != 1 and objective != "rflow"):
            raise UserError(
                f"timestep_shift is {timestep_shift} with objective {objective}; "
                "it must be positive, and 1 for any objective but rflow"
            )
        self.objective = objective
        self.timestep_shift = timestep_shift
        self.scale_factor = scale_factor
        self.process = noise_process(objective)

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
        latents, noise = batch["latent"], batch["noise"]
        latents = latents * _factors_on(latents.device, ensure_tuple(self.scale_factor), latents.shape[1])
        timesteps = training_timesteps(self.objective, batch["uniform"], latents.shape[2:], self.timestep_shift)
        inputs = self.process.add_noise(original_samples=latents, noise=noise, timesteps=timesteps)
        targets = {
            "answer": noise if self.objective == "ddpm" else latents - noise,
            "timesteps": timesteps,
            **{key: batch[key] for key in ("focus", "pirads", "text_isnull", "case_weight", "report_weight")},
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


@lru_cache
def _factors_on(device: torch.device, factors: tuple[float, ...], channels: int) -> Tensor:
    """The scale factors of `per_channel`, which stay on the device: a copy a step would wait for it."""
    return per_channel(factors, channels).to(device)


class PreciseInferer(SimpleInferer):
    """Asks the network in the chosen precision: `fp32`, `bf16` or `fp16`, on any device.

    The trainer's own `amp` serves CUDA only; it is on beside this for `fp16`, whose gradients need scaling.

    Args:
        amp: the precision.
        device: where the network is.
        narrowest: cells along x of the smallest map inside the network.

    Raises:
        UserError: an unknown precision, or one in which this device gives wrong gradients.
    """

    def __init__(self, amp: str, device: torch.device, narrowest: int) -> None:
        super().__init__()
        self.dtype = precision(amp)
        # oneDNN under PyTorch 2.13 reads memory that it never wrote: NaN at best, a wrong gradient at worst.
        if amp == "bf16" and device.type == "cpu" and narrowest <= 2:
            raise UserError(
                f"amp is bf16 on the CPU, and this network's smallest map has {narrowest} cells along x: there PyTorch "
                "computes wrong gradients of convolutions; give amp fp32, or volumes of more voxels along x"
            )

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What the network answers."""
        with torch.autocast(inputs.device.type, self.dtype, enabled=self.dtype is not None):
            return super().__call__(inputs, network, *args, **kwargs)


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
            answer, targets["answer"], logits, targets["pirads"], targets["text_isnull"], reports, targets["focus"]
        )
        return share * loss
