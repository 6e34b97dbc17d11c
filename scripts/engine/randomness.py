"""Random numbers that belong to what they are drawn for, not to the order in which they are drawn."""

from __future__ import annotations

import hashlib

import torch


def generator_for(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded by all the parts together."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
