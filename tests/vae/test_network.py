"""The autoencoder: the reference's size and shapes, its weights on disk, and windows that agree with the whole."""

from __future__ import annotations

import logging

import pytest
import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi

import tiny
from scripts.common.problems import UserError
from scripts.data.grid import GRIDS
from scripts.phantom.imaging import make_case
from scripts.vae import windows
from scripts.vae.decode import decode
from scripts.vae.encode import encode
from scripts.vae.network import REFERENCE, load_vae, maisi_vae, save_vae
from scripts.vae.windows import SHARE, fitting_window, peak_bytes


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return maisi_vae(**tiny.VAE).eval()


def test_the_default_is_the_published_size():
    with torch.device("meta"):
        network = maisi_vae()
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 1) == 20.9


def test_fused_norms_change_neither_names_nor_numbers():
    ours = maisi_vae(**tiny.VAE)
    theirs = AutoencoderKlMaisi(**(REFERENCE | tiny.VAE))
    theirs.load_state_dict(ours.state_dict())
    image = torch.rand(1, 1, 8, 12, 16)
    with torch.no_grad():
        for mine, reference in zip(ours.encode(image), theirs.encode(image), strict=True):
            assert torch.allclose(mine, reference, atol=1e-5)


def test_every_axis_is_four_times_smaller(vae):
    mu, sigma = encode(vae, torch.rand(2, 1, 8, 12, 16))
    assert mu.shape == sigma.shape == (2, 4, 2, 3, 4)
    assert (sigma > 0).all()
    image = decode(vae, 5 * mu)
    assert image.shape == (2, 1, 8, 12, 16)
    assert 0 <= image.min() <= image.max() <= 1


def test_a_case_does_not_depend_on_its_batch(vae):
    z = torch.randn(3, 4, 4, 4, 4)
    assert torch.equal(decode(vae, z)[1:2], decode(vae, z[1:2]))


def test_outside_of_training_the_answer_is_encode_then_decode(vae):
    image = torch.rand(1, 1, 8, 8, 8)
    with torch.no_grad():
        assert torch.allclose(vae.eval()(image), decode(vae, encode(vae, image)[0]))
        assert len(vae.train()(image)) == 3


# ---- weights ---------------------------------------------------------------------------------------------------------


def test_weights_come_back_from_safetensors_and_from_pt(vae, tmp_path):
    save_vae(vae, tmp_path / "model.safetensors")
    torch.save({"unet_state_dict": vae.state_dict()}, tmp_path / "wrapped.pt")
    torch.save(vae.state_dict(), tmp_path / "bare.pt")
    for name in ("model.safetensors", "wrapped.pt", "bare.pt"):
        other = load_vae(maisi_vae(**tiny.VAE), tmp_path / name)
        assert not other.training
        assert all(torch.equal(a, b) for a, b in zip(vae.parameters(), other.parameters(), strict=True))


def test_missing_weights_say_what_where_from_and_under_which_licence(vae, tmp_path):
    with pytest.raises(UserError) as caught:
        load_vae(vae, tmp_path / "model.safetensors")
    for words in ("autoencoder_v1.pt", "NVIDIA", "bundles/vae/models", "Open Model License", "non-commercial"):
        assert words in str(caught.value)


def test_weights_of_another_architecture_are_refused(vae, tmp_path):
    save_vae(vae, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="another architecture"):
        load_vae(maisi_vae(**(tiny.VAE | {"num_channels": [8, 8, 16]})), tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="another architecture"):
        load_vae(maisi_vae(**(tiny.VAE | {"num_res_blocks": [2, 1, 1]})), tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_damaged_weights_are_refused(vae, tmp_path, name):
    (tmp_path / name).write_bytes(b"rubbish")
    with pytest.raises(UserError, match="cannot be read"):
        load_vae(vae, tmp_path / name)


# ---- windows ---------------------------------------------------------------------------------------------------------


def test_windows_agree_with_the_whole_and_show_no_seam(repo_root):
    """The demo's VAE on a phantom: root mean square difference below 5 % of the spread, in no plane above 8 %.

    Not for a random network, which magnifies every difference in its norms.
    """
    vae = maisi_vae(num_channels=[16, 32, 64], num_res_blocks=[1, 1, 1], norm_num_groups=8)
    load_vae(vae, repo_root / "bundles" / "vae" / "models" / "demo_vae.safetensors").eval()
    image = torch.from_numpy(make_case(3, GRIDS["demo"]).volumes["axt2"].astype("float32"))[None, None] / 962
    mu, _ = encode(vae, image)
    parts, _ = encode(vae, image, window=(32, 32, 32))
    assert (mu - parts).square().mean().sqrt() < 0.05 * mu.std()
    with torch.no_grad():
        raw = vae.decode(mu)
        error = (windows.in_windows(vae.decode, vae.decoder, mu, (32, 32, 32)) - raw).square() / raw.var()
    assert error.mean().sqrt() < 0.05
    for axis in (2, 3, 4):
        assert error.mean(dim=[d for d in range(5) if d != axis]).sqrt().max() < 0.08


@pytest.mark.parametrize("direction", ["encode", "decode"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(None, 1e-5), (torch.bfloat16, 0.05)])
def test_windows_equal_the_whole_to_rounding(direction, dtype, tolerance):
    """Of a network as deep as the published, with windows that do not divide the volume."""
    torch.manual_seed(0)
    vae = maisi_vae(**tiny.VAE | {"num_channels": [4, 8, 8], "num_res_blocks": [2, 2, 2]}).eval()
    case = torch.rand(2, *((1, 40, 24, 8) if direction == "encode" else (4, 10, 6, 2)))

    def both(part: torch.Tensor) -> torch.Tensor:
        return torch.cat(vae.encode(part), dim=1) if direction == "encode" else vae.decode(part)

    network = vae.encoder if direction == "encode" else vae.decoder
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype is not None):
        whole, parts = (windows.in_windows(both, network, case, window) for window in ((40, 24, 8), (16, 12, 8)))
    assert dtype or not torch.equal(whole, parts)
    assert (whole.float() - parts.float()).abs().max() < tolerance * whole.float().std()


def test_windows_as_large_as_the_volume_are_exact(vae):
    z = torch.randn(1, 4, 4, 4, 4)
    assert torch.equal(decode(vae, z, window=(16, 16, 16)), decode(vae, z, window=(64, 64, 64)))


def test_norms_are_put_back_after_windows(vae):
    before = list(vae.modules())
    decode(vae, torch.randn(1, 4, 8, 4, 4), window=(16, 16, 16))
    assert list(vae.modules()) == before


def test_the_largest_window_that_fits_is_taken():
    shape, channels = (256, 256, 128), 128
    whole = peak_bytes(shape, shape, channels, 4)
    assert whole == int(16.4 * 2**30)
    assert fitting_window(shape, channels, 4, int(whole / SHARE) + 1) == shape
    half = fitting_window(shape, channels, 4, int(whole / SHARE) - 1)
    assert half == (128, 256, 128)
    with pytest.raises(UserError, match="free memory"):
        fitting_window(shape, channels, 4, 2**20)


def test_half_precision_takes_half_the_memory():
    shape, free = (256, 256, 128), int(8.2 * 2**30 / SHARE)
    assert fitting_window(shape, 128, 2, free + 1) == shape
    assert fitting_window(shape, 128, 2, free - 1) == (128, 256, 128)
    assert fitting_window(shape, 128, 2, free // 2) == (128, 128, 128)


def test_a_gpu_takes_half_as_much_again_in_fp32():
    """1.5 times as measured; in two bytes what was reckoned held there as it was."""
    shape = (256, 256, 128)
    for window in (shape, (128, 128, 64)):
        assert peak_bytes(window, shape, 128, 4, "cuda") == int(1.5 * peak_bytes(window, shape, 128, 4))
        assert peak_bytes(window, shape, 128, 2, "cuda:1") == peak_bytes(window, shape, 128, 2)
    assert fitting_window(shape, 128, 4, int(20 * 2**30 / SHARE), "cuda") != shape


def test_of_small_windows_the_next_coarser_map_is_the_widest():
    """Half the resolution has twice the channels, and an eighth of the volume is its whole map, which is there, too."""
    shape, around = (256, 256, 128), 2 * windows.AROUND
    of_a_cell, between = 128 * 4 * windows.WINDOW, 128 * 128 * 64 * 128 * 4
    assert peak_bytes((128, 256, 128), shape, 128, 4) == (128 + around) * 256 * 128 * of_a_cell + between
    assert peak_bytes((128, 128, 64), shape, 128, 4) == 2 * 128 * 128 * 64 * of_a_cell + between
    assert peak_bytes((64, 64, 64), shape, 128, 4) == 2 * (64 + around) ** 3 * of_a_cell + between


@pytest.mark.parametrize(
    ("window", "counted"),
    [((128, 256, 128), 7.0), ((128, 128, 128), 4.01), ((128, 128, 64), 3.21), ((64,) * 3, 1.75), ((32,) * 3, 0.95)],
)
def test_what_a_window_is_reckoned_with_is_what_it_takes_or_more(window, counted):
    """GiB of a decode at the reference size in fp32, counted; not much more, or memory would lie idle."""
    assert counted <= peak_bytes(window, (256, 256, 128), 128, 4) / 2**30 < 1.6 * counted


def test_the_choice_is_automatic_and_logged(vae, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    z = torch.randn(1, 4, 16, 8, 8)
    whole = decode(vae, z)
    assert "whole volume" in caplog.text
    monkeypatch.setattr(windows, "available", lambda device: int(peak_bytes((32,) * 3, (64, 32, 32), 8, 4) / SHARE) + 1)
    assert decode(vae, z).shape == whole.shape
    assert "windows of 32×32×32 voxels" in caplog.text


@pytest.mark.parametrize(("direction", "shape"), [("decode", (1, 4, 16, 8, 8)), ("encode", (1, 1, 64, 32, 32))])
def test_what_does_not_fit_after_all_is_done_in_smaller_windows(vae, monkeypatch, caplog, direction, shape):
    x, function = torch.rand(shape), {"decode": decode, "encode": encode}[direction]
    expected = function(vae, x, window=(32, 32, 32))
    original, calls = getattr(vae, direction), []

    def full_at_first(part: torch.Tensor) -> torch.Tensor:
        calls.append(part)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(part)

    monkeypatch.setattr(vae, direction, full_at_first)
    torch.testing.assert_close(function(vae, x), expected, rtol=0, atol=0)
    assert f"{direction}: 64×32×32 voxels at once did not fit into memory, now in windows of 32×32×32" in caplog.text


def test_what_fits_in_no_window_is_raised(vae, monkeypatch):
    def full(part: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(vae, "decode", full)
    with pytest.raises(torch.OutOfMemoryError):
        decode(vae, torch.randn(1, 4, 8, 8, 8))
