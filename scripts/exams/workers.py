"""The same work on many exams, in several processes, with a bar; the results do not depend on how many."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import torch
from joblib import cpu_count
from tqdm import tqdm

from scripts.common.problems import UserError
from scripts.data.case_files import begin

Item = TypeVar("Item")
Result = TypeVar("Result")


def for_each(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int | None, label: str
) -> list[Result]:
    """Call a function with every item, and give the results in the items' order.

    Where it is stopped or a call fails, the calls in progress come to their end, and no other begins.

    Args:
        function: can be pickled, as can items and results.
        workers: processes; None is one for each core there is. One works in this process.
        label: of the bar.

    Raises:
        UserError: a process was ended from outside.
        Exception: what the first call that failed has raised.
    """
    workers = min(workers or cpu_count(), len(items))
    if workers <= 1:
        return [function(item) for item in tqdm(items, label, disable=None)]
    pool = ProcessPoolExecutor(workers, initializer=_begin)
    try:
        return list(tqdm(pool.map(function, items), label, total=len(items), disable=None))
    except BrokenProcessPool:
        what = "a process was ended from outside, most likely for want of memory"
        raise UserError(f"{what}; give fewer --workers than {workers}: the same command goes on") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """Set up a process: it leaves Ctrl-C to the program, keeps to its core, and ends when the program is killed."""
    begin()
    torch.set_num_threads(1)
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()


def _end_with(program: multiprocessing.process.BaseProcess) -> None:
    program.join()
    os._exit(1)
