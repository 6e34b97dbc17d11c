"""A package stands alone: it is used here by processes and by MONAI as by somebody who has nothing else of ours."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from jsonschema import validate
from monai.bundle import ConfigParser, ckpt_export, create_workflow, load, verify_net_in_out

from packages import COPIES, FACTS, OVERLAYS, write_card
from scripts.cli.bundle import CODE, tell_edited
from scripts.common.identity import code_fingerprint
from scripts.package import large_files
from scripts.package.large_files import write_large_files
from scripts.package.making import is_package
from scripts.package.zipping import zip_package

NAMES = list(OVERLAYS)
REPORT = "Impression: Zzyzx, left base, PI-RADS 5."
# Without our own package, as if it had never been there.
ALONE = (
    "import runpy, sys; sys.modules['scripts'] = None; "
    "runpy.run_module('monai.bundle', run_name='__main__', alter_sys=True)"
)


def run_alone(config: Path, cwd: Path, **values: object) -> subprocess.CompletedProcess:
    """`python -m monai.bundle run` in a process that cannot import our repository's package."""
    words = [text for name, value in values.items() for text in (f"--{name}", str(value))]
    return subprocess.run(
        [sys.executable, "-c", ALONE, "run", "--config_file", str(config), *words],
        cwd=cwd, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}, capture_output=True, text=True,
        timeout=600, check=False,
    )  # fmt: skip


# ---- what the Model Zoo checks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("bundle", NAMES)
def test_what_the_zoo_looks_for_is_there(packages, bundle):
    folder = packages / bundle
    for place in ("configs/metadata.json", "configs/inference.json", "LICENSE", "models/model.pt", "docs/README.md"):
        assert (folder / place).is_file()
    assert not [path for path in folder.rglob("*") if path.is_symlink()]
    meta = json.loads((folder / "configs" / "metadata.json").read_text())
    assert meta["version"] in meta["changelog"]
    schema = Path(__file__).resolve().parents[3] / "shared" / "schema" / "meta_schema_20240725.json"
    if schema.is_file():
        validate(meta, json.loads(schema.read_text()))


@pytest.mark.parametrize(
    ("bundle", "network", "shape"),
    [
        ("vae", "network_def", (1, 1, 16, 16, 8)),
        ("ccella_ldm", "latent_denoiser", (1, 4, 8, 8, 4)),
        ("classifier", "network_def", (1, 1, 32, 32, 32)),
    ],
)
def test_networks_are_verified_and_exported_with_equal_answers(packages, bundle, network, shape, tmp_path, monkeypatch):
    root = packages / bundle
    monkeypatch.syspath_prepend(root)
    files = {"config_file": str(root / "configs" / "inference.yaml"), "bundle_root": str(root)}
    verify_net_in_out(network, meta_file=str(root / "configs" / "metadata.json"), device="cpu", **files)
    ckpt_export(network, filepath=str(tmp_path / "model.ts"), use_trace=True, input_shape=shape, **files)
    parser = ConfigParser({**ConfigParser.load_config_file(files["config_file"]), "bundle_root": str(root)})
    own = parser.get_parsed_content(network).eval()
    own.load_state_dict(torch.load(root / "models" / "model.pt", weights_only=True))
    torch.manual_seed(0)
    image = torch.rand(shape)
    with torch.no_grad():
        assert torch.equal(torch.jit.load(tmp_path / "model.ts")(image), own(image))


# ---- MONAI's ways to use it ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workflow", ["train", "inference"])
def test_load_gives_the_networks_and_none_sees_the_others_code(packages, workflow, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    for bundle in NAMES:
        network = load(bundle, bundle_dir=str(packages), workflow_type=workflow, device="cpu")
        state = torch.load(packages / bundle / "models" / "model.pt", weights_only=True)
        assert network.state_dict().keys() == state.keys()
        assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())
    own = {bundle: Path(sys.modules[f"{bundle}_scripts"].__path__[0]).resolve() for bundle in NAMES}
    assert own == {bundle: (packages / bundle / f"{bundle}_scripts").resolve() for bundle in NAMES}


@pytest.mark.parametrize("bundle", NAMES)
def test_a_workflow_can_be_made_from_anywhere(packages, bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    workflow = create_workflow(
        config_file=str(packages / bundle / "configs" / "inference.json"), workflow_type="infer", logging_file=False
    )
    assert Path(workflow.bundle_root).resolve() == (packages / bundle).resolve()
    assert workflow.network_def is not None


def test_from_a_report_to_a_probability_with_nothing_but_the_packages(packages, tmp_path):
    done = run_alone(
        packages / "ccella_ldm" / "configs" / "inference.yaml", tmp_path, report=REPORT, output_dir="volumes"
    )
    assert done.returncode == 0, done.stderr
    assert "Zzyzx" not in done.stdout + done.stderr
    assert np.isfinite(nib.load(tmp_path / "volumes" / "report" / "axt2.nii.gz").get_fdata()).all()
    done = run_alone(
        packages / "classifier" / "configs" / "inference.json", tmp_path, input="volumes", output_dir="classes"
    )
    assert done.returncode == 0, done.stderr
    (predictions,) = (tmp_path / "classes").rglob("predictions.csv")
    assert pd.read_csv(predictions)["probability"].between(0, 1).all()


def test_edited_code_is_told(packages, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    folder = shutil.copytree(packages / "vae", tmp_path / "vae")
    told = json.loads((folder / "configs" / "metadata.json").read_text())[CODE]
    assert told == {"folder": "vae_scripts", "fingerprint": code_fingerprint(folder / "vae_scripts")}
    tell_edited(folder)
    assert not caplog.text
    with (folder / "vae_scripts" / "vae" / "network.py").open("a") as file:
        file.write("\nEDITED = True\n")
    tell_edited(folder)
    own = code_fingerprint(folder / "vae_scripts")
    assert f"vae_scripts was edited after it was packaged: its fingerprint is {own}" in caplog.text


# ---- what it says of itself ------------------------------------------------------------------------------------------


def test_the_card_has_facts_figures_licences_and_the_copy_check(packages):
    page = (packages / "ccella_ldm" / "docs" / "README.md").read_text()
    for fact in ("title", "intended_use", "data", "citation"):
        assert FACTS[fact] in page
    assert "| distances / generated / frechet | 12.500 (0.000 to 0.500) | 40 |" in page
    assert f"{COPIES}: 0.000 (0.000 to 0.500), n = 40" in page
    assert (packages / "ccella_ldm" / "docs" / "data_license.txt").read_text() == "Nobody's.\n"
    assert "Apache License" in (packages / "ccella_ldm" / "LICENSE").read_text()


def test_metadata_say_what_these_weights_take_and_what_pip_must_bring(packages):
    meta = json.loads((packages / "ccella_ldm" / "configs" / "metadata.json").read_text())
    assert meta["eval_metrics"]["distances / generated / frechet"] == 12.5
    assert meta["network_data_format"]["inputs"]["text_encoding"]["num_channels"] == 16
    assert "pirads" not in meta["network_data_format"]["inputs"]
    assert {"transformers", "pyyaml", "fire", "pytorch-ignite"} <= meta["required_packages_version"].keys()
    assert "+" not in meta["pytorch_version"]


def test_weights_under_another_licence_have_it_as_the_licence(build, sources, tmp_path):
    (tmp_path / "nc.txt").write_text("Not for sale.")
    card = write_card(tmp_path, weights_licence="CC-BY-NC-4.0", licence_file="nc.txt")
    folder = build("vae", tmp_path / "out", card=str(card))
    assert (folder / "LICENSE").read_text() == "Not for sale."
    assert "Apache License" in (folder / "LICENSE_CODE").read_text()


def test_large_files_are_named_with_hash_and_size(tmp_path, monkeypatch, refused):
    monkeypatch.setattr(large_files, "LIMIT", 10)
    (tmp_path / "vae" / "models" / "t5").mkdir(parents=True)
    (tmp_path / "vae" / "models" / "t5" / "big.bin").write_bytes(b"x" * 11)
    (tmp_path / "vae" / "small").write_bytes(b"x" * 10)
    with refused("models/t5/big.bin"):
        write_large_files(tmp_path / "vae", {})
    assert write_large_files(tmp_path / "vae", {"models": "https://host/m"}) == ["models/t5/big.bin"]
    listed = ConfigParser.load_config_file(tmp_path / "vae" / "large_files.yml")
    (entry,) = listed["large_files"]
    assert entry["url"] == "https://host/m/t5/big.bin"
    assert (entry["hash_type"], entry["hash_val"]) == ("sha256", hashlib.sha256(b"x" * 11).hexdigest())
    assert listed["sizes"] == {"models/t5/big.bin": 11}


def test_the_same_package_gives_the_same_zip_without_large_files(packages, tmp_path):
    folder = shutil.copytree(packages / "vae", tmp_path / "vae")
    (folder / "large_files.yml").write_text('large_files: [{path: models/model.pt, url: "https://x"}]\n')
    (folder / "vae_scripts" / "__pycache__").mkdir(exist_ok=True)
    (folder / "vae_scripts" / "__pycache__" / "x.pyc").write_bytes(b"")
    first = zip_package(folder).read_bytes()
    names = zipfile.ZipFile(zip_package(folder)).namelist()
    assert zip_package(folder).read_bytes() == first
    assert "vae/models/model.pt" not in names
    assert "vae/models/model.safetensors" in names
    assert not [name for name in names if "__pycache__" in name]


# ---- refusals --------------------------------------------------------------------------------------------------------


def test_another_folder_is_not_replaced_and_an_earlier_version_is(build, tmp_path, refused):
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "mine.txt").write_text("mine")
    with refused("is there and is no package"):
        build("vae", tmp_path)
    assert (tmp_path / "vae" / "mine.txt").is_file()
    folder = build("vae", tmp_path, name="mine")
    assert (folder / "mine_scripts").is_dir()
    assert is_package(build("vae", tmp_path, name="mine"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "mine_v1.2.0.zip", "vae"]


@pytest.mark.parametrize(
    ("bundle", "changes", "told"),
    [
        ("vae", {"name": "my-vae"}, "name is 'my-vae'"),
        ("vae", {"text_encoder": "t5"}, "--text_encoder"),
        ("vae", {"card": "nowhere.yaml"}, "nowhere.yaml is missing"),
        ("classifier", {"weights": "nowhere.safetensors"}, "nowhere.safetensors: no weights there"),
    ],
)
def test_wrong_options_are_told_and_nothing_is_written(build, tmp_path, refused, bundle, changes, told):
    with refused(told):
        build(bundle, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_a_generator_that_copies_is_not_packaged(build, tmp_path, refused, caplog):
    caplog.set_level(logging.INFO)
    with refused("copies"):
        build("ccella_ldm", tmp_path / "out", card=str(write_card(tmp_path, copies=0.05)))
    assert not (tmp_path / "out").exists()
