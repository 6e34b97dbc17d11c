"""Styles, and the writer that fills facts into pools by a style's weights."""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from scripts.wording.past import PAST
from scripts.wording.sentences import SENTENCES
from scripts.wording.surroundings import SURROUNDINGS
from scripts.wording.terms import TERMS
from scripts.wording.unsuspicious import UNSUSPICIOUS

POOLS: dict[str, tuple[str, ...]] = {**TERMS, **SENTENCES, **UNSUSPICIOUS, **PAST, **SURROUNDINGS}
SLOT = re.compile(r"\{([^}]+)\}")
ARTICLE = re.compile(r"\ba\(n\)( (?:[aeiouAEIOU]|8|1[18](?![\d.,])))?")
AMERICAN = (("haemorrhag", "hemorrhag"), ("tumour", "tumor"), ("organised", "organized"), ("metre", "meter"))


@dataclass(frozen=True)
class Style:
    """How one institution or radiologist writes; the default writes everything that the grammar can.

    Attributes:
        weights: of a pool's options, cumulative to 1; the options of a pool that is not in it are equally likely.
        british: share of reports in British spelling.
        comma: share of reports with decimal commas.
        typos: share of words that are misspelt.
        rough: share of reports with careless capitals, spaces, punctuation or line breaks.
        vague: share of reports that leave out part of where each lesion lies, although it is known.
    """

    weights: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    british: float = 0.5
    comma: float = 0.1
    typos: float = 0.01
    rough: float = 0.3
    vague: float = 0.0


def institution(seed: int, vague: float = 0.0) -> Style:
    """The style of one institution: a few favourite ways to say each thing, one spelling, its own carelessness."""
    rng = np.random.default_rng(seed)
    weights = {
        name: tuple(np.cumsum(rng.dirichlet([0.5] * len(options))).tolist()) for name, options in sorted(POOLS.items())
    }
    british, comma = float(rng.random() < 0.5), float(rng.random() < 0.15)
    typos, rough = float(10 ** rng.uniform(-3.5, -1.5)), float(rng.uniform(0, 0.6))
    return Style(weights, british, comma, typos, rough, vague)


@dataclass(frozen=True)
class Option:
    """One way to say a thing, cut into pieces: literals, slots, and groups that unknown facts leave out."""

    pieces: tuple[tuple[list[str], list[str], bool], ...]  # literal, slot, literal, ..; its facts; may it be left out?
    required: frozenset[str]  # facts without which it cannot be said
    facts: frozenset[str]  # facts that it may say


@cache
def compiled(pool: str) -> tuple[Option, ...]:
    """The options of a pool."""
    return tuple(_compile(option) for option in POOLS[pool])


def _compile(option: str) -> Option:
    split = [SLOT.split(part) for part in re.split(r"[\[\]]", option)]
    pieces = [
        (parts, [slot for slot in parts[1::2] if slot not in POOLS], bool(place % 2))
        for place, parts in enumerate(split)
    ]
    required = [facts for _, facts, optional in pieces if not optional]
    return Option(tuple(pieces), frozenset().union(*required), frozenset().union(*(facts for _, facts, _ in pieces)))


class Writer:
    """Says things in a style; every choice comes from one generator."""

    def __init__(self, style: Style, rng: np.random.Generator) -> None:
        self.style, self.rng = style, rng
        self._numbers: list[float] = []
        self.british = self.random() < style.british
        self.comma = self.random() < style.comma
        self._habits: dict[str, str] = {}

    def random(self) -> float:
        """A number in [0, 1)."""
        if not self._numbers:
            self._numbers = self.rng.random(256).tolist()
        return self._numbers.pop()

    def chance(self, share: float) -> bool:
        return self.random() < share

    def index(self, pool: str) -> int:
        """One of a pool's options, by the style's weights."""
        weights = self.style.weights.get(pool)
        count = len(POOLS[pool])
        return min(bisect(weights, self.random()), count - 1) if weights else int(self.random() * count)

    def habit(self, pool: str) -> str:
        """One option of a pool without slots, the same throughout a report."""
        if pool not in self._habits:
            self._habits[pool] = POOLS[pool][self.index(pool)]
        return self._habits[pool]

    def number(self, value: float, decimals: int) -> str:
        """A number with that many decimals, and a comma where the report has commas."""
        text = f"{value:.{decimals}f}"
        return text.replace(".", ",") if self.comma else text

    def say(self, pool: str, **facts: str | None) -> str:
        """One option of a pool with its facts; a fact that is None is unknown."""
        return self.fill(pool, facts)[0]

    def tell(self, pool: str, facts: Mapping[str, str | None]) -> list[str]:
        """Every known fact of the pool once, in as many of its options as that takes."""
        sayable = frozenset().union(*(option.facts for option in compiled(pool)))
        left = {name: text for name, text in facts.items() if text is not None and name in sayable}
        said = []
        while left:
            text, told = self.fill(pool, left, news=True)
            said.append(text)
            left = {name: fact for name, fact in left.items() if name.partition(":")[0] not in told}
        return said

    def fill(self, pool: str, facts: Mapping[str, str | None], news: bool = False) -> tuple[str, set[str]]:
        """An option of which all is known, and the facts that it says; with `news`, it must say one.

        A fact may have several forms, `name` and `name:form`, of which one is enough.
        """
        known = {name: text for name, text in facts.items() if text is not None}
        options = compiled(pool)
        for _ in range(20):
            option = options[self.index(pool)]
            if option.required <= known.keys() and (option.required or not news):
                break
        else:
            fitting = [one for one in options if one.required <= known.keys() and (one.required or not news)]
            option = fitting[int(self.random() * len(fitting))]
        text, told = [], set()
        for parts, slots, optional in option.pieces:
            if optional and not all(slot in known for slot in slots):
                continue
            told.update(slot.partition(":")[0] for slot in slots)
            text += [
                part if place % 2 == 0 else known[part] if part in known else self.fill(part, known)[0]
                for place, part in enumerate(parts)
            ]
        joined = "".join(text)
        if "a(n)" in joined:
            joined = ARTICLE.sub(lambda found: f"an{found[1]}" if found[1] else "a", joined)
        return joined, told

    def spell(self, text: str) -> str:
        """The text in this report's spelling."""
        if not self.british:
            for british, american in AMERICAN:
                text = text.replace(british, american)
                text = text.replace(british.capitalize(), american.capitalize())
        return text
