"""What tests of generation share: tiny weights, a data root with its reports embedded, and inference on them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import openpyxl
import pandas as pd
import torch
from monai.bundle import ConfigWorkflow

import tiny
from scripts.common.problems import UserError
from scripts.data.clinical import write_clinical
from scripts.data.images import save_volume
from scripts.ldm.jobs import Jobs
from scripts.networks.ccella import CCELLA
from scripts.networks.variants import find_variant
from scripts.networks.weights import LatentScale, save_weights
from scripts.reports.embeddings import EMPTY_REPORT, write_embedding
from scripts.reports.encoder import ReportEncoder

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "bundles" / "ccella_ldm" / "configs" / "inference.yaml"
SIZE, SPACING = (32, 32, 16), (1.25, 1.25, 1.875)
SECRET = "Zzyzx"  # stands in every report and must stand nowhere else
SIZES = tiny.CCELLA | {"input_dim": 16}  # as wide as the encoder of `place`
OBLIQUE = nib.affines.from_matvec(nib.eulerangles.euler2mat(z=0.1, x=-0.2) * np.array(SPACING), [-10, 20, 600])


def make_network(variant: str = "CCELLA", sequences: int = 1) -> CCELLA:
    torch.manual_seed(0)
    network = CCELLA(variant, **SIZES, in_channels=4 * sequences, out_channels=4 * sequences)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return network


def make_weights(path: Path, variant: str = "CCELLA", sequences: int = 1, **meta) -> None:
    network = make_network(variant, sequences)
    save_weights(path, network.state_dict(), config=network.config, scale=LatentScale((1.5,)), **meta)


def make_authors_weights(path: Path, variant: str = "CCELLA", sequences: int = 1, **changes) -> None:
    """The same network as a checkpoint of the authors, who keep the names of a U-Net without adapter bare."""
    state = make_network(variant, sequences).state_dict()
    if not find_variant(variant).adapter:
        state = {name.removeprefix("unet."): tensor for name, tensor in state.items()}
    torch.save(
        {"unet_state_dict": state, "scale_factor": torch.tensor(1.5), "num_train_timesteps": 1000} | changes, path
    )


def make_data(data: Path, encoder: ReportEncoder) -> None:
    reports = {"001": f"{SECRET} left base", "002": "", "003": f"{SECRET} right apex", "004": f"{SECRET} x", "005": "y"}
    write_embedding(data / EMPTY_REPORT, encoder.encode([""])[0], encoder.fingerprint)
    for split, folders in (("train", ["001", "002", "003"]), ("test", ["004", "005"])):
        plain, merged = [], []
        for folder in folders:
            affine = OBLIQUE if folder == "001" else np.diag([*SPACING, 1.0])
            noise = np.random.default_rng(int(folder)).random(SIZE)
            save_volume(data / folder / "axt2.nii.gz", noise, affine, "axt2")
            embedding = f"embeddings/{folder}.safetensors" if reports[folder] else EMPTY_REPORT
            if reports[folder]:
                write_embedding(data / embedding, encoder.encode([reports[folder]])[0], encoder.fingerprint)
            case = {"axt2": f"./{folder}/axt2.nii.gz", "dataset": "A", "folder": folder}
            case["pirads"] = [1, 0] if folder == "002" else [0, 1]  # 003's is PosISUP's to tell in the sheet
            case |= {"spacing": list(SPACING), "text": reports[folder], "text_isnull": int(not reports[folder])}
            plain.append(case)
            merged.append(case | {"text": embedding})
        (data / f"{split}.json").write_text(json.dumps(plain))
        (data / f"{split}_merged.json").write_text(json.dumps(merged))
    write_sheet(data)


def write_sheet(data: Path, classes: Sequence[int | None] = (1, 0, None, 1, 1), training: int = 3) -> None:
    """The clinical sheet: PosPIRADS of the five cases, of which the first `training` are labelled train."""
    sheet = {
        "folder": ["001", "002", "003", "004", "005"],
        "PosPIRADS": classes,
        "PosISUP": [None, None, 0, None, None],
    }
    labels = ["train"] * training + ["test"] * (5 - training)
    write_clinical(data / "clinical.xlsx", pd.DataFrame({**sheet, "Label": labels}))


def options(place: SimpleNamespace, output_dir: Path, **changes) -> dict:
    made = {
        "bundle_root": str(CONFIG.parent.parent),
        "output_dir": str(output_dir),
        "dataset_dir": str(place.data),
        "model_file": str(place.root / "model.safetensors"),
        "vae_file": str(place.root / "vae.safetensors"),
        "steps": 3,
        "guidance_report": 2.0,
        "guidance_class": 2.0,
    }
    return made | changes


def prepared(place: SimpleNamespace, output_dir: Path, **changes) -> ConfigWorkflow:
    """Inference before it runs."""
    workflow = ConfigWorkflow(
        [str(CONFIG), str(place.root / "tiny.json")], workflow_type="infer", **options(place, output_dir, **changes)
    )
    workflow.initialize()
    return workflow


def infer(place: SimpleNamespace, output_dir: Path, **changes) -> ConfigWorkflow:
    workflow = prepared(place, output_dir, **changes)
    workflow.run()
    workflow.finalize()
    return workflow


def command_line(launcher: list[str], given: dict, *more: str) -> subprocess.CompletedProcess:
    """`python <launcher> -m monai.bundle run …` in a process of its own."""
    configs = f"['{CONFIG}','{Path(given['vae_file']).parent / 'tiny.json'}']"
    command = [sys.executable, *launcher, "-m", "monai.bundle", "run", "--config_file", configs]
    command += [part for name, value in given.items() for part in (f"--{name}", str(value))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *more], cwd=ROOT, capture_output=True, text=True, timeout=400, check=False, env=environment
    )


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def rows(output_dir: Path) -> dict[str, tuple]:
    """Of each row of the sheet: PIRADS_real and Label."""
    _, *lines = openpyxl.load_workbook(output_dir / "synthsheet_all.xlsx").active.values
    return {folder: (real, label) for folder, real, _, label in lines}


def listed(output_dir: Path, split: str) -> list[str]:
    return [case["folder"] for case in json.loads((output_dir / f"{split}.json").read_text())]


def list_jobs(place: SimpleNamespace, output_dir: Path) -> Jobs:
    """What one process would do, without running it."""
    return prepared(place, output_dir).parser.get_parsed_content("jobs")


def root_cause(error: BaseException) -> BaseException:
    """MONAI wraps what a component raises."""
    while error.__cause__ is not None:
        error = error.__cause__
    assert isinstance(error, UserError)
    return error


def digest(output_dir: Path, folder: str) -> str:
    """Of the embedding that a volume was made from."""
    return json.loads((output_dir / folder / "generated.json").read_text())["settings"]["report"]


def recipe_options(place: SimpleNamespace, model_file: Path) -> dict:
    return {
        "model_file": model_file, "vae_file": place.root / "vae.safetensors", "network_config": {},
        "channels": ["axt2"], "size": None, "spacing": None, "scheduler": "ddim", "steps": 2, "amp": "fp32", "seed": 0,
        "guidance_interval": [0, 1000],
    }  # fmt: skip
