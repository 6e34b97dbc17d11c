"""The diffusion model in a federation."""

from __future__ import annotations

import pytest
import torch

import federated
import tiny
from scripts.networks.ccella import CCELLA
from scripts.networks.weights import LatentScale, read_header, save_weights

SCALE = LatentScale((1.5, 1.0, 2.0, 1.0), (0.1, 0.0, 0.0, -0.1))


@pytest.fixture
def options(data_root, tmp_path):
    """One scale of the latents serves all clients: that of weights that one of them, or the server, hands out."""
    network, handed_out = CCELLA(**tiny.CCELLA | {"input_dim": 6}), tmp_path / "server.safetensors"
    about = {"vae_fingerprint": "vae", "latent_shape": [4, 4, 4, 4], "spacing": [0.5, 0.5, 0.5]}
    save_weights(handed_out, network.state_dict(), config=network.config, scale=SCALE, **about)
    return {
        "dataset_dir": str(data_root), "ckpt_dir": str(tmp_path), "network_def": tiny.CCELLA_DEF | {"input_dim": 6},
        "epochs": 4, "batch_size": 4, "lr": 1e-4, "val_fraction": 0.3, "val_interval": 2, "num_workers": 2,
        "latent_scale": str(handed_out),
    }  # fmt: skip


def kept_scale(tmp_path):
    return LatentScale(**torch.load(tmp_path / "checkpoint.pt", weights_only=True)["latent_scale"])


def test_every_round_trains_what_the_server_hands_out(repo_root, options, tmp_path, caplog):
    federated.three_rounds_and_one_after_a_restart(repo_root / "bundles" / "ccella_ldm", tmp_path, options)
    assert kept_scale(tmp_path) == SCALE
    assert "nothing is trained" not in caplog.text


def test_three_rounds_of_the_example_keep_what_the_server_sends(repo_root, options, tmp_path):
    """The overlay takes the scale from the weights that the federation starts from."""
    options["initial_weights"] = options.pop("latent_scale")
    federated.three_rounds_of_the_example(repo_root / "bundles" / "ccella_ldm", tmp_path, options, ("federated",))
    assert kept_scale(tmp_path) == SCALE


def test_latents_on_another_grid_than_the_start_are_refused(repo_root, options, data_root, refused):
    options["initial_weights"] = options.pop("latent_scale")
    header = read_header(options["initial_weights"])
    meta = header.meta | {"latent_shape": [4, 8, 8, 4]}
    network = CCELLA(**tiny.CCELLA | {"input_dim": 6})
    save_weights(options["initial_weights"], network.state_dict(), config=network.config, scale=SCALE, **meta)
    with refused("latents of 8×8×4, and here it is 4×4×4: all sites of a federation need one grid"):
        federated.workflow_of(("federated",), {"bundle_root": str(repo_root / "bundles" / "ccella_ldm"), **options})
