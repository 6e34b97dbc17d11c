"""The example of a federation: what needs no NVFlare, and where that is installed, a federation in its simulator."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file

from client import SITES, workflow_of
from pooling import pool
from run import SIZES, classifier_stages, data_stages, generator_stages, pooled_stages, write_table
from scripts.classifier.network import lesion_net
from scripts.classifier.weights import header
from scripts.common.tensors import write_tensors
from scripts.data.clinical import write_clinical
from scripts.data.datalists import is_positive, read_datalist, write_datalist
from scripts.data.grid import Grid
from scripts.phantom.dataset import write_dataset

CANARY = "zyxwv"  # in folder names, report texts and the path of the site
GRID = Grid((32, 32, 32), (2.5, 2.5, 2.5))
NETWORK = {"_target_": "scripts.classifier.network.lesion_net", "widths": [8], "strides": [2]}
needs_nvflare = pytest.mark.skipif(find_spec("nvflare") is None, reason="nvflare is not installed")


# ---- sites -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hospital(tmp_path_factory) -> Path:
    """A data root of phantoms, with the canary wherever a site has words of its own."""
    root = tmp_path_factory.mktemp(CANARY) / "data"
    write_dataset(root, 14, 1, GRID, 0.15, 1)
    for split in ("train", "test"):
        cases = json.loads((root / f"{split}.json").read_text().replace("phantom_", CANARY))
        write_datalist(root / f"{split}.json", [case | {"text": f"{CANARY}. {case['text']}"} for case in cases])
    sheet = pd.read_excel(root / "clinical.xlsx", dtype={"folder": str})
    write_clinical(root / "clinical.xlsx", sheet.assign(folder=sheet["folder"].str.replace("phantom_", CANARY)))
    for folder in root.glob("phantom_*"):
        folder.rename(root / folder.name.replace("phantom_", CANARY))
    return root


def with_cases(root: Path, into: Path, cases: list[dict]) -> Path:
    """The same hospital with other training cases."""
    shutil.copytree(root, into)
    write_datalist(into / "train.json", cases)
    named = {case["folder"] for case in [*cases, *json.loads((root / "test.json").read_text())]}
    sheet = pd.read_excel(root / "clinical.xlsx", dtype={"folder": str})
    write_clinical(into / "clinical.xlsx", sheet[sheet["folder"].isin(named)])
    return into


def training_cases(root: Path) -> list[dict]:
    return json.loads((root / "train.json").read_text())


def values(repo_root: Path, root: Path, out: Path) -> dict:
    return {
        "bundle_root": str(repo_root / "bundles" / "classifier"), "dataset_dir": str(root), "models_dir": str(out),
        "channels": ["axt2"], "spacing": [2.5, 2.5, 2.5], "spatial_size": [32, 32, 32], "network_def": NETWORK,
        "batch_size": 4,
    }  # fmt: skip


def test_a_site_without_cases_is_told(repo_root, hospital, tmp_path, refused):
    root = with_cases(hospital, tmp_path / "data", [])
    with refused("0 training patients|0 of 0"):
        workflow_of(["demo", "federated"], values(repo_root, root, tmp_path))


def test_a_site_of_one_class_is_told(repo_root, hospital, tmp_path, refused):
    root = with_cases(hospital, tmp_path / "data", [case for case in training_cases(hospital) if is_positive(case)])
    with refused("both classes"):
        workflow_of(["demo", "federated"], values(repo_root, root, tmp_path))


def with_a_slice(root: Path, into: Path) -> Path:
    """The same hospital, of whose first case there is a single slice."""
    cases = training_cases(root)
    with_cases(root, into, cases)
    nib.save(nib.Nifti1Image(np.ones((32, 32), dtype=np.int16), np.eye(4)), into / cases[0]["folder"] / "axt2.nii.gz")
    return into


def test_a_site_with_images_of_another_shape_is_told(repo_root, hospital, tmp_path, refused):
    root = with_a_slice(hospital, tmp_path / "data")
    with refused(f"{CANARY}.*axt2"):
        workflow_of(["demo", "federated"], values(repo_root, root, tmp_path))


STUB = {
    "__init__.py": "",
    "client/__init__.py": """
from types import SimpleNamespace
FLModel = SimpleNamespace
init = lambda: None
receive = lambda: SimpleNamespace(params={}, current_round=0)
get_site_name = lambda: "North"
send = lambda model: print("sent")
""",
    "apis/__init__.py": "",
    "apis/dxo.py": "class MetaKey:\n    NUM_STEPS_CURRENT_ROUND = 'steps'\n",
}


def test_an_error_is_told_at_the_site_alone(repo_root, hospital, tmp_path):
    """The server learns the exit status of the process; NVFlare's logs, which it may be sent, get nothing."""
    for name, text in STUB.items():
        (tmp_path / "stub" / "nvflare" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "stub" / "nvflare" / name).write_text(text)
    root = with_cases(hospital, tmp_path / CANARY, [case for case in training_cases(hospital) if is_positive(case)])
    (tmp_path / "North.yaml").write_text(yaml.safe_dump(values(repo_root, root, tmp_path / "out")))
    done = subprocess.run(
        [sys.executable, repo_root / "examples" / "federated" / "client.py", "--overlays", "demo,federated",
         "--rounds", "2", "--epochs", "1"],
        env={**os.environ, SITES: str(tmp_path), "PYTHONPATH": f"{tmp_path / 'stub'}:{repo_root}"},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout + done.stderr == ""
    told = (tmp_path / "North.log").read_text()
    assert "error: " in told
    assert "both classes" in told
    assert "Traceback" not in told


# ---- the comparison --------------------------------------------------------------------------------------------------


def test_every_option_of_every_stage_exists_and_what_it_needs_comes_before(tmp_path, wrong_options):
    size, names = SIZES["short"], ["North", "East", "West"]
    chain = data_stages(tmp_path, size, names, 0) + pooled_stages(tmp_path, names)
    chain += classifier_stages(tmp_path, size, names, 0) + generator_stages(tmp_path, size, names, 0)
    assert [told for one in chain if "-m" in one.command and (told := wrong_options(one.command))] == []
    found = [stage.name for stage in chain]
    assert len(set(found)) == len(found)
    assert all(set(stage.needs) <= set(found[:number]) for number, stage in enumerate(chain))


def test_all_train_as_long_from_the_same_values(tmp_path):
    """The classifier as many steps, of two institutions' cases in half the epochs; the generator as many epochs."""
    size, names = SIZES["short"], ["North", "East"]
    for learn, kind in ((classifier_stages, "classifier"), (generator_stages, "ccella_ldm")):
        told = {}
        for stage in learn(tmp_path, size, names, 0):
            options = dict(pairwise(stage.command))
            if stage.name == f"{kind}_federated":
                told["federated"] = int(options["--rounds"]) * int(options["--epochs"])
            elif "--epochs" in options:
                times = len(names) if stage.name == "classifier_pooled" else 1
                told[stage.name] = times * int(options["--epochs"])
        assert len(told) == 4
        assert len(set(told.values())) == 1
        site = yaml.safe_load((tmp_path / kind / "sites" / "East.yaml").read_text())
        assert Path(site["dataset_dir"]) == tmp_path / "data" / "East"


def test_pooled_cases_are_those_of_all_and_some_of_the_tests(hospital, tmp_path):
    other = tmp_path / "other"
    write_dataset(other, 10, 2, GRID, 0.2, 1, institute="East")
    (other / "latents" / "phantom_200000").mkdir(parents=True)
    (other / "latents" / "phantom_200000" / "axt2.safetensors").write_text("latent")
    for _ in range(2):  # which finds the first one's
        pool([hospital, other], tmp_path / "pooled", tests=1)
    lists = {
        split: read_datalist(tmp_path / "pooled" / f"{split}.json", tmp_path / "pooled") for split in ("train", "test")
    }
    assert {split: len(cases) for split, cases in lists.items()} == {"train": 12 + 8, "test": 2}
    assert (tmp_path / "pooled" / "latents" / "phantom_200000" / "axt2.safetensors").read_text() == "latent"
    sheet = pd.read_excel(tmp_path / "pooled" / "clinical.xlsx")
    assert sorted(sheet["folder"]) == sorted(case["folder"] for cases in lists.values() for case in cases)


def test_the_table_has_every_training_on_every_institutions_tests(tmp_path, capsys):
    names, folders = ["North", "East"], [f"case{number}" for number in range(8)]
    (tmp_path / "data" / "pooled").mkdir(parents=True)
    cases = [{"folder": folder, "dataset": names[number % 2]} for number, folder in enumerate(folders)]
    (tmp_path / "data" / "pooled" / "test.json").write_text(json.dumps(cases))
    labels = [0, 0, 0, 0, 1, 1, 1, 1]
    right, north_alone = np.linspace(0.1, 0.9, 8), np.where(np.arange(8) % 2, 0.5, np.linspace(0.1, 0.9, 8))
    for name, probability in (("federated", right), ("North", north_alone), ("East", 1 - right), ("pooled", right)):
        (tmp_path / "classes" / name).mkdir(parents=True)
        frame = pd.DataFrame({"folder": folders, "label": labels, "probability": probability})
        frame.to_csv(tmp_path / "classes" / name / "predictions.csv", index=False)
    losses = {"start": 3.0, "federated": 1.5, "North": 2.0, "East": 2.0, "pooled": 1.0}
    pd.DataFrame(losses, index=pd.Index(folders, name="folder")).to_csv(tmp_path / "losses.csv")
    share = {"value": 0.5, "low": 0.2, "high": 0.8, "n": 4}
    judged = {"adherence": {"generated": {"all": share}}, "copies": {"test": {"share": share}}}
    (tmp_path / "volumes").mkdir()
    (tmp_path / "volumes" / "metrics.json").write_text(json.dumps(judged))
    write_table(tmp_path, names, {"phantom": 1.4})
    text = (tmp_path / "federated.md").read_text()
    rows = {line.split(" | ")[0].removeprefix("| "): line.split(" | ")[1:] for line in reversed(text.splitlines())}
    assert [cell.split()[0] for cell in rows["North"]] == ["1.000", "0.500", "0.875"]
    assert [cell.split()[0] for cell in rows["East"]] == ["0.000"] * 3
    assert "| start | 3.000 (3.000 to 3.000)" in text
    assert "| federated | 1.500 (1.500 to 1.500) | 1.500 (1.500 to 1.500) | 1.500 (1.500 to 1.500) | 0.500" in text
    assert text in capsys.readouterr().out


# ---- NVFlare ---------------------------------------------------------------------------------------------------------


@needs_nvflare
@pytest.mark.parametrize("privacy", ["none", "percentile", "svt"])
def test_filters_on_what_leaves_a_site_stand_in_the_job(tmp_path, privacy):
    from job import federation

    recipe = federation("trial", tmp_path / "start", tmp_path / "kept", ["demo"], 2, 3, 1, privacy)
    recipe.export(str(tmp_path / "job"))
    (config,) = (tmp_path / "job").rglob("config_fed_client.json")
    filters = [one["path"] for group in json.loads(config.read_text()).get("task_result_filters", [])
               for one in group["filters"]]  # fmt: skip
    wanted = {"none": None, "percentile": "PercentilePrivacy", "svt": "SVTPrivacy"}[privacy]
    assert [path.rpartition(".")[2] for path in filters] == ([wanted] if wanted else [])


@needs_nvflare
def test_weights_that_are_not_all_there_are_not_kept(tmp_path):
    from nvflare.app_common.abstract.model import make_model_learnable

    from persistor import SafetensorsPersistor

    write_tensors(tmp_path / "start", {"a": torch.ones(2).half(), "b": torch.zeros(1)}, {"channels": '["axt2"]'})
    server = SafetensorsPersistor(str(tmp_path / "start"), str(tmp_path / "kept"))
    model = server.load_model(None)
    server.save_model(model, None)
    assert load_file(tmp_path / "kept")["a"].tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="no site has sent weights"):
        server.save_model(make_model_learnable({}, {}), None)
    assert load_file(tmp_path / "kept").keys() == {"a", "b"}


@needs_nvflare
def test_the_others_go_on_and_no_word_leaves_a_site(repo_root, hospital, tmp_path):
    """Of five sites one is killed in a round and takes part in the next, and three have nothing to train on."""
    import psutil

    sites, out = hospital.parent / "sites", tmp_path / "out"
    sites.mkdir()
    one_class = [case for case in training_cases(hospital) if is_positive(case)]
    roots = {
        "North": hospital,
        "South": hospital,
        "Empty": with_cases(hospital, hospital.parent / "empty", []),
        "Class": with_cases(hospital, hospital.parent / "one_class", one_class),
        "Slice": with_a_slice(hospital, hospital.parent / "slice"),
    }
    for name, root in roots.items():
        own = values(repo_root, root, hospital.parent / f"out_{name}")
        (sites / f"{name}.yaml").write_text(yaml.safe_dump(own))
    start = lesion_net(in_channels=1, widths=[8], strides=[2])
    write_tensors(tmp_path / "start.safetensors", start.state_dict(), header({"channels": ["axt2"]}))
    paths = [repo_root, repo_root / "tests", repo_root / "examples" / "federated"]
    environment = {**os.environ, "PYTHONPATH": ":".join(map(str, paths)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, paths[1] / "recorded_federation.py", out, tmp_path / "start.safetensors", sites]
    with (tmp_path / "printed").open("w") as printed:
        running = subprocess.Popen(command, env=environment, stdout=printed, stderr=subprocess.STDOUT)
    log = sites / "South.log"  # which training begins when it has the server's weights
    while not (log.is_file() and "parsing config_file" in log.read_text()) and running.poll() is None:
        time.sleep(0.1)
    for process in psutil.Process(running.pid).children(recursive=True):
        if "custom/client.py" in process.cmdline() and "/South/" in process.cwd():
            process.kill()
    assert running.wait(1500) == 0

    server = (out / "nvflare" / "federation" / "server" / "log.txt").read_text()
    rounds = server.split("Round 1 started")
    assert ["Aggregated 1/5" in part for part in rounds] == [True, True]
    assert ["Aggregated 2/5" in part for part in rounds] == [False, True]
    assert "Aggregated 3/5" not in server
    kept = load_file(out / "model.safetensors")
    assert any(not torch.equal(kept[name], tensor) for name, tensor in start.state_dict().items())
    told = {name: (sites / f"{name}.log").read_text() for name in roots}
    assert all(told[name].count("error: ") == 2 for name in ("Empty", "Class", "Slice"))
    assert "both classes" in told["Class"]
    assert CANARY in told["Slice"].partition("error: ")[2]
    assert len(list((out / "received").iterdir())) == 10
    for path in [tmp_path / "printed", *(path for path in out.rglob("*") if path.is_file())]:
        assert CANARY.encode() not in path.read_bytes(), path
