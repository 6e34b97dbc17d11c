from __future__ import annotations

from dataclasses import replace

import pytest

import scripts.ldm.batches as batches
from scripts.common.problems import UserError
from scripts.ldm.cases import read_training_cases
from scripts.ldm.dataset import Dropout, LatentDataset


@pytest.fixture
def dataset(data_root) -> LatentDataset:
    cases = read_training_cases(data_root, data_root / "latents", embedding_width=6, factor=2)
    return LatentDataset(cases, data_root, seed=5, dropout=Dropout(both=0.3))


def passes(monkeypatch, dataset, epoch, *, batch_size, accumulate=1, world=1):
    """All passes of an epoch: [step][process][pass] -> slots."""
    found = []
    for rank in range(world):
        monkeypatch.setattr(batches.idist, "get_world_size", lambda: world)
        monkeypatch.setattr(batches.idist, "get_rank", lambda rank=rank: rank)
        found.append(list(batches.StepSampler(dataset, batch_size, accumulate).epoch(epoch)))
    steps = len(found[0]) // accumulate
    return [[mine[step * accumulate : (step + 1) * accumulate] for mine in found] for step in range(steps)]


def step_cases(steps):
    return [sorted(s.index for process in step for part in process for s in part if s.case_weight) for step in steps]


@pytest.mark.parametrize("batch_size", [2, 3, 4, 7, 20])
def test_every_case_is_seen_once_an_epoch_in_steps_of_equal_size(monkeypatch, dataset, batch_size):
    steps = step_cases(passes(monkeypatch, dataset, 1, batch_size=batch_size))
    assert sorted(index for step in steps for index in step) == list(range(7))
    assert max(map(len, steps)) - min(map(len, steps)) <= 1
    assert max(map(len, steps)) <= batch_size


def test_steps_do_not_depend_on_processes_and_passes(monkeypatch, dataset):
    alone = step_cases(passes(monkeypatch, dataset, 1, batch_size=4))
    for world, accumulate in [(2, 1), (1, 3), (3, 1), (4, 1), (2, 2)]:
        assert step_cases(passes(monkeypatch, dataset, 1, batch_size=4, world=world, accumulate=accumulate)) == alone


def test_epochs_are_shuffled_differently_and_repeatably(monkeypatch, dataset):
    first, again = (passes(monkeypatch, dataset, 1, batch_size=1) for _ in range(2))
    assert first == again
    assert step_cases(first) != step_cases(passes(monkeypatch, dataset, 2, batch_size=1))


@pytest.mark.parametrize("batch_size", [4, 7])
def test_weights_of_a_step_sum_to_its_mean(monkeypatch, dataset, batch_size):
    for step in passes(monkeypatch, dataset, 1, batch_size=batch_size, world=2, accumulate=2):
        slots = [s for process in step for part in process for s in part]
        reports = [s for s in slots if s.case_weight and not dataset.dropped(s.epoch, s.index)[0]]
        # The trainer divides by 2 passes, data parallelism by 2 processes.
        assert sum(s.case_weight for s in slots) / 4 == pytest.approx(1)
        assert sum(s.report_weight for s in reports) / 4 == pytest.approx(1)


@pytest.mark.parametrize("cases", [3, 7, 9, 15])
def test_eight_processes_share_steps_of_eight_cases_whatever_their_number(monkeypatch, dataset, cases):
    """Every process has a pass in every step; where a step has fewer cases, some repeat one that weighs nothing."""
    dataset.cases = [replace(dataset.cases[0], folder=str(number)) for number in range(cases)]
    alone = step_cases(passes(monkeypatch, dataset, 1, batch_size=8))
    steps = passes(monkeypatch, dataset, 1, batch_size=8, world=8)
    assert step_cases(steps) == alone
    assert sorted(index for step in alone for index in step) == list(range(cases))
    for step, indices in zip(steps, alone, strict=True):
        slots = [slot for process in step for part in process for slot in part]
        assert all(part for process in step for part in process)
        assert len([slot for slot in slots if not slot.case_weight]) == 8 - len(indices)


def test_iteration_goes_on_after_the_epochs_that_are_done(monkeypatch, dataset):
    sampler = batches.StepSampler(dataset, 4)
    sampler.epochs_done = 2
    endless = iter(sampler)
    epochs = [next(endless)[0].epoch for _ in range(2 * len(sampler))]
    assert epochs == [3, 3, 4, 4]


@pytest.mark.parametrize(("batch_size", "accumulate"), [(0, 1), (2, 3), (4, 0)])
def test_steps_that_cannot_be_shared_out_are_refused(dataset, batch_size, accumulate):
    with pytest.raises(UserError, match="raise batch_size"):
        batches.StepSampler(dataset, batch_size, accumulate)
