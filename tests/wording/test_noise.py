"""Spelling, capitals, spaces and line breaks go wrong; sides, levels, zones, numbers and negations do not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from scripts.wording import noise
from scripts.wording.documents import write_report
from scripts.wording.noise import TYPOS, roughen
from scripts.wording.writer import Style, Writer
from wording_reader import draw_exam

CLEAN = Style(typos=0.0, rough=0.0)
FACTS = [
    "left",
    "right",
    "midline",
    "bilateral",
    "base",
    "basal",
    "apex",
    "apical",
    "mid",
    "midgland",
    "gland",
    "middle",
    "third",
    "peripheral",
    "transition",
    "transitional",
    "central",
    "zone",
    "anterior",
    "posterior",
    "ventral",
    "dorsal",
    "posterolateral",
    "posteromedial",
    "dorsolateral",
    "stroma",
    "lobe",
    "no",
    "none",
    "not",
    "without",
    "nil",
    "normal",
    "unremarkable",
    "negative",
    "positive",
    "lesion",
    "prostate",
    "pirads",
]
KEPT = re.compile(
    r"\d.*|zero|one|two|three|four|five|six|seven|eight|nine|ten|\w+teen|(twen|thir|for|fif|six|seven|eigh|nine)ty"
    r"|mm|cm|ml|cc|millimet\w+|centimet\w+|no|none|nil|not|without|normal|unremarkable|negative|positive"
    r"|l|r|lt|rt|pz\w*|tz\w*|cz|af?m?s|mid|both"
)


def distance(one: str, other: str) -> int:
    """Edits from one word to another: a letter more, less or other, or two that change places."""
    rows = {(-1, -1): 0} | {(i, -1): i + 1 for i in range(len(one))} | {(-1, j): j + 1 for j in range(len(other))}
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            rows[i, j] = min(rows[i - 1, j] + 1, rows[i, j - 1] + 1, rows[i - 1, j - 1] + (a != b))
            if i and j and a == other[j - 1] and one[i - 1] == b:
                rows[i, j] = min(rows[i, j], rows[i - 2, j - 2] + 1)
    return rows[len(one) - 1, len(other) - 1]


def words(text: str) -> list[str]:
    """Words and numbers, small; the ways to misspell PI-RADS in two words or one are one word."""
    text = re.sub(r"pi[- ]?rads?\b|pie rads|pi-rdas|pirdas|pirates", "pirads", " ".join(text.lower().split()))
    return re.findall(r"\d+(?:[.,]\d+)?|[a-zµ]+", text)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    rngs = [np.random.default_rng([seed, 0]) for seed in range(1500)]
    return [write_report(draw_exam(rng), CLEAN, rng).text for rng in rngs]


def changed(texts: list[str], style: Style) -> Iterator[tuple[str, str]]:
    for seed, text in enumerate(texts):
        yield text, roughen(Writer(style, np.random.default_rng(seed)), text)


@pytest.mark.parametrize(
    "style", [Style(typos=0.0, rough=1.0), Style(typos=0.3, rough=1.0)], ids=["careless", "typist"]
)
def test_no_fact_becomes_another(texts, style):
    misspelt = 0
    for text, rough in changed(texts, style):
        before, after = words(text), words(rough)
        assert len(before) == len(after), rough
        for word, typo in zip(before, after, strict=True):
            if word != typo:
                misspelt += 1
                assert not KEPT.fullmatch(word), (word, typo)
                assert typo not in FACTS, (word, typo)
                if word in FACTS:
                    nearest = min(FACTS, key=lambda fact: distance(typo, fact))
                    assert nearest == word or {nearest, word} == {"transition", "transitional"}, (word, typo)
    assert (misspelt > 5000) == (style.typos > 0)


def test_a_listed_typo_is_nearest_to_its_own_word():
    for word, typos in TYPOS.items():
        for typo in map(str.lower, typos):
            others = [fact for fact in FACTS if fact not in (word.lower(), "pirads")]
            assert min(distance(typo, fact) for fact in others) > distance(typo, word.lower()), (word, typo)


def test_every_fault_occurs_and_leaves_something_to_read(texts):
    for fault in set(noise.FAULTS):
        w = Writer(CLEAN, np.random.default_rng(0))
        assert sum(fault(w, text) != text for text in texts) > 100, fault.__name__


def test_numbers_never_run_together(texts):
    for fault in set(noise.FAULTS):
        w = Writer(CLEAN, np.random.default_rng(0))
        for text in texts:
            number = r"\d+(?:[.,]\d+)?"
            assert re.findall(number, fault(w, text)) == re.findall(number, text)


def test_the_anterior_stroma_is_no_conjunction():
    w = Writer(CLEAN, np.random.default_rng(0))
    assert noise._lower(w, "L mid AS 14 mm") == "L mid AS 14 mm"
    assert noise._lower(w, "L mid AFMS 14 mm") == "l mid afms 14 mm"


def test_a_careful_writer_changes_nothing(texts):
    assert all(text == rough for text, rough in changed(texts, replace(Style(), typos=0.0, rough=0.0)))
