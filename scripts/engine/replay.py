"""A function that a GPU is told once: its work is recorded as a CUDA graph, and then replayed."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

WARM_UP = 2  # calls before the recording: cuDNN tries its kernels in the first, a compiler compiles


class Replayed:
    """Calls a function of tensors, on a GPU by replaying what it did at the first call with such arguments.

    A small network's thousand kernels take the host longer to start than a large GPU to run. A graph starts them all at
    once. One is kept for each combination of shapes, types, and arguments that are no tensors; memory inside them is
    shared, since one runs at a time. Elsewhere than on a GPU the function is called as it is. All calls must run under
    the same autocast.

    Args:
        function: of tensors and hashable values; gives one tensor. It must not wait for the GPU, nor change its
            arguments, and what else it reads must stay where it is in memory, as a network's weights do.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function
        self.graphs: dict[Hashable, _Graph | None] = {}
        self.pool: Any = None

    def __call__(self, *args: Any) -> Tensor:
        """What the function gives; a tensor of the caller's own."""
        device = next(arg.device for arg in args if isinstance(arg, Tensor))
        if device.type != "cuda":
            return self.function(*args)
        key = tuple(_kind(arg) for arg in args)
        if key not in self.graphs:
            self.graphs[key] = self._record(args)
        graph = self.graphs[key]
        return self.function(*args) if graph is None else graph(args)

    def _record(self, args: tuple[Any, ...]) -> _Graph | None:
        """The graph for such arguments; None where there is no memory for it beside what is there."""
        self.pool = self.pool or torch.cuda.graph_pool_handle()
        try:
            return _Graph(self.function, args, self.pool)
        except RuntimeError as error:  # PyTorch's own of its allocator, and CUDA's of the recording
            if "out of memory" not in str(error):
                raise
            logger.warning("no GPU memory is left to record this step as a graph: its kernels are started one by one")
        # Not in the block, where the error would keep what was taken. A pool that no graph uses cannot be used again.
        if not any(self.graphs.values()):
            self.pool = None
        torch.cuda.empty_cache()
        return None


class _Graph:
    """A recording: arguments of its own, which are filled before each replay, and the tensor that comes out."""

    def __init__(self, function: Callable[..., Tensor], args: tuple[Any, ...], pool: Any) -> None:
        self.args = [arg.clone() if isinstance(arg, Tensor) else arg for arg in args]
        self.graph = torch.cuda.CUDAGraph()
        with _without_cast_weights():
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    function(*self.args)
            torch.cuda.current_stream().wait_stream(stream)
            # Other threads may wait for their volumes, and NCCL's for its work, meanwhile.
            with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
                self.output = function(*self.args)

    def __call__(self, args: tuple[Any, ...]) -> Tensor:
        for own, given in zip(self.args, args, strict=True):
            if isinstance(own, Tensor):
                own.copy_(given)
        self.graph.replay()
        return self.output.clone()


def _kind(arg: Any) -> Hashable:
    """What of an argument a recording depends on."""
    return (arg.shape, arg.dtype, arg.device) if isinstance(arg, Tensor) else arg


@contextlib.contextmanager
def _without_cast_weights() -> Iterator[None]:
    """Let autocast keep no weights that it has cast: a recording would read them where they no longer are."""
    keeps = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(keeps)
