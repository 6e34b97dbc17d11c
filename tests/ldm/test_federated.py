"""The diffusion model in a federation."""

from __future__ import annotations

import torch

import federated
import tiny
from scripts.networks.ccella import CCELLA
from scripts.networks.weights import LatentScale, save_weights


def test_every_round_trains_what_the_server_hands_out(repo_root, data_root, tmp_path, caplog):
    """One scale of the latents serves all clients: that of weights that one of them, or the server, hands out."""
    network, scale = CCELLA(**tiny.CCELLA), LatentScale((1.5, 1.0, 2.0, 1.0), (0.1, 0.0, 0.0, -0.1))
    handed_out = tmp_path / "server.safetensors"
    save_weights(handed_out, network.state_dict(), config=network.config, scale=scale, vae_fingerprint="vae")
    options = {
        "dataset_dir": str(data_root), "ckpt_dir": str(tmp_path), "network_def": tiny.CCELLA_DEF | {"input_dim": 6},
        "epochs": 4, "batch_size": 4, "lr": 1e-4, "val_fraction": 0.3, "val_interval": 2,
        "latent_scale": str(handed_out), "num_workers": 2,
    }  # fmt: skip
    federated.three_rounds_and_one_after_a_restart(repo_root / "bundles" / "ccella_ldm", tmp_path, options)
    kept = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["latent_scale"]
    assert LatentScale(**kept) == scale
    assert "nothing is trained" not in caplog.text
