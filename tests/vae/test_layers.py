"""Layers that keep half precision: as exact as PyTorch's, and no map in four-byte numbers on a GPU."""

from __future__ import annotations

import math

import pytest
import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import tiny
from scripts.engine.precision import half_weights
from scripts.vae.decode import decode
from scripts.vae.encode import encode
from scripts.vae.layers import GroupNorm, moments, normed, of_groups
from scripts.vae.network import REFERENCE, maisi_vae

ROUNDING = {torch.float32: 2**-20, torch.bfloat16: 2**-8, torch.float16: 2**-11}  # of a result, as part of it


@pytest.fixture
def norm():
    torch.manual_seed(0)
    norm = GroupNorm(4, 8, eps=1e-6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def exact(norm: nn.GroupNorm, x: torch.Tensor) -> torch.Tensor:
    weight, bias = norm.weight.double(), norm.bias.double()
    return nn.functional.group_norm(x.double(), norm.num_groups, weight, bias, norm.eps)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("ratio", [0, 3, 30, 100])
@pytest.mark.parametrize("dtype", ROUNDING)
@torch.no_grad()
def test_moments_and_norm_are_exact_to_the_rounding_of_the_result(norm, dtype, ratio, layout):
    """Of maps whose mean is many times their spread, against float64."""
    x = (torch.randn(1, 8, 24, 20, 16) + ratio).to(dtype).to(memory_format=layout)
    result, reference = normed(norm, x, *of_groups(norm, [moments(x)])), exact(norm, x)
    assert result.dtype == dtype
    assert result.is_contiguous(memory_format=layout)
    scaled = (reference - norm.bias.double().view(-1, 1, 1, 1)).abs()
    spread, shift = (1 + ratio**2) * 2**-21, (1 + ratio) * 2**-18  # a CPU adds one number after the other
    assert ((result.double() - reference).abs() <= ROUNDING[dtype] * reference.abs() + spread * scaled + shift).all()


@torch.no_grad()
def test_parts_of_a_map_give_the_moments_of_the_whole(norm):
    x = torch.randn(1, 8, 12, 10, 6) * torch.linspace(1, 5, 12).view(-1, 1, 1) + 4
    whole, parts = ([moments(part) for part in x.split(sizes, 2)] for sizes in ([12], [2, 7, 3]))
    for one, other in zip(of_groups(norm, whole), of_groups(norm, parts), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("value", [0.0, 3.0, 30.0])
@torch.no_grad()
def test_a_constant_map_becomes_the_bias(norm, value):
    x = torch.full((1, 8, 16, 16, 16), value, dtype=torch.bfloat16)
    result = normed(norm, x, *of_groups(norm, [moments(x)])).float()
    torch.testing.assert_close(result, norm.bias.view(1, 8, 1, 1, 1).expand_as(result), rtol=2**-8, atol=0.01)


@torch.no_grad()
def test_layers_change_neither_names_nor_numbers():
    ours, theirs = maisi_vae(**tiny.VAE), AutoencoderKlMaisi(**(REFERENCE | tiny.VAE))
    theirs.load_state_dict(ours.state_dict())
    image, latent = torch.rand(1, 1, 8, 12, 16), torch.randn(1, 4, 4, 2, 3)
    for mine, reference in zip(ours.encode(image), theirs.encode(image), strict=True):
        torch.testing.assert_close(mine, reference, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.decode(latent), theirs.decode(latent), rtol=0, atol=1e-5)


# ---- on a GPU, whose shapes and types PyTorch works out without one -------------------------------------------------


class Made(TorchDispatchMode):
    """The sizes of the tensors that operations make, by type."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[torch.dtype, list[int]] = {torch.float32: [0], torch.bfloat16: [0]}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self.sizes.setdefault(tensor.dtype, []).append(tensor.numel())
        return out


@pytest.fixture
def gpu():
    """Tensors on a GPU that need not be there, and bf16."""
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    with FakeTensorMode():
        torch.set_autocast_enabled("cuda", True)
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        yield torch.device("cuda", 0)
    torch.set_autocast_enabled("cuda", before[0])
    torch.set_autocast_dtype("cuda", before[1])
    torch.clear_autocast_cache()


def on(device: torch.device, network: nn.Module) -> nn.Module:
    for module in network.modules():
        for name, weight in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(torch.empty(weight.shape, device=device), requires_grad=False))
    return network.eval()


@pytest.fixture(scope="module")
def meta_vae():
    with torch.device("meta"):
        return maisi_vae(**tiny.VAE)


@pytest.mark.parametrize("function", [encode, decode])
def test_a_gpu_makes_no_map_of_four_byte_numbers(meta_vae, gpu, function):
    """Only what goes in and out, of one channel, is fp32."""
    vae, size = on(gpu, meta_vae), (32, 32, 16)
    with Made() as made:
        function(vae, torch.empty((1, 1, *size) if function is encode else (1, 4, 8, 8, 4), device=gpu), size)
    voxels = math.prod(size)
    assert max(made.sizes[torch.bfloat16]) >= 8 * voxels
    assert max(made.sizes[torch.float32]) <= max(voxels, max(w.numel() for w in vae.parameters()))


def test_no_weight_is_cast_any_more_where_all_are_in_half_precision(meta_vae, gpu):
    vae, size = on(gpu, meta_vae), (32, 32, 16)
    half_weights(vae, torch.bfloat16)
    weights = {layer.weight.numel() for layer in vae.modules() if isinstance(layer, nn.Conv3d)}
    with Made() as made:
        encode(vae, torch.empty((1, 1, *size), device=gpu), size)
    assert max(made.sizes[torch.bfloat16]) >= 8 * math.prod(size)
    assert not weights & set(made.sizes[torch.bfloat16])


def test_training_keeps_pytorchs_kernel(gpu):
    norm, x = on(gpu, GroupNorm(4, 8)), torch.empty(1, 8, 4, 4, 4, device=gpu, dtype=torch.bfloat16)
    assert norm(x).dtype == torch.float32
    with torch.no_grad():
        assert norm(x).dtype == torch.bfloat16
