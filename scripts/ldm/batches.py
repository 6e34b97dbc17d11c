"""Which cases make an optimizer step, on which process, and what each of them counts."""

from __future__ import annotations

from collections.abc import Iterator, Sized

import ignite.distributed as idist
import torch
from torch.utils.data import Sampler

from scripts.common.problems import UserError
from scripts.engine.loading import Epochs
from scripts.ldm.dataset import LatentDataset, Slot


class StepSampler(Epochs):
    """Shuffles the cases anew in every epoch, cuts them into steps, and each step into passes.

    A step is what the optimizer sees at once: `batch_size` cases over all processes. Its share for one process is cut
    again into `accumulate` passes. The cut never depends on the number of processes, so the same steps are made on one
    GPU and on eight, and every case is seen exactly once an epoch: instead of one short step at the end, the steps
    differ by at most one case. A step of fewer cases than it has passes, over all processes, repeats its first case in
    those that are left over, where it weighs nothing: every process takes part in every pass.

    The weights make the sum over all passes and processes of a step equal to the loss of the whole step, although the
    trainer divides by the number of passes and data parallelism by that of processes:
    case_weight = passes·processes / cases, report_weight = passes·processes / cases that have a report.

    Args:
        dataset: tells how many cases there are and which of them have a report in an epoch.
        batch_size: cases in an optimizer step.
        accumulate: passes in a step.

    Raises:
        UserError: there is no case, or `batch_size` is less than the passes of a step over all processes.
    """

    def __init__(self, dataset: LatentDataset, batch_size: int, accumulate: int = 1) -> None:
        self.dataset = dataset
        self.accumulate = accumulate
        self.shares = accumulate * idist.get_world_size()
        self.steps = -(-len(dataset) // batch_size) if batch_size > 0 else 0
        if self.steps == 0 or accumulate < 1 or batch_size < self.shares:
            raise UserError(
                f"batch_size {batch_size} of {len(dataset)} training cases cannot be cut into {self.shares} shares "
                f"(accumulate {accumulate} × {idist.get_world_size()} processes); raise batch_size or lower accumulate"
            )

    def __len__(self) -> int:
        """Passes in an epoch on each process."""
        return self.steps * self.accumulate

    def epoch(self, epoch: int) -> Iterator[list[Slot]]:
        """This process's passes in one epoch; epochs count from 1."""
        generator = torch.Generator().manual_seed(self.dataset.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.dataset), generator=generator)
        for step in order.tensor_split(self.steps):
            reports = sum(not self.dataset.dropped(epoch, index)[0] for index in step.tolist())
            weights = self.shares / len(step), self.shares / max(reports, 1)
            parts = step.tensor_split(self.shares)
            for number in range(self.accumulate):
                part = parts[number * idist.get_world_size() + idist.get_rank()]
                slots = [Slot(epoch, index, *weights) for index in part.tolist()]
                yield slots or [Slot(epoch, step[0].item(), 0.0, weights[1])]


class ValidationSampler(Sampler[int]):
    """This process's share of held-out examples, as many as the others have, for `TimestepGrid`.

    Numbers beyond the last example stand for one that weighs nothing.
    """

    def __init__(self, dataset: Sized) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return -(-len(self.dataset) // idist.get_world_size())

    def __iter__(self) -> Iterator[int]:
        return iter(range(idist.get_rank(), len(self) * idist.get_world_size(), idist.get_world_size()))
