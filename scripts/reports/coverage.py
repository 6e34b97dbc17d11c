"""How much of the reports reaches the network: what is too long for the text encoder, and what it has no token for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from scripts.reports.encoder import ReportEncoder

logger = logging.getLogger(__name__)
WARN_ABOVE = 0.03  # share of the reports that are cut, or of the tokens that are unknown
REPORTS_AT_ONCE = 1000


@dataclass(frozen=True)
class Coverage:
    """Numbers of reports, of those that are cut, and of tokens before that, the tokenizer's own marks not counted."""

    reports: int
    cut: int
    tokens: int
    unknown: int


def coverage(encoder: ReportEncoder, texts: Sequence[str]) -> Coverage:
    """Count what `encoder` would cut of some reports, and which of their tokens are all one to it (T5's `<unk>`).

    Tokenizers that fall back on bytes know everything.
    """
    tokenizer = encoder.tokenizer
    marks = tokenizer("").input_ids
    cut = tokens = unknown = 0
    for start in range(0, len(texts), REPORTS_AT_ONCE):
        for ids in tokenizer(list(texts[start : start + REPORTS_AT_ONCE]), verbose=False).input_ids:
            cut += len(ids) > encoder.max_tokens
            tokens += len(ids) - len(marks)
            if tokenizer.unk_token_id is not None:
                unknown += ids.count(tokenizer.unk_token_id) - marks.count(tokenizer.unk_token_id)
    return Coverage(len(texts), cut, tokens, unknown)


def tell_coverage(encoder: ReportEncoder, texts: Sequence[str]) -> None:
    """Log how many of some reports are cut and how many of their tokens are unknown; more than a few is a warning."""
    found = coverage(encoder, texts)
    cut, unknown = found.cut / max(found.reports, 1), found.unknown / max(found.tokens, 1)
    logger.info(
        "%d different reports, %d tokens: %d reports (%.1f %%) are longer than %d tokens and are cut, %d tokens "
        "(%.1f %%) are unknown to the text encoder",
        found.reports, found.tokens, found.cut, 100 * cut, encoder.max_tokens, found.unknown, 100 * unknown,
    )  # fmt: skip
    if cut > WARN_ABOVE:
        lost = {"left": "beginning", "right": "end"}[encoder.tokenizer.truncation_side]
        more = encoder.positions is None or encoder.positions > encoder.max_tokens
        logger.warning(
            "%.1f %% of the reports lose their %s: they have more than %d tokens. %s",
            100 * cut, lost, encoder.max_tokens,
            "A higher max_tokens keeps it" if more else "The text encoder reads no more; another may",
        )  # fmt: skip
    if unknown > WARN_ABOVE:
        logger.warning(
            "%.1f %% of the tokens are unknown to the text encoder: they are all the same to it, and what they say is "
            "lost. Take a text encoder that knows the language and the signs of the reports",
            100 * unknown,
        )
