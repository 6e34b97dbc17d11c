"""Work that goes on while the program does something else."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

logger = logging.getLogger(__name__)


class Background:
    """Runs calls in threads of their own; a caller who is too far ahead waits, so that memory does not fill up.

    For calls that wait, for a GPU, a disk or another process, and let others run meanwhile: a thread that computes in
    Python holds the program up.

    Args:
        threads: calls that run at the same time.
        most: calls that may be handed over and not done.
    """

    def __init__(self, threads: int, most: int) -> None:
        self.pool = ThreadPoolExecutor(threads)
        self.most = most
        self.calls: deque[Future[None]] = deque()

    def start(self, function: Callable[..., None], *args: Any) -> None:
        """Hand over a call, as soon as there is room for it.

        Raises:
            Exception: what an earlier call has raised; this one is not handed over.
        """
        while self.calls and (self.calls[0].done() or len(self.calls) == self.most):
            self.calls.popleft().result()
        self.calls.append(self.pool.submit(function, *args))

    def finish(self) -> None:
        """Wait until all calls are done.

        Raises:
            Exception: what the first of them that failed has raised.
        """
        calls = list(self.calls)
        self.calls.clear()
        wait(calls)
        for call in calls:
            call.result()

    def stop(self, error: Exception) -> None:
        """Let what was handed over become complete, and log what goes wrong with it; ignite leaves it to this to raise.

        Raises:
            Exception: `error`, which ended the work that handed over.
        """
        try:
            self.finish()
        except Exception as other:
            logger.error(other)
        raise error
