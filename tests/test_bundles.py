"""Every workflow of every bundle as a user runs it: in processes of its own, from every place, on tiny sizes.

One chain goes from phantom cases to judged classifiers. Each workflow of it is then started again in the other ways
that are promised, reading what the chain left: from another folder, from inside its bundle, under torchrun, in Python.
"""

from __future__ import annotations

import datetime
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from monai.bundle import ConfigParser, create_workflow, verify_metadata, verify_net_in_out

import tiny
from scripts.encode_reports import encode_reports
from scripts.phantom.__main__ import make as make_phantoms
from scripts.phantom.tiny_t5 import make as make_encoder
from scripts.vae.network import maisi_vae, save_vae

SECRET = "Zzyzx"  # stands in every report and must stand nowhere else
SIZE, SPACING = (32, 32, 16), (2.5, 2.5, 3.75)
TEST_CASES = 4
ARM = "ds_enb0_r1_s1_l0"
TIMEOUT = 600

CCELLA = tiny.CCELLA_DEF | {"variant": "CCELLA", "in_channels": 4, "out_channels": 4, "input_dim": 16}
OVERLAYS = {
    "vae": {
        "network_def": tiny.VAE_DEF, "epochs": 3, "batch_size": 2, "patch": [16, 16, 16], "val_cases": 1,
        "val_interval": 1,
    },
    "ccella_ldm": {
        "network_def": CCELLA, "vae_def": tiny.VAE_DEF, "epochs": 1, "batch_size": 4, "val_fraction": 0.25,
        "validate_every": 1, "steps": 2,
    },
    "classifier": {
        "spacing": list(SPACING), "spatial_size": [32, 32, 32], "synthetic": 1, "epochs": 1, "batch_size": 4,
        "validation_fraction": 0.25,
    },
}  # fmt: skip

# What each workflow must leave in the folder that it is given; {case} stands for every test case.
WRITTEN = {
    ("vae", "train"): ["model.safetensors", "checkpoint.pt", "logs"],
    ("vae", "inference"): ["{case}/axt2_latent.safetensors"],
    ("vae", "evaluate"): ["reconstruction.csv", "reconstruction.json"],
    ("ccella_ldm", "train"): ["model.safetensors", "checkpoint.pt", "logs"],
    ("ccella_ldm", "inference"): ["{case}/axt2.nii.gz", "{case}.png", "synthsheet_all.xlsx"],
    ("ccella_ldm", "evaluate"): ["metrics.json", "copies.csv"],
    ("classifier", "train"): [f"{ARM}/model.safetensors", f"{ARM}/checkpoint.pt", f"{ARM}/logs"],
    ("classifier", "inference"): [f"{ARM}/predictions.{kind}" for kind in ("csv", "xlsx")] + [f"{ARM}/saliency.png"],
    ("classifier", "evaluate"): [f"{ARM}/metrics.json", f"{ARM}/curves.png"],
}
BUNDLES = sorted({bundle for bundle, _ in WRITTEN})


@dataclass(frozen=True)
class Place:
    """Where the chain's inputs and outputs are."""

    repo: Path
    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    def made(self, bundle: str, workflow: str) -> Path:
        """What the chain's run of a workflow wrote."""
        return self.root / f"{bundle}_{workflow}"

    def cases(self, split: str) -> list[str]:
        return [case["folder"] for case in json.loads((self.data / f"{split}.json").read_text())]

    def bundle(self, name: str) -> Path:
        return self.repo / "bundles" / name

    def overlay(self, bundle: str) -> str:
        return str(self.root / f"{bundle}.json")

    def values(self, bundle: str, workflow: str, out: Path) -> dict[str, str]:
        """The options of a workflow that reads what the chain made and writes to `out`."""
        vae_file = self.made("vae", "train") / "model.safetensors"
        generated = self.made("ccella_ldm", "inference")
        options = {
            ("vae", "train"): {"model_dir": out},
            ("vae", "inference"): {"weights": vae_file, "latent_dir": out, "mode": "encode"},
            ("vae", "evaluate"): {"weights": vae_file, "output_dir": out},
            ("ccella_ldm", "train"): {"latent_dir": self.made("vae", "inference"), "ckpt_dir": out},
            ("ccella_ldm", "inference"): {
                "model_file": self.made("ccella_ldm", "train") / "model.safetensors",
                "vae_file": vae_file, "output_dir": out,
            },
            ("ccella_ldm", "evaluate"): {"generated_dir": generated, "output_dir": out},
            ("classifier", "train"): {"synthetic_dir": generated, "models_dir": out},
            ("classifier", "inference"): {"models_dir": self.made("classifier", "train"), "output_dir": out},
            ("classifier", "evaluate"): {"output_dir": out},
        }[bundle, workflow]  # fmt: skip
        data = {} if (bundle, workflow) == ("classifier", "evaluate") else {"dataset_dir": self.data}
        return {name: str(value) for name, value in (data | options).items()}

    def prepare(self, bundle: str, workflow: str, out: Path) -> None:
        """The classifier's evaluation writes beside the predictions that it reads."""
        if (bundle, workflow) == ("classifier", "evaluate"):
            shutil.copytree(self.made("classifier", "inference"), out)

    def missing(self, bundle: str, workflow: str, out: Path) -> list[str]:
        """What the workflow should have written to `out` and has not."""
        cases = self.cases("test")
        names = [name.format(case=case) for name in WRITTEN[bundle, workflow] for case in cases]
        return [name for name in dict.fromkeys(names) if not (out / name).exists()]


def monai_bundle(
    config: str | Path, overlay: str, values: dict[str, str], cwd: Path, *launcher: str
) -> subprocess.CompletedProcess:
    """`python [launcher] -m monai.bundle run …` as it is typed in the folder `cwd`."""
    command = [sys.executable, *launcher, "-m", "monai.bundle", "run", "--config_file", f"['{config}','{overlay}']"]
    command += [text for name, value in values.items() for text in (f"--{name}", value)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )


def together(*runs: Callable[[], subprocess.CompletedProcess]) -> list[subprocess.CompletedProcess]:
    """Two at a time, one thread each."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda run: run(), runs))


def same_cases(place: Place, bundle: str, workflow: str, out: Path) -> bool:
    """Tables have a row for each case that the chain's own have: none is lost between processes, none comes twice."""
    tables = [name for name in WRITTEN[bundle, workflow] if name.endswith(".csv")]
    pairs = [[pd.read_csv(folder / name) for folder in (out, place.made(bundle, workflow))] for name in tables]
    return all(one.iloc[:, 0].tolist() == other.iloc[:, 0].tolist() for one, other in pairs)


@pytest.fixture(scope="module")
def place(repo_root, tmp_path_factory) -> Place:
    """Phantom cases with embedded reports, a text encoder, and the overlays that make all networks tiny."""
    place = Place(repo_root, tmp_path_factory.mktemp("bundles"))
    make_phantoms(str(place.data), cases=12, size=SIZE, spacing=SPACING, test_fraction=TEST_CASES / 12)
    for path in (place.data / "train.json", place.data / "test.json"):
        cases = json.loads(path.read_text())
        path.write_text(json.dumps([case | {"text": f"{case['text']} {SECRET}."} for case in cases]))
    make_encoder(str(place.root / "t5"), reports=60, steps=1, width=CCELLA["input_dim"], vocabulary=300)
    encode_reports(str(place.data), str(place.root / "t5"))
    for bundle, values in OVERLAYS.items():
        Path(place.overlay(bundle)).write_text(json.dumps(values))
    return place


@pytest.fixture(scope="module")
def chain(place) -> dict[tuple[str, str], str]:
    """The whole chain, typed in the repository's root; gives what each command printed."""
    printed = {}

    def run(bundle: str, workflow: str) -> subprocess.CompletedProcess:
        out = place.made(bundle, workflow)
        place.prepare(bundle, workflow, out)
        config, values = f"bundles/{bundle}/configs/{workflow}.yaml", place.values(bundle, workflow, out)
        done = monai_bundle(config, place.overlay(bundle), values, place.repo)
        assert done.returncode == 0, f"{bundle} {workflow}\n{done.stdout}\n{done.stderr}"
        printed[bundle, workflow] = done.stdout + done.stderr
        return done

    run("vae", "train")
    together(lambda: run("vae", "inference"), lambda: run("vae", "evaluate"))
    run("ccella_ldm", "train")
    run("ccella_ldm", "inference")
    together(lambda: run("ccella_ldm", "evaluate"), lambda: run("classifier", "train"))
    run("classifier", "inference")
    run("classifier", "evaluate")
    return printed


# ---- the ways to start a workflow ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bundle", "workflow"), WRITTEN)
def test_from_the_repository_root(place, chain, bundle, workflow):
    assert place.missing(bundle, workflow, place.made(bundle, workflow)) == []
    assert SECRET not in chain[bundle, workflow]


def test_the_chain_makes_volumes_where_the_exams_are(place, chain):
    for case in place.cases("train") + place.cases("test"):
        real, made = (
            nib.load(folder / case / "axt2.nii.gz") for folder in (place.data, place.made("ccella_ldm", "inference"))
        )
        assert made.shape == real.shape == SIZE
        assert made.affine == pytest.approx(real.affine, abs=1e-4)


@pytest.mark.parametrize("bundle", BUNDLES)
def test_from_another_folder(place, chain, bundle, tmp_path):
    """No option says where the bundle is: its config finds it."""
    workflows = [workflow for name, workflow in WRITTEN if name == bundle]

    def run(workflow: str) -> subprocess.CompletedProcess:
        place.prepare(bundle, workflow, tmp_path / workflow)
        values = place.values(bundle, workflow, tmp_path / workflow)
        if (bundle, workflow) == ("ccella_ldm", "inference"):
            values["splits"] = "test"
        config = place.bundle(bundle) / "configs" / f"{workflow}.yaml"
        return monai_bundle(config, place.overlay(bundle), values, tmp_path)

    for workflow, done in zip(workflows, together(*(lambda w=w: run(w) for w in workflows)), strict=True):
        assert done.returncode == 0, f"{workflow}\n{done.stdout}\n{done.stderr}"
        assert place.missing(bundle, workflow, tmp_path / workflow) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(workflows)


@pytest.mark.parametrize(("bundle", "workflow"), WRITTEN)
def test_two_processes_from_inside_the_bundle(place, chain, bundle, workflow, tmp_path):
    """Started again where gloo aborts at exit, which happens now and then after all work is done."""
    out = tmp_path / "out"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    for _ in range(4):
        shutil.rmtree(out, ignore_errors=True)
        place.prepare(bundle, workflow, out)
        values = place.values(bundle, workflow, out)
        done = monai_bundle(f"configs/{workflow}.yaml", place.overlay(bundle), values, place.bundle(bundle), *launcher)
        if done.returncode == 0:
            break
    assert done.returncode == 0, done.stdout + done.stderr
    assert place.missing(bundle, workflow, out) == []
    assert same_cases(place, bundle, workflow, out)
    assert SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize(("bundle", "workflow"), WRITTEN)
def test_in_python_from_inside_the_bundle(place, chain, bundle, workflow, tmp_path, monkeypatch):
    monkeypatch.chdir(place.bundle(bundle))
    monkeypatch.setattr(sys, "path", list(sys.path))  # the config prepends its bundle
    out = tmp_path / "out"
    place.prepare(bundle, workflow, out)
    # Tables made of files have no network; what they do have, MONAI is told.
    properties = Path("configs") / f"{workflow}_properties.json"
    made = create_workflow(
        config_file=[f"configs/{workflow}.yaml", place.overlay(bundle)], meta_file="configs/metadata.json",
        workflow_type="train" if workflow == "train" else "infer", logging_file=False,
        properties_path=properties if properties.is_file() else None,
        **place.values(bundle, workflow, out),
    )  # fmt: skip
    assert made.check_properties() == []
    made.run()
    made.finalize()
    assert place.missing(bundle, workflow, out) == []
    assert same_cases(place, bundle, workflow, out)


def test_three_sequences_are_encoded_trained_and_generated_together(place, tmp_path, monkeypatch):
    """bpMRI: 12 latent channels of one VAE; each volume lies on the exam's grid, in the units of its sequence."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    channels = ["axt2", "b1600", "adc"]
    torch.manual_seed(0)
    save_vae(maisi_vae(**tiny.VAE), tmp_path / "vae.safetensors")

    def run(bundle: str, workflow: str, **values: object) -> None:
        overlay = dict(OVERLAYS[bundle])
        if workflow == "train":
            overlay["network_def"] = CCELLA | {"in_channels": 12, "out_channels": 12}
        if (bundle, workflow) == ("ccella_ldm", "inference"):
            overlay["network_def"] = CCELLA | {name: "$4 * len(@sequences)" for name in ("in_channels", "out_channels")}
        (tmp_path / "overlay.json").write_text(json.dumps(overlay))
        folder = place.bundle(bundle)
        made = create_workflow(
            config_file=[str(folder / "configs" / f"{workflow}.yaml"), str(tmp_path / "overlay.json")],
            workflow_type="train" if workflow == "train" else "infer", logging_file=False,
            bundle_root=str(folder), dataset_dir=str(place.data), **values,
        )  # fmt: skip
        made.run()
        made.finalize()

    vae_file, latents, out = str(tmp_path / "vae.safetensors"), str(tmp_path / "latents"), tmp_path / "out"
    run("vae", "inference", weights=vae_file, latent_dir=latents, sequences=channels)
    run("ccella_ldm", "train", channels=channels, latent_dir=latents, ckpt_dir=str(tmp_path / "run"))
    model_file = str(tmp_path / "run" / "model.safetensors")
    run("ccella_ldm", "inference", model_file=model_file, vae_file=vae_file, output_dir=str(out), splits=["test"])
    for case in place.cases("test"):
        for channel, most in (("axt2", 962), ("b1600", 117), ("adc", 3000)):
            real, made = (nib.load(folder / case / f"{channel}.nii.gz") for folder in (place.data, out))
            assert made.affine == pytest.approx(real.affine, abs=1e-4)
            values = np.asarray(made.dataobj)
            assert values.shape == SIZE
            assert most / 2 < values.max() <= most
    entry = json.loads((out / "test.json").read_text())[0]
    assert [entry[channel] for channel in channels] == [f"./{entry['folder']}/{name}.nii.gz" for name in channels]


@pytest.mark.parametrize(("bundle", "workflow"), WRITTEN)
def test_a_bundle_finds_itself(place, bundle, workflow, monkeypatch):
    """So that models and results go into the bundle, wherever the command is typed."""
    config = place.bundle(bundle) / "configs" / f"{workflow}.yaml"
    for folder, root in ((place.repo, f"bundles/{bundle}"), (place.bundle(bundle), ".")):
        monkeypatch.chdir(folder)
        parser = ConfigParser()
        parser.read_config(str(config))
        assert parser.get_parsed_content("bundle_root") == root


def test_an_archive_of_the_bundle_runs_elsewhere_with_its_own_package(place, chain, tmp_path):
    """`zip -r` follows the link to the package; a typed report becomes a volume, from inside the unpacked bundle."""
    if shutil.which("zip") is None:
        pytest.skip("the command zip is not installed")
    archive = ["zip", "-qr", str(tmp_path / "bundle.zip"), "ccella_ldm", "-x", "*/models/*", "*/__pycache__/*"]
    subprocess.run(archive, cwd=place.repo / "bundles", check=True)
    shutil.unpack_archive(tmp_path / "bundle.zip", tmp_path)
    unpacked = tmp_path / "ccella_ldm"
    (unpacked / "scripts" / "__init__.py").write_text("print('package of the archive')\n")
    values = place.values("ccella_ldm", "inference", tmp_path / "out") | {"text_encoder": str(place.root / "t5")}
    values |= {"report": f"{SECRET}, left base: PI-RADS 5", "case_name": "mine"}
    done = monai_bundle("configs/inference.yaml", place.overlay("ccella_ldm"), values, unpacked)
    assert done.returncode == 0, done.stderr
    assert "package of the archive" in done.stdout
    assert (tmp_path / "out" / "mine" / "axt2.nii.gz").is_file()
    assert (tmp_path / "out" / "mine.png").is_file()
    assert SECRET not in done.stdout + done.stderr


# ---- what the metadata say -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bundle", BUNDLES)
def test_metadata_follow_the_official_schema(place, bundle):
    schema = place.repo.parent / "shared" / "schema" / "meta_schema_20240725.json"
    if not schema.is_file():
        pytest.skip(f"{schema} is absent, and tests download nothing")
    meta = place.bundle(bundle) / "configs" / "metadata.json"
    assert verify_metadata(meta_file=str(meta), filepath=str(schema)) is None


@pytest.mark.parametrize(
    ("bundle", "network", "overlays", "options"),
    [
        ("vae", "network_def", ["demo"], {}),
        ("ccella_ldm", "latent_denoiser", ["demo", "t2w"], {}),
        (
            "classifier",
            "network_def",
            ["demo"],
            {"channels": ["axt2"], "_meta_#network_data_format#inputs#image#spatial_shape": [32] * 3},
        ),
    ],
)
def test_networks_take_and_give_what_the_metadata_say(place, bundle, network, overlays, options):
    """At the demo's sizes, of T2w alone as the metadata have it: types do not depend on them."""
    configs = place.bundle(bundle) / "configs"
    files = [str(configs / f"{name}.yaml") for name in ("inference", *overlays)]
    meta = str(configs / "metadata.json")
    assert verify_net_in_out(network, meta_file=meta, config_file=files, device="cpu", **options) is None


# ---- refusals --------------------------------------------------------------------------------------------------------


def test_bad_input_is_told_and_nothing_is_written(place, chain, tmp_path):
    """A broken image, missing weights, a case without a row in the sheet, a mistyped option."""
    data = shutil.copytree(place.data, tmp_path / "data")
    image, case = data / place.cases("train")[0] / "axt2.nii.gz", place.cases("train")[1]
    image.write_bytes(image.read_bytes()[:200])
    sheet = pd.read_excel(data / "clinical.xlsx", dtype={"folder": str})
    sheet[sheet["folder"] != case].to_excel(data / "clinical.xlsx", index=False)
    changes = {
        ("vae", "train"): {"dataset_dir": str(data)},
        ("ccella_ldm", "inference"): {"report": SECRET, "model_file": "nowhere.safetensors"},
        ("classifier", "train"): {"dataset_dir": str(data)},
        ("vae", "evaluate"): {"datalist": "test.json"},
    }
    named = [image.parent.name, "nowhere.safetensors", case, "did you mean --datalists?"]

    def run(bundle: str, workflow: str) -> subprocess.CompletedProcess:
        values = place.values(bundle, workflow, tmp_path / bundle) | changes[bundle, workflow]
        config = f"bundles/{bundle}/configs/{workflow}.yaml"
        return monai_bundle(config, place.overlay(bundle), values, place.repo)

    finished = together(*(lambda key=key: run(*key) for key in changes))
    for (bundle, _), done, name in zip(changes, finished, named, strict=True):
        assert done.returncode != 0
        told = done.stderr.partition("error: ")[2]
        assert name in told, done.stderr
        assert "Traceback" not in done.stderr
        assert SECRET not in done.stdout + done.stderr
        assert not (tmp_path / bundle).exists()


@pytest.mark.parametrize(
    ("bundle", "workflow"), [("ccella_ldm", "inference"), ("classifier", "inference"), ("vae", "evaluate")]
)
def test_a_process_that_is_done_waits_for_hours(repo_root, bundle, workflow, monkeypatch):
    """The defaults of gloo and NCCL, 30 and 10 minutes, end a run whose last process takes longer than the others."""
    given = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("ignite.distributed.initialize", lambda backend, **more: given.append(more))
    parser = ConfigParser()
    parser.read_config(repo_root / "bundles" / bundle / "configs" / f"{workflow}.yaml")
    (number,) = [i for i, item in enumerate(parser["initialize"]) if "processes.join" in str(item)]
    parser.get_parsed_content(f"initialize#{number}")
    assert given[0]["timeout"] > datetime.timedelta(days=1)


@pytest.mark.parametrize(("bundle", "workflow"), WRITTEN)
def test_every_workflow_refuses_a_mistyped_option(place, bundle, workflow, monkeypatch):
    monkeypatch.chdir(place.bundle(bundle))
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(RuntimeError) as caught:  # MONAI wraps what a component raises
        create_workflow(
            config_file=[f"configs/{workflow}.yaml", place.overlay(bundle)], meta_file="configs/metadata.json",
            logging_file=False, outptu_dir="nowhere",
        )  # fmt: skip
    assert "--outptu_dir  names nothing in the configs" in str(caught.value.__cause__)
