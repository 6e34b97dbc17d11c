"""Reading and writing the denoiser's weights: ours (safetensors) and the authors' and MONAI's (.pt dicts).

Nothing is ever unpickled: `.pt` files are read with `weights_only=True`.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from scripts.common.problems import UserError
from scripts.common.public_weights import tell_other
from scripts.common.tensors import write_tensors
from scripts.networks.ccella import CCELLA
from scripts.networks.variants import guess_variant

FORMAT = "ccella-ldm-1"
LEVEL = re.compile(r"unet\.down_blocks\.\d+\.resnets\.0\.conv2\.conv\.weight")  # as many rows as the level has channels

# MAISI's and the authors' scale factor is a MetaTensor that still carries an image header. MONAI lets its own classes
# pass `weights_only`; NumPy's plain arrays and numbers are as harmless, under the names of NumPy 2 and of NumPy 1.
HARMLESS = [
    np.ndarray,
    np.dtype,
    *{type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?SU"},
    *(
        (function, f"{module}.multiarray.{function.__name__}")
        for function in (multiarray.scalar, multiarray._reconstruct)
        for module in ("numpy._core", "numpy.core")
    ),
]


@dataclass(frozen=True)
class LatentScale:
    """Latents enter the network as (latent - mean) · factor, and leave it the other way round.

    Attributes:
        factor: 1/deviation of each channel; or one number for each sequence, as in the files of CCELLA++, or one for
            all, as in those of CCELLA.
        mean: of each channel; one 0 where nothing is taken away.
    """

    factor: tuple[float, ...]
    mean: tuple[float, ...] = (0.0,)


@dataclass(frozen=True)
class Header:
    """What a file says beside its tensors.

    Attributes:
        scale: how latents enter the network, and leave it after sampling.
        config: the arguments of `CCELLA`; for files of the authors, who do not store them, those that the tensors show.
        meta: everything else, such as objective, trained_with_dropout, vae_fingerprint, embedding_width, spacing.
    """

    scale: LatentScale
    config: dict[str, Any] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def objective(self) -> str:
        """`ddpm` or `rflow`; the authors' files are all `ddpm`."""
        return self.meta.get("objective", "ddpm")

    @property
    def prediction(self) -> str | None:
        """What the network answers with; None, as in older files, where the objective alone says it."""
        return self.meta.get("prediction")


def save_weights(
    path: str | os.PathLike[str],
    state_dict: Mapping[str, Tensor],
    *,
    config: Mapping[str, Any],
    scale: LatentScale,
    **meta: Any,
) -> None:
    """Write weights as safetensors with JSON metadata; the file appears when it is complete.

    Args:
        config: `network.config`.
        scale: a single factor is written as a number, and a mean of 0 not at all, as in older files.
        meta: anything that JSON can hold; `objective`, `trained_with_dropout`, `vae_fingerprint`, `embedding_width`,
            `spacing`, `latent_shape` are what the sampler and its checks ask for.
    """
    factor = scale.factor if len(scale.factor) > 1 else scale.factor[0]
    said = {"format": FORMAT, "config": dict(config), "scale_factor": factor, **meta}
    if any(scale.mean):
        said["latent_mean"] = scale.mean
    write_tensors(path, state_dict, {name: json.dumps(value) for name, value in said.items()})


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read what a file of ours or of the authors says about itself, without its tensors.

    Raises:
        UserError: missing or unreadable file, another format, or no scale factor.
    """
    path = existing(path)
    return _read_our_header(path) if path.suffix == ".safetensors" else _read_authors(path)[0]


def _read_our_header(path: Path) -> Header:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}); it may be cut short: copy or train it again") from None
    if metadata.pop("format", None) != json.dumps(FORMAT):
        raise UserError(f"{path} is not a file of denoiser weights; give the model.safetensors that training exported")
    meta = {name: json.loads(value) for name, value in metadata.items()}
    config = meta.pop("config", {})
    scale = _latent_scale(path, meta.pop("scale_factor", None), meta.pop("latent_mean", 0.0))
    return Header(scale, config, meta)


def load_weights(path: str | os.PathLike[str], network: CCELLA) -> Header:
    """Load a file into the network, strictly: ours (.safetensors) or the authors' checkpoint (.pt, .pth).

    Raises:
        UserError: missing or unreadable file, no scale factor, weights of another variant, width, size or setting.
    """
    path = existing(path)
    if path.suffix == ".safetensors":
        header, state = _read_our_header(path), read_tensors(path)
    else:
        header, state = _read_authors(path)
    _check_fit(path, state, network)
    _check_settings(path, header.config, network)
    network.load_state_dict(state, strict=True)
    return header


def _read_authors(path: Path) -> tuple[Header, dict[str, Tensor]]:
    """What the authors' checkpoint says and shows, and its parameters, which are mapped and not read."""
    checkpoint = read_checkpoint(path)
    state = with_unet_prefix(checkpoint["unet_state_dict"])
    meta = {"num_train_timesteps": checkpoint.get("num_train_timesteps", 1000), "objective": "ddpm"}
    return Header(_latent_scale(path, checkpoint.get("scale_factor")), _shown_config(state), meta), state


def _shown_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of `CCELLA` that names and shapes of its parameters show."""
    config: dict[str, Any] = {"variant": guess_variant(state)}
    for name, parameter in (
        ("input_dim", "ella.connector.proj_in.weight"),
        ("in_channels", "unet.conv_in.conv.weight"),
    ):
        if parameter in state:
            config[name] = state[parameter].shape[1]
    levels = [len(tensor) for name, tensor in state.items() if LEVEL.fullmatch(name)]
    return config | ({"num_channels": levels} if levels else {})


def with_unet_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the names of MAISI and RADMAISI checkpoints the prefix `unet.` that all others have."""
    if any(name.startswith("unet.") for name in state):
        return dict(state)
    return {f"unet.{name}": tensor for name, tensor in state.items()}


TRAIN_THEM = (
    "train them with bundles/ccella_ldm/configs/train.yaml, which writes model.safetensors into "
    "bundles/ccella_ldm/models, or give the path of a file that you have; the demo's (demo_ldm.safetensors, "
    "Apache-2.0) lie there: for them list configs/demo.yaml after the config"
)


def existing(path: str | os.PathLike[str], otherwise: str = TRAIN_THEM) -> Path:
    """Give the path of a weights file.

    Raises:
        UserError: there is none; `otherwise` says what to do.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"weights {path} are missing; {otherwise}")
    tell_other(path)
    return path


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}); it may be cut short: copy or train it again") from None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a `.pt` dict with `unet_state_dict`; the optimizer's state beside it is mapped, not read.

    Raises:
        UserError: it cannot be read, holds other objects than tensors and plain values, or no such weights.
    """
    try:
        with torch.serialization.safe_globals(HARMLESS):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (UnpicklingError, RuntimeError, EOFError, OSError):
        raise UserError(
            f"{path} cannot be read as a checkpoint of tensors and plain values; it may be cut short, or hold other "
            "Python objects, which are refused because loading them can run code"
        ) from None
    if not isinstance(checkpoint, Mapping) or not isinstance(checkpoint.get("unet_state_dict"), Mapping):
        raise UserError(f"{path} holds no unet_state_dict; give a checkpoint of the diffusion network")
    return dict(checkpoint)


def _latent_scale(path: Path, factor: Any, mean: Any = 0.0) -> LatentScale:
    """Numbers as such, in a list or tuple, or in a tensor or array of any of MAISI's kinds."""
    if factor is None:
        raise UserError(f"{path} holds no scale_factor, without which its latents cannot be decoded; train it again")
    factors, means = _numbers(factor), _numbers(mean)
    if not factors or not all(isinstance(f, int | float) and math.isfinite(f) and f > 0 for f in factors):
        found = ", ".join(map(str, factors)) or "nothing"
        raise UserError(f"{path} holds the scale factor {found}, which must be a positive number; train it again")
    if len(means) not in (1, len(factors)) or not all(isinstance(m, int | float) and math.isfinite(m) for m in means):
        found = ", ".join(map(str, means)) or "nothing"
        raise UserError(f"{path} holds the latent mean {found}, which must be a number for each factor; train it again")
    return LatentScale(factors, means)


def _numbers(value: Any) -> tuple[float, ...]:
    parts = value if isinstance(value, list | tuple) else [value]
    return tuple(number for part in parts for number in np.ravel(part).tolist())


def _check_fit(path: Path, state: Mapping[str, Tensor], network: CCELLA) -> None:
    """Compare names, then shapes.

    Raises:
        UserError: says which variant the file looks like, or which size differs.
    """
    own = network.state_dict()
    variant = network.config["variant"]
    # L1ONLY has CCELLA's parameters; only its loss differs.
    layout = "CCELLA" if variant == "L1ONLY" else variant
    looks_like = guess_variant(state)
    if looks_like != layout:
        raise UserError(
            f"{path} looks like variant {looks_like}, but the network is {variant}; "
            f"add configs/variants/{looks_like.lower()}.yaml as the last config, or give another file"
        )
    odd = sorted(own.keys() ^ state.keys())
    if odd:
        where = "the file" if odd[0] in state else "the network"
        raise UserError(
            f"{path} is a {variant} of another depth: {len(odd)} parameters are on one side only, such as {odd[0]} in "
            f"{where}; make the sizes in network_def those of the training run"
        )
    differing = [name for name in own if own[name].shape != state[name].shape]
    text = "ella.connector.proj_in.weight"
    if text in differing:
        raise UserError(
            f"{path} was trained on report embeddings {state[text].shape[1]} wide, but the network takes "
            f"{own[text].shape[1]}; use the text encoder of the training run and give --network_def#input_dim "
            f"{state[text].shape[1]}"
        )
    latent = "unet.conv_in.conv.weight"
    if latent in differing and own[latent].shape[:1] == state[latent].shape[:1]:
        raise UserError(
            f"{path} makes latents of {state[latent].shape[1]} channels, but the network those of "
            f"{own[latent].shape[1]}, 4 for each sequence; make channels those of the training run"
        )
    if differing:
        name = differing[0]
        raise UserError(
            f"{path} is a {variant} of another size: {len(differing)} parameters differ, such as {name}, "
            f"{tuple(state[name].shape)} in the file and {tuple(own[name].shape)} in the network; "
            "make the sizes in network_def those of the training run"
        )


def _check_settings(path: Path, config: Mapping[str, Any], network: CCELLA) -> None:
    """Compare the settings that change what the network computes and no parameter's shape.

    Raises:
        UserError: one of them differs from the file's.
    """
    for name in ("heads", "num_head_channels", "norm_num_groups"):
        own = network.config[name]
        if name in config and json.loads(json.dumps(own)) != config[name]:
            raise UserError(
                f"{path} was trained with {name} {config[name]}, but the network has {own}; "
                "make the sizes in network_def those of the training run"
            )
