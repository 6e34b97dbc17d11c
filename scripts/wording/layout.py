"""Statements become sentences and paragraphs."""

from __future__ import annotations

import re
from collections.abc import Iterable

_START = re.compile(r"(^|\. )(?!mpMRI|bpMRI)([a-z])")


def sentence(text: str, stop: str = ".") -> str:
    """A statement with a capital at the beginning and, where it has none, a stop at the end."""
    text = _START.sub(lambda found: found[1] + found[2].upper(), text)
    return text if text.endswith((".", ":")) else text + stop


def paragraph(statements: Iterable[str]) -> str:
    """Statements as sentences, one behind the other."""
    return " ".join(sentence(text) for text in statements)


def lowered(text: str) -> str:
    """A text in small letters, but where AS, the anterior stroma, would become another word."""
    return text if re.search(r"\bAS\b", text) else text.lower()
