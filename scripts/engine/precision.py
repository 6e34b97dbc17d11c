"""The precisions in which a network may be asked, by the name that options give them."""

from __future__ import annotations

import torch

from scripts.common.problems import UserError

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


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
