"""The precisions in which a network may be asked, by the name that options give them."""

from __future__ import annotations

import torch

from scripts.common.problems import UserError

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def precision(amp: str) -> torch.dtype | None:
    """The type for autocast; None where there is nothing to cast.

    Raises:
        UserError: an unknown name.
    """
    if amp not in PRECISIONS:
        raise UserError(f"amp is {amp!r}; it must be one of {', '.join(PRECISIONS)}")
    return PRECISIONS[amp]
