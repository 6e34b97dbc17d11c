"""The classifier in a federation."""

from __future__ import annotations

import federated


def test_every_round_trains_what_the_server_hands_out(repo_root, real_root, tmp_path, caplog):
    options = {
        "dataset_dir": str(real_root), "models_dir": str(tmp_path), "spacing": [5, 5, 10],
        "spatial_size": [32, 32, 32], "epochs": 4, "batch_size": 8, "lr": 1e-4, "demo": True,
    }  # fmt: skip
    folder = tmp_path / "ds_enb0_r1_s0_l0"
    federated.three_rounds_and_one_after_a_restart(repo_root / "bundles" / "classifier", folder, options)
    assert "nothing is trained" not in caplog.text
