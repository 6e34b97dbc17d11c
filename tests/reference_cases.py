"""Small networks of the authors' implementation with weights, inputs and outputs, on file.

The folder is `$CCELLA_REFERENCE`; without it `shared/reference` beside the repository, or inside it.
"""

from __future__ import annotations

import inspect
import json
import os
from pathlib import Path

import torch
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi
from safetensors import safe_open

from scripts.networks.ccella import CCELLA, CONDITION_SCALE
from scripts.networks.weights import with_unet_prefix

ROOT = Path(__file__).resolve().parent.parent
PLACES = [
    Path(place)
    for place in (
        os.environ.get("CCELLA_REFERENCE"),
        ROOT.parent / "shared" / "reference",
        ROOT / "shared" / "reference",
    )
    if place
]
FILES = next((files for place in PLACES if (files := sorted(place.glob("*.safetensors")))), [])
MISSING = f"no reference files (*.safetensors) in {', '.join(map(str, PLACES))}; set CCELLA_REFERENCE"
TOLERANCE = 1e-4


def read(path: Path) -> tuple[dict[str, str], dict[str, dict[str, torch.Tensor]]]:
    """Give a file's metadata and its tensors in three groups: weights, input, output."""
    groups: dict[str, dict[str, torch.Tensor]] = {"weights": {}, "input": {}, "output": {}}
    with safe_open(path, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 (not a dict)
            group, name = key.split(".", 1)
            groups[group][name] = file.get_tensor(key)
        return file.metadata(), groups


def build(metadata: dict[str, str]) -> CCELLA:
    """Build the network of a file; settings that neither our network nor MONAI's knows concern other variants."""
    known = inspect.signature(CCELLA).parameters.keys() | inspect.signature(DiffusionModelUNetMaisi).parameters.keys()
    config = {key: value for key, value in json.loads(metadata["config"]).items() if key in known}
    return CCELLA(metadata["variant"], **{key: value for key, value in config.items() if key != "variant"}).eval()


@torch.no_grad()
def answers(path: Path, device: torch.device) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Of each output on file what our network gives, on the CPU, and what theirs gave."""
    metadata, groups = read(path)
    network = build(metadata)
    network.load_state_dict(with_unet_prefix(groups["weights"]), strict=True)
    network.to(device)
    # The files hold what enters the U-Net; our interface takes one-hot classes and spacing in mm.
    inputs = {
        name: tensor.to(device)
        for name, tensor in groups["input"].items()
        if name in inspect.signature(network.forward).parameters
    }
    for name in {"pirads", "spacing_tensor"} & inputs.keys():
        inputs[name] = inputs[name] / CONDITION_SCALE
    noise_pred, class_logits = network(**inputs)
    context = network.condition(inputs.get("text_encoding"), inputs["timesteps"]).context
    ours = {"noise_pred": noise_pred, "class_logits": class_logits, "context": context}
    return {name: (ours[name].cpu(), expected) for name, expected in groups["output"].items()}
