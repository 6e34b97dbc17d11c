"""The precisions in which a network may be asked, by the name that options give them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import SimpleInferer
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from scripts.common.problems import UserError

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
CAST = (_ConvNd, nn.Linear, nn.MultiheadAttention)  # what autocast runs in half precision, of the layers with weights


def settled(amp: str, device: torch.device) -> str:
    """The precision that is meant: `auto` is bf16 on a GPU that computes in it (Ampere and later), else fp32.

    Raises:
        UserError: an unknown name.
    """
    if amp == "auto":
        native = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        return "bf16" if native else "fp32"
    precision(amp)
    return amp


def precision(amp: str) -> torch.dtype | None:
    """The type for autocast; None where there is nothing to cast.

    Raises:
        UserError: an unknown name.
    """
    if amp not in PRECISIONS:
        raise UserError(f"amp is {amp!r}; it must be one of auto, {', '.join(PRECISIONS)}")
    return PRECISIONS[amp]


def half_weights(network: nn.Module, dtype: torch.dtype | None) -> None:
    """Cast the weights, in place, that autocast would cast to `dtype` at every call; None leaves all as they are.

    For inference alone, under that autocast: the answers are the same, bit for bit, and weights take half the memory.
    Norms, embeddings and loose parameters stay in fp32.
    """
    if dtype is None:
        return
    for module in network.modules():
        if isinstance(module, CAST):
            for weight in module.parameters(recurse=False):
                weight.data = weight.data.to(dtype)


class PreciseInferer(SimpleInferer):
    """Asks the network in the chosen precision: `fp32`, `bf16` or `fp16`, on any device.

    The trainers' own `amp` serves CUDA only; it is on beside this for `fp16`, whose gradients need scaling.

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
        if self.dtype is None:
            return super().__call__(inputs, network, *args, **kwargs)
        with torch.autocast(inputs.device.type, self.dtype):
            return super().__call__(inputs, network, *args, **kwargs)
