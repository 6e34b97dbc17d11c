"""The text encoder: from a report's text to the hidden states of its tokens.

Report text is health data: nothing here writes it anywhere, into no message, log or file name.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoTokenizer, T5EncoderModel
from transformers.utils import logging as transformers_logging

from scripts.common.problems import UserError
from scripts.reports.text import normalise_report

logger = logging.getLogger(__name__)
PADDED = "-padded"  # ends the stamp of embeddings that hold the padded positions too
MAX_TOKENS = 512
# Tokens in one forward pass, padding included. For Flan-T5-XXL in bfloat16 its activations are below 2 GiB (docs).
TOKENS_A_BATCH = 4096
ACTIVATIONS = 3 * 2**30  # bytes that are left free for them on a GPU
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


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
