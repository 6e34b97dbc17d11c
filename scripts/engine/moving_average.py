"""An exponential moving average of the weights: smoother weights than the last step's, used for sampling."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from scripts.common.problems import UserError


class MovingAverage(AveragedModel):
    """PyTorch's, whose count of updates stays in main memory: PyTorch sends it to the device in every update.

    After n updates the decay is min(decay, (1 + n) / (10 + n)), so that the random start is soon forgotten.

    Args:
        network: what is averaged; the average begins as a copy of it, on its device.
        decay: what is kept of the average in an update.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__(network)
        self.decay = decay
        self.requires_grad_(False)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Follow the weights; buffers are taken over. The first update takes over the weights, too."""
        done = int(self.n_averaged)
        decay = min(self.decay, (1 + done) / (10 + done)) if done else 0.0
        get_ema_multi_avg_fn(decay)(list(self.module.parameters()), list(model.parameters()), done)
        for kept, current in zip(self.module.buffers(), model.buffers(), strict=True):
            kept.copy_(current)
        self.n_averaged += 1


def averaged(network: nn.Module, decay: float) -> MovingAverage | None:
    """The network's moving average, to be updated after each optimizer step; None when `decay` is 0.

    Weights that are loaded into the network, such as those of a federation's server, begin it anew: it holds them, and
    no update of those before.

    Raises:
        UserError: `decay` is not in [0, 1).
    """
    if not decay:
        return None
    if not 0 < decay < 1:
        raise UserError(f"ema_decay is {decay}; it must be at least 0 (no average) and below 1")
    average = MovingAverage(network, decay)

    def begin(loaded: nn.Module, _: object) -> None:
        if loaded is network:  # and not a copy of it, which has its hooks
            average.module.load_state_dict(network.state_dict())
            average.n_averaged.zero_()

    network.register_load_state_dict_post_hook(begin)
    return average
