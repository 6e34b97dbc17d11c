"""The writer says what is known, once, in one of the ways of a pool."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.wording import writer
from scripts.wording.terms import TERMS
from scripts.wording.writer import POOLS, Style, Writer, compiled, institution


@pytest.fixture
def say(monkeypatch):
    def with_pool(*options: str, seed: int = 0, **facts: str | None) -> str:
        monkeypatch.setitem(POOLS, "tested", options)
        compiled.cache_clear()
        return Writer(Style(), np.random.default_rng(seed)).say("tested", **facts)

    yield with_pool
    compiled.cache_clear()


def test_what_is_unknown_is_left_out_with_its_brackets(say):
    assert say("a(n)[ {size}] lesion[, {score}]", size="8 mm", score=None) == "an 8 mm lesion"
    assert say("a(n)[ {size}] lesion[, {score}]", size=None, score="PI-RADS 4") == "a lesion, PI-RADS 4"


@pytest.mark.parametrize(
    ("size", "article"),
    [("8 mm", "an"), ("11 mm", "an"), ("18 mm", "an"), ("1.8 cm", "a"), ("1,1 cm", "a"), ("14 mm", "a")],
)
def test_articles(say, size, article):
    assert say("a(n) {size} focus", size=size) == f"{article} {size} focus"


def test_an_option_whose_fact_is_unknown_is_not_taken(say):
    assert {say("{a} here", "nothing", seed=seed, a=None) for seed in range(20)} == {"nothing"}


def test_each_fact_is_told_once(monkeypatch):
    monkeypatch.setitem(POOLS, "tested", ("{a}", "{a} and {b}", "{b:long}", "{c}", "bare"))
    compiled.cache_clear()
    for seed in range(50):
        told = Writer(Style(), np.random.default_rng(seed)).tell(
            "tested", {"a": "A", "b": "B", "b:long": "Bee", "c": None}
        )
        text = " ".join(told)
        assert text.count("A") == 1
        assert text.count("B") == 1
        assert "bare" not in text
    compiled.cache_clear()


def test_a_comma_is_a_reports_own(say):
    texts = {Writer(Style(comma=share), np.random.default_rng(0)).number(1.44, 1) for share in (0.0, 1.0)}
    assert texts == {"1.4", "1,4"}


def test_spelling_is_a_reports_own():
    for british, spelt in ((1.0, "Haemorrhage, tumour"), (0.0, "Hemorrhage, tumor")):
        assert Writer(Style(british=british), np.random.default_rng(0)).spell("Haemorrhage, tumour") == spelt


def test_weights_decide(monkeypatch):
    style = Style(weights={"left.half": (0.0, 1.0, 1.0, 1.0)})
    w = Writer(style, np.random.default_rng(0))
    assert {w.say("left.half") for _ in range(50)} == {TERMS["left.half"][1]}


def test_an_institution_has_a_weight_for_every_option():
    style = institution(4)
    assert {pool: len(weights) for pool, weights in style.weights.items()} == {k: len(v) for k, v in POOLS.items()}
    assert all(weights[-1] == pytest.approx(1) for weights in style.weights.values())
    assert style != institution(5)
    assert writer.institution(4, vague=0.5).vague == 0.5
