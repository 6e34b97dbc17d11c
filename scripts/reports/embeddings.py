"""Report embeddings on disk: a file for each distinct report, ours (safetensors) or the authors' (.npy)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from scripts.common import identity
from scripts.common.files import inside
from scripts.common.problems import UserError
from scripts.common.tensors import write_tensors

EMPTY_REPORT = "embeddings/empty.safetensors"
SUFFIXES = (".safetensors", ".npy")
MISSING = "the report embedding is missing; run python -m scripts.encode_reports"
FLOATS = ("F16", "BF16", "F32", "F64")  # as safetensors names them


def write_embedding(path: str | os.PathLike[str], embedding: Tensor, stamp: str) -> None:
    """Write one report's embedding (T, D) as it is, with its encoder's stamp; the file appears only when complete."""
    tensors = {"embedding": embedding}
    told = {identity.KEPT: identity.fingerprint(tensors), "encoder": stamp, "width": str(embedding.shape[-1])}
    write_tensors(path, tensors, told)


def embedding_path(root: str | os.PathLike[str], text: object) -> Path:
    """The file that `text` names, as merged datalists have it, inside the data root.

    Raises:
        UserError: it is no such path, leads out of the root, or there is no file. A report in its place is not quoted.
    """
    is_path = isinstance(text, str) and Path(text).suffix in SUFFIXES and len(text) <= 500 and text.isprintable()
    if not is_path:
        raise UserError("text is not the path of an embedding; give the merged list that encode_reports wrote")
    path = inside(root, text)
    try:
        is_there = path.is_file()
    except OSError:  # of a name that is too long
        is_there = False
    if not is_there:
        raise UserError(f"{path}: {MISSING}")
    return path


def read_embedding(path: str | os.PathLike[str]) -> Tensor:
    """Read an embedding (T, D) in the precision it was stored in: ours, or the authors' .npy ((512, D) or (1, 512, D)).

    Raises:
        UserError: the file is missing, broken or holds something else.
    """
    shape = embedding_shape(path)
    with _reading(path):
        if Path(path).suffix == ".npy":
            return torch.from_numpy(np.load(path, allow_pickle=False)).reshape(shape)
        with safe_open(path, framework="pt") as file:
            return file.get_tensor("embedding")


def digest_of(embedding: Tensor) -> str:
    """Sixteen hexadecimal digits that tell embeddings apart, whatever precision they are stored in."""
    return hashlib.sha256(embedding.float().contiguous().numpy()).hexdigest()[:16]


def embedding_shape(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(T, D) of an embedding, whose numbers are not read.

    Raises:
        UserError: as for `read_embedding`.
    """
    with _reading(path):
        if Path(path).suffix == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            shape, kind = array.shape[1:] if array.ndim == 3 and len(array) == 1 else array.shape, array.dtype
            is_float = np.issubdtype(kind, np.floating)
        else:
            with safe_open(path, framework="pt") as file:
                stored = file.get_slice("embedding")
                shape, kind = stored.get_shape(), stored.get_dtype()
                is_float = kind in FLOATS
    if len(shape) != 2 or 0 in shape or not is_float:
        raise UserError(f"{path}: holds {tuple(shape)} {kind}, not (tokens, width) of floats")
    return tuple(shape)


@contextmanager
def _reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Tell what is wrong with the file in words."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: {MISSING}") from None
    except (SafetensorError, OSError, ValueError, TypeError, EOFError):
        raise UserError(f"{path}: is no readable report embedding; delete it and encode the reports again") from None


def find_empty_report(root: str | os.PathLike[str], entries: Iterable[Mapping[str, Any]]) -> str | None:
    """The empty report's embedding, relative to the data root; None where there is none.

    Ours lies in one place. The authors' lists have it at each case without a report.
    """
    if (Path(root) / EMPTY_REPORT).is_file():
        return EMPTY_REPORT
    return next((entry["text"] for entry in entries if entry.get("text_isnull") and entry.get("text")), None)


def read_encoder_fingerprint(path: str | os.PathLike[str]) -> str | None:
    """Stamp of the encoder that made an embedding file; None where it is not told or no such file is there."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("encoder") if "embedding" in file.keys() else None  # noqa: SIM118
    except (SafetensorError, OSError):
        return None


def check_width(width: int, expected: int, source: str | os.PathLike[str]) -> None:
    """Make sure that the embeddings of a file or a text encoder are as wide as the network's adapter expects.

    Raises:
        UserError: they have another width.
    """
    if width != expected:
        raise UserError(
            f"{source}: report embedding of width {width}, the network reads width {expected}; encode the reports with "
            "the text encoder that the network was trained with (google/flan-t5-xxl gives 4096), or train a network "
            f"with --network_def#input_dim {width}"
        )


def pad_embeddings(embeddings: Sequence[Tensor]) -> Tensor:
    """Embeddings of one batch, zero-padded to the longest: (B, T, D), float16 where all of them are, else float32.

    Half precision stays as it is stored, which is a quarter of the time: the adapter casts it, on its device.
    """
    half = all(embedding.dtype == torch.float16 for embedding in embeddings)
    return pad_sequence([embedding if half else embedding.float() for embedding in embeddings], batch_first=True)
