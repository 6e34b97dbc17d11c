"""Data loaders of the trainings: how many processes load, what they see, and what they share.

Workers hand batches over in /dev/shm, of which a container has 64 MB unless it is told otherwise. PyTorch moves a batch
there in a thread whose errors nobody sees: the batch is lost, and training waits for it for ever.
"""

from __future__ import annotations

import itertools
import logging
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import ignite.distributed as idist
import torch
from joblib import cpu_count
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    Sampler,
    default_collate,
    get_worker_info,
)

from scripts.common.problems import UserError

logger = logging.getLogger(__name__)

SHARED = Path("/dev/shm")
CURE = "Start the container with more (docker run --shm-size=8g, or --ipc=host), or give --num_workers 0"
_needed: WeakKeyDictionary[DataLoader, int] = WeakKeyDictionary()  # bytes there, of the loaders that were made
USUAL = 4  # loading processes beside each process with a GPU


def loading_processes(given: int | None) -> int:
    """How many processes load data for each that computes: `given`, or as many as suit the machine where it is None.

    That is four where there is a GPU, fewer where the cores that this process may use, shared out among the processes
    of the machine, are not enough for them and the one that computes. Without a GPU it is none: all cores compute.
    """
    if given is not None:
        return given
    if not torch.cuda.is_available():
        return 0
    return max(0, min(USUAL, cpu_count() // idist.get_nproc_per_node() - 1))


def data_loader(
    dataset: Dataset,
    *,
    num_workers: int | None = 0,
    collate_fn: Callable[[Any], Any] = default_collate,
    **options: Any,
) -> DataLoader:
    """PyTorch's loader with these options, whose batches are pinned where there is a GPU.

    On Linux the loading processes are forked: what the data set keeps in memory when it is built is there once for all
    of them. Nothing is drawn from the global generator, whose numbers would then depend on theirs.

    Args:
        num_workers: loading processes; None for as many as suit the machine and fit into its shared memory.

    Raises:
        UserError: the given number of workers of this machine's processes needs more shared memory than there is.
    """

    def make(processes: int) -> DataLoader:
        own = {"pin_memory": torch.cuda.is_available(), "generator": torch.Generator()}
        if processes and sys.platform == "linux":
            own["multiprocessing_context"] = "fork"
        return DataLoader(dataset, num_workers=processes, collate_fn=HandOver(collate_fn), **own | options)

    loader = make(loading_processes(num_workers))
    if problem := _too_little_shared_memory(loader):
        if num_workers is not None:
            raise UserError(problem)
        logger.warning(f"{problem}. It goes on with none")
        loader = make(0)
    return loader


class Draw(NamedTuple):
    """A case in an epoch."""

    epoch: int
    index: int


class Epochs(Sampler[list[Any]]):
    """A process's batches in one epoch after the other, without end.

    Loading goes on across the border of two epochs and while a validation runs, and its processes stay for the whole
    run. A batch names the epoch with its cases: a data set in another process would not hear of it otherwise.
    """

    epochs_done = 0  # of the run, told before it goes on

    def __iter__(self) -> Iterator[list[Any]]:
        for epoch in itertools.count(self.epochs_done + 1):
            yield from self.epoch(epoch)

    def epoch(self, epoch: int) -> Iterator[list[Any]]:
        """The batches of one epoch; epochs count from 1."""
        raise NotImplementedError


class ShuffledEpochs(Epochs):
    """PyTorch's batches of `Draw`s, shuffled anew in every epoch; `batch_size` is for each process.

    Args:
        drop_last: leave out a last batch that is smaller.
        accumulate: batches of a step; the last ones that are too few for one are left out.
    """

    def __init__(
        self, dataset: Dataset, batch_size: int, seed: int, drop_last: bool = False, accumulate: int = 1
    ) -> None:
        self.order = DistributedSampler(dataset, idist.get_world_size(), idist.get_rank(), shuffle=True, seed=seed)
        self.batches, self.accumulate = BatchSampler(self.order, batch_size, drop_last), accumulate

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.batches) // self.accumulate * self.accumulate

    def epoch(self, epoch: int) -> Iterator[list[Draw]]:
        """The batches of one epoch; epochs count from 1."""
        self.order.set_epoch(epoch)
        for indices in itertools.islice(self.batches, len(self)):
            yield [Draw(epoch, index) for index in indices]


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


def _too_little_shared_memory(loader: DataLoader) -> str:
    """What is wrong where less is free than all workers hold when they are ahead, by the size of the first batch.

    What other loaders of this process need is taken as used: training's are ahead while others validate.
    """
    if not loader.num_workers or not SHARED.is_dir():
        return ""
    ahead = list(itertools.islice(loader.batch_sampler, loader.num_workers * loader.prefetch_factor + 1))
    if not ahead:
        return ""
    batch = sum(tensor.nbytes for tensor in _tensors(loader.collate_fn([loader.dataset[index] for index in ahead[0]])))
    batches = len(ahead) * idist.get_nproc_per_node()
    needed, free = batches * batch, shutil.disk_usage(SHARED).free - sum(_needed.values())
    if needed <= free:
        _needed[loader] = needed
        return ""
    return (
        f"num_workers {loader.num_workers} needs about {needed / 2**20:,.0f} MiB of shared memory ({batches} "
        f"batches of {batch / 2**20:,.1f} MiB), and {max(free, 0) / 2**20:,.0f} MiB are free in {SHARED}. {CURE}"
    )


def _tensors(batch: Any) -> list[Tensor]:
    if isinstance(batch, Tensor):
        return [batch]
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if isinstance(batch, (list, tuple)):
        return [tensor for part in batch for tensor in _tensors(part)]
    return []
