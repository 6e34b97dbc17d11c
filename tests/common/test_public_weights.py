"""A file of a published name and another hash is told; README's table has every one that is known."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace

import pytest

from scripts.common import public_weights
from scripts.common.problems import UserError
from scripts.common.public_weights import PUBLISHED, differs, file_digest, tell_other
from scripts.vae.network import load_vae, maisi_vae

NAME = "autoencoder_v1.pt"


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A file of a published name, which is the published one."""
    path = tmp_path / NAME
    path.write_bytes(b"weights")
    known = replace(PUBLISHED[NAME], algorithm="sha256", digest=hashlib.sha256(b"weights").hexdigest()[:8])
    monkeypatch.setitem(public_weights.PUBLISHED, NAME, known)
    return path


def test_hashes_are_compared_as_far_as_they_are_public(published, tmp_path):
    assert differs(published) is False
    published.write_bytes(b"other")
    assert differs(published) is True
    assert differs(tmp_path / "mine.pt") is None
    assert differs(tmp_path / "autoencoder_v2.pt") is None  # no hash is public


def test_another_file_is_told_when_it_is_loaded(published, caplog):
    caplog.set_level(logging.WARNING)
    with pytest.raises(UserError):
        load_vae(maisi_vae(num_channels=[8, 8, 8], num_res_blocks=[1, 1, 1], norm_num_groups=4), published)
    assert not caplog.text
    published.write_bytes(b"other")
    tell_other.cache_clear()
    with pytest.raises(UserError):
        load_vae(maisi_vae(num_channels=[8, 8, 8], num_res_blocks=[1, 1, 1], norm_num_groups=4), published)
    assert f"{published} is not the file that nvidia/NV-Generate-CT publishes under this name" in caplog.text


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path, algorithm):
    (tmp_path / "x").write_bytes(b"a" * 100)
    assert file_digest(tmp_path / "x", algorithm) == hashlib.new(algorithm, b"a" * 100).hexdigest()


@pytest.mark.parametrize("known", PUBLISHED.values(), ids=lambda known: known.name)
def test_readme_has_every_one_with_its_licence_and_hash(repo_root, known):
    text = (repo_root / "README.md").read_text(encoding="utf-8").partition("## Weights")[2]
    (row,) = [line for line in text.splitlines() if line.startswith("|") and f"`{known.name}`" in line]
    assert known.licence in row
    assert known.digest in row
    assert known.where in row
