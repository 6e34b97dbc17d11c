"""The joint loss against numbers worked out by hand."""

import math

import pytest
import torch

from scripts.common.problems import UserError
from scripts.ldm.loss import JointLoss

NOISE = torch.zeros(2, 1, 2, 2, 2)


def test_noise_part_is_the_mean_absolute_difference():
    predicted = torch.full_like(NOISE, 0.5)
    predicted[0] = -1.5
    loss, parts = JointLoss()(predicted, NOISE)
    assert loss.item() == pytest.approx(1.0)
    assert parts.keys() == {"noise"}


def test_noise_part_may_be_the_mean_squared_difference():
    predicted = torch.full_like(NOISE, 0.5)
    predicted[0] = -1.5
    loss, _ = JointLoss(noise_loss="l2")(predicted, NOISE)
    assert loss.item() == pytest.approx((1.5**2 + 0.5**2) / 2)


def test_an_unknown_noise_loss_is_refused():
    with pytest.raises(UserError, match="huber"):
        JointLoss(noise_loss="huber")


def test_class_part_with_even_odds():
    # p = 1/2 for both: (1/2)^2 * ln 2 * 100 = 17.3287, times 0.75 for the positive and 0.25 for the negative case.
    logits, pirads, isnull = torch.zeros(2, 2), torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 0])
    loss, parts = JointLoss(class_weight=1e-4)(NOISE, NOISE, logits, pirads, isnull)
    unit = 0.25 * math.log(2) * 100
    assert parts["class"].item() == pytest.approx((0.75 * unit + 0.25 * unit) / 2)
    assert loss.item() == pytest.approx(1e-4 * parts["class"].item())


def test_class_part_with_odds_of_three_to_one():
    # softmax(0, ln 3) = (1/4, 3/4). A positive case: 0.75 * (1/4)^2 * ln(4/3) * 100 = 1.34850;
    # a negative case: 0.25 * (3/4)^2 * ln 4 * 100 = 19.49477.
    logits = torch.tensor([[0.0, math.log(3.0)]] * 2)
    pirads, isnull = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 0])
    _, parts = JointLoss()(NOISE, NOISE, logits, pirads, isnull)
    assert parts["class"].item() == pytest.approx((1.34850 + 19.49477) / 2, rel=1e-5)


def test_cases_without_a_report_count_neither_above_nor_below_the_line():
    logits = torch.tensor([[0.3, -0.2], [5.0, -5.0]])
    pirads = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    joint = JointLoss()
    _, alone = joint(NOISE[:1], NOISE[:1], logits[:1], pirads[:1], torch.tensor([0]))
    _, masked = joint(NOISE, NOISE, logits, pirads, torch.tensor([0, 1]))
    assert masked["class"].item() == pytest.approx(alone["class"].item())


def test_a_batch_without_any_report_has_no_class_loss():
    loss, parts = JointLoss()(NOISE, NOISE, torch.ones(2, 2), torch.eye(2), torch.ones(2))
    assert loss.item() == 0
    assert parts["class"].item() == 0


def test_weight_zero_leaves_the_noise_alone():
    logits = torch.ones(2, 2, requires_grad=True)
    loss, parts = JointLoss(class_weight=0)(NOISE + 1, NOISE, logits, torch.eye(2), torch.zeros(2))
    assert loss.item() == 1
    assert parts.keys() == {"noise"}


def test_gradient_of_the_logits_is_weighted_once():
    logits = torch.randn(2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    gradients = []
    for weight in (1e-4, 1e-2):
        loss, _ = JointLoss(weight)(NOISE, NOISE, logits, torch.eye(2), torch.zeros(2))
        gradients.append(torch.autograd.grad(loss, logits)[0])
    torch.testing.assert_close(gradients[1], 100 * gradients[0])


def test_parts_of_a_batch_with_their_share_of_its_reports_average_to_the_whole():
    generator = torch.Generator().manual_seed(3)
    noise_pred, noise = torch.randn(2, 4, 1, 2, 2, 2, generator=generator)
    logits = torch.randn(4, 2, generator=generator)
    batch = (noise_pred, noise, logits, torch.eye(2)[[0, 1, 1, 0]], torch.tensor([0, 1, 0, 0]))
    joint = JointLoss(class_weight=1.0)
    whole, _ = joint(*batch)
    share = torch.tensor(3 / 2)  # three reports in two halves
    halves = [joint(*(part[half] for part in batch), share)[0] for half in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(sum(halves) / 2, whole)
