"""A tiny data root for training: random latents and embeddings of a few cases, and a network that fits them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from scripts.data.latents import latent_path, write_latent
from scripts.reports.embeddings import write_embedding

WIDTH = 6


def make_root(root: Path, cases: int = 7, size: tuple[int, int, int] = (4, 4, 4)) -> Path:
    """Write train_merged.json, embeddings/ and latents/ of `size` cells; the last case has no report."""
    generator = torch.Generator().manual_seed(0)
    write_embedding(root / "embeddings" / "empty.safetensors", torch.ones(1, WIDTH), "encoder")
    entries = []
    for number in range(cases):
        folder, absent = f"case{number}", number == cases - 1
        mu = torch.randn(4, *size, generator=generator)
        path = latent_path(root / "latents", folder, "axt2")
        affine = np.diag([0.5, 0.5, 0.5, 1.0])
        write_latent(
            path, mu, torch.full_like(mu, 0.1), fingerprint="vae", affine=affine, shape=tuple(4 * n for n in size)
        )
        text = "embeddings/empty.safetensors" if absent else f"embeddings/{number}.safetensors"
        if not absent:
            embedding = torch.randn(2 + number, WIDTH, generator=generator).half()
            write_embedding(root / text, embedding, "encoder")
        entries.append(
            {
                "axt2": f"./{folder}/axt2.nii.gz",
                "folder": folder,
                "pirads": [0, 1] if number % 2 else [1, 0],
                "spacing": [0.5, 0.5, 0.5],
                "text": text,
                "text_isnull": int(absent),
            }
        )
    (root / "train_merged.json").write_text(json.dumps(entries))
    return root


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    """A data root with seven cases."""
    return make_root(tmp_path / "data")


@pytest.fixture
def wide_root(tmp_path: Path) -> Path:
    """One whose latents stay 4 cells wide in a network of two levels: the CPU's bf16 needs more than 2."""
    return make_root(tmp_path / "wide", size=(8, 4, 4))
