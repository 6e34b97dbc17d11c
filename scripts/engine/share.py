"""Which cases each process evaluates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import ignite.distributed as idist

from scripts.common.problems import UserError

Case = TypeVar("Case")


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
