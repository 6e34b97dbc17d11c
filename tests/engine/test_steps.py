from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from scripts.common.problems import UserError
from scripts.engine.moving_average import averaged
from scripts.engine.steps import MOST_OVERFLOWS, OptimizerStep, StopOnNan, one_cycle, polynomial_decay


def line(value: float = 0.0) -> nn.Linear:
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, value)
    return network


def rates(steps: int, make=polynomial_decay, **options) -> list[float]:
    optimizer = torch.optim.SGD(line().parameters(), lr=2.0)
    schedule = make(optimizer, steps, **options)
    found = []
    for _ in range(steps + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_learning_rate_falls_as_a_polynomial_to_zero():
    assert rates(4) == pytest.approx([2 * (1 - n / 4) ** 2 for n in range(5)])


def test_warmup_rises_linearly_before_it():
    assert rates(10, power=0.0, warmup=3)[:5] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])


@pytest.mark.parametrize("steps", [4, 100])
def test_one_cycle_is_that_of_pytorch(steps):
    def reference(optimizer, steps):
        return OneCycleLR(optimizer, 2.0, steps + 1, pct_start=0.05, cycle_momentum=False)

    assert rates(steps, one_cycle) == pytest.approx(rates(steps, reference)[: steps + 1])


def test_moving_average_warms_up_and_then_keeps_its_decay():
    network = line(1.0)
    average = averaged(network, 0.5)
    expected = None
    for count in range(20):
        nn.init.constant_(network.weight, float(count))
        average.update_parameters(network)
        decay = min(0.5, (1 + count) / (10 + count))
        expected = float(count) if expected is None else decay * expected + (1 - decay) * count
    assert average.module.weight.item() == pytest.approx(expected)
    assert not average.module.weight.requires_grad


def test_no_moving_average_is_a_choice_and_a_wrong_decay_is_not():
    assert averaged(line(), 0.0) is None
    with pytest.raises(UserError, match="ema_decay"):
        averaged(line(), 1.0)


def engine(network: nn.Module, iteration: int, accumulate: int = 1) -> SimpleNamespace:
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    state = SimpleNamespace(iteration=iteration, epoch=1, batch={"folder": ["case3", "case5"]})
    return SimpleNamespace(state=state, optimizer=optimizer, accumulation_steps=accumulate, scaler=None)


def test_gradients_are_clipped_to_the_norm():
    network = line()
    network.weight.grad = torch.full_like(network.weight, 30.0)
    OptimizerStep(network, None, None, gradient_clip=2.0).before(engine(network, 1))
    assert network.weight.grad.item() == pytest.approx(2.0, rel=1e-4)


@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_stops_before_it_reaches_the_weights(value, clip):
    network = line()
    network.weight.grad = torch.full_like(network.weight, value)
    trainer = engine(network, 1)
    with pytest.raises(UserError, match=r"gradient.*case3, case5.*last checkpoint is intact"):
        OptimizerStep(network, None, None, clip).before(trainer)


def test_a_gradient_that_is_not_finite_names_the_cases_of_all_passes_of_its_step():
    network = line()
    network.weight.grad = torch.full_like(network.weight, torch.nan)
    handler = OptimizerStep(network, None, None, 1.0)
    trainer = engine(network, 1, accumulate=2)
    trainer.state.batch = {"folder": ["case1"]}
    handler.before(trainer)
    trainer.state.iteration, trainer.state.batch = 2, {"folder": ["case7"]}
    with pytest.raises(UserError, match="case1, case7"):
        handler.before(trainer)


def scaled_step(handler: OptimizerStep, trainer: SimpleNamespace, factor: float) -> None:
    """One step in fp16 as MONAI's trainer does it, with a gradient of `factor`."""
    trainer.optimizer.zero_grad()
    trainer.scaler.scale(handler.network.weight.sum() * factor).backward()
    handler.before(trainer)
    trainer.scaler.step(trainer.optimizer)
    trainer.scaler.update()
    handler.after(trainer)


@pytest.fixture
def scaled() -> tuple[OptimizerStep, SimpleNamespace]:
    network = line(1.0)
    trainer = engine(network, 1)
    trainer.state.device, trainer.scaler = torch.device("cpu"), "of MONAI, for CUDA"
    handler = OptimizerStep(network, polynomial_decay(trainer.optimizer, 10), averaged(network, 0.9), 1.0)
    handler.start(trainer)
    return handler, trainer


def test_a_step_that_overflows_in_fp16_is_left_out_and_the_scale_falls(scaled):
    handler, trainer = scaled
    before = trainer.scaler.get_scale()
    scaled_step(handler, trainer, torch.inf)
    assert handler.network.weight.item() == 1.0
    assert trainer.scaler.get_scale() == before / 2
    assert handler.schedule.last_epoch == handler.average.n_averaged == 0
    scaled_step(handler, trainer, 0.5)
    assert handler.network.weight.item() == pytest.approx(0.5)
    assert handler.schedule.last_epoch == handler.average.n_averaged == 1


def test_a_gradient_that_overflows_in_fp16_time_after_time_ends_the_training(scaled):
    handler, trainer = scaled
    for _ in range(MOST_OVERFLOWS - 1):
        scaled_step(handler, trainer, torch.nan)
    scaled_step(handler, trainer, 0.5)  # one good step, and it counts anew
    for _ in range(MOST_OVERFLOWS - 1):
        scaled_step(handler, trainer, torch.nan)
    with pytest.raises(UserError, match=r"nan in 20 steps in a row.*case3, case5.*last checkpoint is intact"):
        scaled_step(handler, trainer, torch.nan)


def test_only_the_pass_that_ends_a_step_counts():
    network = line()
    trainer = engine(network, 1, accumulate=2)
    schedule = polynomial_decay(trainer.optimizer, 10)
    average = averaged(network, 0.9)
    handler = OptimizerStep(network, schedule, average, gradient_clip=1.0)
    for iteration in (1, 2, 3, 4):
        trainer.state.iteration = iteration
        handler.after(trainer)
    assert average.n_averaged == 2
    assert schedule.last_epoch == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_and_names_the_cases(value):
    trainer = engine(line(), 1)
    trainer.state.output = {"loss": torch.tensor(value)}
    with pytest.raises(UserError, match="case3, case5"):
        StopOnNan()(trainer)
    trainer.state.output = {"loss": torch.tensor(1.0)}
    assert StopOnNan()(trainer) is None
