"""Outputs that cannot be written are told before anything is read or made."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import ignite.distributed as idist
import pytest
from monai.bundle import ConfigWorkflow, create_workflow
from torch import multiprocessing

from scripts.common.problems import UserError
from scripts.engine.output_folder import check_writable

OPTIONS = [("vae", "model_dir"), ("ccella_ldm", "ckpt_dir"), ("classifier", "models_dir")]


@pytest.mark.parametrize(("bundle", "option"), OPTIONS)
def test_every_training_refuses_a_folder_that_cannot_be_written(repo_root, tmp_path, refused, bundle, option):
    (tmp_path / "file").touch()
    root = repo_root / "bundles" / bundle
    options = {option: str(tmp_path / "file" / "models"), "dataset_dir": str(tmp_path / "nowhere")}
    with refused(r"file/models.* cannot be written: Not a directory\. Make room there, or give another folder"):
        create_workflow(
            config_file=str(root / "configs" / "train.yaml"), workflow_type="train", logging_file=False,
            bundle_root=str(root), **options,
        )  # fmt: skip


@pytest.mark.parametrize(("bundle", "option"), OPTIONS)
def test_what_mlflow_writes_lies_with_the_outputs(repo_root, tmp_path, monkeypatch, bundle, option):
    """From another folder, where the package is not found yet when MONAI writes the config."""
    monkeypatch.chdir(tmp_path)
    root = repo_root / "bundles" / bundle
    before = {path for path in root.rglob("*") if "scripts" not in path.parts}
    workflow = ConfigWorkflow(
        str(root / "configs" / "train.yaml"), logging_file=False, tracking="mlflow", bundle_root=str(root),
        **{option: str(tmp_path / "out")},
    )  # fmt: skip
    (written,) = tmp_path.rglob("*.json")
    assert written.parent == tmp_path / "out"
    assert workflow.parser.get_parsed_content("tracking_uri") == f"sqlite:///{tmp_path / 'out' / 'mlruns.db'}"
    assert {path for path in root.rglob("*") if "scripts" not in path.parts} == before


def test_looking_leaves_nothing(tmp_path):
    check_writable([tmp_path / "models", tmp_path / "models" / "logs"])
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=r"models cannot be written: No space left on device\. Make room"):
        check_writable([tmp_path / "models"])


def test_a_link_to_a_disk_that_is_not_there_is_told(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "models").symlink_to(tmp_path / "file" / "disk")
    with pytest.raises(UserError, match="models cannot be written"):
        check_writable([tmp_path / "models"])


def _look_as_one_of_two(rank: int, folder: Path) -> None:
    idist.initialize("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    check_writable([folder / "models"])
    try:
        check_writable([folder / "file" / "models"])
    except (UserError, SystemExit) as error:
        (folder / f"{rank}.txt").write_text(type(error).__name__)
    idist.finalize()


def test_all_processes_end_and_one_tells_why(tmp_path):
    (tmp_path / "file").touch()
    multiprocessing.start_processes(_look_as_one_of_two, (tmp_path,), nprocs=2, start_method="fork")
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)] == ["UserError", "SystemExit"]
