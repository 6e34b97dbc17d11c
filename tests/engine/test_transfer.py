"""Moments of a device that works while the program looks on."""

from __future__ import annotations

import time

import torch

from scripts.engine.transfer import Moment, sent

CPU = torch.device("cpu")


def test_seconds_lie_between_two_moments():
    begun = Moment(CPU)
    time.sleep(0.02)
    done = Moment(CPU)
    done.wait()
    assert 0.02 <= done.since(begun) < 1


def test_what_is_sent_arrives():
    tensor = torch.randn(3)
    assert torch.equal(sent(tensor, CPU), tensor)
    assert sent(tensor, torch.device("meta")).is_meta
