"""Nothing is fetched that was not asked for by name, with its licence accepted, over a network that may be used."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import huggingface_hub
import pytest

from scripts.common.public_weights import PUBLISHED
from scripts.fetch_weights import fetch_weights

NAME = "resnet_50_23dataset.pth"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that has one file, and what was asked of it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: False)
    (tmp_path / "cache").write_bytes(b"weights")
    digest = hashlib.sha256(b"another").hexdigest()
    asked = SimpleNamespace(files=[], sha256=digest, cache=tmp_path / "cache")

    class Api:
        def get_paths_info(self, repo, path):
            return [SimpleNamespace(lfs=SimpleNamespace(sha256=asked.sha256))]

    def download(repo, path):
        asked.files.append((repo, path))
        return str(asked.cache)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def test_without_a_name_the_table_is_printed_and_nothing_fetched(hub, capsys):
    fetch_weights()
    told = capsys.readouterr().out
    assert all(name in told for name in PUBLISHED)
    assert hub.files == []


def test_the_licence_must_be_accepted(hub, refused):
    with refused("is under: MIT"):
        fetch_weights(NAME)
    assert hub.files == []


def test_offline_nothing_is_fetched(hub, monkeypatch, refused):
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: True)
    with refused("HF_HUB_OFFLINE"):
        fetch_weights(NAME, accept_licence=True)
    assert hub.files == []


def test_what_is_not_what_the_hub_tells_is_refused(hub, tmp_path, refused):
    with refused("what came is not what the hub tells"):
        fetch_weights(NAME, accept_licence=True)
    assert not (tmp_path / "models" / NAME).exists()


def test_a_file_comes_to_where_commands_look_for_it_once(hub, tmp_path, capsys):
    hub.sha256 = hashlib.sha256(b"weights").hexdigest()
    for _ in range(2):
        fetch_weights(NAME, accept_licence=True)
    assert (tmp_path / "models" / NAME).read_bytes() == b"weights"
    assert hub.files == [("TencentMedicalNet/MedicalNet-Resnet50", NAME)]
    assert "is there already" in capsys.readouterr().out


def test_an_unknown_name_is_told(hub, refused):
    with refused("give one of autoencoder_v1.pt"):
        fetch_weights("autoencoder.pt", accept_licence=True)
