"""Tensors on disk; apart from `files`, so that what writes no tensors need not import PyTorch."""

from __future__ import annotations

import os
from collections.abc import Mapping

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from scripts.common.files import atomic


def in_half(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in half precision; what counts, such as the batches that a norm has seen, stays as it is."""
    return {name: one.half() if one.is_floating_point() else one for name, one in tensors.items()}


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file of tensors on any device, in any memory layout; it appears complete or not at all.

    Raises:
        UserError: it cannot be written, see `atomic`.
    """
    # To main memory before anything is copied: a GPU that trains has no room for a second network.
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic(path) as temporary:
        try:
            save_file(tensors, temporary, dict(metadata))
        except SafetensorError as error:  # no OSError even where the disk is full
            raise OSError(str(error)) from error
