"""The VAE in a federation."""

from __future__ import annotations

import federated
import tiny


def options(data_root, tmp_path):
    return {
        "dataset_dir": str(data_root), "model_dir": str(tmp_path), "network_def": tiny.VAE_DEF, "epochs": 4,
        "batch_size": 1, "patch": [8, 8, 8], "lr": 1e-4, "val_cases": 1, "val_interval": 2, "num_workers": 2,
        "discriminator_def": tiny.DISCRIMINATOR_DEF, "adversarial_after": 1,
    }  # fmt: skip


def test_every_round_trains_what_the_server_hands_out(repo_root, data_root, tmp_path, caplog):
    federated.three_rounds_and_one_after_a_restart(
        repo_root / "bundles" / "vae", tmp_path, options(data_root, tmp_path)
    )
    assert "nothing is trained" not in caplog.text


def test_three_rounds_of_the_example_keep_what_the_server_sends(repo_root, data_root, tmp_path):
    federated.three_rounds_of_the_example(repo_root / "bundles" / "vae", tmp_path, options(data_root, tmp_path))
