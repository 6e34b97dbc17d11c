"""The adversary of the VAE's training: a network that learns to tell patches of reconstructions from real ones.

What a voxel-wise loss leaves out is what it cannot predict, such as texture: the best answer to what is not known is
its median, which is smooth. A discriminator sees that at once, and the VAE learns to pass for real (Isola et al., arXiv
1611.07004; Mao et al., arXiv 1611.04076; Esser et al., arXiv 2012.09841).
"""

from __future__ import annotations

import logging
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from monai.engines.utils import IterationEvents
from monai.losses import PatchAdversarialLoss
from monai.networks.nets import PatchDiscriminator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from scripts.common.problems import UserError
from scripts.engine.parallel import parallel
from scripts.engine.steps import ends_step

logger = logging.getLogger(__name__)

BETAS = (0.5, 0.9)  # of the discriminator's Adam: it follows a VAE that changes under it
LARGEST_SHARE = 1e4  # of the adaptive weight, as in VQGAN
FIGURES = ("discriminator_loss", "adversarial_loss", "adversarial_share")
# The discriminator's loss is 0.25 where it cannot tell, and 0 where it is always right.
WON, STEPS_WON = 0.01, 2000


def prepare_discriminator(
    discriminator: PatchDiscriminator, weight: float, seed: int, device: torch.device
) -> PatchDiscriminator | None:
    """The discriminator with weights drawn by `seed`, on its device; None where the adversarial loss weighs nothing.

    They are drawn as PyTorch draws them: from MONAI's own it learnt more slowly.
    """
    if not weight:
        return None
    torch.manual_seed(seed)
    for module in discriminator.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return discriminator.to(device, memory_format=torch.channels_last_3d)


def parameter_groups(
    network: nn.Module, discriminator: nn.Module | None, discriminator_lr: float
) -> list[dict[str, Any]]:
    """What one optimizer makes of two networks, each at a rate of its own: they step, or leave a step out, together."""
    groups: list[dict[str, Any]] = [{"params": list(network.parameters())}]
    if discriminator is not None:
        groups.append({"params": list(discriminator.parameters()), "lr": discriminator_lr, "betas": BETAS})
    return groups


class Adversary:
    """Handler of MONAI's `SupervisedTrainer`: teaches the discriminator, and adds to the loss what it says of the VAE.

    Both learn from the same reconstruction, with least squares. The discriminator's gradient is computed before the
    VAE's, and its share of the loss reaches the VAE as a gradient at the reconstruction: nothing of the discriminator
    is kept for the VAE's own backward pass. It runs in fp32 whatever the VAE runs in: it costs little, and its
    gradient at a voxel is too small for fp16.

    MONAI's `AdversarialTrainer` has no KL term, no warm-up, and knows neither accumulation nor an adaptive weight.

    TensorBoard gets, for each epoch, `discriminator_loss` (0.25: it cannot tell; 0: it always can), `adversarial_loss`
    (of the VAE, 1 where the discriminator is sure of it) and `adversarial_share`, the weight that was given to it.

    Args:
        network: the VAE, not wrapped by data parallelism.
        discriminator: sees images and reconstructions; its last output is the verdict on patches. None: all is left
            to the other terms.
        weight: of the adversarial loss, or, where that is adaptive, of its gradient relative to the other terms'.
        adaptive: scale it so that both gradients at the decoder's last layer are of the same norm (VQGAN, eq. 7).
        after: epochs before the discriminator joins. In the first one it learns alone: what it says while it has learnt
            nothing yet does the VAE lasting harm.
    """

    def __init__(
        self,
        network: AutoencoderKlMaisi,
        discriminator: PatchDiscriminator | None,
        weight: float,
        adaptive: bool = True,
        after: int = 0,
    ) -> None:
        self.discriminator, self.weight, self.adaptive, self.after = discriminator, weight, adaptive, after
        self.last_layer = [p for p in network.decoder.parameters() if p.ndim > 1][-1]
        self.parallel = None if discriminator is None else parallel(discriminator)
        # The verdict goes to 0 and 1 itself: MONAI's activation would flatten what lies below 0.
        self.loss = PatchAdversarialLoss(criterion="least_squares", no_activation_leastsq=True)
        self.figures: list[Tensor] = []  # of the epoch, on the device
        self.steps_won = 0  # in a row

    def attach(self, engine: Engine) -> None:
        """Register with the trainer: before `OptimizerStep`, which looks at the loss, and what saves and logs."""
        if self.discriminator is None:
            return
        engine.add_event_handler(Events.ITERATION_STARTED, self.begin)
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self.compete)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.judge)

    def begin(self, engine: Engine) -> None:
        """Average the discriminator's gradients over the processes in the pass that ends a step only."""
        if isinstance(self.parallel, DistributedDataParallel):
            self.parallel.require_backward_grad_sync = ends_step(engine)

    def compete(self, engine: Engine) -> None:
        """Teach the discriminator one batch, and add to the VAE's loss."""
        if engine.state.epoch <= self.after:
            return
        weight = self.weight if engine.state.epoch > self.after + 1 else 0.0
        output = engine.state.output
        with torch.autocast(output["label"].device.type, enabled=False):
            made, loss = output["pred"][0].float(), output["loss"]
            taught, adversarial, toward = self._teach(engine, made.detach(), output["label"])
            share = self._share(engine, loss, made, toward) if self.adaptive else torch.ones_like(loss)
            # Of this value, and of this gradient at the reconstruction.
            term = adversarial + ((made - made.detach()) * toward).sum()
        self.figures.append(torch.stack([taught, adversarial, share * weight]))
        broken = sum(p.grad.norm() for p in self.discriminator.parameters())
        # Not finite where the discriminator's gradient is not: then neither network takes the step.
        output["loss"] = (loss + weight * share * term) * (1 + (broken - broken))

    def _teach(self, engine: Engine, made: Tensor, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Add the discriminator's gradient to its weights'; give its loss, and the VAE's and its gradient at `made`."""
        made = made.requires_grad_()
        # Together: a batch norm that saw them apart would take away what tells them apart.
        on_made, on_image = self.parallel(torch.cat([made, image]))[-1].chunk(2)
        adversarial = self.loss(on_made, True, False)
        toward = torch.autograd.grad(adversarial, made, retain_graph=True)[0]
        loss = (self.loss(on_made, False, True) + self.loss(on_image, True, True)) / 2
        scale = engine.scaler.scale if engine.scaler is not None else nn.Identity()  # as the optimizer's other half
        scale(loss / engine.accumulation_steps).backward()
        return loss.detach(), adversarial.detach(), toward

    def _share(self, engine: Engine, loss: Tensor, made: Tensor, toward: Tensor) -> Tensor:
        """The norm of the loss' gradient at the decoder's last layer, relative to that of the adversarial loss."""
        scale = engine.scaler.scale if engine.scaler is not None else nn.Identity()  # else fp16 would round to 0
        of_loss = torch.autograd.grad(scale(loss), self.last_layer, retain_graph=True)[0].norm()
        of_adversary = torch.autograd.grad(made, self.last_layer, scale(toward), retain_graph=True)[0].norm()
        return (of_loss / of_adversary.clamp_min(1e-12)).clamp_max(LARGEST_SHARE)

    def judge(self, engine: Engine) -> None:
        """Put the epoch's means among its metrics, and see whether the discriminator has won.

        While it wins nothing is saved: see `winning`.

        Raises:
            UserError: it has been so for too long.
        """
        if not self.figures:
            return
        steps = len(self.figures) // engine.accumulation_steps
        engine.state.metrics |= zip(FIGURES, self._epoch_means(), strict=True)
        self.figures = []
        loss = engine.state.metrics["discriminator_loss"]
        heard = engine.state.epoch > self.after + 1
        self.steps_won = self.steps_won + steps if loss < WON and heard else 0
        if not self.winning():
            return
        what = f"the discriminator wins: in epoch {engine.state.epoch} its loss was {loss:.4f} (0.25: it cannot tell)"
        if self.steps_won >= STEPS_WON:
            raise UserError(
                f"{what}, and so it has been for {self.steps_won} steps. It teaches the VAE nothing any more. The "
                "checkpoint and model.safetensors are as they were before: start a new run from those weights "
                "(--initial_weights, another --model_dir) with a lower discriminator_lr"
            )
        if idist.get_rank() == 0:
            logger.warning(f"{what}. Until that ends nothing is saved: the last weights stay as they are")

    def _epoch_means(self) -> list[float]:
        """The `FIGURES` of the epoch, over all processes; the host waits for them."""
        return (idist.all_reduce(torch.stack(self.figures).mean(0)) / idist.get_world_size()).tolist()

    def winning(self) -> bool:
        """Whether the discriminator was always right in the last epoch."""
        return self.steps_won > 0
