"""What stands in a table's column of reports: text that is one, and what only looks so."""

from __future__ import annotations

import re
from typing import Any

from scripts.data.names import clean

# What programs and people write where there is no report; anything without a letter or digit is none either.
PLACEHOLDERS = frozenset({
    "nan", "na", "n/a", "n.a.", "n.a", "n/d", "n.d.", "nd", "nat", "<na>", "none", "null", "nil", "missing", "unknown",
    "empty", "not available", "not applicable", "no report", "k.a.", "keine angabe", "s/o", "无", "нет",
})  # fmt: skip
NUMBER_OR_DATE = re.compile(r"[\d\s.,:/+\-]*\d[\d\s.,:/+\-]*(?:T[\d:.]+Z?)?%?")


def is_placeholder(cell: Any) -> bool:
    """Whether a cell holds a word or a sign that stands for "nothing", such as `nan`, `N/A` or `-`."""
    if not isinstance(cell, str):
        return False
    text = clean(cell).casefold()
    return text in PLACEHOLDERS or not any(character.isalnum() for character in text)


def is_no_text(cell: Any) -> bool:
    """Whether a cell that is not empty holds a number, a date or a truth value, as such or written as text."""
    return cell is not None and (not isinstance(cell, str) or NUMBER_OR_DATE.fullmatch(clean(cell)) is not None)
