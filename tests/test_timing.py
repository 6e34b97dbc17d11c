"""Every row of the timing table can be measured, here on the smallest networks."""

import functools
import json

import pytest
import torch

import tiny
from scripts import timing
from scripts.networks.ccella import CCELLA
from scripts.problems import UserError
from scripts.vae.network import maisi_vae


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", timing.ROWS)
def test_each_row_is_measured(monkeypatch, capsys, name, precision):
    monkeypatch.setattr(timing, "CCELLA", functools.partial(CCELLA, **tiny.CCELLA))
    monkeypatch.setattr(timing, "maisi_vae", functools.partial(maisi_vae, **tiny.VAE))
    for constant, value in (("LATENT", (4, 8, 8, 8)), ("IMAGE", (32, 32, 32)), ("STEPS", 2), ("MATRIX", 64)):
        monkeypatch.setattr(timing, constant, value)
    timing.row(name, precision, torch.get_num_threads())
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert all(figures[key] > 0 for key in ("seconds", "tflop", "share", "peak_gib"))


def test_unknown_rows_are_told(capsys):
    with pytest.raises(UserError, match="not known: unett; there are unet, "):
        timing.table(rows=["unett"])
    assert capsys.readouterr().out == ""
