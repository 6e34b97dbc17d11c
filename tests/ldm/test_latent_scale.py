"""Every channel enters the network with mean 0 and deviation 1, and leaves it as the VAE has it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

import tiny
from scripts.common.problems import UserError
from scripts.ldm.latent_scale import joined, latent_scale, moments, normalised, per_channel, restored
from scripts.networks.ccella import CCELLA
from scripts.networks.weights import LatentScale, read_header, save_weights


class Latents(list):
    """In place of a data set: its latents (C, X, Y, Z)."""

    def __init__(self, latents: torch.Tensor, fingerprint: str | None = "vae") -> None:
        super().__init__(latents)
        self.shape, self.cases = tuple(latents.shape[1:]), [SimpleNamespace(fingerprint=fingerprint)]

    def latent(self, epoch: int, index: int) -> torch.Tensor:
        return self[index]


def drawn(channels: int = 4, cases: int = 5, size: int = 6) -> torch.Tensor:
    """Latents (N, C, X, Y, Z) of channels that differ in mean and deviation, and of cases that differ in mean."""
    generator = torch.Generator().manual_seed(0)
    means, spreads = 3 * torch.randn(channels, generator=generator), 1 + torch.arange(channels)
    latents = torch.randn(cases, channels, size, size, size, generator=generator)
    latents += torch.arange(cases).view(-1, 1, 1, 1, 1)
    return latents * spreads.view(-1, 1, 1, 1) + means.view(-1, 1, 1, 1)


@pytest.mark.parametrize("channels", [4, 12])
def test_each_channel_has_mean_0_and_deviation_1(channels):
    latents = drawn(channels)
    inside = normalised(latents, latent_scale("channel", Latents(latents))).double().transpose(0, 1).flatten(1)
    assert inside.mean(dim=1).tolist() == pytest.approx([0.0] * channels, abs=1e-6)
    assert inside.std(dim=1).tolist() == pytest.approx([1.0] * channels, rel=1e-6)


def test_it_is_told_by_mean_and_factor_of_all_cases():
    latents = drawn()
    values = latents.double().transpose(0, 1).flatten(1)
    scale = latent_scale("channel", Latents(latents))
    assert scale.mean == pytest.approx(values.mean(dim=1).tolist())
    assert scale.factor == pytest.approx((1 / values.std(dim=1)).tolist())
    some = latent_scale("channel", Latents(latents), 3)
    assert some == latent_scale("channel", Latents(latents[[0, 2, 4]]))


@pytest.mark.parametrize("channels", [4, 12])
def test_a_single_factor_is_one_over_the_deviation_of_a_sequence(channels):
    latents = drawn(channels)
    scale = latent_scale("single", Latents(latents))
    assert scale.factor == pytest.approx([1 / part.double().std().item() for part in latents.split(4, dim=1)])
    assert scale.mean == (0.0,)


@pytest.mark.parametrize(
    ("scale", "channels"),
    [
        (LatentScale((0.5, 2.0, 1 / 3, 0.1), (3.0, -1.0, 0.0, 0.2)), 4),
        (LatentScale((0.7,)), 4),
        (LatentScale((1.0, 2.0, 3.0)), 12),
    ],
)
def test_what_has_entered_leaves_as_it_was(scale, channels):
    latents = drawn(channels)
    torch.testing.assert_close(restored(normalised(latents, scale), scale), latents)


def test_a_factor_without_mean_multiplies_and_divides_bit_by_bit():
    """As weights of earlier versions, and the authors', have been trained and sampled."""
    latents, factor = drawn(), 0.7312345
    assert torch.equal(normalised(latents, LatentScale((factor,))), latents * torch.tensor(factor))
    assert torch.equal(restored(latents, LatentScale((factor,))), latents / torch.tensor(factor))


def test_a_far_mean_costs_no_digits():
    """The sum of squares less the squared sum would have none left in float32, and six in float64."""
    latents = drawn() + 1e4
    assert latent_scale("channel", Latents(latents)).factor == pytest.approx(
        latent_scale("channel", Latents(latents - 1e4)).factor, rel=1e-3
    )


def test_moments_are_those_of_the_whole_however_it_is_cut():
    latents = drawn(cases=7).double()
    whole = moments(latents.transpose(0, 1))
    for cut in ([1] * 7, [3, 4], [1, 5, 1]):
        parts = joined([moments(part.transpose(0, 1)) for part in latents.split(cut)])
        for one, other in zip(parts, whole, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("processes", [2, 3, 8])
def test_every_process_finds_the_same_to_the_last_bit(monkeypatch, processes):
    """Each measures its own share: here the shares of all, one after the other, are what a process is handed."""
    dataset = Latents(drawn())
    alone = latent_scale("channel", dataset)
    looked_at = []

    def share(function: Callable, picks: list[int]) -> list:
        found = [None] * len(picks)
        for rank in range(processes):
            looked_at.append(picks[rank::processes])
            found[rank::processes] = [function(index) for index in picks[rank::processes]]
        return found

    monkeypatch.setattr("scripts.ldm.latent_scale.for_all", share)
    assert latent_scale("channel", dataset) == alone
    assert sorted(index for part in looked_at for index in part) == list(range(len(dataset)))


@pytest.mark.parametrize("value", [0.0, 3.3, torch.nan, torch.inf])
@pytest.mark.parametrize("how", ["channel", "single"])
def test_a_channel_without_spread_is_refused(value, how):
    latents = drawn(12)
    latents[:, 4:8] = value
    with pytest.raises(UserError, match="channel 5 of 12 is" if how == "channel" else "sequence 2 of 3 is"):
        latent_scale(how, Latents(latents))


def test_one_factor_serves_all_channels_and_several_their_sequences():
    for factors, expected in (
        ((1.5,), [1.5] * 12),
        ((0.5, 2.0, 3.0), [0.5] * 4 + [2.0] * 4 + [3.0] * 4),
        (tuple(range(1, 13)), list(range(1, 13))),
    ):
        factor, mean = per_channel(LatentScale(factors), 12)
        assert factor.tolist() == expected
        assert mean.tolist() == [0.0] * 12
    for count in (2, 4, 6):
        with pytest.raises(UserError, match=f"{count} scale factors and latents of 12 channels"):
            per_channel(LatentScale((1.0,) * count), 12)


# ---- of other weights ------------------------------------------------------------------------------------------------


@pytest.fixture
def weights(tmp_path) -> Callable[..., str]:
    """Writes weights of a tiny network that hold a scale, and gives their path."""

    def write(scale: LatentScale, **meta) -> str:
        network = CCELLA(**tiny.CCELLA)
        save_weights(tmp_path / "model.safetensors", network.state_dict(), config=network.config, scale=scale, **meta)
        return str(tmp_path / "model.safetensors")

    return write


def test_weights_keep_mean_and_factor_of_each_channel_and_another_training_may_take_them(weights):
    scale = latent_scale("channel", Latents(drawn()))
    path = weights(scale, vae_fingerprint="vae")
    assert read_header(path).scale == scale
    assert latent_scale(path, Latents(2 * drawn())) == scale
    assert latent_scale(path, Latents(drawn(), fingerprint=None)) == scale  # the authors' latents tell none


def test_the_scale_of_other_latents_is_refused(weights):
    path = weights(LatentScale((1.0,) * 4, (0.0,) * 4), vae_fingerprint="another")
    with pytest.raises(UserError, match="latents of VAE another, but these were made by VAE vae"):
        latent_scale(path, Latents(drawn()))
    path = weights(LatentScale((1.0,) * 4, (1.0,) * 4))
    with pytest.raises(UserError, match="4 scale factors and latents of 12 channels"):
        latent_scale(path, Latents(drawn(12)))
    with pytest.raises(UserError, match="latent_scale is 'chanel'; give channel, single, or the path"):
        latent_scale("chanel", Latents(drawn()))


@pytest.mark.parametrize("mean", [(0.1, 0.2), (0.1, 0.2, 0.3, float("nan")), (0.1, 0.2, 0.3, None)])
def test_means_that_are_no_numbers_or_too_few_are_told(weights, mean):
    path = weights(LatentScale((1.0,) * 4, mean))
    with pytest.raises(UserError, match=r"latent mean .*must be a number for each factor"):
        read_header(path)
