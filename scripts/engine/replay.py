"""What a GPU is told once: its work is recorded as CUDA graphs, and then replayed."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

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
            _warm_up(lambda: function(*self.args))
            with _recording(self.graph, pool):
                self.output = function(*self.args)

    def __call__(self, args: tuple[Any, ...]) -> Tensor:
        _fill(self.args, args)
        self.graph.replay()
        return self.output.clone()


class ReplayedPasses(nn.Module):
    """A network in training whose passes, forward and backward, are replayed as they were at the first such call.

    In one process alone, and where each pass has a step of its own: gradients lie where the next pass writes its own.
    What is said of `Replayed` holds here, too. It holds weights of its network's alone.

    Args:
        network: answers with tensors that need a gradient, or None, and gives one to every parameter that learns.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.recorded: dict[Hashable, _Passes] = {}
        self.pool: Any = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the network answers, as a tuple where it was recorded; as it comes without a GPU, or a gradient."""
        if not (torch.is_grad_enabled() and next(self.network.parameters()).is_cuda):
            return self.network(*args, **kwargs)
        key = (*(_kind(arg) for arg in args), *((name, _kind(arg)) for name, arg in kwargs.items()))
        if key not in self.recorded:
            self.pool = self.pool or torch.cuda.graph_pool_handle()
            self.recorded[key] = _Passes(self.network, args, kwargs, self.pool)
        passes = self.recorded[key]
        _fill(passes.own, (*args, *kwargs.values()))
        answers = iter(_Replay.apply(passes, *passes.parameters))
        return tuple(next(answers) if there else None for there in passes.there)


class _Passes:
    """Two recordings, with arguments, answers, their gradients and those of the weights in places of their own."""

    def __init__(self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], pool: Any) -> None:
        self.own = [arg.clone() if isinstance(arg, Tensor) else arg for arg in (*args, *kwargs.values())]
        own_args, own_kwargs = self.own[: len(args)], dict(zip(kwargs, self.own[len(args) :], strict=True))
        learning = {name: value for name, value in network.named_parameters() if value.requires_grad}
        self.parameters = list(learning.values())
        # The same weights as leaves of their own: the parameters' would bring the stream in which an earlier pass has
        # met them into the recording.
        leaves = {name: value.detach().requires_grad_() for name, value in learning.items()}
        self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()

        def forward() -> Any:
            return functional_call(network, leaves, tuple(own_args), own_kwargs)

        def backward(answers: list[Tensor], given: list[Tensor]) -> tuple[Tensor, ...]:
            return torch.autograd.grad(answers, leaves.values(), given)

        def both() -> None:
            answers = _tensors(forward())
            backward(answers, [torch.zeros_like(answer) for answer in answers])

        with _without_cast_weights():
            _warm_up(both)
            with _recording(self.forward, pool):
                all_answers = forward()
            answers = _tensors(all_answers)
            self.there = [answer is not None for answer in all_answers]
            self.given = [torch.zeros_like(answer) for answer in answers]
            with _recording(self.backward, pool):
                self.gradients = backward(answers, self.given)
        self.answers = [answer.detach() for answer in answers]


def _tensors(answers: Iterable[Tensor | None]) -> list[Tensor]:
    return [answer for answer in answers if answer is not None]


class _Replay(torch.autograd.Function):
    """A replayed forward pass, whose gradients a replayed backward pass gives."""

    @staticmethod
    def forward(ctx: Any, passes: _Passes, *_: Tensor) -> tuple[Tensor, ...]:
        ctx.passes = passes
        passes.forward.replay()
        return tuple(answer.clone() for answer in passes.answers)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        passes = ctx.passes
        for own, given in zip(passes.given, gradients, strict=True):
            own.copy_(given)
        passes.backward.replay()
        # Views, which become the parameters' gradients as they are; the tensors themselves would be copied.
        return None, *(gradient.detach() for gradient in passes.gradients)


def _fill(own: Iterable[Any], given: Iterable[Any]) -> None:
    """Copy tensors to where a recording reads them."""
    for place, arg in zip(own, given, strict=True):
        if isinstance(place, Tensor):
            place.copy_(arg)


def _warm_up(call: Callable[[], Any]) -> None:
    """Call what is to be recorded in a stream of its own, as recordings are made in one."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            call()
    torch.cuda.current_stream().wait_stream(stream)


def _recording(graph: torch.cuda.CUDAGraph, pool: Any) -> contextlib.AbstractContextManager:
    """Record instead of running. Other threads may wait for their volumes, and NCCL's for its work, meanwhile."""
    return torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local")


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
