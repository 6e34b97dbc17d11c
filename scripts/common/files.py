"""Writing files so that a final name always means a complete file, and paths out of data files."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from scripts.common.problems import UserError


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file of tensors on any device, in any memory layout; it appears complete or not at all.

    Raises:
        UserError: it cannot be written, see `atomic`.
    """
    # To main memory before anything is copied: a GPU that trains has no room for a second network.
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic(path) as temporary:
        try:
            save_file(tensors, temporary, dict(metadata))
        except SafetensorError as error:  # no OSError even where the disk is full
            raise OSError(str(error)) from error


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path`, with its suffixes; it is renamed to `path` when the block ends well.

    If the block raises, the temporary file is removed and an existing file at `path` stays as it was. The data is
    flushed to disk before the rename, so a power cut leaves the old file or the new one.

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


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Give the temporary path, and rename it to `path` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix is kept because writers such as nibabel choose the format by it.
    temporary = path.with_name(f".part-{secrets.token_hex(4)}{path.name}")
    try:
        # What the user's umask allows is seen from a new file: to ask for the umask is to set it, for all threads.
        temporary.touch(exist_ok=False)
        usual = temporary.stat().st_mode & 0o777
        yield temporary
        temporary.chmod(usual)  # safetensors puts a private file in place of this one
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
