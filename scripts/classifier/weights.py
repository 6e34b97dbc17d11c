"""A trained classifier on disk: weights, and in the header what they were trained to look at and where to cut."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from scripts.classifier.predictions import THRESHOLD
from scripts.common.identity import file_identity
from scripts.common.problems import UserError


def header(seen: Mapping[str, Any]) -> dict[str, str]:
    """What a network looks at, such as `channels`, as a safetensors file holds it: text."""
    return {name: json.dumps(value) for name, value in seen.items()}


def load_weights(
    network: nn.Module,
    path: str | os.PathLike[str],
    device: torch.device | str = "cpu",
    seen: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Load trained weights, strictly, and move the network to a device.

    Args:
        network: gets the weights.
        path: a `model.safetensors` of training.
        device: where to.
        seen: what the network is about to look at: channels, spacing and so on; what the header says must be the same.

    Raises:
        UserError: the file is missing, is no safetensors file, belongs to another network, or has learnt from other
            channels or another grid.
    """
    told = read_header(path)
    wrong = [
        f"{name} {told[name]}, not {json.dumps(value)}"
        for name, value in (seen or {}).items()
        if name in told and json.loads(told[name]) != value
    ]
    if wrong:
        raise UserError(f"{path}: was trained with {'; '.join(wrong)}; give the values of its training")
    try:
        network.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError):
        raise UserError(f"{path}: holds no weights of this network; use the network_def of its training") from None
    return network.to(device).eval()


def identity_of(path: str | os.PathLike[str] | None) -> str | None:
    """What tells weights to start from apart from others, whatever their file is called; None where there are none.

    Raises:
        UserError: the file is missing or damaged.
    """
    if not path:
        return None
    read_header(path)
    return file_identity(path)


def threshold_of(path: str | os.PathLike[str], given: float | None = None) -> float:
    """The probability from which a case counts as positive: `given`, or else the one that validation has chosen.

    Raises:
        UserError: the file is missing or is no safetensors file.
    """
    return given if given is not None else float(read_header(path).get("threshold", THRESHOLD))


def read_header(path: str | os.PathLike[str]) -> dict[str, str]:
    """What the file says of itself.

    Raises:
        UserError: the file is missing or is no safetensors file.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no weights there; train this arm first, or give another model.safetensors")
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except SafetensorError:
        raise UserError(f"{path}: is damaged or no safetensors file; copy it again") from None
