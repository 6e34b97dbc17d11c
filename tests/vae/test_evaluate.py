"""Lesions in reconstructions: kept ones and lost ones are told apart, on phantoms."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from scripts.phantom.__main__ import make
from scripts.phantom.dataset import read_findings
from scripts.vae.evaluate import ReconstructionReport
from scripts.vae.volumes import VolumeDataset, list_volumes


def batch_of(example: dict, made: torch.Tensor) -> SimpleNamespace:
    """An engine that has just reconstructed one volume."""
    batch = {name: torch.as_tensor(example[name])[None] for name in ("image", "affine")}
    batch |= {name: [example[name]] for name in ("folder", "sequence")}
    latent = torch.ones(1, 4, 2, 2, 2)
    output = {"pred": {"image": made[None], "mu": latent, "sigma": latent}}
    return SimpleNamespace(state=SimpleNamespace(batch=batch, output=output))


def test_a_lesion_that_the_reconstruction_loses_is_counted(tmp_path):
    make(str(tmp_path / "data"), cases=8, seed=3, test_fraction=0.75, workers=1)
    volumes = list_volumes(tmp_path / "data", ["test.json"], ["axt2"])
    truth = read_findings(tmp_path / "data")
    kept, lost = [volume for volume in volumes if truth[volume["folder"]]][:2]
    report = ReconstructionReport(tmp_path / "data", tmp_path / "out")
    for example in VolumeDataset([kept, lost], cache=False):
        image = example["image"]
        report(batch_of(example, image if example["folder"] == kept["folder"] else torch.zeros_like(image)))
    report.write(None)

    frame = pd.read_csv(tmp_path / "out" / "reconstruction.csv", dtype={"folder": str}).set_index("folder")
    for part in ("presence", "zone", "side", "level", "all"):
        assert frame.loc[[kept["folder"], lost["folder"]], f"original_{part}"].tolist() == [True, True]
        assert frame.loc[[kept["folder"], lost["folder"]], f"reconstruction_{part}"].tolist() == [True, False]
    lesions = json.loads((tmp_path / "out" / "reconstruction.json").read_text())["lesions"]
    assert lesions["originals"]["all"]["value"] == 1
    share = lesions["reconstructions"]["all"]
    assert (share["value"], share["n"]) == (0.5, 2)
    assert share["low"] == pytest.approx(0.0945, abs=1e-4)  # Wilson, 1 of 2
