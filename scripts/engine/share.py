"""Which cases each process evaluates or looks at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import ignite.distributed as idist

from scripts.common.problems import UserError

Case = TypeVar("Case")
Found = TypeVar("Found")


def rank_share(cases: Sequence[Case]) -> list[Case]:
    """The cases, or volumes, that this process evaluates; over all processes each once.

    A process without one would not take part in gathering what all found.

    Raises:
        UserError: there is none, or there are more processes than cases.
    """
    if not cases:
        raise UserError("the datalists hold no case: there is nothing to evaluate")
    processes = idist.get_world_size()
    if len(cases) < processes:
        raise UserError(f"{len(cases)} cases cannot be shared among {processes} processes; use fewer processes")
    return list(cases[idist.get_rank() :: processes])


def validation_share(cases: Sequence[Case]) -> list[Case]:
    """The cases, or volumes, that this process validates on while it trains; over all processes each at least once.

    However many processes train, all take part in gathering: one too many repeats a case, which must count once.
    """
    return list(cases[idist.get_rank() :: idist.get_world_size()] or cases[:1])


def for_all(function: Callable[[Case], Found], cases: Sequence[Case]) -> list[Found]:
    """What `function` gives for each case, in their order, on every process; each asks it for its own share only.

    Raises:
        UserError: on every process, what it raised for any case on any of them.
    """
    rank, processes = idist.get_rank(), idist.get_world_size()
    found, errors = [], []
    for case in cases[rank::processes]:
        try:
            found.append(function(case))
        except UserError as error:
            errors.append(str(error))
    parts = idist.all_gather((found, errors))
    if any(errors for _, errors in parts):
        raise UserError("\n".join(error for _, errors in parts for error in errors))
    together: list[Any] = [None] * len(cases)
    for rank, (part, _) in enumerate(parts):
        together[rank::processes] = part
    return together
