"""What typists, speech recognition and copying do to a report, without touching what it says.

Words that carry a fact are misspelt only in the ways that stand here, each nearer to its own word than to any other;
numbers, units and short words are never misspelt.
"""

from __future__ import annotations

import re
import textwrap
from functools import cache
from itertools import pairwise

from scripts.wording.layout import lowered
from scripts.wording.spoken import TEENS, TENS, UNITS
from scripts.wording.terms import LEVELS, SIDES, ZONES
from scripts.wording.unsuspicious import NEGATIVE
from scripts.wording.writer import Writer

TYPOS = {
    "left": ("lfet", "leftt"),
    "right": ("rigth", "rihgt", "rightt"),
    "base": ("bsae", "basse"),
    "basal": ("bassal", "basall"),
    "apex": ("apx", "apexx"),
    "apical": ("appical", "apicall"),
    "midgland": ("midglnad", "midglandd", "midgalnd"),
    "gland": ("glnad", "glandd"),
    "peripheral": ("periferal", "peripherial", "perpheral", "peripehral"),
    "transition": ("transistion", "transtion", "tranistion"),
    "transitional": ("transistional", "transtional"),
    "central": ("cental", "centrall"),
    "zone": ("zoen", "zonne"),
    "anterior": ("anteroir", "antrior"),
    "posterolateral": ("posterolatral", "postrolateral", "posterolaterl"),
    "posteromedial": ("posteromedail", "postromedial"),
    "stroma": ("storma", "stromaa"),
    "the": ("teh", "hte"),
    "with": ("wiht", "wtih"),
    "lesion": ("leison", "lession", "legion", "lesoin"),
    "prostate": ("prostrate", "porstate"),
    "PI-RADS": ("PI-RAD", "pi rads", "pie rads", "PI-RDAS"),
    "PIRADS": ("PIRDAS", "PIRAD", "pirates"),
}
HURRY = 8  # times as many mistakes in a report that is typed in a hurry
WORD = re.compile(r"PI-RADS|[A-Za-z]+")
NEIGHBOURS = dict(pair for row in ("qwertyuiop", "asdfghjkl", "zxcvbnm") for pair in pairwise(row))
# What carries a fact, and words that are theirs but for a letter.
GUARDED = {
    word.lower()
    for pools in (SIDES, ZONES, LEVELS, NEGATIVE)
    for pool in pools.values()
    for text in pool
    for word in re.findall("[A-Za-z]+", text)
} | {
    *UNITS,
    *TEENS,
    *TENS,
    "millimetre",
    "millimeter",
    "centimetre",
    "centimeter",
    "normal",
    "unremarkable",
    "without",
    "negative",
    "positive",
    "stop",
    "hypointense",
    "hyperintense",
    "known",
    "prior",
}


def roughen(w: Writer, text: str) -> str:
    """The text with this style's spelling mistakes and, in a careless report, one or two other faults."""
    share = w.style.typos * (HURRY if w.chance(0.08) else 1)
    text = WORD.sub(lambda found: _misspell(w, found[0]) if w.chance(share) else found[0], text)
    if not w.chance(w.style.rough):
        return text
    for _ in range(1 + w.chance(0.4)):
        fault = FAULTS[int(w.random() * len(FAULTS))]
        text = fault(w, text)
    return text


def _misspell(w: Writer, word: str) -> str:
    known = TYPOS.get(word) or TYPOS.get(word.lower())
    if known:
        typo = known[int(w.random() * len(known))]
        return typo.upper() if word.isupper() and len(word) > 1 else typo.capitalize() if word[0].isupper() else typo
    if len(word) < 5 or word.lower() in GUARDED or not word[1:].islower():
        return word
    place = 1 + int(w.random() * (len(word) - 2))
    before, here, behind = word[:place], word[place], word[place + 1 :]
    kinds = (before + behind, before + here + here + behind, before + behind[:1] + here + behind[1:])
    typo = (*kinds, before + NEIGHBOURS.get(here, here) + behind)[int(w.random() * 4)]
    return word if typo.lower() in _fact_words() else typo


@cache
def _fact_words() -> frozenset[str]:
    return frozenset(GUARDED | {typo.lower() for typos in TYPOS.values() for typo in typos})


def _upper(w: Writer, text: str) -> str:
    return text.upper()


def _lower(w: Writer, text: str) -> str:
    return lowered(text)


def _emphasis(w: Writer, text: str) -> str:
    return re.sub(r"\b(?:left|right)\b", lambda found: found[0].upper(), text)


def _double(w: Writer, text: str) -> str:
    return re.sub(r"(?<=\S) (?=\S)", lambda _: "  " if w.chance(0.15) else " ", text)


def _joined(w: Writer, text: str) -> str:
    """Spaces missing behind punctuation, but never between two numbers."""
    return re.sub(r"(?<!\d)([,;:]) (?=\S)|([,;:.]) (?=[A-Za-z])", lambda f: (f[1] or f[2]) + " " * w.chance(0.4), text)


def _unpunctuated(w: Writer, text: str) -> str:
    """Commas missing, but never between two numbers, and the last stop."""
    text = re.sub(r"(?<!\d), |, (?!\d)", lambda found: " " if w.chance(0.6) else found[0], text)
    return text.removesuffix(".")


def _wrapped(w: Writer, text: str) -> str:
    """Lines broken at a width, as mail and old systems do."""
    width = 40 + int(w.random() * 50)
    lines = [
        textwrap.fill(line, width, expand_tabs=False, break_long_words=False, break_on_hyphens=False)
        if "\t" not in line and "|" not in line
        else line
        for line in text.split("\n")
    ]
    return "\n".join(lines)


FAULTS = (_upper, _lower, _lower, _emphasis, _double, _joined, _unpunctuated, _wrapped)
