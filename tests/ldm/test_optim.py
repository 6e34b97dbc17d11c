"""Optimizer groups."""

import pytest

import tiny
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
