"""What a training's steps ask of an accelerator, for which the `meta` device stands: it computes nothing.

Its tensors hold no numbers, so what reads one raises, as do copies from it and shapes that depend on numbers. Only the
reading of one number is let pass, as true, and counted: each is a wait of the host for the accelerator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = "$torch.device('meta')"  # as an option of a config
FROM_NUMBERS = (torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor)
COPIES = ("aten::_to_copy", "aten::copy_")


@dataclass
class Step:
    """What one iteration has asked for."""

    reads: int = 0
    sent: list[tuple[int, ...]] = field(default_factory=list)  # shapes of what went over
    made: int = 0  # tensors made there from Python's numbers

    @property
    def count(self) -> int:
        """All of it."""
        return self.reads + len(self.sent) + self.made


class _Operations(TorchDispatchMode):
    def __init__(self, step: Step) -> None:
        super().__init__()
        self.step = step

    def __torch_dispatch__(self, operation: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if operation.name() == "aten::_local_scalar_dense" and given[0].is_meta:
            self.step.reads += 1
            return True
        result = operation(*args, **kwargs)
        if any(isinstance(leaf, Tensor) and leaf.is_meta for leaf in tree_leaves(result)):
            # One number of the host beside an accelerator's tensor is an argument of its kernel.
            copied = [one for one in given if not one.is_meta and (one.ndim or operation.name() in COPIES)]
            self.step.sent += [tuple(one.shape) for one in copied]
        return result


class _Numbers(TorchFunctionMode):
    """Sees what the other does not: tensors of the accelerator that are made from Python's numbers."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.step = step

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function in FROM_NUMBERS and result.is_meta:
            self.step.made += 1
        return result


@contextmanager
def watched() -> Iterator[Step]:
    """What is asked for inside the block."""
    step = Step()
    with _Operations(step), _Numbers(step):
        yield step


class _Enough(Exception):
    pass


def steps_of(trainer: Engine, count: int, disturb: Callable[[Engine], None] | None = None) -> list[Step]:
    """Run a trainer of the `meta` device for some iterations; the first, which lays tables out there, is left away.

    Args:
        trainer: with all its handlers.
        count: iterations.
        disturb: called at the end of each, for what must not be overlooked.
    """
    steps: list[Step] = []
    modes: list[Any] = []

    def begin() -> None:
        steps.append(Step())
        modes[:] = [_Operations(steps[-1]), _Numbers(steps[-1])]
        for mode in modes:
            mode.__enter__()

    def end(engine: Engine) -> None:
        if disturb is not None:
            disturb(engine)
        while modes:
            modes.pop().__exit__(None, None, None)
        if len(steps) == count + 1:
            raise _Enough

    trainer.state.epoch_length = 10**6  # the end of an epoch may read
    trainer.add_event_handler(Events.GET_BATCH_COMPLETED, begin)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, end)
    try:
        trainer.run()
    except _Enough:
        return steps[1:]
    finally:
        while modes:
            modes.pop().__exit__(None, None, None)
    raise AssertionError(f"the training ended before {count + 1} iterations")


def tensors_of(batch: dict[str, Any]) -> list[tuple[int, ...]]:
    """Shapes of what a batch may send over."""
    return sorted(tuple(value.shape) for value in batch.values() if isinstance(value, Tensor))
