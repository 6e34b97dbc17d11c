"""Names of cases, patients and cells: what can be a folder, and what a message may quote."""

from __future__ import annotations

import re
from typing import Any

WORD = re.compile(r"[\w.:+/\\-]{0,24}", re.ASCII)  # other scripts write whole reports without a space


def is_word(value: Any) -> bool:
    """Whether `value` is one short word, or nothing: it can be quoted, whichever column it stands in."""
    return isinstance(value, str) and WORD.fullmatch(value) is not None


def shown(value: Any) -> str:
    """A value for a message: numbers and single words as they are written, the rest by its kind and length.

    Any cell may hold a report after a mix-up of columns, and report text is never quoted.
    """
    if value is None or isinstance(value, (bool, int, float)):
        return str(value)
    if isinstance(value, str):
        return repr(value) if is_word(value) else f"text of {len(value)} characters"
    if isinstance(value, (list, tuple)):
        numbers = len(value) <= 4 and all(isinstance(item, (bool, int, float)) for item in value)
        return str(list(value)) if numbers else f"a list of {len(value)}"
    return f"a {type(value).__name__}"


def name_of(folder: str | None, place: str) -> str:
    """What messages call a table's row whose folder may be none: the folder where it can be quoted, else its place."""
    return folder if folder and is_word(folder) else place


def is_folder_name(name: Any) -> bool:
    """Whether `name` can be a case's folder: text that is one plain part of a path on every system.

    A DICOM identifier has at most 64 characters; a longer cell is something else, perhaps a report.
    """
    plain = isinstance(name, str) and bool(name.strip()) and len(name) <= 64 and name.isprintable()
    return plain and name not in (".", "..") and not set(name) & set("/\\")
