"""An exponential moving average of the weights: smoother weights than the last step's, used for sampling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from scripts.common.problems import UserError


def averaged(network: nn.Module, decay: float) -> AveragedModel | None:
    """The network's moving average, to be updated after each optimizer step; None when `decay` is 0.

    After n updates the decay is min(decay, (1 + n) / (10 + n)), so that the random start is soon forgotten. Weights
    that are loaded into the network, such as those of a federation's server, begin it anew: it holds them, and no
    update of those before.

    Raises:
        UserError: `decay` is not in [0, 1).
    """
    if not decay:
        return None
    if not 0 < decay < 1:
        raise UserError(f"ema_decay is {decay}; it must be at least 0 (no average) and below 1")

    @torch.no_grad()
    def update(average: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        warm = min(decay, (1 + int(count)) / (10 + int(count)))
        get_ema_multi_avg_fn(warm)(list(average), list(current), count)

    average = AveragedModel(network, multi_avg_fn=update).requires_grad_(False)

    def begin(loaded: nn.Module, _: object) -> None:
        if loaded is network:  # and not a copy of it, which has its hooks
            average.module.load_state_dict(network.state_dict())
            average.n_averaged.zero_()

    network.register_load_state_dict_post_hook(begin)
    return average
