"""Embeddings come back from the shelf, from memory and from disk, and leave no file behind."""

from __future__ import annotations

import pytest
import torch

from scripts.common.problems import UserError
from scripts.reports import shelf


@pytest.mark.parametrize("memory", [10**6, 100])
def test_what_is_put_on_the_shelf_is_read_bit_for_bit_in_any_order(tmp_path, monkeypatch, memory):
    monkeypatch.setattr(shelf, "IN_MEMORY", memory)
    kept = shelf.Shelf(tmp_path / "not" / "there" / "yet")
    embeddings = [torch.randn(tokens, 8).half() for tokens in (5, 1, 9, 3)]
    reads = [kept.put(embedding) for embedding in embeddings]
    for number in (2, 0, 3, 1, 1):
        assert torch.equal(reads[number](), embeddings[number])
    late = torch.ones(2, 8).half()
    assert torch.equal(kept.put(late)(), late)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    kept = shelf.Shelf(tmp_path)

    def full(content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept, "file", type("Full", (), {"seek": lambda *at: 0, "write": staticmethod(full)})())
    with pytest.raises(UserError, match=r"cannot be kept in .*No space left on device.*encode_reports"):
        kept.put(torch.zeros(2, 2).half())
