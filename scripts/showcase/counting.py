"""Memory counted without a GPU: networks run on tensors that have shapes and types there, but no numbers."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Step = Callable[[], object]


class Held(TorchDispatchMode):
    """Adds up the bytes of the storages that operations make while they live: `now`, and the most of it, `peak`."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and id(storage := tensor.untyped_storage()) not in self.sizes:
                self.sizes[id(storage)] = storage.nbytes()
                self.now += storage.nbytes()
                weakref.finalize(storage, self._free, id(storage))
        self.peak = max(self.peak, self.now)
        return result

    def _free(self, storage: int) -> None:
        self.now -= self.sizes.pop(storage)


def peak_bytes(prepare: Callable[[torch.dtype | None], Step], dtype: torch.dtype | None) -> int:
    """Bytes at the peak of a step on a GPU, under autocast to `dtype`, with all that `prepare` makes for it.

    Args:
        prepare: takes `dtype`, and makes networks and inputs, which have no numbers. Without gradients they may be on
            cuda; for a GPU that is not there PyTorch computes none, so with gradients they are on the CPU.
    """
    with FakeTensorMode(), Held() as held:
        step = prepare(dtype)
        held.peak = held.now
        with _autocast(dtype):
            step()
    return held.peak


@contextlib.contextmanager
def _autocast(dtype: torch.dtype | None) -> Iterator[None]:
    """Autocast as on a GPU, for tensors on either device."""
    with contextlib.ExitStack() as stack:
        for norm in (functional.group_norm, functional.layer_norm):  # on a CPU they would stay in half precision
            stack.enter_context(mock.patch.object(functional, norm.__name__, _of_fp32(norm)))
        # PyTorch copies in place to no GPU that is not there, and its context refuses one. A copy takes no memory.
        stack.enter_context(mock.patch.object(Tensor, "copy_", lambda self, other: self))
        torch.set_autocast_enabled("cuda", dtype is not None)
        torch.set_autocast_dtype("cuda", dtype or torch.float16)
        stack.callback(torch.set_autocast_enabled, "cuda", False)
        stack.enter_context(torch.autocast("cpu", dtype, enabled=dtype is not None))
        yield


def _of_fp32(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda x, *args, **kwargs: function(x.float(), *args, **kwargs)
