"""The inference config as a user runs it, with tiny networks: what it writes, goes on with, and refuses."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import openpyxl
import pandas as pd
import pytest
import torch
from monai.bundle import ConfigWorkflow
from safetensors.torch import load_file

import tiny
from scripts.common.identity import fingerprint
from scripts.common.problems import UserError
from scripts.data.clinical import write_clinical
from scripts.data.images import save_volume
from scripts.encode_reports import encode_reports
from scripts.ldm.jobs import Jobs
from scripts.ldm.recipe import make_recipe
from scripts.ldm.sampling import case_seed, sample
from scripts.networks.adapter import Adapter
from scripts.networks.ccella import CCELLA
from scripts.networks.variants import find_variant
from scripts.networks.weights import save_weights
from scripts.phantom.tiny_t5 import make
from scripts.reports.embeddings import EMPTY_REPORT, read_embedding, read_encoder_fingerprint, write_embedding
from scripts.reports.encoder import ReportEncoder
from scripts.vae.decode import decode
from scripts.vae.network import maisi_vae, save_vae

ROOT = Path(__file__).resolve().parents[2]
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
    save_weights(path, network.state_dict(), config=network.config, scale_factor=1.5, **meta)


def make_authors_weights(path: Path, variant: str = "CCELLA", sequences: int = 1, **changes) -> None:
    """The same network as a checkpoint of the authors, who keep the names of a U-Net without adapter bare."""
    state = make_network(variant, sequences).state_dict()
    if not find_variant(variant).adapter:
        state = {name.removeprefix("unet."): tensor for name, tensor in state.items()}
    torch.save(
        {"unet_state_dict": state, "scale_factor": torch.tensor(1.5), "num_train_timesteps": 1000} | changes, path
    )


@pytest.fixture(scope="module")
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


def infer(place: SimpleNamespace, output_dir: Path, **changes) -> ConfigWorkflow:
    workflow = ConfigWorkflow(
        [str(CONFIG), str(place.root / "tiny.json")], workflow_type="infer", **options(place, output_dir, **changes)
    )
    workflow.initialize()
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


@pytest.fixture(scope="module")
def generated(place) -> Path:
    """All five cases, one at a time, in a folder in which a run was killed before."""
    for folder in ("", "004"):
        (place.root / "all" / folder / ".part-of-a-killed-run").mkdir(parents=True)
    infer(place, place.root / "all")
    return place.root / "all"


# ---- datalists -------------------------------------------------------------------------------------------------------


def test_every_case_gets_volume_picture_and_row(place, generated):
    assert not list(generated.rglob(".part-*"))
    for folder in ("001", "002", "003", "004", "005"):
        image = nib.load(generated / folder / "axt2.nii.gz")
        values = voxels(generated / folder / "axt2.nii.gz")
        assert image.shape == SIZE
        assert image.get_data_dtype() == np.int16
        assert image.header.get_xyzt_units()[0] == "mm"
        assert 0 <= values.min() < values.max() <= 962
        assert (generated / f"{folder}.png").is_file()
    head, *rows = openpyxl.load_workbook(generated / "synthsheet_all.xlsx").active.values
    assert head == ("folder", "PIRADS_real", "PIRADS_synth", "Label")
    assert [(row[0], row[1], row[3]) for row in rows] == [
        ("001", 1, "train"), ("002", 0, "train"), ("003", 0, "train"), ("004", 1, "test"), ("005", 1, "test"),
    ]  # fmt: skip
    assert {row[2] for row in rows} <= {0, 1}
    assert sorted(path.name for path in generated.glob("synthsheet_0_*")) == [
        "synthsheet_0_test.xlsx",
        "synthsheet_0_train.xlsx",
    ]


def test_a_volume_lies_where_the_real_image_lies(generated):
    """The same voxels have the same world coordinates as in the exam the report belongs to."""
    for folder, affine in (("001", OBLIQUE), ("002", np.diag([*SPACING, 1.0]))):
        assert np.allclose(nib.load(generated / folder / "axt2.nii.gz").affine, affine, atol=1e-4)


def test_batches_and_later_replicates_do_not_change_a_volume(place, generated, tmp_path):
    """At most one unit of 962 by rounding, in a batch of four and beside two replicates."""
    infer(place, tmp_path, batch_size=4, replicates=2, splits=["test"])
    for folder in ("004", "005"):
        values = voxels(tmp_path / folder / "axt2.nii.gz")
        assert np.abs(values - voxels(generated / folder / "axt2.nii.gz")).max() <= 1
        assert (values != voxels(tmp_path / f"{folder}_1" / "axt2.nii.gz")).mean() > 0.1
    record = json.loads((tmp_path / "004_1" / "generated.json").read_text())
    assert record["seed"] == case_seed(0, "004", 1)
    assert record["source"] == "004"


def test_guidance_and_replicates_do_not_run_the_adapter_again(place, tmp_path, monkeypatch):
    """Two reports of two volumes each, sampled one at a time, and the empty one: three calls, each for all steps."""
    calls, forward = [], Adapter.forward
    monkeypatch.setattr(
        Adapter, "forward", lambda self, *inputs: calls.append(len(inputs[1])) or forward(self, *inputs)
    )
    infer(place, tmp_path, replicates=2, splits=["test"])
    assert calls == [3, 3, 3]


def test_a_second_run_makes_only_what_is_missing(place, tmp_path):
    infer(place, tmp_path, splits=["train"])
    files = {folder: tmp_path / folder / "axt2.nii.gz" for folder in ("001", "002", "003")}
    before = {folder: (path.stat().st_mtime_ns, voxels(path)) for folder, path in files.items()}
    files["002"].unlink()
    (tmp_path / "003" / "generated.json").unlink()
    workflow = infer(place, tmp_path, splits=["train"], batch_size=2)
    assert [job.folder for job in workflow.parser.get_parsed_content("jobs").todo] == ["002", "003"]
    assert files["001"].stat().st_mtime_ns == before["001"][0]
    assert all(np.abs(voxels(path) - before[folder][1]).max() <= 1 for folder, path in files.items())
    for name in ("synthsheet_7_train.xlsx", "synthsheet_7_test.xlsx"):  # of a run of eight processes
        (tmp_path / name).touch()
    infer(place, tmp_path, splits=["train"])  # nothing left to do
    assert sorted(path.name for path in tmp_path.glob("synthsheet_[0-9]*")) == [
        "synthsheet_0_train.xlsx",
        "synthsheet_7_test.xlsx",
    ]


def test_other_settings_into_the_same_folder_are_refused(place, generated):
    with pytest.raises(RuntimeError) as error:
        infer(place, generated, steps=4, seed=1)
    assert "made with other steps, seed" in str(root_cause(error.value))


def rows(output_dir: Path) -> dict[str, tuple]:
    """Of each row of the sheet: PIRADS_real and Label."""
    _, *lines = openpyxl.load_workbook(output_dir / "synthsheet_all.xlsx").active.values
    return {folder: (real, label) for folder, real, _, label in lines}


def listed(output_dir: Path, split: str) -> list[str]:
    return [case["folder"] for case in json.loads((output_dir / f"{split}.json").read_text())]


def test_a_corrected_sheet_and_a_new_split_reach_the_rows_of_finished_volumes(place, generated, tmp_path):
    """003 goes from train to test and 002 becomes positive: no volume is made again, no case stands in both lists."""
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(place.data, data)
    shutil.copytree(generated, out)
    before = (out / "003" / "axt2.nii.gz").stat().st_mtime_ns
    for suffix in ("", "_merged"):
        train, test = (json.loads((data / f"{split}{suffix}.json").read_text()) for split in ("train", "test"))
        test.append(train.pop() | {"dataset": "B"})
        train[1]["pirads"] = [0, 1]
        (data / f"train{suffix}.json").write_text(json.dumps(train))
        (data / f"test{suffix}.json").write_text(json.dumps(test))
    write_sheet(data, (1, 1, None, 1, 1), training=2)
    infer(place, out, dataset_dir=str(data), splits=["test"])
    assert (listed(out, "train"), listed(out, "test")) == (["001", "002"], ["003", "004", "005"])
    infer(place, out, dataset_dir=str(data))
    assert rows(out) == {
        "001": (1, "train"), "002": (1, "train"), "003": (0, "test"), "004": (1, "test"), "005": (1, "test"),
    }  # fmt: skip
    assert json.loads((out / "003" / "generated.json").read_text())["entry"]["dataset"] == "B"
    assert (out / "003" / "axt2.nii.gz").stat().st_mtime_ns == before


@pytest.mark.parametrize("typed", [{}, {"report": b"left base", "case_name": "001"}])
def test_real_exams_and_lists_are_not_replaced(place, tmp_path, typed):
    shutil.copytree(place.data, tmp_path / "data")
    before = {path: path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()}
    given = {"dataset_dir": str(tmp_path / "data"), "text_encoder": str(place.root / "t5"), **typed}
    with pytest.raises((RuntimeError, UserError)) as error:
        infer(place, tmp_path / "data", **given)
    message = str(root_cause(error.value))
    assert "holds train.json of other cases, which would be replaced -> give another folder" in message
    assert "001/axt2.nii.gz is there already and was not made by inference" in message
    assert {path: path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()} == before


def test_a_case_without_label_in_the_sheet_has_none_in_its_record(place, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(place.data, data)
    labels = ["train", "train", "train", "test", None]
    frame = pd.read_excel(data / "clinical.xlsx", dtype={"folder": str})
    write_clinical(data / "clinical.xlsx", frame.assign(Label=labels))
    infer(place, tmp_path / "out", dataset_dir=str(data), splits=["test"], steps=1)
    path = tmp_path / "out" / "005" / "generated.json"
    assert json.loads(path.read_text())["label"] is None
    before = path.stat().st_mtime_ns
    infer(place, tmp_path / "out", dataset_dir=str(data), splits=["test"], steps=1)
    assert path.stat().st_mtime_ns == before


def test_the_sheet_holds_other_splits_of_earlier_runs_but_no_case_that_is_gone(place, generated, tmp_path, capsys):
    shutil.copytree(generated, tmp_path / "out")
    shutil.copytree(place.data, tmp_path / "data")
    (tmp_path / "data" / "clinical.xlsx").unlink()
    for path in (tmp_path / "data").glob("test*.json"):
        path.write_text(json.dumps(json.loads(path.read_text())[:1]))
    infer(place, tmp_path / "out", dataset_dir=str(tmp_path / "data"), splits=["test"])
    assert list(rows(tmp_path / "out")) == ["001", "002", "003", "004"]
    assert listed(tmp_path / "out", "test") == ["004"]
    assert "1 volumes" in capsys.readouterr().out


def test_volumes_of_other_weights_are_refused_in_another_split_too(place, generated, tmp_path):
    shutil.copytree(generated, tmp_path / "out")
    for folder in ("004", "005"):
        shutil.rmtree(tmp_path / "out" / folder)
    network = make_network()
    torch.nn.init.ones_(next(network.parameters()))
    meta = {"config": network.config, "scale_factor": 1.5, **place.meta}
    save_weights(tmp_path / "model.safetensors", network.state_dict(), **meta)
    with pytest.raises(RuntimeError) as error:
        infer(place, tmp_path / "out", splits=["test"], model_file=str(tmp_path / "model.safetensors"))
    assert "001  was made with other model" in str(root_cause(error.value))
    assert not (tmp_path / "out" / "004").exists()


def test_weights_that_are_exported_again_know_their_volumes(place, generated, tmp_path, capsys):
    """The same tensors under other bytes, with another number of the epoch; another scale makes other volumes."""
    shutil.copytree(generated, tmp_path / "out")
    vae = maisi_vae(**tiny.VAE)
    vae.load_state_dict(load_file(place.root / "vae.safetensors"))
    save_vae(vae, tmp_path / "vae.safetensors")
    make_weights(tmp_path / "model.safetensors", **place.meta | {"epoch": 7})
    again = {"model_file": str(tmp_path / "model.safetensors"), "vae_file": str(tmp_path / "vae.safetensors")}
    infer(place, tmp_path / "out", **again)
    assert "5 volumes" in capsys.readouterr().out
    make_weights(tmp_path / "model.safetensors", **place.meta | {"objective": "rflow"})
    with pytest.raises(RuntimeError) as error:
        infer(place, tmp_path / "out", **again, scheduler="rflow")
    assert "001  was made with other model, scheduler" in str(root_cause(error.value))


def test_volumes_of_an_earlier_version_are_refused_with_what_to_do(place, generated, tmp_path):
    shutil.copytree(generated, tmp_path / "out")
    path = tmp_path / "out" / "004" / "generated.json"
    record = json.loads(path.read_text())
    record["settings"] |= {"model": "0123456789abcdef", "vae": "0123456789abcdef"}
    path.write_text(json.dumps(record))
    with pytest.raises(RuntimeError) as error:
        infer(place, tmp_path / "out")
    told = "1 problem\n  004  was made by an earlier version, which told weights apart by the bytes of their files -> "
    assert f"{told}finish with that version, give another output_dir" in str(root_cause(error.value))


def test_a_corrected_class_is_another_volume_where_the_variant_takes_it(place, tmp_path):
    shutil.copytree(place.data, tmp_path / "data")
    make_weights(tmp_path / "model.safetensors", "DECOUPLED", **place.meta)
    given = {"model_file": str(tmp_path / "model.safetensors"), "variant": "DECOUPLED", "splits": ["test"], "steps": 1}
    given["dataset_dir"] = str(tmp_path / "data")
    infer(place, tmp_path / "out", **given)
    for path in tmp_path.glob("data/test*.json"):
        first, second = json.loads(path.read_text())
        path.write_text(json.dumps([first, second | {"pirads": [1, 0]}]))
    write_sheet(tmp_path / "data", (1, 0, None, 1, 0))
    with pytest.raises(RuntimeError) as error:
        infer(place, tmp_path / "out", **given)
    assert "1 problem\n  005  was made with other class" in str(root_cause(error.value))


def test_what_is_left_is_shared_out_evenly(place, generated, tmp_path, monkeypatch):
    """001, 003 and 005 are still to do: not three for the first of two processes and none for the other."""
    shutil.copytree(generated, tmp_path / "out")
    for folder in ("001", "003", "005"):
        (tmp_path / "out" / folder / "generated.json").unlink()
    monkeypatch.setattr("ignite.distributed.get_world_size", lambda: 2)
    shares = []
    for rank in range(2):
        monkeypatch.setattr("ignite.distributed.get_rank", lambda rank=rank: rank)
        jobs = list_jobs(place, tmp_path / "out")
        shares.append(([job.folder for job in jobs.todo], {job.folder for job in jobs.all}))
    assert [todo for todo, _ in shares] == [["001", "005"], ["003"]]
    assert shares[0][1] ^ shares[1][1] == {"001", "002", "003", "004", "005"}


def list_jobs(place: SimpleNamespace, output_dir: Path) -> Jobs:
    """What one process would do, without running it."""
    workflow = ConfigWorkflow(
        [str(CONFIG), str(place.root / "tiny.json")], workflow_type="infer", **options(place, output_dir)
    )
    workflow.initialize()
    return workflow.parser.get_parsed_content("jobs")


def test_a_problem_of_another_process_is_raised_on_this_one(place, tmp_path, monkeypatch):
    """Else this one samples until it is killed."""
    monkeypatch.setattr("ignite.distributed.all_gather", lambda rows: [rows, [("005", "is broken", "mend it")]])
    with pytest.raises(RuntimeError) as error:
        list_jobs(place, tmp_path / "out")
    assert "1 problem\n  005  is broken -> mend it" in str(root_cause(error.value))


def root_cause(error: BaseException) -> BaseException:
    """MONAI wraps what a component raises."""
    while error.__cause__ is not None:
        error = error.__cause__
    assert isinstance(error, UserError)
    return error


def test_no_report_text_in_anything_that_is_written(generated):
    for path in [path for path in generated.rglob("*") if path.is_file()]:
        assert SECRET.encode() not in path.read_bytes()
        assert SECRET not in path.name
    assert SECRET not in (generated / "train.json").read_text()


def test_reports_are_encoded_on_the_fly_when_they_are_not_embedded(place, generated, tmp_path):
    """The same volume as from the stored embedding: both come from one report, encoded alone."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "test.json").write_text((place.data / "test.json").read_text())
    out = tmp_path / "out"
    infer(place, out, dataset_dir=str(data), text_encoder=str(place.root / "t5"), splits=["test"])
    assert np.abs(voxels(out / "004" / "axt2.nii.gz") - voxels(generated / "004" / "axt2.nii.gz")).max() <= 1
    affine = nib.load(out / "004" / "axt2.nii.gz").affine  # there is no real image to lie over
    assert np.allclose(affine @ [15.5, 15.5, 7.5, 1], [0, 0, 0, 1], atol=1e-4)


def test_absent_reports_are_absent_with_and_without_merged_lists(place, tmp_path, capsys):
    """004 has a text that `text_isnull` says is not to be used, 005 one of white space: volumes of the empty report."""
    data, encoder = tmp_path / "data", str(place.root / "t5")
    shutil.copytree(place.data, data)
    first, second = json.loads((data / "test.json").read_text())
    (data / "test.json").write_text(json.dumps([first | {"text_isnull": 1}, second | {"text": "  \n"}]))
    encode_reports(str(data), encoder, device="cpu")
    infer(place, tmp_path / "merged", dataset_dir=str(data), splits=["test"], steps=1)
    for path in data.glob("*_merged.json"):
        path.unlink()
    capsys.readouterr()
    infer(place, tmp_path / "plain", dataset_dir=str(data), splits=["test"], steps=1, text_encoder=encoder)
    printed = capsys.readouterr().out
    assert "1 reports are empty or white space" in printed
    assert "1 reports are marked as absent (text_isnull 1)" in printed
    for folder in ("004", "005"):
        records = [
            json.loads((tmp_path / route / folder / "generated.json").read_text()) for route in ("merged", "plain")
        ]
        assert records[0]["settings"] == records[1]["settings"]
        path = Path(folder) / "axt2.nii.gz"
        assert np.array_equal(voxels(tmp_path / "merged" / path), voxels(tmp_path / "plain" / path))


def test_stored_embeddings_are_in_memory_only_while_their_volumes_are_made(place, tmp_path, monkeypatch):
    """Those of ten thousand cases do not fit; what stays is the empty report's."""
    read = []

    def read_and_watch(path: Path) -> torch.Tensor:
        embedding = read_embedding(path)
        read.append(weakref.ref(embedding))
        return embedding

    monkeypatch.setattr("scripts.reports.reader.read_embedding", read_and_watch)
    jobs = list_jobs(place, tmp_path / "out")
    held = [embedding for ref in read if (embedding := ref()) is not None]
    assert len(jobs.todo) == 5
    assert len(held) == 1
    assert held[0] is jobs.null
    assert torch.equal(jobs.todo[0].embedding.read(), read_embedding(place.data / "embeddings" / "001.safetensors"))


def test_embeddings_that_are_made_here_leave_memory_for_a_file_without_a_name(place, tmp_path, monkeypatch):
    """Two of the five distinct reports fit; what is written is what a larger memory gives."""
    made = []

    def encode_and_watch(self, texts, padded=False):
        states = encode(self, texts, padded)
        made.extend((weakref.ref(state), state.clone()) for state in states)
        return states

    encode = ReportEncoder.encode
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "test"):
        shutil.copy(place.data / f"{split}.json", data)
    given = {"dataset_dir": str(data), "text_encoder": str(place.root / "t5"), "steps": 1}
    infer(place, tmp_path / "large", **given)
    monkeypatch.setattr(ReportEncoder, "encode", encode_and_watch)
    monkeypatch.setattr("scripts.reports.shelf.IN_MEMORY", 400)
    workflow = infer(place, tmp_path / "small", **given)
    jobs = workflow.parser.get_parsed_content("jobs")
    assert sum(embedding.nbytes for _, embedding in made) > 400
    assert not [ref for ref, _ in made if ref() is not None]
    for job, (_, embedding) in zip(jobs.all, made, strict=True):
        assert torch.equal(job.embedding.read(), embedding)
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(("tmp", "."))]
    for folder in ("001", "002", "003", "004", "005"):
        large, small = (tmp_path / size / folder for size in ("large", "small"))
        assert np.array_equal(voxels(large / "axt2.nii.gz"), voxels(small / "axt2.nii.gz"))
        assert digest(tmp_path / "large", folder) == digest(tmp_path / "small", folder)


def test_the_authors_lists_have_the_empty_report_at_a_case_without_one(place, generated, tmp_path):
    """The same guided volumes from .npy files, without our file of the empty report."""
    data = tmp_path / "data"
    shutil.copytree(place.data, data)
    cases = json.loads((data / "train_merged.json").read_text())
    for case in cases:
        embedding = read_embedding(data / case["text"]).float().numpy()
        case["text"] = f"./{case['folder']}/text_emb.npy"
        np.save(data / case["text"], embedding[None])
    (data / "train_merged.json").write_text(json.dumps(cases))
    shutil.rmtree(data / "embeddings")
    infer(place, tmp_path / "out", dataset_dir=str(data), splits=["train"])
    for folder in ("001", "002", "003"):
        path = Path(folder) / "axt2.nii.gz"
        assert np.array_equal(voxels(tmp_path / "out" / path), voxels(generated / path))


# ---- typed reports ---------------------------------------------------------------------------------------------------


def test_one_typed_report(place, tmp_path, capsys):
    same = {"text_encoder": str(place.root / "t5"), "case_name": "mine"}
    infer(place, tmp_path, report=f"{SECRET} left base".encode(), replicates=2, **same)
    printed = capsys.readouterr()
    assert "PI-RADS" in printed.out
    assert str(tmp_path / "mine" / "axt2.nii.gz") in printed.out
    assert SECRET not in printed.out + printed.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "mine.png", "mine_1", "mine_1.png"]
    # Made anew, with other settings too.
    first = voxels(tmp_path / "mine" / "axt2.nii.gz")
    infer(place, tmp_path, report=b"other", seed=5, **same)
    assert (voxels(tmp_path / "mine" / "axt2.nii.gz") != first).any()


def test_mlflow_gets_no_report(place, tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    given = options(place, tmp_path, text_encoder=str(place.root / "t5"), steps=1)
    done = command_line([], given, "--report", f"{SECRET} left base", "--tracking", "mlflow")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mlruns.db").is_file()
    for path in [path for path in tmp_path.rglob("*") if path.is_file()]:
        assert SECRET.encode() not in path.read_bytes()


def test_an_empty_report_is_said_to_be_absent(place, tmp_path, capsys):
    infer(place, tmp_path, report=b" \n", text_encoder=str(place.root / "t5"))
    assert "treated as absent" in capsys.readouterr().out


def test_hostile_reports_arrive_through_the_real_command_line(place, tmp_path):
    """The digest of the embedding in the record shows that the text came through as typed."""
    text = "left, apex: 'PI-RADS 4' [1,2] @seed $1 100% #x"
    same = {"text_encoder": str(place.root / "t5"), "steps": 1}
    done = command_line([], options(place, tmp_path, **same), "--report", text)
    assert done.returncode == 0, done.stderr
    assert "PI-RADS 4" not in done.stdout + done.stderr
    assert "PI-RADS" in done.stdout
    record = json.loads((tmp_path / "report" / "generated.json").read_text())
    infer(place, tmp_path / "python", report=text.encode(), **same)
    again = json.loads((tmp_path / "python" / "report" / "generated.json").read_text())
    assert record["settings"]["report"] == again["settings"]["report"]


def test_bf16_is_close_to_fp32(place, generated, tmp_path):
    """Units of 962; the solver and the guided sum stay in float32, only the networks run in half precision."""
    infer(place, tmp_path, amp="bf16", splits="test")
    difference = voxels(tmp_path / "004" / "axt2.nii.gz") - voxels(generated / "004" / "axt2.nii.gz")
    assert 0 < np.abs(difference).mean() < 10


@pytest.mark.parametrize(
    ("broken", "amp", "cure"),
    [
        ("latents", "fp16", "give --amp fp32 or bf16"),
        ("class_logits", "fp32", "give another model_file"),
        ("volume", "fp32", "give another vae_file"),
    ],
)
def test_what_is_not_finite_is_no_volume(place, tmp_path, monkeypatch, broken, amp, cure):
    """Of a batch of two only the case whose numbers are finite is written."""
    decoded = []

    def broken_sample(*args, **kwargs):
        sampled = sample(*args, **kwargs)
        values = getattr(sampled, broken).clone()
        values[0, 0] = torch.inf
        return sampled._replace(**{broken: values})

    def broken_decode(*args):
        decoded.append(args)
        return decode(*args) * (torch.nan if len(decoded) == 1 else 1)

    if broken == "volume":
        monkeypatch.setattr("scripts.ldm.writing.decode", broken_decode)
    else:
        monkeypatch.setattr("scripts.ldm.generate.sample", broken_sample)
    with pytest.raises((RuntimeError, UserError)) as error:
        infer(place, tmp_path, splits=["test"], batch_size=2, steps=1, amp=amp)
    message = str(root_cause(error.value))
    assert "1 problem\n  004  " in message
    assert cure in message
    assert not (tmp_path / "004").exists()
    assert (tmp_path / "005" / "generated.json").is_file()


def test_a_full_disk_is_told_with_the_file_and_leaves_what_was_complete(place, tmp_path, monkeypatch, generated):
    def full(image, path):
        Path(path).write_bytes(b"half of it")
        if "005" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        save(image, path)

    save = nib.save
    with monkeypatch.context() as patch:
        patch.setattr(nib, "save", full)
        with pytest.raises((RuntimeError, UserError)) as error:
            infer(place, tmp_path, splits=["test"], batch_size=2)
    told = error.value
    while not isinstance(told, UserError):
        told = told.__cause__
    assert re.search(r"005/axt2.nii.gz cannot be written: No space left on device.*same command again", str(told))
    assert not list((tmp_path / "005").iterdir())
    workflow = infer(place, tmp_path, splits=["test"], batch_size=2)
    assert [job.folder for job in workflow.parser.get_parsed_content("jobs").todo] == ["005"]
    assert np.abs(voxels(tmp_path / "005" / "axt2.nii.gz") - voxels(generated / "005" / "axt2.nii.gz")).max() <= 1


def test_writing_goes_on_while_others_are_made_and_changes_neither_files_nor_order(place, tmp_path, monkeypatch):
    """The first volume of four is written when the other three are."""
    save, written, others_written = nib.save, [], threading.Event()

    def first_comes_last(image, path):
        folder = Path(path).parents[1].name  # of the folder in which it is written
        if folder == "004":
            others_written.wait(60)
        save(image, path)
        written.append(folder)
        if len(written) == 3:
            others_written.set()

    monkeypatch.setattr(nib, "save", first_comes_last)
    infer(place, tmp_path, splits=["test"], steps=1, replicates=2)
    assert written[-1] == "004"
    assert list(rows(tmp_path)) == listed(tmp_path, "test") == ["004", "004_1", "005", "005_1"]


# ---- the authors' weights --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authors(place, tmp_path_factory) -> SimpleNamespace:
    """A checkpoint of the authors, and data roots whose reports are embedded as theirs are, and as ours are."""
    root = tmp_path_factory.mktemp("authors")
    make_authors_weights(root / "authors.pt")
    for name in ("padded", "short"):
        shutil.copytree(place.data, root / name)
        encode_reports(str(root / name), str(place.root / "t5"), device="cpu", padded=name == "padded")
    given = {"model_file": str(root / "authors.pt"), "spacing": list(SPACING), "size": list(SIZE), "steps": 1}
    return SimpleNamespace(padded=root / "padded", short=root / "short", given=given | {"splits": ["test"]})


def digest(output_dir: Path, folder: str) -> str:
    """Of the embedding that a volume was made from."""
    return json.loads((output_dir / folder / "generated.json").read_text())["settings"]["report"]


def test_the_authors_weights_read_all_positions_of_a_report(place, authors, tmp_path):
    """Typed, from a datalist, from our files, from the authors': one embedding, and for a case one volume."""
    encoder = {"text_encoder": str(place.root / "t5")}
    infer(place, tmp_path / "typed", **authors.given, **encoder, report=f"{SECRET} x".encode())
    infer(place, tmp_path / "ours", **authors.given, dataset_dir=str(authors.padded))
    for name in ("plain", "theirs"):
        shutil.copytree(authors.padded, tmp_path / name)
    for path in (tmp_path / "plain").glob("*_merged.json"):
        path.unlink()
    infer(place, tmp_path / "listed", **authors.given, **encoder, dataset_dir=str(tmp_path / "plain"))
    cases = json.loads((tmp_path / "theirs" / "test_merged.json").read_text())
    for case in cases:
        embedding = read_embedding(tmp_path / "theirs" / case["text"])
        assert len(embedding) == 512
        case["text"] = f"./{case['folder']}/text_emb.npy"
        np.save(tmp_path / "theirs" / case["text"], embedding.float().numpy()[None])
    (tmp_path / "theirs" / "test_merged.json").write_text(json.dumps(cases))
    infer(place, tmp_path / "npy", **authors.given, dataset_dir=str(tmp_path / "theirs"))
    expected = digest(tmp_path / "typed", "report")
    assert [digest(tmp_path / name, "004") for name in ("ours", "listed", "npy")] == [expected] * 3
    volumes = [voxels(tmp_path / name / "004" / "axt2.nii.gz") for name in ("ours", "listed", "npy")]
    assert volumes[0].shape == SIZE
    assert all(np.array_equal(volume, volumes[0]) for volume in volumes)


@pytest.mark.parametrize("max_tokens", [None, 64])
def test_the_authors_weights_refuse_fewer_positions(place, authors, tmp_path, max_tokens):
    """Of files without padding, and of a report that is embedded to another length."""
    changes = {"dataset_dir": str(authors.short)}
    if max_tokens:
        changes = {"report": b"x", "text_encoder": str(place.root / "t5"), "max_tokens": max_tokens}
    with pytest.raises(RuntimeError) as error:
        infer(place, tmp_path / "out", **authors.given, **changes)
    message = str(root_cause(error.value))
    assert re.search(
        r"(004|report) +its report was embedded at \d+ positions, .* all 512 -> encode it with --padded", message
    )
    assert "--padded_reports false" in message
    assert not (tmp_path / "out").exists()


def test_the_authors_weights_read_fewer_positions_where_the_user_says_so(place, authors, tmp_path, capsys):
    infer(place, tmp_path, **authors.given, dataset_dir=str(authors.short), padded_reports=False)
    assert "padded_reports is false, but the authors' weights attend to all 512 positions" in capsys.readouterr().out
    assert (tmp_path / "004" / "axt2.nii.gz").is_file()


# ---- variants and channels -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["MAISI", "DECOUPLED"])
def test_variants_without_a_head_leave_the_predicted_class_empty(place, tmp_path, variant):
    make_weights(tmp_path / "model.safetensors", variant, **place.meta)
    infer(place, tmp_path / "out", model_file=str(tmp_path / "model.safetensors"), variant=variant, splits=["test"])
    _, *rows = openpyxl.load_workbook(tmp_path / "out" / "synthsheet_all.xlsx").active.values
    assert rows == [("004", 1, None, "test"), ("005", 1, None, "test")]


def test_sequences_are_generated_together(place, tmp_path):
    """8 latent channels: T2w and ADC, each in its own units and file."""
    path = tmp_path / "model.safetensors"
    make_weights(path, sequences=2, **place.meta | {"latent_shape": [8, 8, 8, 4], "channels": ["axt2", "adc"]})
    overlay = json.loads((place.root / "tiny.json").read_text())
    overlay["network_def"] |= {"in_channels": 8, "out_channels": 8}
    (tmp_path / "tiny.json").write_text(json.dumps(overlay))
    moved = SimpleNamespace(root=tmp_path, data=place.data)
    infer(moved, tmp_path / "out", model_file=str(path), vae_file=str(place.root / "vae.safetensors"), splits=["test"])
    assert (tmp_path / "out" / "004" / "axt2.nii.gz").is_file()
    assert voxels(tmp_path / "out" / "004" / "adc.nii.gz").max() > 962


def test_a_checkpoint_of_three_sequences_is_divided_by_the_scale_factor_of_each(place, tmp_path):
    """CCELLA++, whose channels are known by their number; twice the factor of ADC changes ADC alone."""
    overlay = json.loads((place.root / "tiny.json").read_text())
    overlay["network_def"] |= {"in_channels": 12, "out_channels": 12}
    (tmp_path / "tiny.json").write_text(json.dumps(overlay))
    moved = SimpleNamespace(root=tmp_path, data=place.data)
    given = {"vae_file": str(place.root / "vae.safetensors"), "splits": ["test"], "size": SIZE, "spacing": SPACING}
    given |= {"variant": "MAISI", "steps": 1}
    names, volumes = ("axt2", "b1600", "adc"), []
    for factors in (torch.tensor(1.5), tuple(torch.tensor([1.5, 1.5, 3.0]))):
        path, out = tmp_path / "bpmri.pt", tmp_path / f"out{len(volumes)}"
        make_authors_weights(path, "MAISI", sequences=3, scale_factor=factors)
        infer(moved, out, model_file=str(path), **given)
        volumes.append([voxels(out / "004" / f"{name}.nii.gz") for name in names])
    assert list(map(np.array_equal, *volumes)) == [True, True, False]


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"scheduler": "rflow"}, "does not fit weights trained with the ddpm objective"),
        ({"size": [32, 32, 20]}, "three multiples of 8"),
        ({"spacing": [1, 1, -1]}, "three positive numbers"),
        ({"channels": ["axt2", "adc"]}, "latents of 1"),
        ({"amp": "int8"}, "amp"),
        ({"replicates": 0}, "replicates"),
        ({"model_file": "nowhere.safetensors"}, "nowhere.safetensors"),
        ({"vae_file": "nowhere.pt"}, "nowhere.pt"),
        ({"splits": ["validation"]}, "validation_merged.json"),
        ({"report": b"x"}, "text_encoder is not set"),
        ({"report": b"x", "positive": "perhaps"}, "positive"),
        ({"report": b"x", "case_name": "../x"}, "case_name"),
        ({"guidance_report": "much"}, "guidance weight"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(place, tmp_path, changes, message):
    with pytest.raises((RuntimeError, UserError)) as error:
        infer(place, tmp_path / "out", **changes)
    assert message in str(root_cause(error.value))
    assert not (tmp_path / "out").exists()


def test_a_network_that_is_not_the_weights_is_told_before_any_report_is_embedded(place, tmp_path):
    make_weights(tmp_path / "model.safetensors", "LAST", **place.meta)
    given = {"report": b"x", "text_encoder": "nowhere", "model_file": str(tmp_path / "model.safetensors")}
    with pytest.raises(RuntimeError) as error:
        infer(place, tmp_path / "out", **given)
    message = str(root_cause(error.value))
    assert "has variant CCELLA, but model_file was trained with LAST -> list configs/variants/last.yaml" in message
    with pytest.raises(RuntimeError) as error:
        infer(place, tmp_path / "out", **given, variant="LAST", **{"network_def#num_channels": [8, 24]})
    assert "has num_channels [8, 24], but model_file was trained with [8, 16]" in str(root_cause(error.value))


@pytest.mark.parametrize(
    ("weights", "changes", "message"),
    [
        ({"variant": "LAST"}, {}, "trained with LAST -> list configs/variants/last.yaml"),
        ({"variant": "MAISI"}, {}, "trained with MAISI -> list configs/variants/maisi.yaml"),
        (
            {},
            {"network_def#num_channels": [8, 24]},
            "has num_channels [8, 24], but model_file was trained with [8, 16]",
        ),
        ({}, {"network_def#input_dim": 12}, "has input_dim 12, but model_file was trained with 16"),
        ({"sequences": 2}, {}, "channels  are 1, but the network makes latents of 2"),
        ({"scale_factor": None}, {}, "holds no scale_factor"),
        ({"scale_factor": (1.0, 2.0)}, {}, "2 scale factors and latents of 4 channels"),
    ],
)
def test_a_network_that_is_not_the_authors_checkpoint_is_told_as_early(place, tmp_path, weights, changes, message):
    """Before the text encoder is loaded, which is not there, and the network is built, which cannot be."""
    make_authors_weights(tmp_path / "authors.pt", **weights)
    given = {"report": b"x", "text_encoder": "nowhere", "model_file": str(tmp_path / "authors.pt"), **changes}
    with pytest.raises(RuntimeError) as error:
        infer(place, tmp_path / "out", **given, **{"network_def#_target_": "scripts.nothing.CannotBeBuilt"})
    assert message in str(root_cause(error.value))


def test_another_vae_is_refused(place, tmp_path):
    torch.manual_seed(1)
    save_vae(maisi_vae(**tiny.VAE), tmp_path / "other.safetensors")
    with pytest.raises(RuntimeError) as error:
        infer(place, tmp_path / "out", vae_file=str(tmp_path / "other.safetensors"))
    assert "trained on latents of VAE" in str(root_cause(error.value))


@pytest.mark.parametrize("source", [{"splits": "test"}, {"report": b"x"}])
def test_another_text_encoder_is_refused(place, tmp_path, source):
    make_weights(tmp_path / "model.safetensors", **place.meta | {"encoder_fingerprint": "0123456789abcdef"})
    changes = {"model_file": str(tmp_path / "model.safetensors"), "text_encoder": str(place.root / "t5"), **source}
    with pytest.raises(RuntimeError) as error:
        infer(place, tmp_path / "out", **changes)
    assert "text encoder" in str(root_cause(error.value)).replace("_", " ")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module", params=[{"padded": True}, {"max_tokens": 8}, {}], ids=["padded", "short", "default"])
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


def test_a_typed_report_is_embedded_as_those_of_the_training(place, embedded, tmp_path):
    """The same embedding as the file of the case with that report; the padding need not be said."""
    report = f"{SECRET} x".encode()
    infer(place, tmp_path / "typed", report=report, **embedded.given, max_tokens=embedded.right["max_tokens"])
    infer(place, tmp_path / "said", report=report, **embedded.given, **embedded.right)
    infer(place, tmp_path / "listed", dataset_dir=str(embedded.data), splits=["test"], **embedded.given)
    typed, said = (digest(tmp_path / name, "report") for name in ("typed", "said"))
    assert typed == said == digest(tmp_path / "listed", "004")


@pytest.mark.parametrize("wrong", ["padded_reports", "max_tokens"])
def test_a_typed_report_embedded_in_another_way_is_refused(place, embedded, tmp_path, wrong):
    right = embedded.right[wrong]
    changes = embedded.right | {wrong: not right if wrong == "padded_reports" else right + 1}
    with pytest.raises(RuntimeError) as error:
        infer(place, tmp_path / "out", report=b"x", **embedded.given, **changes)
    wanted = f"give --padded_reports {str(right).lower()}" if wrong == "padded_reports" else "--max_tokens that"
    assert wanted in str(root_cause(error.value))
    assert not (tmp_path / "out").exists()


def test_files_that_differ_in_padding_alone_are_told_so(place, tmp_path):
    shutil.copytree(place.data, tmp_path / "data")
    encode_reports(str(tmp_path / "data"), str(place.root / "t5"), device="cpu", padded=True)
    stamp = read_encoder_fingerprint(place.data / EMPTY_REPORT)
    make_weights(tmp_path / "model.safetensors", **place.meta | {"encoder_fingerprint": stamp})
    given = {"model_file": str(tmp_path / "model.safetensors"), "dataset_dir": str(tmp_path / "data")}
    with pytest.raises(RuntimeError) as error:
        infer(place, tmp_path / "out", **given)
    message = str(root_cause(error.value))
    assert "004" in message
    assert "was embedded with --padded -> encode it without --padded" in message


def test_embeddings_of_another_width_are_refused(place, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(place.data, data)
    write_embedding(data / "embeddings" / "005.safetensors", torch.ones(3, 8), "encoder")
    with pytest.raises(RuntimeError) as error:
        infer(place, tmp_path / "out", dataset_dir=str(data), splits=["test"])
    message = str(root_cause(error.value))
    assert "005" in message
    assert "of width 8, the network reads width 16" in message
    assert not (tmp_path / "out").exists()


def test_broken_cases_are_told_together(place, tmp_path):
    data = tmp_path / "data"
    cases = json.loads((place.data / "test_merged.json").read_text())
    for case, text in zip(cases, (f"{SECRET} the report itself", "../outside.safetensors"), strict=True):
        case["text"] = text
    cases.append({name: value for name, value in cases[0].items() if name != "text_isnull"} | {"folder": "006"})
    data.mkdir()
    (data / "test_merged.json").write_text(json.dumps(cases))
    with pytest.raises(RuntimeError) as error:
        infer(place, tmp_path / "out", dataset_dir=str(data), splits=["test"])
    message = str(root_cause(error.value))
    assert all(folder in message for folder in ("004", "005", "006"))
    assert "text_isnull" in message
    assert SECRET not in message


@pytest.mark.parametrize("key", ["text", "text_isnull"])
def test_a_case_that_does_not_tell_its_report_is_named(place, tmp_path, key):
    case = json.loads((place.data / "test.json").read_text())[0]
    del case[key]
    (tmp_path / "test.json").write_text(json.dumps([case]))
    with pytest.raises(RuntimeError) as error:
        infer(place, tmp_path / "out", dataset_dir=str(tmp_path), splits=["test"], text_encoder="nowhere")
    assert f"1 problem\n  004  {key} is" in str(root_cause(error.value))


def test_a_broken_real_image_is_named_because_the_volume_is_put_in_its_place(place, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(place.data, data)
    (data / "003" / "axt2.nii.gz").write_bytes(b"no image")
    with pytest.raises(RuntimeError) as error:
        infer(place, tmp_path / "out", dataset_dir=str(data))
    assert "003  axt2.nii.gz cannot be read as NIfTI" in str(root_cause(error.value))
    assert not (tmp_path / "out").exists()


def test_guidance_without_dropout_and_a_far_view_are_warned_about(place, tmp_path, capsys):
    never = {"trained_with_dropout": {"class": 0, "both": 0}}
    make_weights(tmp_path / "model.safetensors", **place.meta | never)
    path = str(tmp_path / "model.safetensors")
    infer(place, tmp_path / "out", model_file=path, splits=["test"], spacing=[0.5, 0.5, 0.5], steps=1)
    printed = capsys.readouterr().out
    assert "never seen a case without report and class" in printed
    assert "16×16×8 mm" in printed
    assert "40×40×30 mm" in printed


def recipe_options(place: SimpleNamespace, model_file: Path) -> dict:
    return {
        "model_file": model_file, "vae_file": place.root / "vae.safetensors", "network_config": {},
        "channels": ["axt2"], "size": None, "spacing": None, "scheduler": "ddim", "steps": 2, "amp": "fp32", "seed": 0,
        "guidance_interval": [0, 1000],
    }  # fmt: skip


def test_the_authors_weights_were_trained_on_the_reference_view_and_without_dropout(place, tmp_path, caplog):
    make_authors_weights(tmp_path / "authors.pt")
    given = recipe_options(place, tmp_path / "authors.pt") | {"guidance_report": 3, "guidance_class": 3}
    make_recipe(**given | {"size": [64, 64, 32], "spacing": [1.25, 1.25, 1.875]})
    assert "80×80×60 mm, but the weights were trained on 128×128×72 mm" in caplog.text
    assert "never seen a case without report and class" in caplog.text


@pytest.mark.parametrize(
    ("variant", "trained", "weights", "lacks"),
    [
        ("CCELLA", {"report": 0.1, "class": 0.1}, (3, 3), "without report and class,"),
        ("CCELLA", {"both": 0.1}, (3, 3), None),
        ("CCELLA", {"both": 0.1}, (3, 2), "without class,"),
        ("CCELLA", {}, (3, 2), "without class, nor without report and class,"),
        ("CCELLA", {}, (1, 1), None),
        ("ELLAMAISI", {"report": 0.1}, (3, 1), None),
        ("ELLAMAISI", {"both": 0.1}, (3, 1), None),
        ("ELLAMAISI", {"class": 0.1}, (3, 1), "without report and class,"),
        ("DECOUPLED", {"both": 0.1}, (1, 3), "without class,"),
        ("DECOUPLED", {"class": 0.1}, (1, 3), None),
        ("RADMAISI", {"both": 0.1}, (1, 3), None),
        ("RADMAISI", {"report": 0.1}, (1, 3), "without report and class,"),
        ("RADMAISI", {"class": 0.1}, (1, 3), None),
    ],
)
def test_guidance_warns_of_the_dropout_that_it_misses(place, tmp_path, caplog, variant, trained, weights, lacks):
    make_weights(tmp_path / "model.safetensors", variant, **place.meta | {"trained_with_dropout": trained})
    make_recipe(
        **recipe_options(place, tmp_path / "model.safetensors"), guidance_report=weights[0], guidance_class=weights[1]
    )
    assert caplog.text == "" if lacks is None else f"never seen a case {lacks}" in caplog.text


# ---- bundles and processes -------------------------------------------------------------------------------------------


def test_properties_of_the_bundle_are_complete(place, tmp_path):
    workflow = ConfigWorkflow(
        [str(CONFIG), str(place.root / "tiny.json")], workflow_type="infer", **options(place, tmp_path / "out")
    )
    workflow.initialize()
    assert workflow.check_properties() == []


def test_two_processes_share_the_cases(place, generated, tmp_path):
    """The same volumes and sheet as one process makes; judged by the files, as gloo may abort at exit."""
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29731"]
    done = command_line(launcher, options(place, tmp_path))
    assert (tmp_path / "synthsheet_all.xlsx").is_file(), done.stderr
    for folder in ("001", "002", "003", "004", "005"):
        path = Path(folder) / "axt2.nii.gz"
        assert np.abs(voxels(tmp_path / path) - voxels(generated / path)).max() <= 1
    sheets = [openpyxl.load_workbook(folder / "synthsheet_all.xlsx") for folder in (tmp_path, generated)]
    assert list(sheets[0].active.values) == list(sheets[1].active.values)
    assert len(list(tmp_path.glob("synthsheet_1_*.xlsx"))) == 2
