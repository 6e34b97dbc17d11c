"""An exponential moving average of the weights: smoother weights than the last step's, used for sampling."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from scripts.common.problems import UserError

RAMP_UP = 0.05  # of the images seen: the longest half-life, so that the random start is soon forgotten


class MovingAverage(AveragedModel):
    """PyTorch's, whose count of updates stays in main memory: PyTorch sends it to the device in every update.

    Its horizon is told in images, so that it is the same whatever the batch (Karras et al., arXiv 2206.00364, table 7
    and their code): what was learnt `half_life` images ago weighs half. After n images it is RAMP_UP·n where that is
    less.

    Args:
        network: what is averaged; the average begins as a copy of it, on its device.
        half_life: images.
        images: of an update, which is an optimizer step.
    """

    def __init__(self, network: nn.Module, half_life: float, images: int) -> None:
        super().__init__(network)
        self.half_life, self.images = half_life, images
        self.requires_grad_(False)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Follow the weights; buffers are taken over. The first update takes over the weights, too."""
        done = int(self.n_averaged)
        half_life = min(self.half_life, RAMP_UP * done * self.images)
        decay = 0.5 ** (self.images / half_life) if done else 0.0
        get_ema_multi_avg_fn(decay)(list(self.module.parameters()), list(model.parameters()), done)
        for kept, current in zip(self.module.buffers(), model.buffers(), strict=True):
            kept.copy_(current)
        self.n_averaged += 1


def averaged(network: nn.Module, half_life: float, images: int) -> MovingAverage | None:
    """The network's moving average, to be updated after each optimizer step; None when `half_life` is 0.

    Weights that are loaded into the network, such as those of a federation's server, begin it anew: it holds them, and
    no update of those before.

    Args:
        half_life, images: of `MovingAverage`.

    Raises:
        UserError: `half_life` is negative, or no number.
    """
    if half_life == 0:
        return None
    if not 0 < half_life < float("inf"):
        raise UserError(f"ema_half_life is {half_life}; it must be a number of images, or 0 for no average")
    average = MovingAverage(network, half_life, images)

    def begin(loaded: nn.Module, _: object) -> None:
        if loaded is network:  # and not a copy of it, which has its hooks
            average.module.load_state_dict(network.state_dict())
            average.n_averaged.zero_()

    network.register_load_state_dict_post_hook(begin)
    return average
