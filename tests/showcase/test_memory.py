"""The count of memory, against what can be reckoned by hand, and against what a decode is given."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import nn

from scripts.showcase import memory
from scripts.showcase.counting import Held, peak_bytes
from scripts.vae.windows import peak_bytes as reckoned

KIB = 256  # float32 numbers


def test_what_lives_at_the_same_time_is_added_up_and_views_are_not():
    with torch.no_grad(), Held() as held:
        x = torch.empty(4 * KIB)
        y = (x * 2)[: 2 * KIB] + x.view(2, -1)[0]  # 4 KiB of x, 4 of the product while 2 of the sum are made
        assert held.peak == 10 * 1024
        assert held.now == 6 * 1024
        del x
        assert held.now == y.nbytes == 2 * 1024
        y.mul_(3)
    assert held.peak == 10 * 1024


def test_a_step_with_gradients_holds_weights_copies_gradients_and_what_the_backward_needs():
    """Of y = relu(w x): w and two copies, x, and the two outputs; later the gradient of w in the place of one."""

    def prepare(dtype):
        network, x = nn.Sequential(nn.Linear(16, 64, bias=False), nn.ReLU()), torch.empty(32, 16)
        return memory._trained(network, lambda: network(x).sum(), copies=2)

    weight, x, output, loss = 4 * 16 * 64, 4 * 32 * 16, 4 * 32 * 64, 4
    forward = 3 * weight + x + 2 * output
    backward = 3 * weight + x + output + weight + 2 * loss  # the gradient of the output is one number, expanded
    counted = peak_bytes(prepare, None)
    assert max(forward, backward) <= counted <= max(forward, backward) + output


def test_autocast_is_a_gpus_on_either_device():
    """A product's weights and input are cast to two bytes; a norm's input to four, and its output has four."""
    rows, width = 64, 128

    def prepare(dtype, device):
        x, weight = torch.empty(rows, width, device=device), torch.empty(width, width, device=device)
        return torch.no_grad()(lambda: nn.functional.layer_norm(nn.functional.linear(x, weight), (width,)))

    fixed, in_half = 4 * (rows * width + width**2), 2 * rows * width
    product = fixed + 2 * in_half + 2 * width**2
    norm = fixed + in_half + 2 * 2 * in_half + 2 * 4 * rows  # its moments
    for device in ("cpu", "cuda"):
        counted = peak_bytes(partial(prepare, device=device), torch.bfloat16)
        assert max(product, norm) <= counted <= max(product, norm) + 2 * width**2
        assert not torch.is_autocast_enabled("cuda")
    assert peak_bytes(partial(prepare, device="cuda"), None) == fixed + 2 * 4 * rows * width + 2 * 4 * rows


@pytest.mark.parametrize(("dtype", "itemsize"), [(None, 4), (torch.bfloat16, 2)])
def test_a_decode_is_given_more_than_is_counted(dtype, itemsize):
    """And at least three maps of its widest layer are: what comes in, its norm, and what that is activated to."""
    counted = peak_bytes(partial(memory._vae, image=False), dtype)
    given = reckoned(memory.IMAGE, memory.IMAGE, 128, itemsize)
    assert 3 * math.prod(memory.IMAGE) * 128 * itemsize < counted < 0.8 * given


def test_the_table_has_a_row_a_step_in_both_precisions(monkeypatch, capsys):
    names = ["U-Net, one answer", "decode, windows of 128 voxels"]
    monkeypatch.setattr(memory, "STEPS", {name: memory.STEPS[name] for name in names})
    memory.table()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0] for row in rows] == names
    assert all(0.5 * float(fp32) <= float(bf16) < 0.6 * float(fp32) for _, bf16, fp32 in rows)


def test_activations_that_are_computed_again_are_not_held():
    held, again = (
        peak_bytes(partial(memory._train_ldm, batch=2, checkpointing=checkpointing), torch.bfloat16)
        for checkpointing in (False, True)
    )
    assert again < held - 1.5 * 2**30
