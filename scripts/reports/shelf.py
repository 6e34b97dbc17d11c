"""Where the embeddings of one run lie until their volumes are made."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from scripts.common.problems import UserError

IN_MEMORY = 2**30  # bytes; those of ten thousand reports are 42 GB


class Shelf:
    """Keeps embeddings in memory up to a gigabyte, and from there on all of them on disk.

    They are health data, so the file has no name: nobody else can open it, and it is gone with this process, however
    that ends.

    Args:
        folder: on the disk that has room for them; it need not exist yet.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        folder = Path(folder).resolve()
        self.folder = next(place for place in (folder, *folder.parents) if place.is_dir())
        self.file = tempfile.SpooledTemporaryFile(IN_MEMORY, dir=self.folder)  # noqa: SIM115 - it lives as long as this

    def put(self, embedding: Tensor) -> Callable[[], Tensor]:
        """Take in an embedding (T, D), float16 on the CPU; gives the call that reads it again.

        Raises:
            UserError: the disk is full.
        """
        start = self.file.seek(0, os.SEEK_END)
        try:
            self.file.write(embedding.numpy())
            self.file.flush()
        except OSError as error:
            raise UserError(
                f"the embeddings of the reports do not fit into memory and cannot be kept in {self.folder}: "
                f"{error.strerror}. Make room, or embed the reports first (python -m scripts.encode_reports)"
            ) from None
        return partial(self._get, start, embedding.shape)

    def _get(self, start: int, shape: torch.Size) -> Tensor:
        self.file.seek(start)
        content = bytearray(self.file.read(math.prod(shape) * torch.float16.itemsize))
        return torch.frombuffer(content, dtype=torch.float16).reshape(shape)
