"""What tests of packages share: tiny weights of the three bundles that fit each other, and a card's facts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml

import tiny
from generating import SIZE, SIZES, SPACING, make_weights
from scripts.classifier.network import lesion_net
from scripts.classifier.weights import header
from scripts.common.tensors import write_tensors
from scripts.phantom.tiny_t5 import make as make_encoder
from scripts.reports.encoder import ReportEncoder
from scripts.vae.network import maisi_vae, save_vae, vae_fingerprint

COPIES = "share nearer to a training case than real ones"
CCELLA_DEF = {
    "_target_": "scripts.networks.ccella.CCELLA",
    "variant": "@variant",
    "in_channels": 4,
    "out_channels": 4,
} | SIZES
OVERLAYS = {
    "vae": {"network_def": tiny.VAE_DEF, "patch": [16, 16, 16]},
    "ccella_ldm": {"network_def": CCELLA_DEF, "vae_def": tiny.VAE_DEF, "steps": 2},
    "classifier": {
        "spatial_size": [32, 32, 32], "spacing": [2.5, 2.5, 2.5], "channels": ["axt2"],
        "network_def": {"_target_": "scripts.classifier.network.lesion_net", "widths": [8], "strides": [2]},
    },
}  # fmt: skip
FACTS: dict[str, Any] = {
    "title": "A tiny model for tests",
    "version": "1.2.0",
    "changelog": {"1.2.0": "smaller", "1.1.0": "small"},
    "authors": "Its makers",
    "intended_use": "Tests; nothing else.",
    "data": "Random numbers.",
    "data_licence": "Nobody's.",
    "weights_licence": "Apache-2.0",
    "limits": ["makes noise"],
    "citation": "Its makers, 2026",
    "evaluation": ["metrics.json"],
}


def figure(value: float) -> dict[str, float]:
    return {"value": value, "low": 0.0, "high": 0.5, "n": 40}


def write_card(folder: Path, copies: float | None = 0.0, without: str = "", **changes: Any) -> Path:
    """A file of facts, and the evaluation beside it that it names."""
    metrics = {"distances": {"generated": {"frechet": figure(12.5)}}}
    if copies is not None:
        metrics["copies"] = {"all generated volumes": {COPIES: figure(copies)}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    facts = {name: fact for name, fact in (FACTS | changes).items() if name != without}
    (folder / "card.yaml").write_text(yaml.safe_dump(facts))
    return folder / "card.yaml"


def make_sources(root: Path) -> SimpleNamespace:
    """Weights of all three bundles, the generator's trained with this VAE and this encoder; overlays; a card."""
    torch.manual_seed(0)
    vae = maisi_vae(**tiny.VAE)
    save_vae(vae, root / "vae.safetensors")
    make_encoder(str(root / "t5"), reports=60, steps=1, width=SIZES["input_dim"], vocabulary=300)
    make_weights(
        root / "ldm.safetensors", objective="rflow", prediction="velocity", channels=["axt2"],
        latent_shape=[4, *(n // 4 for n in SIZE)], spacing=list(SPACING),
        vae_fingerprint=vae_fingerprint(vae), encoder_fingerprint=ReportEncoder(root / "t5", device="cpu").fingerprint,
    )  # fmt: skip
    seen = header({name: OVERLAYS["classifier"][name] for name in ("channels", "spatial_size", "spacing")})
    write_tensors(root / "classifier.safetensors", lesion_net(widths=[8], strides=[2]).state_dict(), seen)
    for bundle, values in OVERLAYS.items():
        (root / f"{bundle}.json").write_text(json.dumps(values))
    given: Mapping[str, dict[str, str]] = {
        "vae": {"weights": "vae.safetensors"},
        "ccella_ldm": {"weights": "ldm.safetensors", "vae_file": "vae.safetensors", "text_encoder": "t5"},
        "classifier": {"weights": "classifier.safetensors"},
    }
    paths = {bundle: {name: str(root / file) for name, file in files.items()} for bundle, files in given.items()}
    return SimpleNamespace(root=root, paths=paths, card=write_card(root / "card"))
