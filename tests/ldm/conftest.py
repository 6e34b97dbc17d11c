"""A tiny data root for training, and what tests of generation share; made once for all of them."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import tiny
from generating import SIZE, SIZES, SPACING, infer, make_authors_weights, make_data, make_weights
from scripts.common.identity import fingerprint
from scripts.data.latents import latent_path, write_latent
from scripts.encode_reports import encode_reports
from scripts.phantom.tiny_t5 import make
from scripts.reports.embeddings import EMPTY_REPORT, read_encoder_fingerprint, write_embedding
from scripts.reports.encoder import ReportEncoder
from scripts.vae.network import maisi_vae, save_vae

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


@pytest.fixture(scope="session")
def place(tmp_path_factory) -> SimpleNamespace:
    """A data root with three training and two test cases, embedded; a text encoder, a VAE and a network."""
    root = tmp_path_factory.mktemp("inference")
    make(str(root / "t5"), reports=60, steps=1, width=16, vocabulary=300)
    torch.manual_seed(0)
    vae = maisi_vae(**tiny.VAE)
    save_vae(vae, root / "vae.safetensors")
    meta = {"latent_shape": [4, 8, 8, 4], "spacing": list(SPACING), "vae_fingerprint": fingerprint(vae.state_dict())}
    meta |= {"objective": "ddpm", "trained_with_dropout": {"class": 0.1, "both": 0.1}}
    make_weights(root / "model.safetensors", **meta)
    overlay = {"network_def": tiny.CCELLA_DEF | SIZES}
    overlay["network_def"] |= {"in_channels": 4, "out_channels": 4}
    overlay["vae_def"] = tiny.VAE_DEF
    (root / "tiny.json").write_text(json.dumps(overlay))
    make_data(root / "data", ReportEncoder(root / "t5", device="cpu"))
    return SimpleNamespace(root=root, data=root / "data", meta=meta)


@pytest.fixture(scope="session")
def generated(place) -> Path:
    """All five cases, one at a time, in a folder in which a run was killed before."""
    for folder in ("", "004"):
        (place.root / "all" / folder / ".part-of-a-killed-run").mkdir(parents=True)
    infer(place, place.root / "all")
    return place.root / "all"


@pytest.fixture(scope="session")
def authors(place, tmp_path_factory) -> SimpleNamespace:
    """A checkpoint of the authors, and data roots whose reports are embedded as theirs are, and as ours are."""
    root = tmp_path_factory.mktemp("authors")
    make_authors_weights(root / "authors.pt")
    for name in ("padded", "short"):
        shutil.copytree(place.data, root / name)
        encode_reports(str(root / name), str(place.root / "t5"), device="cpu", padded=name == "padded")
    given = {"model_file": str(root / "authors.pt"), "spacing": list(SPACING), "size": list(SIZE), "steps": 1}
    return SimpleNamespace(padded=root / "padded", short=root / "short", given=given | {"splits": ["test"]})


@pytest.fixture(scope="session", params=[{"padded": True}, {"max_tokens": 8}, {}], ids=["padded", "short", "default"])
def embedded(place, request, tmp_path_factory) -> SimpleNamespace:
    """Weights that were trained on embeddings of `encode_reports` with some options, and a data root of such."""
    root = tmp_path_factory.mktemp("embedded")
    shutil.copytree(place.data, root / "data")
    encode_reports(str(root / "data"), str(place.root / "t5"), device="cpu", **request.param)
    stamp = read_encoder_fingerprint(root / "data" / EMPTY_REPORT)
    make_weights(root / "model.safetensors", **place.meta | {"encoder_fingerprint": stamp})
    given = {"model_file": str(root / "model.safetensors"), "steps": 1, "text_encoder": str(place.root / "t5")}
    right = {"padded_reports": "padded" in request.param, "max_tokens": request.param.get("max_tokens", 512)}
    return SimpleNamespace(data=root / "data", given=given, right=right)


@pytest.fixture
def compiling(monkeypatch):
    """Lets the U-Net be compiled on the CPU, by a backend of PyTorch that compiles no C++, which takes minutes."""
    kept, counters = torch.nn.Module.compile, torch._dynamo.utils.counters
    monkeypatch.setattr("scripts.engine.parallel.may_compile", lambda compile, device: compile)

    def by(backend: str) -> dict:
        monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **given: kept(self, backend=backend, **given))
        torch._dynamo.reset()
        counters.clear()
        return counters

    return by


@pytest.fixture(autouse=True)
def threads_write(request, monkeypatch) -> None:
    """Threads of this process write, which start at once, and whose functions a test can replace.

    A test that uses `processes_write` has processes, as everybody else has.
    """
    if "processes_write" in request.fixturenames:
        return
    monkeypatch.setattr("scripts.ldm.writing.ProcessPoolExecutor", lambda workers, initializer: ThreadPoolExecutor(4))


@pytest.fixture
def processes_write() -> None:
    """See `threads_write`."""
