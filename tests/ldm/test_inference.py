"""Inference as a user runs it: from reports to volumes, in every variant, batch and number of processes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import openpyxl
import pytest
import torch
from monai.bundle import ConfigWorkflow

from generating import (
    CONFIG,
    SECRET,
    SIZE,
    SIZES,
    SPACING,
    command_line,
    infer,
    make_authors_weights,
    make_weights,
    options,
    voxels,
)
from scripts.ldm.sampling import case_seed
from scripts.networks.adapter import Adapter
from scripts.networks.ccella import CCELLA
from scripts.networks.weights import LatentScale, save_weights


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


def test_a_worse_network_beside_the_network_makes_other_volumes_and_itself_the_same(place, tmp_path):
    """Of another size, by what its file says; without the empty report and with one weight, as the config has it."""
    torch.manual_seed(1)
    worse = CCELLA(**SIZES | {"num_channels": [8, 8]})
    save_weights(tmp_path / "worse.safetensors", worse.state_dict(), config=worse.config, scale=LatentScale((1.5,)))
    volumes = {}
    for name, path in (
        ("plain", None),
        ("worse", tmp_path / "worse.safetensors"),
        ("same", place.root / "model.safetensors"),
    ):
        weight = 1.0 if path is None else 3.0
        given = {"guidance_report": weight, "guidance_class": None, "guidance_model": path and str(path)}
        infer(place, tmp_path / name, splits=["test"], **given)
        volumes[name] = voxels(tmp_path / name / "004" / "axt2.nii.gz").astype(float)
    made = json.loads((tmp_path / "worse" / "004" / "generated.json").read_text())["settings"]["guidance"]
    assert made["report"] == 3
    assert made["model"].startswith("contents_")
    assert np.abs(volumes["same"] - volumes["plain"]).max() <= 1
    assert np.abs(volumes["worse"] - volumes["plain"]).mean() > 1


def test_no_report_text_in_anything_that_is_written(generated):
    for path in [path for path in generated.rglob("*") if path.is_file()]:
        assert SECRET.encode() not in path.read_bytes()
        assert SECRET not in path.name
    assert SECRET not in (generated / "train.json").read_text()


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


def test_a_compiled_network_makes_the_same_volume_from_one_graph(place, generated, tmp_path, compiling):
    counters = compiling("eager")
    infer(place, tmp_path, splits=["test"], compile=True)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    for folder in ("004", "005"):
        made, expected = (voxels(root / folder / "axt2.nii.gz") for root in (tmp_path, generated))
        assert np.array_equal(made, expected)


def test_compiling_is_refused_on_the_cpu_before_anything_is_read(place, tmp_path, refused):
    with refused("compile is true on the CPU"):
        infer(place, tmp_path, compile=True, dataset_dir="nowhere")
