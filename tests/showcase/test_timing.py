"""Every row of the timing table can be measured, here on the smallest networks."""

import functools
import json

import pytest
import torch

import tiny
from scripts.common.problems import UserError
from scripts.ldm.writing import VolumeWriter
from scripts.networks.ccella import CCELLA
from scripts.showcase import timing
from scripts.vae.network import maisi_vae


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(timing, "CCELLA", functools.partial(CCELLA, **tiny.CCELLA))
    monkeypatch.setattr(timing, "maisi_vae", functools.partial(maisi_vae, **tiny.VAE))
    for constant, value in (("LATENT", (4, 8, 8, 8)), ("IMAGE", (32, 32, 32)), ("STEPS", 2), ("MATRIX", 64)):
        monkeypatch.setattr(timing, constant, value)


def figures(capsys, name: str, precision: str) -> dict[str, float]:
    timing.row(name, precision, torch.get_num_threads())
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", timing.ROWS)
def test_each_row_is_measured(small, capsys, name, precision):
    measured = figures(capsys, name, precision)
    assert all(measured[key] > 0 for key in ("seconds", "tflop", "share", "peak_gib"))


def test_a_volume_is_guided_and_written_and_what_several_take_is_shared_out(small, monkeypatch, capsys):
    """Two answers of the network for each volume and step; only the adapter's look at the empty report is shared."""
    answers, written = [], []
    denoise, write = CCELLA.denoise, VolumeWriter._write
    monkeypatch.setattr(CCELLA, "denoise", lambda self, x, *given: answers.append(len(x)) or denoise(self, x, *given))
    monkeypatch.setattr(VolumeWriter, "_write", lambda self, *given: write(self, *given) or written.append(given))
    one = figures(capsys, "volume", "fp32")
    monkeypatch.setattr(timing, "_batches", lambda device: (2, 3))
    of_six = figures(capsys, "volume", "fp32")
    assert answers == [2] * 4 + [6] * 8  # two passes, one of which counts the work
    assert len(written) == 2 + 12
    assert 0.7 * one["tflop"] < of_six["tflop"] < one["tflop"]


def test_unknown_rows_are_told(capsys):
    with pytest.raises(UserError, match="not known: unett; there are unet, "):
        timing.table(rows=["unett"])
    assert capsys.readouterr().out == ""
