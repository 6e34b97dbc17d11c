"""What the optimizer is given: the parameters, and how fast each learns."""

from __future__ import annotations

from torch import nn


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
