"""How time, work and memory are measured: the one way of the timing table and of what `make gpu` says.

A GPU works behind the program's back. Its time is read from events in its own stream, after calls that warm it up: they
load kernels, and let cuDNN try them. Calls follow each other without a wait, as they do in use.
"""

from __future__ import annotations

import itertools
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from scripts.engine.transfer import Moment

WARM_UP = 3  # calls before a GPU's clock starts
FEWEST, MOST = 5, 100  # timed calls on a GPU
SECONDS = 1.0  # that timed calls may take together; on a CPU one call may take longer

Given = TypeVar("Given")


@dataclass(frozen=True)
class Seconds:
    """What calls took: the median, the shortest, and how many there were."""

    median: float
    least: float
    count: int

    @classmethod
    def of(cls, found: Sequence[float]) -> Seconds:
        """From the seconds of each call."""
        return cls(median(found), min(found), len(found))


class Marks:
    """Moments in the work of a device, without waiting for it, and the seconds between neighbours."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.moments: list[Moment] = []

    def set(self) -> None:
        """Mark this moment: on a GPU that of the work that was handed over last."""
        self.moments.append(Moment(self.device))

    def seconds(self) -> list[float]:
        """The seconds from each mark to the next, once the device has come to the last."""
        wait(self.device)
        return [other.since(one) for one, other in itertools.pairwise(self.moments)]


def wait(device: torch.device) -> None:
    """Until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_calls(work: Callable[[], object], device: torch.device, seconds: float = SECONDS) -> Seconds:
    """Time calls of `work`, as many as fit into `seconds`: on a GPU at least five after a warm-up, on a CPU one."""
    if device.type != "cuda":
        marks = Marks(device)
        marks.set()
        while len(marks.moments) < 2 or (
            marks.moments[-1].since(marks.moments[0]) < seconds and len(marks.moments) <= MOST
        ):
            work()
            marks.set()
        return Seconds.of(marks.seconds())
    for _ in range(WARM_UP):
        work()
    probe = _marked(work, device, 1)
    return Seconds.of(_marked(work, device, min(MOST, max(FEWEST, int(seconds / max(probe[0], 1e-6))))))


def _marked(work: Callable[[], object], device: torch.device, calls: int) -> list[float]:
    marks = Marks(device)
    marks.set()
    for _ in range(calls):
        work()
        marks.set()
    return marks.seconds()


def clock(work: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Time one call from its begin to its end: by the clock, and in processor time of all threads of this process."""
    wait(device)
    started, busy = time.perf_counter(), time.process_time()
    work()
    wait(device)
    return time.perf_counter() - started, time.process_time() - busy


def in_turn(function: Callable[[Given], object], inputs: Sequence[Given]) -> Callable[[], object]:
    """A call of `function` with one of the inputs after the other, so that none of them waits in a cache."""
    turn = itertools.cycle(inputs)
    return lambda: function(next(turn))


def count_flop(work: Callable[[], object]) -> int:
    """Operations of one call, as PyTorch counts them: those of convolutions, matrix products and attention.

    A multiply-add counts as two. On `meta` tensors nothing is computed; what is compiled or captured cannot be counted.
    """
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def forget_peak(device: torch.device) -> None:
    """Let `peak_bytes` of a GPU begin anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int:
    """The most memory that was taken at once, weights included: of the GPU, or of this process since its start."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# ---- ceilings --------------------------------------------------------------------------------------------------------


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Let products and convolutions of float32 round their inputs to TF32 on a GPU, or not."""
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = allowed
    try:
        yield
    finally:
        for backend, was in zip(backends, before, strict=True):
            backend.allow_tf32 = was


def product(size: int, dtype: torch.dtype | None, device: torch.device) -> Seconds:
    """Time a product of two random `size` × `size` matrices of a type; None is float32."""
    pairs = [[torch.randn(size, size, device=device, dtype=dtype) for _ in range(2)] for _ in range(2)]
    return time_calls(in_turn(lambda pair: pair[0] @ pair[1], pairs), device)


def copy(source: Sequence[Tensor], target: Sequence[Tensor], device: torch.device) -> Seconds:
    """Time a copy of one of the sources into its target."""
    pairs = list(zip(target, source, strict=True))
    return time_calls(in_turn(lambda pair: pair[0].copy_(pair[1], non_blocking=True), pairs), device)


def ceilings(size: int, megabytes: int, device: torch.device) -> Iterator[tuple[str, dict[str, float]]]:
    """What the device reaches at best: products of `size` × `size` matrices, and copies of so many megabytes.

    Yields:
        a name and its figures: TFLOP/s of a product; GB/s of a copy, on the device of reading and writing together.
    """
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", None), ("tf32", None)):
        if device.type == "cuda" or name != "tf32":
            with tf32(name == "tf32"):
                taken = product(size, dtype, device)
            yield f"product {name}", _rates("tflops", 2 * size**3 / 1e12, taken)
    count = megabytes * 1_000_000
    own, other = ([torch.randint(256, (count,), dtype=torch.uint8, device=device) for _ in range(2)] for _ in range(2))
    yield "copy on the device", _rates("gb_per_second", 2 * count / 1e9, copy(own, other, device))
    if device.type == "cuda":
        host = [tensor.cpu().pin_memory() for tensor in own]
        yield "copy host to device, pinned", _rates("gb_per_second", count / 1e9, copy(host, own, device))
        yield "copy device to host, pinned", _rates("gb_per_second", count / 1e9, copy(own, host, device))


def _rates(name: str, amount: float, taken: Seconds) -> dict[str, float]:
    return {
        name: amount / taken.median,
        f"best_{name}": amount / taken.least,
        "seconds": taken.median,
        "n": taken.count,
    }
