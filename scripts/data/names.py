"""Names of cases, patients and cells: what can be a folder, and what a message may quote."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Any

WORD = re.compile(r"[\w.:+/\\-]{0,24}", re.ASCII)  # other scripts write whole reports without a space

# Marks and fillers that no font draws (Unicode: Default_Ignorable_Code_Point), and the blank of Braille, beside control
# and format characters.
FILLERS = (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0)
UNSEEN = frozenset((*FILLERS, *range(0x180B, 0x1810), *range(0xFE00, 0xFE10)))
# Cyrillic and Greek letters that a keyboard's other layout gives in place of Latin ones, after casefolding.
TWINS = str.maketrans("авеѕіјкмнорстухαβεζηικμνορτυχ", "abesijkmhopctyxabezhikmnoptyx")


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


def clean(name: str) -> str:
    """A name in composed letters (NFC), without invisible characters and with single spaces inside alone.

    Two names that come out equal look equal on every screen: they are one name.
    """
    seen = (c for c in " ".join(name.split()) if unicodedata.category(c) not in ("Cc", "Cf") and ord(c) not in UNSEEN)
    return unicodedata.normalize("NFC", " ".join("".join(seen).split()))


def alike(name: str) -> str:
    """What names have in common that may mean one thing, though they differ.

    Capitals, compatibility forms (NFKC: full-width letters, ligatures, raised digits), digits of other scripts, dashes,
    letters of other alphabets that look the same, spaces, leading zeros of every number, and the `.0` of a number that
    was one in a table.

    >>> alike("P-0017") == alike("p\u2013１７"), alike("17.0") == alike("0017")
    (True, True)
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", clean(name)).casefold())
    plain = "".join(_plain(character) for character in folded if not character.isspace()).translate(TWINS)
    number = re.fullmatch(r"(\d+)[.,]0+", plain)
    return re.sub(r"(?<!\d)0+(?=\d)", "", number[1] if number else plain)


def _plain(character: str) -> str:
    if unicodedata.category(character) == "Pd" or character == "\u2212":
        return "-"
    digit = unicodedata.decimal(character, None)
    return character if digit is None else str(digit)


def others_alike(name: str, names: Iterable[str]) -> list[str]:
    """Those of `names` that are written otherwise than `name` and may mean the same, see `alike`."""
    key = alike(name)
    return sorted(other for other in names if other != name and alike(other) == key)
