"""The classifier in a federation."""

from __future__ import annotations

import federated


def options(real_root, tmp_path):
    return {
        "dataset_dir": str(real_root), "models_dir": str(tmp_path), "channels": ["axt2"], "spacing": [5, 5, 10],
        "spatial_size": [32, 32, 32], "epochs": 4, "batch_size": 8, "lr": 1e-4,
    }  # fmt: skip


def test_every_round_trains_what_the_server_hands_out(repo_root, real_root, tmp_path, caplog):
    federated.three_rounds_and_one_after_a_restart(
        repo_root / "bundles" / "classifier", tmp_path / "ds_enb0_r1_s0_l0",
        options(real_root, tmp_path) | {"demo": True},
    )  # fmt: skip
    assert "nothing is trained" not in caplog.text


def test_three_rounds_of_the_example_keep_what_the_server_sends(repo_root, real_root, tmp_path):
    federated.three_rounds_of_the_example(
        repo_root / "bundles" / "classifier", tmp_path / "ds_enb0_r1_s0_l0", options(real_root, tmp_path),
        ("demo", "federated"),
    )  # fmt: skip


def test_weights_of_another_network_are_refused(repo_root, real_root, tmp_path):
    federated.weights_of_another_network_are_refused(
        repo_root / "bundles" / "classifier", options(real_root, tmp_path) | {"patience": None}
    )
