"""What guidance asks for, and what its corrections do to the pull: closed forms, on numbers alone."""

from __future__ import annotations

import pytest
import torch

from scripts.common.problems import UserError
from scripts.ldm.guidance import Guidance
from scripts.networks.variants import find_variant

OWN, GUIDED = torch.randn(2, 3, 4, 6, 5, 4, generator=torch.Generator().manual_seed(0)).unbind()


def norms(x: torch.Tensor) -> torch.Tensor:
    return x.square().mean((1, 2, 3, 4)).sqrt()


def corrected(before: torch.Tensor | None = None, **corrections: float) -> torch.Tensor:
    return Guidance(3, 3, **corrections).correct(OWN, GUIDED, before)[0]


# ---- what is asked ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "weights", "terms"),
    [
        ("CCELLA", (1, 1), [(1, True, True)]),
        ("CCELLA", (3, 3), [(-2, False, False), (3, True, True)]),
        ("CCELLA", (3, 2), [(-2, False, False), (1, True, False), (2, True, True)]),
        ("CCELLA", (1, 2), [(-1, True, False), (2, True, True)]),
        ("CCELLA", (0, 0), [(1, False, False)]),
        ("ELLAMAISI", (3, 7), [(-2, False, False), (3, True, True)]),
        ("RADMAISI", (7, 3), [(-2, False, False), (3, True, True)]),
        ("MAISI", (3, 3), [(1, True, True)]),
    ],
)
def test_only_the_answers_that_count_are_asked_for(variant, weights, terms):
    assert Guidance(*weights).terms(find_variant(variant), 500) == terms


def test_guidance_works_within_its_interval_only():
    guidance, variant = Guidance(3, 3, (200, 600)), find_variant("CCELLA")
    guided = [t for t in range(0, 1001, 100) if len(guidance.terms(variant, t)) > 1]
    assert guided == [200, 300, 400, 500, 600]


@pytest.mark.parametrize("weight", [-1, "3x", float("nan"), float("inf")])
def test_an_impossible_weight_is_refused(weight):
    with pytest.raises(UserError, match="guidance weight"):
        Guidance(2, weight)


@pytest.mark.parametrize("interval", [(-1, 500), (600, 200), (0, 1001), (3,), ("a", "b")])
def test_an_impossible_interval_is_refused(interval):
    with pytest.raises(UserError, match="guidance_interval"):
        Guidance(2, 2, interval)


def test_a_worse_network_is_asked_in_place_of_the_answers_without_condition():
    guidance, variant = Guidance(3, 3, (200, 600), by_worse=True), find_variant("CCELLA")
    assert guidance.terms(variant, 400) == [(3, True, True)]
    assert guidance.worse_terms(400) == [(-2, True, True)]
    assert guidance.terms(variant, 700) == [(1, True, True)]
    assert guidance.worse_terms(700) == []
    assert not guidance.needs_null(variant)
    with pytest.raises(UserError, match="guidance_class"):
        Guidance(3, 2, by_worse=True)


def test_a_record_says_what_is_on():
    assert Guidance(3, 2).settings == {"report": 3, "class": 2, "interval": [0.0, 1000.0]}
    assert Guidance(3, 2, parallel=0.0, norm=0.5).settings == Guidance(3, 2).settings | {"parallel": 0.0, "norm": 0.5}


# ---- what is done to the pull ----------------------------------------------------------------------------------------


def test_a_limit_that_no_pull_reaches_changes_nothing():
    assert torch.allclose(corrected(norm=1e6), GUIDED, atol=1e-6)
    assert not Guidance(3, 3).corrects


def test_full_rescaling_gives_each_case_the_deviation_that_it_had():
    each = (1, 2, 3, 4)
    strong = OWN + 4 * (GUIDED - OWN) + 0.3
    full, half, none = (Guidance(3, 3, rescale=phi).correct(OWN, strong, None)[0] for phi in (1.0, 0.5, 0.0))
    assert torch.allclose(full.std(each), OWN.std(each), rtol=1e-5)
    assert torch.allclose(half.std(each), (OWN.std(each) + strong.std(each)) / 2, rtol=1e-5)
    assert torch.allclose(none, strong, atol=1e-6)
    assert torch.allclose(full, strong * (OWN.std(each, keepdim=True) / strong.std(each, keepdim=True)), atol=1e-6)


@pytest.mark.parametrize("eta", [0.0, 0.3])
def test_projection_keeps_what_is_across_the_prediction_and_a_part_of_what_is_along_it(eta):
    for own, guided, got in zip(OWN, GUIDED, corrected(parallel=eta), strict=True):
        direction = own / own.norm()
        pull, left = guided - own, got - own
        assert left.flatten() @ direction.flatten() == pytest.approx(
            eta * float(pull.flatten() @ direction.flatten()), abs=1e-4
        )
        across = pull - (pull.flatten() @ direction.flatten()) * direction
        assert torch.allclose(left - (left.flatten() @ direction.flatten()) * direction, across, atol=1e-5)


def test_a_pull_that_is_more_contrast_and_nothing_else_vanishes():
    got, _ = Guidance(3, 3, parallel=0.0).correct(OWN, 3 * OWN, None)
    assert torch.allclose(got, OWN, atol=1e-5)


def test_no_case_is_pulled_harder_than_the_limit_and_its_direction_stays():
    pulls = GUIDED - OWN
    pulls[0] *= 0.01
    kept = Guidance(3, 3, norm=0.2).correct(OWN, OWN + pulls, None)[0] - OWN
    assert torch.allclose(kept[0], pulls[0], atol=1e-6)
    assert torch.allclose(norms(kept[1:]), torch.tensor(0.2), atol=1e-6)
    assert torch.allclose(kept[1:] / 0.2, pulls[1:] / norms(pulls[1:])[:, None, None, None, None], atol=1e-5)


def test_momentum_adds_the_pulls_before_and_hands_on_what_no_limit_has_cut():
    before = torch.randn(OWN.shape, generator=torch.Generator().manual_seed(1))
    got, pull = Guidance(3, 3, momentum=-0.5, norm=1e-3, parallel=0.0).correct(OWN, GUIDED, before)
    assert torch.allclose(pull, GUIDED - OWN - 0.5 * before, atol=1e-6)
    assert norms(got - OWN).max() < 1.01e-3
    assert torch.allclose(corrected(before, momentum=-0.5), OWN + pull, atol=1e-6)


def test_corrections_look_at_each_case_alone():
    guidance = Guidance(3, 3, rescale=0.7, parallel=0.1, norm=0.3, momentum=-0.3)
    together, pulls = guidance.correct(OWN, GUIDED, GUIDED)
    for case in range(len(OWN)):
        one = slice(case, case + 1)
        alone, pull = guidance.correct(OWN[one], GUIDED[one], GUIDED[one])
        assert torch.allclose(alone, together[one], atol=1e-6)
        assert torch.equal(pull, pulls[one])
