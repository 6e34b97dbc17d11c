"""What is seen of a training costs it no waiting for the GPU, but now and then."""

from __future__ import annotations

import sys

import torch
from ignite.engine import Engine

from scripts.engine.monitor import READ_EVERY, Progress


class Loss:
    """Counts how often it is read."""

    reads = 0

    def item(self) -> float:
        self.reads += 1
        return 0.5


def test_a_progress_bar_reads_the_loss_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    loss = Loss()
    engine = Engine(lambda engine, batch: {"loss": loss})
    engine.optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.25)
    Progress().attach(engine)
    engine.run([{"folder": ["a", "b"]}] * (2 * READ_EVERY + 1), max_epochs=2)
    assert loss.reads == 4
    assert "loss=0.5" in capsys.readouterr().err
    assert engine.state.metrics["lr"] == 0.25
    assert engine.state.metrics["images_per_second"] > 0
