"""Volumes and latents in windows as whole, and in the memory that was foreseen."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from scripts.vae.decode import decode
from scripts.vae.encode import encode
from scripts.vae.network import maisi_vae, prepare_inference
from scripts.vae.windows import peak_bytes

pytestmark = pytest.mark.gpu

MIDDLE, REFERENCE = (128, 128, 64), (256, 256, 128)
ROOM = 40 * 2**30  # bytes of a card on which the reference size is measured


@pytest.fixture
def vae(device, small):
    """Random weights: of the reference size on a GPU."""
    torch.manual_seed(0)
    network = maisi_vae(**({} if device.type == "cuda" else small.vae))
    return network.to(device).eval()


@pytest.fixture
def shape(device, small) -> tuple[int, ...]:
    """Voxels of an image."""
    return MIDDLE if device.type == "cuda" else small.image


def halves(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(n // 2 for n in shape)


@pytest.mark.parametrize(("precision", "bound"), [(None, 1e-5), (torch.bfloat16, 5e-2)])
def test_windows_give_the_whole(device, vae, shape, precision, bound, record_property):
    """The largest difference by the range of the whole. In bf16 a window rounds what the whole rounds otherwise."""
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(1, 4, *(n // 4 for n in shape), generator=generator).to(device)
    image = torch.rand(1, 1, *shape, generator=generator).to(device)
    prepare_inference(vae, precision)
    with torch.autocast(device.type, precision, enabled=precision is not None):
        pairs = {
            "decode": [decode(vae, latent, window) for window in (shape, halves(shape))],
            "encode": [encode(vae, image, window)[0] for window in (shape, halves(shape))],
        }
    for name, (whole, parts) in pairs.items():
        difference = ((whole - parts).abs().max() / (whole.max() - whole.min())).item()
        record_property(name, difference)
        assert difference < bound, name


@pytest.mark.parametrize("size", [MIDDLE, REFERENCE], ids=["middle", "reference"])
@pytest.mark.parametrize("direction", ["decode", "encode"])
@pytest.mark.parametrize("precision", [None, torch.bfloat16], ids=["fp32", "bf16"])
def test_memory_is_as_foreseen(device, vae, size, direction, precision, record_property):
    """At most what is foreseen, and at least a third of it, whole and in windows; GiB beside the weights."""
    if device.type == "cpu":
        pytest.skip("PyTorch counts the memory of GPUs alone")
    if size == REFERENCE and torch.cuda.get_device_properties(device).total_memory < ROOM:
        pytest.skip("the reference size is measured on cards of 40 GiB and more")
    channels = vae.config["num_channels"][0 if direction == "encode" else 1]
    given = torch.rand(1, 1, *size) if direction == "encode" else torch.randn(1, 4, *(n // 4 for n in size))
    run = encode if direction == "encode" else decode
    given, told = given.to(device), {}
    prepare_inference(vae, precision)
    for name, window in (("whole", size), ("windows", halves(size))):
        with torch.autocast(device.type, precision, enabled=precision is not None):
            foreseen = peak_bytes(window, size, channels, 2 if precision else 4, device)
            run(vae, given, window)  # tries kernels, some of which take more
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            run(vae, given, window)
        told[name] = (torch.cuda.max_memory_allocated(device) - before) / 2**30, foreseen / 2**30
        record_property(name, told[name])
        torch.cuda.empty_cache()
    for name, (measured, foreseen) in told.items():
        assert foreseen / 3 <= measured <= foreseen, name
