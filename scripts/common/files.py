"""Writing files so that a final name always means a complete file, and paths out of data files."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import secrets
import shutil
import socket
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

from scripts.common.problems import UserError


def _machine() -> str:
    """Where a process' number means this process: the host since its start and, on Linux, the container."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text(), str(Path("/proc/self/ns/pid").readlink())]
    return f"{zlib.crc32('/'.join(parts).encode()):08x}"


# The folder of a file that is being written: by which machine and process.
PART = re.compile(r"\.part-(?P<machine>[0-9a-f]{8})-(?P<process>\d+)-[0-9a-f]{8}")
MACHINE = _machine()
HOUR = 3600.0  # without a byte, after which another machine's process is taken for dead
_writing: set[str] = set()  # names of this process' own


@contextlib.contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path of the same name in a temporary folder beside `path`; it is moved to `path` when the block ends well.

    If the block raises, the temporary folder is removed and an existing file at `path` stays as it was. The data is
    flushed to disk before the rename, so a power cut leaves the old file or the new one. What killed processes were
    writing into that folder is removed before the first file that this one writes there.

    Raises:
        UserError: the folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    try:
        with _beside(path) as temporary:
            yield temporary
    except OSError as error:
        raise UserError(
            f"{path} cannot be written: {error.strerror or error}. Nothing that was complete is lost; make room or "
            "give another folder, then give the same command again"
        ) from error


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Give the temporary path, and move it to `path` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale_once(path.parent.resolve())
    # A folder, as writers choose the format by the name, and safetensors writes a temporary file of its own beside it.
    part = path.with_name(f".part-{MACHINE}-{os.getpid()}-{secrets.token_hex(4)}")
    temporary = part / path.name
    _writing.add(part.name)
    try:
        part.mkdir()
        # What the user's umask allows is seen from a new file: to ask for the umask is to set it, for all threads.
        temporary.touch(exist_ok=False)
        usual = temporary.stat().st_mode & 0o777
        yield temporary
        temporary.chmod(usual)  # safetensors puts a private file in place of this one
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        _writing.discard(part.name)


def link(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """The same file under a second name, which takes no room, or a copy where the disk is another or knows no links.

    A file at `target` is replaced.

    Raises:
        UserError: it cannot be copied, see `atomic`.
    """
    target = Path(target)
    target.unlink(missing_ok=True)
    try:
        os.link(Path(source).resolve(), target)
    except OSError:
        with atomic(target) as temporary:
            shutil.copyfile(source, temporary)


def remove_stale(folder: str | os.PathLike[str]) -> None:
    """Remove what processes that were killed were writing into a folder; what others are writing stays."""
    for part in Path(folder).glob(".part-*"):
        if _is_being_written(part):
            continue
        shutil.rmtree(part, ignore_errors=True)  # another process may be faster
        with contextlib.suppress(OSError):
            part.unlink()  # earlier versions wrote files


_remove_stale_once = functools.cache(remove_stale)


def _is_being_written(part: Path) -> bool:
    named = PART.fullmatch(part.name)
    if named is None:  # by an earlier version
        return False
    if named["machine"] != MACHINE:
        try:
            return time.time() - max(path.stat().st_mtime for path in (part, *part.iterdir())) < HOUR
        except OSError:  # it has its final name by now
            return True
    process = int(named["process"])
    if process == os.getpid():  # or one that had its number, as the first process of a container that is restarted
        return part.name in _writing
    try:
        os.kill(process, 0)  # sends nothing
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def inside(root: str | os.PathLike[str], path: str | os.PathLike[str]) -> Path:
    """Resolve `path`, relative to `root`, and make sure that it stays inside `root`.

    Raises:
        UserError: the path leaves `root`, by `..`, as an absolute path or through a symbolic link.
    """
    base = Path(root).resolve()
    resolved = (base / path).resolve()
    if not resolved.is_relative_to(base):
        raise UserError(f"path {str(path)!r} leaves the data root; move the file inside the root and correct the path")
    return resolved
