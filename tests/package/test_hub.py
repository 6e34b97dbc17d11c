"""Nothing is sent without a token, nor what was edited behind the card's back; a dry run says what would be."""

from __future__ import annotations

import json

import pytest

from scripts.cli.bundle import CODE
from scripts.common.identity import code_fingerprint
from scripts.package import hub
from scripts.package.hub import push

OPTIONS = {"private": True, "latest": True, "dry_run": False}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """As little as makes a package; there is no token, and nothing is sent."""
    folder = tmp_path / "tiny"
    for name, text in {"tiny_scripts/a.py": "A = 1\n", "models/model.pt": "", "eval/x.csv": ""}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    code = {"folder": "tiny_scripts", "fingerprint": code_fingerprint(folder / "tiny_scripts")}
    (folder / "configs").mkdir()
    (folder / "configs" / "metadata.json").write_text(json.dumps({"version": "1.0.0", CODE: code}))
    monkeypatch.setattr(hub.huggingface_hub, "get_token", lambda: None)
    monkeypatch.setattr(hub, "is_offline_mode", lambda: False)
    monkeypatch.setattr(hub, "push_to_hf_hub", lambda *args, **kwargs: pytest.fail("something was sent"))
    return folder


def test_without_a_token_nothing_is_sent(package, refused):
    with refused("wants a token"):
        push(package, "me/tiny", **OPTIONS)


def test_offline_nothing_is_sent(package, monkeypatch, refused):
    monkeypatch.setattr(hub, "is_offline_mode", lambda: True)
    with refused("HF_HUB_OFFLINE"):
        push(package, "me/tiny", token="x", **OPTIONS)


def test_a_dry_run_lists_what_would_be_sent_and_needs_no_token(package, capsys):
    push(package, "me/tiny", **OPTIONS | {"dry_run": True})
    told = capsys.readouterr().out
    assert "3 files" in told
    assert "models/model.pt" in told
    assert "eval/x.csv" not in told


def test_edited_code_is_not_sent(package, refused):
    (package / "tiny_scripts" / "a.py").write_text("A = 2\n")
    with refused("its code was edited"):
        push(package, "me/tiny", **OPTIONS | {"dry_run": True})


@pytest.mark.parametrize("repo", ["tiny", "a/b/c"])
def test_a_wrong_name_is_told(package, refused, repo):
    with refused("repo is"):
        push(package, repo, **OPTIONS)


def test_a_bundle_of_the_repository_is_not_sent(repo_root, refused):
    with refused("is no package"):
        push(repo_root / "bundles" / "vae", "me/tiny", **OPTIONS)


def test_monai_sends_it_with_its_version_as_a_tag(package, monkeypatch):
    sent = {}
    monkeypatch.setattr(hub, "push_to_hf_hub", lambda *args, **kwargs: sent.update(kwargs, args=args) or "address")
    assert push(package, "me/tiny", token="x", **OPTIONS) == "address"
    assert sent["args"] == ("me/tiny", "tiny", str(package.parent))
    assert (sent["version"], sent["token"], sent["private"]) == ("1.0.0", "x", True)


def test_a_hub_that_refuses_is_told_in_words(package, monkeypatch, refused):
    def refuse(*_: object, **__: object) -> None:
        raise OSError("401 Client Error\nmore")

    monkeypatch.setattr(hub, "push_to_hf_hub", refuse)
    with refused("401 Client Error$"):
        push(package, "me/tiny", token="x", **OPTIONS)
