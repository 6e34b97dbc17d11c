"""Whether the folder for outputs takes them, found out before hours of work."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import ignite.distributed as idist

from scripts.common.problems import UserError

PROBE = 1 << 16  # bytes; a full disk often has room for an empty file


def check_writable(folders: Sequence[str | os.PathLike[str]]) -> None:
    """Write a little where each folder is or will be; nothing of it stays.

    The first process writes for all and looks for all, so the others end without a word of their own.

    Raises:
        UserError: in the first process, where a folder cannot be written to or its disk is full.
        SystemExit: in the others.
    """
    problem = ""
    if idist.get_rank() == 0:
        for folder in folders:
            try:
                _probe(Path(folder))
            except OSError as error:
                problem = (
                    f"{folder} cannot be written: {error.strerror or error}. Make room there, or give another folder "
                    "for outputs, then give the same command again"
                )
                break
    first, *_ = idist.all_gather([problem])
    if not first[0]:
        return
    if problem:
        raise UserError(problem)
    raise SystemExit(1)


def _probe(folder: Path) -> None:
    folder = folder.resolve()  # of a link to a disk that is not mounted, there
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    with tempfile.TemporaryFile(dir=nearest) as file:
        file.write(bytes(PROBE))
        file.flush()
        os.fsync(file.fileno())
