"""The network as training starts with it: random, from a whole network's weights, or its U-Net from MAISI's."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scripts.common.problems import UserError
from scripts.ldm.schedule import check_prediction
from scripts.networks.ccella import CCELLA
from scripts.networks.weights import (
    Header,
    LatentScale,
    existing,
    load_weights,
    read_checkpoint,
    read_header,
    read_tensors,
    with_unet_prefix,
)

logger = logging.getLogger(__name__)

FETCH_THEM = (
    "github.com/NVIDIA-Medtech/NV-Generate-CTMR says where NVIDIA keeps MAISI's diffusion U-Net and under which of its "
    "licences; put the file into bundles/ccella_ldm/models, or leave pretrained_unet empty"
)
# Where the U-Net takes latents in and gives its answer: the axis of their channels.
CHANNELS = {"conv_in.conv.weight": 1, "out.2.conv.weight": 0, "out.2.conv.bias": 0}
# The parts of the U-Net's time embedding, in the order in which they stand side by side.
EMBEDDINGS = ("time_embed", "pirads_layer", "top_region_index_layer", "bottom_region_index_layer", "spacing_layer")


def start_network(
    network: CCELLA,
    device: torch.device,
    *,
    initial_weights: str | os.PathLike[str] | None = None,
    pretrained_unet: str | os.PathLike[str] | None = None,
    freeze_unet: bool = False,
    compile: bool = False,
    training: Mapping[str, Any] | None = None,
    scale: LatentScale | None = None,
) -> CCELLA:
    """The network on its device, with random weights or those of a file.

    Args:
        initial_weights: weights of the whole network, to fine-tune.
        pretrained_unet: weights of a U-Net alone, such as MAISI's.
        freeze_unet: the pretrained U-Net does not learn.
        compile: the U-Net, in place: its weights keep their names, and the adapter, 3 % of a step, may be given reports
            of any length.
        training: what this training works with, under the names by which weights say what theirs did; a difference to
            `initial_weights` is logged.
        scale: of this training's latents, likewise.

    Raises:
        UserError: a file that is missing or does not fit; nothing to freeze.
    """
    if freeze_unet and not pretrained_unet:
        raise UserError("freeze_unet is true, but there is no pretrained_unet to freeze: give one, or set it to false")
    if initial_weights:
        _tell_differences(initial_weights, load_weights(initial_weights, network), training or {}, scale)
    if pretrained_unet:
        load_pretrained_unet(network, pretrained_unet, freeze=freeze_unet)
    if compile:
        # The steps of an epoch differ by one case: two sizes, with a graph for each.
        network.unet.compile(dynamic=False)
    # Convolutions in 3D run faster with the channels last: 15 % of a training step on a CPU.
    return network.to(device, memory_format=torch.channels_last_3d)


def _tell_differences(
    path: str | os.PathLike[str], header: Header, training: Mapping[str, Any], scale: LatentScale | None
) -> None:
    objective = header.objective
    known = {**header.meta, "objective": objective, "prediction": check_prediction(objective, header.prediction)}
    for name, value in training.items():
        if value is not None and known.get(name) not in (None, value):
            logger.warning("%s: trained with %s %s, here it is %s", path, name, known[name], value)
    if scale not in (None, header.scale):
        logger.warning("%s: its latents were normalised otherwise than here; --latent_scale %s keeps it", path, path)


def check_grid(path: str | os.PathLike[str], shape: Sequence[int], spacing: Sequence[float]) -> None:
    """Make sure that this training's latents have the grid of these weights, as those of a federation's sites must.

    Args:
        path: weights; what they do not tell, as the authors', is not compared.
        shape, spacing: of the latents (X, Y, Z) and of the images in mm.

    Raises:
        UserError: another grid.
    """
    told = read_header(path).meta
    size = told.get("latent_shape", ["?", *shape])[1:]
    for what, theirs, ours in (("latents", size, shape), ("a spacing in mm", told.get("spacing", spacing), spacing)):
        if list(theirs) != list(ours):
            theirs, ours = ("×".join(map(str, numbers)) for numbers in (theirs, ours))
            raise UserError(
                f"{path} was trained on {what} of {theirs}, and here it is {ours}: all sites of a federation need one "
                "grid; prepare and encode these cases on that one"
            )


def load_pretrained_unet(
    network: CCELLA, path: str | os.PathLike[str], freeze: bool = False
) -> tuple[list[str], list[str]]:
    """Load a MAISI U-Net from MONAI, or any checkpoint read by `load_weights`, into the network's U-Net.

    What both have in the same shape is copied. What only one has is left out and logged: a published MAISI file has
    layers for body regions and modality, and its time embedding is wider or narrower than one with a class vector. A
    U-Net of one image becomes one of several sequences: each of them begins as the one image.

    Args:
        freeze: what was copied does not learn; what was not copied does, and with it the projections of the time
            embedding that got columns for a class, and the first and last convolution where sequences were added.

    Returns:
        the names in the file that were skipped, and the names in the U-Net that stay as they were.

    Raises:
        UserError: missing or unreadable file, or its convolutions are of another size.
    """
    path = existing(path, FETCH_THEM)
    state = read_tensors(path) if path.suffix == ".safetensors" else read_checkpoint(path)["unet_state_dict"]
    theirs = {
        name.removeprefix("unet."): tensor
        for name, tensor in with_unet_prefix(state).items()
        if name.startswith("unet.")
    }
    return _merge_unet(path, theirs, network, freeze)


def _merge_unet(path: Path, theirs: Mapping[str, Tensor], network: CCELLA, freeze: bool) -> tuple[list[str], list[str]]:
    own = network.unet.state_dict()
    merged: dict[str, Tensor] = {}
    wrong = []
    for name in own.keys() & theirs.keys():
        if name.endswith("time_emb_proj.weight"):
            if (columns := _transplant_columns(own, theirs, name)) is None:
                wrong.append(name)
            else:
                merged[name] = columns
        elif own[name].shape == theirs[name].shape:
            merged[name] = theirs[name]
        elif (repeated := _for_sequences(own[name], theirs[name], name)) is not None:
            merged[name] = repeated
        else:
            wrong.append(name)
    if wrong or "conv_in.conv.weight" not in merged:
        name = min(wrong, default="conv_in.conv.weight")
        found = tuple(theirs[name].shape) if name in theirs else "absent"
        raise UserError(
            f"{path} is a U-Net of another size: {name} is {found} in the file and {tuple(own[name].shape)} in the "
            "network; give a U-Net whose channels and levels are those of network_def"
        )
    network.unet.load_state_dict({**own, **merged}, strict=True)
    skipped, missing = sorted(theirs.keys() - merged.keys()), sorted(own.keys() - merged.keys())
    if freeze:
        grown = not set(_parts(own)) <= set(_parts(theirs))  # columns for the class are new, and must learn
        for name, parameter in network.unet.named_parameters():
            other = name in theirs and parameter.shape != theirs[name].shape and name in CHANNELS
            parameter.requires_grad_(name in missing or other or (grown and name.endswith("time_emb_proj.weight")))
    logger.info("%s: %d U-Net parameters copied, %d skipped, %d new", path, len(merged), len(skipped), len(missing))
    for kind, names in (("skipped, not in this network", skipped), ("new, not in the file", missing)):
        if names:
            logger.info("%s: %s", kind, ", ".join(names))
    return skipped, missing


def _for_sequences(own: Tensor, theirs: Tensor, name: str) -> Tensor | None:
    """Give the first or last convolution of a U-Net of one image to one of several sequences.

    The same image in all sequences is answered in all of them as the one image was. None where it does not fit.
    """
    if name not in CHANNELS or own.shape[axis := CHANNELS[name]] % theirs.shape[axis]:
        return None
    times = own.shape[axis] // theirs.shape[axis]
    repeated = torch.cat([theirs] * times, axis)
    if repeated.shape != own.shape:
        return None
    return repeated / times if axis else repeated  # the first convolution adds up what it sees


def _transplant_columns(own: Mapping[str, Tensor], theirs: Mapping[str, Tensor], name: str) -> Tensor | None:
    """Give the projection (C, E) of the time embedding, with the columns of each part that both networks have.

    Columns of parts that are new start at zero, so that the network begins as the one that was trained. None where the
    two networks are of different width.
    """
    sides = []
    for state in (own, theirs):
        parts = _parts(state)
        sides.append(dict(zip(parts, state[name].chunk(len(parts), dim=1), strict=True)))
    if any(sides[1][part].shape != columns.shape for part, columns in sides[0].items() if part in sides[1]):
        return None
    return torch.cat([sides[1].get(part, torch.zeros_like(columns)) for part, columns in sides[0].items()], dim=1)


def _parts(unet: Mapping[str, Tensor]) -> list[str]:
    """Give the parts of a U-Net's time embedding."""
    return [part for part in EMBEDDINGS if f"{part}.2.weight" in unet]
