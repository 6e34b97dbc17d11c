"""Reports as they are spoken: numbers in words, and a dictation whose punctuation is spoken, too."""

from __future__ import annotations

import re

from scripts.wording.layout import lowered
from scripts.wording.writer import Writer

UNITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEENS = ("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
# A number that stands alone: no part of a code, a product, a Gleason score, a range or a longer number.
NUMBER = re.compile(r"(?<![\w.,/+×*-])(\d{1,2})(?:[.,](\d{1,2}))?(?![\w/+×*-]|[.,]\d)")
ABBREVIATED = (("ca. ", "about "), ("approx. ", "approximately "), ("max. ", "maximum "))
SYMBOLS = (
    *((re.escape(short), full) for short, full in ABBREVIATED),
    (r" x 10-6 mm2/s", ""),
    (r"(?<=[1-5])/5\b", " out of five"),
    (r"(?<=[\dm]) ?[x×*] ?(?=\d)", " by "),
    (r"-?[-=]> ?", ""),
    (r" ?= ?", " equals "),
    (r"~", "about "),
    (r"#", "number "),
    (r" - ", " dash "),
    (r"(?<=\d)(?=(?:mm|cm|ml|mL|cc)\b)", " "),
)
MARKS = {
    ",": " comma",
    ":": " colon",
    ";": " semicolon",
    "(": " open bracket ",
    ")": " close bracket",
    "\n": " new line ",
}


def in_words(text: str) -> str:
    """Numbers below a hundred in words; what is cut into codes, dates or products keeps its figures."""
    for short, full in ABBREVIATED:
        text = text.replace(short, full)
    return NUMBER.sub(_named, text)


def _named(found: re.Match[str]) -> str:
    whole, decimals = int(found[1]), found[2]
    ten, unit = divmod(whole, 10)
    name = (*UNITS, *TEENS)[whole] if whole < 20 else TENS[ten - 2] + (f" {UNITS[unit]}" if unit else "")
    return name if decimals is None else " ".join([name, "point", *(UNITS[int(digit)] for digit in decimals)])


def dictated(w: Writer, text: str) -> str:
    """A text as it is dictated, full stops, commas and brackets spoken; numbers often in words."""
    for symbol, word in SYMBOLS:
        text = re.sub(symbol, word, text)
    text = in_words(text) if w.chance(0.7) else text
    text = re.sub(r"\.(?=\s|$)", w.habit("spoken.stop"), text)
    text = re.sub(r"[,:;](?=\s|$)|[()\n]", lambda found: MARKS[found[0]], text)
    text = " ".join(text.split())
    return lowered(text) if w.chance(0.7) else text
