"""Our group norm is PyTorch's, wherever it works in a layout of its own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import tiny
from scripts.networks import norm
from scripts.networks.ccella import CCELLA
from scripts.vae import layers


@pytest.mark.parametrize("GroupNorm", [norm.GroupNorm, layers.GroupNorm])
def test_in_bf16_on_a_cpu_it_learns_as_theirs_does_and_leaves_the_channels_last(GroupNorm):
    norm, theirs = GroupNorm(4, 8), nn.GroupNorm(4, 8)
    whole = torch.randn(2, 8, 4, 6, 5).bfloat16()
    ours_in = whole.to(memory_format=torch.channels_last_3d, copy=True).requires_grad_()
    theirs_in = whole.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        ours, expected = norm(ours_in), theirs(theirs_in)
    assert ours.is_contiguous(memory_format=torch.channels_last_3d)
    toward = torch.randn_like(expected)
    ours.backward(toward)
    expected.backward(toward)
    for one, other in ((ours, expected), (ours_in.grad, theirs_in.grad), (norm.weight.grad, theirs.weight.grad)):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_unet_has_no_other_norms_and_the_same_names():
    unet = CCELLA("CCELLA", **tiny.CCELLA).unet
    norms = {name: one for name, one in unet.named_modules() if isinstance(one, nn.GroupNorm)}
    assert norms
    assert all(type(one) is norm.GroupNorm for one in norms.values())
    assert all(f"{name}.weight" in unet.state_dict() for name in norms)
