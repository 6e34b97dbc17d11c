"""The optimizer's steps: learning rate, clipping, moving average, and which steps are left out."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace

import ignite.distributed as idist
import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from torch import multiprocessing, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils._python_dispatch import TorchDispatchMode

from scripts.common.problems import UserError
from scripts.engine.moving_average import averaged
from scripts.engine.parallel import parallel
from scripts.engine.resume import Resume
from scripts.engine.steps import MOST_BROKEN, MOST_OVERFLOWS, OptimizerStep, one_cycle, polynomial_decay


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


def followed(half_life: float, images: int, weights: Iterable[float]) -> list[float]:
    """The moving average after each step of so many images, in which the only weight took these values."""
    network = line(-99.0)
    average, values = averaged(network, half_life, images), []
    for weight in weights:
        nn.init.constant_(network.weight, weight)
        average.update_parameters(network)
        values.append(average.module.weight.item())
    assert not average.module.weight.requires_grad
    return values


@pytest.mark.parametrize("images", [1, 8, 64])
def test_after_its_half_life_of_images_what_was_learnt_before_weighs_half(images):
    """Whatever the batch: 640 images after a weight has changed from 0 to 1."""
    before, after = 30_000 // images, 640 // images
    values = followed(640.0, images, [0.0] * before + [1.0] * after)
    assert values[before - 1] == pytest.approx(0.0, abs=1e-6)
    assert values[-1] == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("images", [1, 16])
def test_the_moving_average_is_of_the_last_weights_from_the_first_step(images):
    """The random start counts nothing; of a steady climb it lags behind by a few per cent of what is done."""
    steps = 40_000 // images
    values = followed(1e9, images, [float(n) for n in range(1, steps + 1)])
    assert values[0] == 1.0
    lags = [1 - value / n for n, value in enumerate(values, start=1)]
    assert max(lags[1:]) < 0.1
    assert lags[-1] == pytest.approx(1 / (1 + math.log(2) / 0.05), rel=0.05)  # of an average of n^(ln 2 / 0.05 - 1)


def test_the_moving_average_does_not_depend_on_the_batch():
    """The same path of the weights, by images, followed in steps of 4 and of 32."""
    few, many = (
        followed(500.0, images, [math.sin(n / 300) for n in range(images, 8001, images)]) for images in (4, 32)
    )
    assert many[20:] == pytest.approx(few[7::8][20:], abs=0.06)


def test_no_moving_average_is_a_choice_and_a_wrong_half_life_is_not():
    assert averaged(line(), 0, 8) is None
    for wrong in (-1.0, math.inf, math.nan):
        with pytest.raises(UserError, match="ema_half_life"):
            averaged(line(), wrong, 8)


@pytest.mark.parametrize("wrapped", [lambda network: network, torch.compile, nn.DataParallel])
def test_weights_that_are_loaded_into_the_network_begin_its_average_anew(wrapped):
    """However the trainer wraps it: an average of other weights would be that of another network."""
    network = line(1.0)
    average = averaged(network, 100.0, 8)
    for _ in range(3):
        average.update_parameters(network)
    trained = wrapped(network)
    trained.load_state_dict({name: torch.full_like(tensor, 7.0) for name, tensor in trained.state_dict().items()})
    assert average.module.weight.item() == 7.0
    assert average.n_averaged == 0
    copy.deepcopy(network).load_state_dict(line(3.0).state_dict())  # another network
    assert average.module.weight.item() == 7.0


def engine(network: nn.Module, iteration: int, accumulate: int = 1) -> SimpleNamespace:
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    state = SimpleNamespace(iteration=iteration, epoch=1, batch={"folder": ["case3", "case5"]})
    return SimpleNamespace(state=state, optimizer=optimizer, accumulation_steps=accumulate, scaler=None)


def test_gradients_are_clipped_to_the_norm():
    network = line()
    network.weight.grad = torch.full_like(network.weight, 30.0)
    OptimizerStep(network, None, None, gradient_clip=2.0).before(engine(network, 1))
    assert network.weight.grad.item() == pytest.approx(2.0, rel=1e-4)


def case(number: int, broken: bool = False) -> dict:
    """A batch of two, or one that the forward pass takes for infinite."""
    image = torch.randn(2, 3, generator=torch.Generator().manual_seed(number))
    return {"image": image / 0 if broken else image, "label": torch.zeros(2, 1), "folder": [f"case{number}"]}


class Training:
    """A network with running statistics, trained with momentum on given batches as the bundles' trainings are."""

    def __init__(
        self, batches: Sequence[dict], loss: Callable = nn.functional.l1_loss, accumulate: int = 1, amp: bool = False,
        clip: float = 1.0, epochs: int = 1, folder: Path | None = None, dtype: torch.dtype = torch.float16,
        fused: bool = False,
    ) -> None:  # fmt: skip
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=0.1, fused=fused)
        self.schedule = polynomial_decay(self.optimizer, 20)
        self.average = averaged(self.network, 50.0, 8)
        self.step = OptimizerStep(self.network, self.schedule, self.average, clip)
        handlers = [self.step]
        if folder is not None:
            parts = {name: getattr(self, name) for name in ("network", "optimizer", "schedule", "average")}
            handlers.append(Resume(folder, parts, settings={}))
        self.trainer = SupervisedTrainer(
            torch.device("cpu"), epochs, batches, parallel(self.network), self.optimizer, loss, train_handlers=handlers,
            decollate=False, accumulation_steps=accumulate, amp=amp,
            amp_kwargs={"enabled": False, "dtype": dtype},
        )  # fmt: skip

    def run(self) -> Training:
        self.trainer.run()
        return self

    def states(self) -> list[torch.Tensor | float]:
        """All that a step may move."""
        moments = [value for state in self.optimizer.state.values() for value in state.values()]
        return [
            *self.network.state_dict().values(), *self.average.state_dict().values(), *moments,
            torch.tensor(self.schedule.last_epoch), torch.tensor(self.optimizer.param_groups[0]["lr"]),
        ]  # fmt: skip


def assert_same(one: Training, other: Training) -> None:
    for a, b in zip(one.states(), other.states(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "options", [{}, {"clip": 0.0}, {"accumulate": 2}, {"amp": True}, {"fused": True}, {"fused": True, "amp": True}]
)
def test_a_step_that_is_not_finite_is_as_if_it_had_not_been(options, caplog):
    """Not for weights and the optimizer's moments, running statistics, moving average or learning rate."""
    good = [case(number) for number in range(4)]
    step = [case(7, broken=True), case(8)][: options.get("accumulate", 1)]
    assert_same(
        Training([*good[:2], *step, *good[2:]], **options).run(),
        Training(good, **options).run(),
    )
    assert "the loss is nan in epoch 1, iteration" in caplog.text
    assert "case7" in caplog.text


def test_nothing_is_scaled_in_bf16_which_ends_as_fp32_does(caplog):
    broken = [case(number, broken=True) for number in range(MOST_BROKEN)]
    with pytest.raises(UserError, match=f"in {MOST_BROKEN} steps in a row"):
        Training(broken, amp=True, dtype=torch.bfloat16).run()
    assert caplog.text.count("It is left out") == MOST_BROKEN - 1


def test_a_gradient_that_is_not_finite_is_left_out(caplog):
    def run(batches: Sequence[dict]) -> Training:
        training = Training(batches)
        state = training.trainer.state
        weight = next(training.network.parameters())
        weight.register_hook(
            lambda grad: torch.full_like(grad, math.inf) if state.batch["folder"] == ["case9"] else grad
        )
        return training.run()

    assert_same(run([case(0), case(9), case(1)]), run([case(0), case(1)]))
    assert "the gradient's norm is inf in epoch 1, iteration 2; the step holds the cases case9" in caplog.text


def test_a_loss_that_is_not_finite_is_left_out_although_its_gradient_is():
    def loss(prediction: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return (prediction - label).abs().mean() + (torch.inf if label.any() else 0)

    infinite = case(9) | {"label": torch.ones(2, 1)}
    assert_same(Training([case(0), infinite, case(1)], loss).run(), Training([case(0), case(1)], loss).run())


@pytest.mark.parametrize(("amp", "most"), [(False, MOST_BROKEN), (True, MOST_OVERFLOWS)])
def test_steps_that_are_not_finite_time_after_time_end_the_training(amp, most):
    row = [case(number, broken=True) for number in range(most - 1)]
    training = Training([*row, case(50), *row, case(51)], amp=amp).run()  # one good step, and they count anew
    assert training.schedule.last_epoch == 2
    training = Training([*row, case(52, broken=True)], amp=amp)
    before = [state.clone() for state in training.states()]
    told = rf"the loss is nan in epoch 1, iteration {most}; .* case52\. It is so in {most} steps in a row.*is intact"
    with pytest.raises(UserError, match=told):
        training.run()
    assert all(torch.equal(a, b) for a, b in zip(before, training.states(), strict=True))


def test_a_step_that_ends_the_training_names_the_cases_of_all_its_passes():
    batches = [case(number, broken=number % 2 == 1) for number in range(2 * MOST_BROKEN)]
    with pytest.raises(UserError, match=rf"cases case{2 * MOST_BROKEN - 2}, case{2 * MOST_BROKEN - 1}\."):
        Training(batches, accumulate=2).run()


def test_a_continued_run_leaves_out_the_same_steps(tmp_path):
    batches = [case(0), case(1, broken=True), case(2), case(3)]
    whole = Training(batches, epochs=3).run()
    for epochs in (1, 2, 3):
        parts = Training(batches, epochs=epochs, folder=tmp_path).run()
    assert_same(whole, parts)


class Reads(TorchDispatchMode):
    """Counts how often a single number is read from a tensor."""

    count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.count += operation.name() == "aten::_local_scalar_dense"
        return operation(*args, **(kwargs or {}))


def test_scaling_for_fp16_reads_no_more_than_a_step_without_it():
    """With the fused kernel, which looks at the scale itself; on a GPU each read is a wait."""

    def reads(**options) -> int:
        training = Training([case(0), case(1), case(2, broken=True), case(3)], **options)
        with Reads() as found:
            training.run()
        return found.count

    assert reads(fused=True, amp=True) == reads(fused=True) < reads(fused=False, amp=True)


@pytest.mark.parametrize("fused", [False, True])
def test_a_continued_run_computes_its_steps_as_is_right_where_it_goes_on(tmp_path, fused):
    """A run of a CPU goes on on a GPU and the other way round: the checkpoint's optimizer had another kernel."""
    batches = [case(0), case(1), case(2)]
    Training(batches, folder=tmp_path, fused=not fused).run()
    training = Training(batches, epochs=2, folder=tmp_path, fused=fused).run()
    assert training.optimizer.param_groups[0]["fused"] == fused
    assert {state["step"].item() for state in training.optimizer.state.values()} == {6}
    whole = Training(batches, epochs=2, fused=fused).run()
    for name in ("0.weight", "1.weight", "2.weight"):  # a bias before a batch norm has no gradient but rounding
        found = (run.network.state_dict()[name] for run in (whole, training))
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


def test_the_scale_of_gradients_falls_and_goes_on_in_the_next_run():
    training = Training([case(0), case(1, broken=True)], amp=True).run()
    scale = training.trainer.scaler.get_scale()
    assert scale == torch.amp.GradScaler("cpu").get_scale() / 2
    training.trainer.state.max_epochs = 2
    training.run()
    assert training.trainer.scaler.get_scale() == scale / 2


def _train_one_of_two(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)  # a forked process waits for ever for threads that only its parent has
    idist.initialize("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    shares = [[case(0), case(1), case(2)], [case(3), case(4, broken=True), case(5)]]
    training = Training(shares[rank]).run()
    torch.save([training.states(), training.step.left_out], folder / f"{rank}.pt")
    row = [case(number, broken=rank == 1) for number in range(10 * rank, 10 * rank + MOST_BROKEN)]
    try:
        Training(row).run()
    except UserError as error:
        (folder / f"{rank}.txt").write_text(str(error))
    idist.finalize()


def test_processes_leave_out_a_step_together_where_one_of_them_has_a_loss_that_is_not_finite(tmp_path):
    multiprocessing.start_processes(_train_one_of_two, (tmp_path,), nprocs=2, start_method="fork")
    one, two = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert one[1] == two[1] == 0
    assert one[0][-2] == two[0][-2] == 2  # steps
    assert all(state.isfinite().all() for state in one[0] + two[0])
    assert torch.equal(one[0][0], two[0][0])
    told = {(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)}
    assert len(told) == 1
    assert f"cases case{MOST_BROKEN - 1}, case{10 + MOST_BROKEN - 1}." in told.pop()


def _accumulate_as_one_of_two(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    idist.initialize("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    batches = [case(10 * rank + number) for number in range(6)]
    for name in ("spared", "every"):
        training = Training(batches, accumulate=3)
        network, reduced = training.trainer.network, []

        def share(_: Engine, network: nn.Module = network) -> None:
            network.require_backward_grad_sync = True

        def count(_, bucket, reduced=reduced):  # PyTorch reads annotations, and takes them as they are written
            reduced.append(bucket.index())
            return allreduce_hook(None, bucket)

        network.register_comm_hook(None, count)
        if name == "every":
            training.trainer.add_event_handler(Events.ITERATION_STARTED, share)
        training.run()
        # A bias before a batch norm has no gradient but rounding.
        named = {name: one for name, one in training.network.named_parameters() if name != "0.bias"}
        weights, gradients = ({name: getattr(one, part) for name, one in named.items()} for part in ("data", "grad"))
        torch.save([reduced.count(0), weights, gradients], folder / f"{name}{rank}.pt")
    idist.finalize()


def test_processes_share_their_gradients_in_the_pass_that_ends_a_step_alone(tmp_path):
    """Two steps of three passes: two reductions instead of six, of the same gradients."""
    multiprocessing.start_processes(_accumulate_as_one_of_two, (tmp_path,), nprocs=2, start_method="fork")
    spared, every = ([torch.load(tmp_path / f"{name}{rank}.pt") for rank in (0, 1)] for name in ("spared", "every"))
    assert [one[0] for one in spared] == [2, 2]
    assert [one[0] for one in every] == [6, 6]
    for one, other in zip(spared, every, strict=True):
        torch.testing.assert_close(one[1:], other[1:], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(spared[0][2], spared[1][2], rtol=0, atol=0)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_gradients_lie_where_they_are_averaged(monkeypatch, device):
    """On GPUs, too, where Ignite wraps the network."""
    given = []
    monkeypatch.setattr("ignite.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("ignite.distributed.device", lambda: torch.device(device))
    monkeypatch.setattr("torch.nn.parallel.DistributedDataParallel", lambda _, **options: given.append(options))
    monkeypatch.setattr("ignite.distributed.auto_model", lambda _, **options: given.append(options))
    parallel(line())
    assert given == [{"gradient_as_bucket_view": True} | ({"sync_bn": True} if device == "cuda" else {})]


def test_only_the_pass_that_ends_a_step_counts():
    network = line()
    trainer = engine(network, 1, accumulate=2)
    schedule = polynomial_decay(trainer.optimizer, 10)
    average = averaged(network, 50.0, 8)
    handler = OptimizerStep(network, schedule, average, gradient_clip=1.0)
    for iteration in (1, 2, 3, 4):
        trainer.state.iteration = iteration
        handler.after(trainer)
    assert average.n_averaged == 2
    assert schedule.last_epoch == 2
