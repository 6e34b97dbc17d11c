"""Which volumes are still to do, and which of them would be mixed with those of other settings, weights or cases."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import tiny
from generating import infer, list_jobs, listed, make_network, make_weights, root_cause, rows, voxels, write_sheet
from scripts.common.problems import UserError
from scripts.data.clinical import write_clinical
from scripts.networks.weights import LatentScale, save_weights
from scripts.vae.network import maisi_vae, save_vae


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
    meta = {"config": network.config, "scale": LatentScale((1.5,)), **place.meta}
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


def test_a_problem_of_another_process_is_raised_on_this_one(place, tmp_path, monkeypatch):
    """Else this one samples until it is killed."""
    monkeypatch.setattr("ignite.distributed.all_gather", lambda rows: [rows, [("005", "is broken", "mend it")]])
    with pytest.raises(RuntimeError) as error:
        list_jobs(place, tmp_path / "out")
    assert "1 problem\n  005  is broken -> mend it" in str(root_cause(error.value))
