"""Every row of the timing table can be measured, here on the smallest networks; a row that fails stops no other."""

from __future__ import annotations

import functools
import json

import pytest
import torch

import tiny
from scripts.common.problems import UserError
from scripts.ldm.writing import VolumeWriter
from scripts.networks.ccella import CCELLA
from scripts.showcase import timing, workflows
from scripts.showcase.measure import time_calls
from scripts.showcase.subjects import SIZES, WAYS, Size, as_it_is, demo_size

CPU = torch.device("cpu")
SMALL = Size(
    latent=(4, 8, 8, 8), tokens=5, network=tiny.CCELLA, vae=tiny.VAE, steps=2, batch=2, matrix=64, megabytes=1
)  # fmt: skip


@pytest.fixture
def small(monkeypatch):
    """The smallest size, each call timed once."""
    monkeypatch.setitem(SIZES, "small", lambda: SMALL)
    monkeypatch.setattr(timing, "time_calls", functools.partial(time_calls, seconds=0))
    for name, count in {"ALONE": 1, "TOGETHER": 2, "STEPS": 2}.items():
        monkeypatch.setattr(workflows, name, count)


def rows_of(capsys, *names: str, precision: str = "fp32", **options) -> list[dict]:
    timing.row(names, precision, "small", threads=torch.get_num_threads(), **options)
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_each_row_is_measured(small, capsys, precision):
    names = [name for name in timing.ROWS if name != "ceilings"]
    told = rows_of(capsys, *names, precision=precision)
    assert {one["row"] for one in told} == set(names)
    for one in told:
        assert all(one[key] > 0 for key in ("seconds", "least", "tflop", "share", "peak_gib")), one
        assert one["tflops"] == pytest.approx(one["tflop"] / one["seconds"])
    assert all(one["images_per_second"] > 0 for one in told if one["row"].startswith("training"))
    assert [one["title"] for one in told if one["row"] == "volume"] == ["volume alone", "volume of 2"]


def test_ceilings_are_products_in_each_precision_and_copies(small, capsys):
    told = {one["title"]: one for one in rows_of(capsys, "ceilings")}
    assert all(told[f"product {name}"]["tflops"] > 0 for name in ("bf16", "fp16", "fp32"))
    assert told["copy on the device"]["gb_per_second"] > 0


def test_a_row_that_fails_is_told_and_the_next_goes_on(small, capsys, monkeypatch):
    def broken(size, device, way=as_it_is, dtype=None):
        raise ValueError("cannot be built") from RuntimeError("no kernel")

    monkeypatch.setitem(timing.CALLS, "unet", timing.Row("U-Net", broken))
    first, second = rows_of(capsys, "unet", "adapter")
    assert first["error"] == "RuntimeError: no kernel"
    assert second["seconds"] > 0


def test_the_way_is_that_of_the_work(small, capsys, monkeypatch):
    asked = []
    monkeypatch.setitem(WAYS, "compiled", lambda function: asked.append(function) or function)
    (told,) = rows_of(capsys, "unet", way="compiled")
    assert told["way"] == "compiled"
    assert [function.__name__ for function in asked] == ["denoise"]


def test_a_volume_is_guided_by_two_answers_and_written(tmp_path, monkeypatch):
    answers, written = [], []
    denoise, write = CCELLA.denoise, VolumeWriter._write
    monkeypatch.setattr(CCELLA, "denoise", lambda self, x, *given: answers.append(len(x)) or denoise(self, x, *given))
    monkeypatch.setattr(VolumeWriter, "_write", lambda self, *given: write(self, *given) or written.append(given))
    made = workflows.Volumes(tmp_path, SMALL, CPU, amp="fp32")
    made.make(1, 1)
    made.make(4, 2)
    assert answers == [2, 2] + 2 * [4, 4]
    assert len(written) == 5


def test_a_volumes_work_is_that_of_its_parts(small):
    of_parts = {name: timing._flop(name, SMALL) for name in ("unet", "unet_guided", "decode", "volume")}
    assert of_parts["unet_guided"] == pytest.approx(2 * of_parts["unet"], rel=1e-3)
    assert of_parts["volume"] > 2 * of_parts["unet_guided"] + of_parts["decode"]


def test_a_training_is_timed_before_it_writes_anything(tmp_path):
    ((_, figures),) = workflows.training(SMALL, CPU, "fp32", tmp_path)
    assert figures["n"] == workflows.STEPS
    assert not list((tmp_path / "run").glob("*.*"))


def test_the_demos_size_is_that_of_its_overlay():
    size = demo_size()
    assert (size.width, size.network["num_channels"], size.vae["num_channels"]) == (128, [32, 64, 128], [16, 32, 64])
    assert (size.latent, size.network["in_channels"]) == ((12, 16, 16, 8), 12)
    assert size.sequences == ("axt2", "b1600", "adc")


def test_unknown_rows_are_told(capsys):
    with pytest.raises(UserError, match="not known: unett; there are unet, "):
        timing.table(rows=["unett"])
    assert capsys.readouterr().out == ""


def test_the_table_is_of_processes_of_their_own(capsys):
    timing.table(threads=1, rows=["unet"], precisions=["fp32"], size="demo")
    *_, line = capsys.readouterr().out.splitlines()
    assert line.startswith("| U-Net, one step | fp32 | ")
