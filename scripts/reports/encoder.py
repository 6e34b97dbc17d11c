"""The text encoder: from a report's text to the hidden states of its tokens.

Report text is health data: nothing here writes it anywhere, into no message, log or file name.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from scripts.common.problems import UserError
from scripts.reports.text import normalise_report
from scripts.reports.text_model import fingerprint, load_text_model, position_limit, stated_limit

logger = logging.getLogger(__name__)
PADDED = "-padded"  # ends the stamp of embeddings that hold the padded positions too
MAX_TOKENS = 512  # the authors', and where an encoder states no limit
# Tokens in one forward pass, padding included. For Flan-T5-XXL in bfloat16 its activations are below 2 GiB (docs).
TOKENS_A_BATCH = 4096
ACTIVATIONS = 3 * 2**30  # bytes that are left free for them on a GPU
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SIDES = ("left", "right")


class ReportEncoder:
    """A text encoder of any kind with its tokenizer: T5, BERT and its kin, or a decoder's last hidden states.

    Each token's state is computed as if the report were alone: padding inside a batch is masked. The marks of beginning
    and end are those that the tokenizer sets. A report that comes to no token at all, as the empty one does where it
    sets none (GPT-2), becomes one such mark.

    Args:
        path_or_name: a folder in the Hugging Face format, or the name of one in the cache of `hf download`.
        max_tokens: more tokens than this are cut off; by default as many as the encoder says it is for, at most
            TOKENS_A_BATCH, or MAX_TOKENS where it says nothing.
        truncation_side: "left" for reports whose impression stands last, or "right".
        dtype: "fp32" or "bf16"; by default bf16 on a GPU, else fp32. T5 and others overflow in fp16.
        device: by default a GPU where the weights fit into its free memory, else the CPU.

    Attributes:
        width: size of a token's state.
        positions: the most tokens that the encoder can read; None where there is no end.
        fingerprint: tells encoders, their `max_tokens` and `truncation_side` apart; the same in fp32 and bf16.

    Raises:
        UserError: an option is wrong, there is no such model, or it is no text encoder.
    """

    def __init__(
        self,
        path_or_name: str | os.PathLike[str],
        max_tokens: int | None = None,
        truncation_side: str = "left",
        dtype: str | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        if dtype not in (None, *DTYPES):
            raise UserError(f"dtype is {dtype!r}; text encoders run in {' or '.join(DTYPES)} (T5 overflows in fp16)")
        if truncation_side not in SIDES:
            raise UserError(f"truncation_side is {truncation_side!r}; give {' or '.join(SIDES)}")
        _check_device(device)
        # Loaded in its final dtype, so that the weights are never in memory twice.
        on_gpu = torch.device(device).type == "cuda" if device else torch.cuda.is_available()
        kept_as = DTYPES[dtype or ("bf16" if on_gpu else "fp32")]
        self.tokenizer, self.model = load_text_model(path_or_name, kept_as, truncation_side)
        self.positions = position_limit(self.model)
        self.max_tokens = self._length(max_tokens)
        self.device = torch.device(device) if device else _device_for(self.model)
        self.model.to(self.device)
        self.width = self._width(path_or_name)
        self.fingerprint = fingerprint(self.model, self.tokenizer, self.max_tokens, truncation_side)

    def stamp(self, padded: bool) -> str:
        """What embeddings that this encoder made are told by, in their files and in the weights trained on them."""
        return self.fingerprint + (PADDED if padded else "")

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text with the tokenizer's marks, 1 to `max_tokens` of them."""
        ids = self.tokenizer(list(texts), truncation=True, max_length=self.max_tokens).input_ids
        return [tokens or [self._mark()] for tokens in ids]

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
        input_ids = torch.full((len(ids), total), self._filler())
        mask = torch.zeros(len(ids), total, dtype=torch.long)
        for row, tokens in enumerate(ids):
            input_ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        output = self.model(input_ids=input_ids.to(self.device), attention_mask=mask.to(self.device))
        states = output.last_hidden_state.to(torch.float16).cpu()
        kept = [state[: total if padded else length].clone() for state, length in zip(states, lengths, strict=True)]
        if not all(state.isfinite().all() for state in kept):
            raise UserError("the text encoder gave numbers that are not finite in float16; run it with --dtype fp32")
        return kept

    def _length(self, wanted: int | None) -> int:
        """The most tokens of a report: as wanted, or as the encoder says.

        Raises:
            UserError: the encoder has no positions for so many, or the tokenizer's marks leave no room for a word.
        """
        if wanted is None:
            wanted = min(stated_limit(self.tokenizer, self.model) or MAX_TOKENS, TOKENS_A_BATCH)
        if self.positions is not None and wanted > self.positions:
            raise UserError(
                f"max_tokens is {wanted}, but the text encoder reads at most {self.positions} tokens; give no more, or "
                "leave it out"
            )
        marks = len(self.tokenizer("").input_ids)
        if wanted <= marks:
            raise UserError(f"max_tokens is {wanted}; give {marks + 1} or more: {marks} mark beginning and end")
        return wanted

    def _width(self, name: str | os.PathLike[str]) -> int:
        """The size of a state, of one that is made: not every config says it under the same name."""
        try:
            return self._forward(self.tokens([""]), padded=False)[0].shape[-1]
        except (torch.OutOfMemoryError, UserError):
            raise
        except (TypeError, ValueError, AttributeError, LookupError, RuntimeError) as error:
            raise UserError(
                f"{str(name)!r} holds a {type(self.model).__name__}, which gives no state for each token of a text "
                f"({type(error).__name__}); give another text encoder"
            ) from None

    def _mark(self) -> int:
        """What stands for a text without any token."""
        known = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, self.tokenizer.pad_token_id, 0)
        return next(number for number in known if number is not None)

    def _filler(self) -> int:
        """What fills a batch, where it is masked: the padding token, or any other where there is none."""
        number = self.tokenizer.pad_token_id
        return self._mark() if number is None else number


def _check_device(device: str | torch.device | None) -> None:
    try:
        usable = device is None or torch.device(device).type != "cuda" or torch.cuda.is_available()
    except RuntimeError:
        usable = False
    if not usable:
        raise UserError(f"device is {str(device)!r}, which this machine does not have; give cpu, or cuda on a GPU")


def _device_for(model: PreTrainedModel) -> torch.device:
    """A GPU where weights and activations fit into its free memory, else the CPU."""
    if torch.cuda.is_available():
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        free = torch.cuda.mem_get_info()[0]
        if free > weights + ACTIVATIONS:
            return torch.device("cuda")
        logger.warning("text encoder: %.1f GB do not fit into %.1f GB of GPU memory; CPU", weights / 1e9, free / 1e9)
    return torch.device("cpu")


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
