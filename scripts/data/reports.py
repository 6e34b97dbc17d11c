"""Reports and their embeddings: from text to the T5 encoder's token states, stored once for each distinct report.

Report text is health data: nothing here writes it anywhere, into no message, log or file name.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer, T5EncoderModel
from transformers.utils import logging as transformers_logging

from scripts.data.report_argument import hide_report, report_argument
from scripts.data.report_text import normalise_report
from scripts.files import write_tensors
from scripts.problems import UserError

__all__ = [
    "EMPTY_REPORT",
    "MAX_TOKENS",
    "PADDED",
    "ReportEncoder",
    "check_width",
    "find_empty_report",
    "hide_report",
    "pad_embeddings",
    "read_embedding",
    "read_encoder_fingerprint",
    "report_argument",
    "write_embedding",
]

logger = logging.getLogger(__name__)

EMPTY_REPORT = "embeddings/empty.safetensors"
PADDED = "-padded"  # ends the stamp of embeddings that hold the padded positions too
MAX_TOKENS = 512
# Tokens in one forward pass, padding included. For Flan-T5-XXL in bfloat16 its activations are below 2 GiB (docs).
TOKENS_A_BATCH = 4096
ACTIVATIONS = 3 * 2**30  # bytes that are left free for them on a GPU
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


# ---- the text encoder ------------------------------------------------------------------------------------------------


class ReportEncoder:
    """A T5 encoder with its tokenizer; a long report loses its beginning, since the impression stands last.

    Each token's state is computed as if the report were alone: padding inside a batch is masked.

    Args:
        path_or_name: a folder in the Hugging Face format, or a hub name such as `google/flan-t5-xxl`.
        max_tokens: more tokens than this are cut off on the left.
        dtype: "fp32" or "bf16"; by default bf16 on a GPU, else fp32. T5 overflows in fp16.
        device: by default a GPU where the weights fit into its free memory, else the CPU.

    Attributes:
        width: size of a token's state.
        fingerprint: tells encoders and their `max_tokens` apart; the same in fp32 and bf16.

    Raises:
        UserError: an option is wrong, there is no such model, or it is no T5 encoder.
    """

    def __init__(
        self,
        path_or_name: str | os.PathLike[str],
        max_tokens: int = MAX_TOKENS,
        dtype: str | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        if dtype not in (None, *DTYPES):
            raise UserError(f"dtype is {dtype!r}; T5 runs in {' or '.join(DTYPES)} (it overflows in fp16)")
        if max_tokens < 2:
            raise UserError(f"max_tokens is {max_tokens}; give 2 or more, one of which is the end token")
        _check_device(device)
        self.max_tokens = max_tokens
        # Loaded in its final dtype, so that the weights are never in memory twice.
        on_gpu = torch.device(device).type == "cuda" if device else torch.cuda.is_available()
        self.tokenizer, self.model = _load(path_or_name, DTYPES[dtype or ("bf16" if on_gpu else "fp32")])
        self.device = torch.device(device) if device else _device_for(self.model)
        self.model.to(self.device)
        self.width: int = self.model.config.d_model
        self.fingerprint = _fingerprint(self.model, self.tokenizer, max_tokens)

    def stamp(self, padded: bool) -> str:
        """What embeddings that this encoder made are told by, in their files and in the weights trained on them."""
        return self.fingerprint + (PADDED if padded else "")

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, at most `max_tokens`, the last of them the end token."""
        return self.tokenizer(list(texts), truncation=True, max_length=self.max_tokens).input_ids

    def encode(self, texts: Sequence[str], padded: bool = False) -> list[Tensor]:
        """Last hidden states of each text, in the order given.

        Args:
            texts: reports; absent ones as "".
            padded: also give the states at the padded positions, up to `max_tokens`, as the authors keep them.

        Returns:
            One (T, D) float16 tensor a text on the CPU; T is the number of tokens, or `max_tokens` when padded.

        Raises:
            UserError: a state is not finite in float16.
        """
        ids = self.tokens([normalise_report(text)[0] for text in texts]) if texts else []
        states: list[Tensor | None] = [None] * len(ids)
        for batch in _batches([self.max_tokens if padded else len(tokens) for tokens in ids]):
            for index, state in zip(batch, self._forward([ids[i] for i in batch], padded), strict=True):
                states[index] = state
        return states

    @torch.inference_mode()
    def _forward(self, ids: Sequence[Sequence[int]], padded: bool) -> list[Tensor]:
        lengths = [len(tokens) for tokens in ids]
        total = self.max_tokens if padded else max(lengths)
        input_ids = torch.full((len(ids), total), self.tokenizer.pad_token_id)
        mask = torch.zeros(len(ids), total, dtype=torch.long)
        for row, tokens in enumerate(ids):
            input_ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        output = self.model(input_ids=input_ids.to(self.device), attention_mask=mask.to(self.device))
        states = output.last_hidden_state.to(torch.float16).cpu()
        if not states.isfinite().all():
            raise UserError("the text encoder gave numbers that are not finite; run it with --dtype fp32")
        return [state[: total if padded else length].clone() for state, length in zip(states, lengths, strict=True)]


def _load(path_or_name: str | os.PathLike[str], dtype: torch.dtype) -> tuple:
    name = str(path_or_name)
    transformers_logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, truncation_side="left", padding_side="right")
        model = T5EncoderModel.from_pretrained(name, dtype=dtype)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(
            f"no T5 encoder could be loaded from {name!r}. Give a folder that holds config.json, *.safetensors and "
            "tokenizer.json. The reference is google/flan-t5-xxl (Apache-2.0, about 45 GB): on a machine with internet "
            "run `hf download google/flan-t5-xxl --include '*.json' '*.safetensors' '*.model' --local-dir "
            "models/flan-t5-xxl`, then give that folder. For the phantom, bundles/ccella_ldm/models/demo_t5 is enough. "
            f"({type(error).__name__})"
        ) from None
    return tokenizer, model.eval()


def _check_device(device: str | torch.device | None) -> None:
    try:
        usable = device is None or torch.device(device).type != "cuda" or torch.cuda.is_available()
    except RuntimeError:
        usable = False
    if not usable:
        raise UserError(f"device is {str(device)!r}, which this machine does not have; give cpu, or cuda on a GPU")


def _device_for(model: T5EncoderModel) -> torch.device:
    """A GPU where weights and activations fit into its free memory, else the CPU."""
    if torch.cuda.is_available():
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        free = torch.cuda.mem_get_info()[0]
        if free > weights + ACTIVATIONS:
            return torch.device("cuda")
        logger.warning("text encoder: %.1f GB do not fit into %.1f GB of GPU memory; CPU", weights / 1e9, free / 1e9)
    return torch.device("cpu")


def _fingerprint(model: T5EncoderModel, tokenizer: AutoTokenizer, max_tokens: int) -> str:
    """Hash over names, shapes and the beginning of every weight, the vocabulary and the length limit."""
    digest = hashlib.sha256(f"{max_tokens}{sorted(tokenizer.get_vocab().items())}".encode())
    for name, weight in sorted(model.state_dict().items()):
        # Rounded to bfloat16, so that an encoder run in either precision is the same one.
        start = weight.flatten()[:4096].to("cpu", torch.bfloat16).view(torch.int16)
        digest.update(f"{name}{tuple(weight.shape)}".encode() + start.numpy().tobytes())
    return digest.hexdigest()[:16]


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices sorted by length, cut so that no batch has more than TOKENS_A_BATCH positions."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[index] > TOKENS_A_BATCH:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


# ---- embedding files -------------------------------------------------------------------------------------------------


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
