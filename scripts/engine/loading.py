"""Data loaders whose worker processes say so where shared memory is too small for their batches.

Workers hand batches over in /dev/shm, of which a container has 64 MB unless it is told otherwise. PyTorch moves a batch
there in a thread whose errors nobody sees: the batch is lost, and training waits for it for ever.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info

from scripts.common.problems import UserError

SHARED = Path("/dev/shm")
CURE = "Start the container with more (docker run --shm-size=8g, or --ipc=host), or give --num_workers 0"


def data_loader(
    dataset: Dataset, *, num_workers: int = 0, collate_fn: Callable[[Any], Any] = default_collate, **options: Any
) -> DataLoader:
    """PyTorch's loader with these options.

    Raises:
        UserError: the workers of this machine's processes need more shared memory than there is.
    """
    loader = DataLoader(dataset, num_workers=num_workers, collate_fn=HandOver(collate_fn), **options)
    if num_workers:
        _check_shared_memory(loader)
    return loader


class HandOver:
    """A collate function that puts the batch into shared memory itself, where it runs in a worker."""

    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self.collate = collate

    def __call__(self, examples: Sequence[Any]) -> Any:
        """The batch.

        Raises:
            UserError: shared memory is full.
        """
        try:
            batch = self.collate(examples)
            if get_worker_info() is not None:
                for tensor in _tensors(batch):
                    tensor.share_memory_()
        except RuntimeError as error:
            if "shared memory" not in str(error):
                raise
            raise UserError(f"{SHARED} is full: a worker cannot hand its batch over. {CURE}") from None
        return batch


def _check_shared_memory(loader: DataLoader) -> None:
    """Compare what is free with what all workers hold when they are ahead, by the size of the first batch."""
    first = next(iter(loader.batch_sampler), None)
    if first is None or not SHARED.is_dir():
        return
    batch = sum(tensor.nbytes for tensor in _tensors(loader.collate_fn([loader.dataset[index] for index in first])))
    batches = (loader.num_workers * loader.prefetch_factor + 1) * idist.get_nproc_per_node()
    needed, free = batches * batch, shutil.disk_usage(SHARED).free
    if needed > free:
        raise UserError(
            f"num_workers {loader.num_workers} needs about {needed / 2**20:,.0f} MiB of shared memory ({batches} "
            f"batches of {batch / 2**20:,.1f} MiB), and {free / 2**20:,.0f} MiB are free in {SHARED}. {CURE}"
        )


def _tensors(batch: Any) -> list[Tensor]:
    if isinstance(batch, Tensor):
        return [batch]
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if isinstance(batch, (list, tuple)):
        return [tensor for part in batch for tensor in _tensors(part)]
    return []
