"""Report embeddings on disk: a file for each distinct report, ours (safetensors) or the authors' (.npy)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from scripts.common.files import write_tensors
from scripts.common.problems import UserError

EMPTY_REPORT = "embeddings/empty.safetensors"


def write_embedding(path: str | os.PathLike[str], embedding: Tensor, stamp: str) -> None:
    """Write one report's embedding (T, D) as it is, with its encoder's stamp; the file appears only when complete."""
    metadata = {"encoder": stamp, "width": str(embedding.shape[-1])}
    write_tensors(path, {"embedding": embedding}, metadata)


def read_embedding(path: str | os.PathLike[str]) -> Tensor:
    """Read an embedding (T, D) in the precision it was stored in: ours, or the authors' .npy ((512, D) or (1, 512, D)).

    Raises:
        UserError: the file is missing, broken or holds something else.
    """
    path = Path(path)
    try:
        if path.suffix == ".npy":
            embedding = torch.from_numpy(np.load(path, allow_pickle=False))
            embedding = embedding[0] if embedding.ndim == 3 and len(embedding) == 1 else embedding
        else:
            with safe_open(path, framework="pt") as file:
                embedding = file.get_tensor("embedding")
    except FileNotFoundError:
        raise UserError(f"{path}: the report embedding is missing; run python -m scripts.encode_reports") from None
    except (SafetensorError, OSError, ValueError, TypeError, EOFError):
        raise UserError(f"{path}: is no readable report embedding; delete it and encode the reports again") from None
    if embedding.ndim != 2 or not embedding.is_floating_point() or 0 in embedding.shape:
        raise UserError(f"{path}: holds {tuple(embedding.shape)} {embedding.dtype}, not (tokens, width) of floats")
    return embedding


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


def check_width(embedding: Tensor, expected: int, path: str | os.PathLike[str]) -> None:
    """Make sure that an embedding comes from an encoder as wide as the network's adapter expects.

    Raises:
        UserError: it has another width.
    """
    if embedding.shape[-1] != expected:
        raise UserError(
            f"{path}: report embedding of width {embedding.shape[-1]}, the network reads width {expected}; encode the "
            "reports with the text encoder that the network was trained with (google/flan-t5-xxl gives 4096)"
        )


def pad_embeddings(embeddings: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Embeddings of one batch, zero-padded to the longest.

    Half precision stays as it is stored, which is a quarter of the time: the adapter casts it, on its device.

    Returns:
        (B, T, D), float16 where all of them are, else float32, and (B, T) bool, True where a stored position is.
    """
    half = all(embedding.dtype == torch.float16 for embedding in embeddings)
    batch = pad_sequence([embedding if half else embedding.float() for embedding in embeddings], batch_first=True)
    lengths = torch.tensor([len(embedding) for embedding in embeddings])
    return batch, torch.arange(batch.shape[1]) < lengths[:, None]
