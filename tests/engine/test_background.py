"""Work in the background: all of it is done in the end, not too much waits, and failures are told."""

from __future__ import annotations

import threading
import time

import pytest

from scripts.engine.background import Background


def test_everything_is_done_in_the_end():
    background, done = Background(threads=3, most=4), []
    for number in range(10):
        background.start(done.append, number)
    background.finish()
    assert sorted(done) == list(range(10))


def test_a_caller_who_is_too_far_ahead_waits():
    background, done = Background(threads=1, most=2), []

    def slowly(number: int) -> None:
        time.sleep(0.01)
        done.append(number)

    for number in range(6):
        background.start(slowly, number)
        assert number + 1 - len(done) <= 2
    background.finish()


def test_a_failure_is_raised_at_the_latest_when_there_is_no_room():
    background, done = Background(threads=1, most=1), []
    background.start(int, "not a number")
    with pytest.raises(ValueError, match="not a number"):
        background.start(done.append, 1)
    assert done == []


def test_the_first_failure_is_raised_at_the_end_when_the_others_are_done():
    background, done, all_handed_over = Background(threads=1, most=9), [], threading.Event()

    def fail(name: str) -> None:
        all_handed_over.wait(60)
        raise ValueError(name)

    for call in ((fail, "first"), (fail, "second"), (done.append, 1)):
        background.start(*call)
    all_handed_over.set()
    with pytest.raises(ValueError, match="first"):
        background.finish()
    assert done == [1]
    background.finish()  # what was told is not told again
