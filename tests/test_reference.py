"""Parity with the authors' implementation, on small networks whose weights, inputs and outputs are on file.

The folder is `$CCELLA_REFERENCE`, by default `../shared/reference` beside the repository.
"""

import inspect
import json
import os
from pathlib import Path

import pytest
import torch
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi
from safetensors import safe_open

from scripts.networks.ccella import CCELLA, CONDITION_SCALE
from scripts.networks.weights import with_unet_prefix

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path(os.environ.get("CCELLA_REFERENCE", ROOT.parent / "shared" / "reference"))
FILES = sorted(FOLDER.glob("*.safetensors"))
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


@pytest.mark.skipif(not FILES, reason=f"no reference files (*.safetensors) in {FOLDER}; set CCELLA_REFERENCE")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_agrees_with_the_authors(path):
    metadata, groups = read(path)
    network = build(metadata)
    network.load_state_dict(with_unet_prefix(groups["weights"]), strict=True)
    # The files hold what enters the U-Net; our interface takes one-hot classes and spacing in mm.
    inputs = {
        name: groups["input"][name] for name in groups["input"] if name in inspect.signature(network.forward).parameters
    }
    for name in {"pirads", "spacing_tensor"} & inputs.keys():
        inputs[name] = inputs[name] / CONDITION_SCALE

    with torch.no_grad():
        noise_pred, class_logits = network(**inputs)
        context = network.condition(inputs.get("text_encoding"), inputs["timesteps"]).context

    ours = {"noise_pred": noise_pred, "class_logits": class_logits, "context": context}
    assert groups["output"].keys() <= ours.keys()
    for name, expected in groups["output"].items():
        torch.testing.assert_close(ours[name], expected, rtol=0, atol=TOLERANCE, msg=lambda m, n=name: f"{n}: {m}")
