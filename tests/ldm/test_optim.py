"""Optimizer groups and the latents' scale factors."""

from unittest.mock import MagicMock

import pytest
import torch

import tiny
from scripts.common.problems import UserError
from scripts.ldm.latent_scale import latent_scale, per_channel, scale_factor
from scripts.ldm.optim import parameter_groups
from scripts.networks.ccella import CCELLA


def test_one_rate_for_all_by_default():
    network = CCELLA(**tiny.CCELLA)
    (group,) = parameter_groups(network, lr=1e-4)
    assert group["lr"] == 1e-4
    assert len(group["params"]) == len(list(network.parameters()))


def test_split_gives_the_adapter_a_tenth_and_the_last_classifier_a_hundredth():
    network = CCELLA(**tiny.CCELLA)
    rates = {id(p): group["lr"] for group in parameter_groups(network, 1e-4, split=True) for p in group["params"]}
    expected = {"unet": 1e-4, "ella": 1e-5, "classifier": 1e-6}
    assert len(rates) == len(list(network.parameters()))
    for name, parameter in network.named_parameters():
        assert rates[id(parameter)] == pytest.approx(expected[name.split(".")[0]])


def test_frozen_parameters_are_left_out():
    network = CCELLA(**tiny.CCELLA)
    network.unet.requires_grad_(False)
    parameters = [p for group in parameter_groups(network, 1e-4, split=True) for p in group["params"]]
    assert len(parameters) == sum(p.requires_grad for p in network.parameters())


def test_scale_factor_is_one_over_std_however_the_cases_are_cut():
    latents = 3 + 4 * torch.randn(6, 4, 5, 5, 5, generator=torch.Generator().manual_seed(0))
    whole = scale_factor([latents])
    assert whole == pytest.approx(1 / latents.double().std().item())
    assert scale_factor(iter(latents)) == pytest.approx(whole)


@pytest.mark.parametrize("latents", [[], [torch.ones(4, 2, 2, 2)], [torch.full((4, 2), torch.nan)]])
def test_latents_without_spread_are_refused(latents):
    with pytest.raises(UserError, match="variance"):
        scale_factor(latents)


def test_each_sequence_has_its_own_factor_and_all_have_unit_variance():
    spreads = torch.tensor([0.5, 2.0, 7.0]).repeat_interleave(4)[:, None, None, None]
    latents = spreads * torch.randn(5, 12, 6, 6, 6, generator=torch.Generator().manual_seed(0))
    dataset = MagicMock(shape=latents.shape[1:], latent=lambda epoch, index: latents[index])
    dataset.__len__.return_value = len(latents)
    factors = latent_scale(dataset, 5)
    assert factors == pytest.approx([1 / part.double().std().item() for part in latents.split(4, dim=1)])
    scaled = latents * per_channel(factors, 12)
    assert [part.std().item() for part in scaled.split(4, dim=1)] == pytest.approx([1, 1, 1])


def test_one_factor_serves_all_channels_and_several_their_sequences():
    assert per_channel(1.5, 12).flatten().tolist() == [1.5] * 12
    assert per_channel((0.5, 2.0, 3.0), 12).flatten().tolist() == [0.5] * 4 + [2.0] * 4 + [3.0] * 4
    with pytest.raises(UserError, match="2 scale factors and latents of 12 channels"):
        per_channel((1.0, 2.0), 12)
