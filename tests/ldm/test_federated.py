"""The diffusion model in a federation."""

from __future__ import annotations

import torch

import federated
import tiny


def test_every_round_trains_what_the_server_hands_out(repo_root, data_root, tmp_path, caplog):
    options = {
        "dataset_dir": str(data_root), "ckpt_dir": str(tmp_path), "network_def": tiny.CCELLA_DEF | {"input_dim": 6},
        "epochs": 4, "batch_size": 4, "lr": 1e-4, "val_fraction": 0.3, "val_interval": 2,
        "prepare_batch#scale_factor": 1.5, "num_workers": 2,
    }  # fmt: skip
    federated.three_rounds_and_one_after_a_restart(repo_root / "bundles" / "ccella_ldm", tmp_path, options)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["scale_factor"] == 1.5  # one for all clients
    assert "nothing is trained" not in caplog.text
