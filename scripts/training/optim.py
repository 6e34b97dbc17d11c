"""What the optimizer is given, and the factor that brings latents to unit variance."""

from __future__ import annotations

import math
from collections.abc import Iterable

import ignite.distributed as idist
from torch import Tensor, nn

from scripts.problems import UserError


def parameter_groups(network: nn.Module, lr: float, split: bool = False) -> list[dict]:
    """Give the optimizer's groups: the trainable parameters, all at `lr`, or split as the authors' option does.

    Args:
        network: a `CCELLA`, not yet wrapped for distributed training.
        split: the adapter (its class heads included) learns at lr / 10 and the last classifier at lr / 100.
    """
    rates = {"ella": lr / 10, "classifier": lr / 100} if split else {}
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(rates.get(name.split(".")[0], lr), []).append(parameter)
    return [{"params": parameters, "lr": rate} for rate, parameters in groups.items()]


def scale_factor(latents: Iterable[Tensor]) -> float:
    """Give 1 / std over all values of all latents, those of the other ranks included.

    Each rank passes its share of the cases; a rank may pass none. Sums are kept in float64, so the result does not
    depend on how the cases are shared out, beyond rounding.

    Raises:
        UserError: the latents are constant, or hold NaN or infinity, or there are none.
    """
    count = total = squares = 0.0
    for latent in latents:
        values = latent.double()
        count += values.numel()
        total += values.sum().item()
        squares += values.square().sum().item()
    count, total, squares = (idist.all_reduce(float(value)) for value in (count, total, squares))
    variance = (squares - total**2 / count) / (count - 1) if count > 1 else math.nan
    if not (math.isfinite(variance) and variance > 0):
        raise UserError(
            f"the latents' variance is {variance}, so there is no scale factor; look at the encoded latents: "
            "constant images or another VAE's weights are the usual cause"
        )
    return 1 / math.sqrt(variance)
