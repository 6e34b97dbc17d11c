"""Clocks, counts and ceilings: closed forms where there are some, and what a GPU's clock waits for."""

from __future__ import annotations

import time

import pytest
import torch

from scripts.showcase import measure

CPU = torch.device("cpu")


@pytest.mark.parametrize(("seconds", "count"), [(0.0, 1), (0.05, 5)])
def test_calls_are_timed_as_many_as_fit(seconds, count):
    taken = measure.time_calls(lambda: time.sleep(0.01), CPU, seconds)
    assert taken.count <= max(count, 1)
    assert 0.01 <= taken.least <= taken.median < 0.1


def test_seconds_are_median_and_least():
    assert measure.Seconds.of([3.0, 1.0, 2.0, 9.0]) == measure.Seconds(2.5, 1.0, 4)


def test_marks_tell_the_time_between_neighbours():
    marks = measure.Marks(CPU)
    for pause in (0, 0.02, 0.01):
        time.sleep(pause)
        marks.set()
    assert marks.seconds() == pytest.approx([0.02, 0.01], abs=0.008)


class Card:
    """Stands for CUDA: work is done when somebody waits, and takes a millisecond for each call."""

    def __init__(self) -> None:
        self.queue, self.now, self.calls = [], 0.0, 0

    def work(self) -> None:
        self.calls += 1
        self.queue.append(None)

    def synchronize(self, device=None) -> None:
        for event in self.queue:
            if event is None:
                self.now += 1.0
            else:
                event.at = self.now
        self.queue.clear()


def test_a_gpu_is_warmed_up_and_timed_by_events_of_its_own(monkeypatch):
    card = Card()

    class Event:
        def __init__(self, enable_timing: bool, blocking: bool) -> None:
            assert enable_timing

        def record(self, stream: str) -> None:
            assert stream == "its own"
            card.queue.append(self)

        def elapsed_time(self, other) -> float:
            return other.at - self.at

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "its own")
    monkeypatch.setattr(torch.cuda, "synchronize", card.synchronize)
    taken = measure.time_calls(card.work, torch.device("cuda"), seconds=0.02)
    assert (taken.median, taken.least) == pytest.approx((1e-3, 1e-3))
    assert taken.count == 20
    assert card.calls == measure.WARM_UP + 1 + 20


def test_processor_time_is_told_beside_the_clocks():
    seconds, busy = measure.clock(lambda: time.sleep(0.05), CPU)
    assert seconds >= 0.05
    assert busy < 0.03


def test_inputs_come_in_turn():
    seen = []
    work = measure.in_turn(seen.append, [1, 2])
    for _ in range(3):
        work()
    assert seen == [1, 2, 1]


def test_a_products_operations_are_counted_where_nothing_is_computed():
    a, b = torch.empty(3, 5, device="meta"), torch.empty(5, 7, device="meta")
    assert measure.count_flop(lambda: a @ b) == 2 * 3 * 5 * 7


def test_tf32_is_put_back():
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    with measure.tf32(not before[0]):
        assert torch.backends.cudnn.allow_tf32 is torch.backends.cuda.matmul.allow_tf32 is not before[0]
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == before


def test_a_copy_counts_what_is_read_and_what_is_written():
    told = dict(measure.ceilings(32, 4, CPU))["copy on the device"]
    assert told["gb_per_second"] == pytest.approx(2 * 4e-3 / told["seconds"])
