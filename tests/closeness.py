"""How far two tensors, or two sets of them, lie apart."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def apart(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference by that of what is expected, in float64; a NaN is infinitely far."""
    found, expected = (tensor.detach().to("cpu", torch.float64) for tensor in (found, expected))
    distance = ((found - expected).norm() / expected.norm().clamp(min=1e-30)).item()
    return distance if distance == distance else float("inf")


def all_apart(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """The same of all tensors together, by their names."""
    assert found.keys() == expected.keys()
    flat = [
        torch.cat([group[name].detach().double().cpu().flatten() for name in expected]) for group in (found, expected)
    ]
    return apart(*flat)
