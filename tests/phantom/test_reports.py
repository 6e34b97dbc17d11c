"""Phantom reports say what the findings say, in many ways."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from scripts.phantom.anatomy import LEVELS, SIDES, Findings, sample_findings
from scripts.phantom.reports import write_report

WORDS = {
    "PZ": r"peripheral zone|\bpz\b",
    "TZ": r"transition zone|transitional zone|\btz\b",
    "left": r"\bleft\b",
    "right": r"\bright\b",
    "base": r"\bbase\b|\bbasal\b",
    "mid": r"\bmid\b|mid-gland|midgland",
    "apex": r"\bapex\b|\bapical\b",
}


def says(text: str, word: str) -> bool:
    return re.search(WORDS[word], text.lower()) is not None


def impression(text: str) -> str:
    """The last section, or the whole of a report without sections."""
    return re.split(r"(?i)(?:impression|conclusion|summary):", text)[-1]


@pytest.fixture(scope="module")
def pairs() -> list[tuple[Findings, str]]:
    findings = [sample_findings(seed) for seed in range(1000)]
    return [(f, write_report(f, np.random.default_rng([f.seed, 1]))) for f in findings]


def test_only_missing_reports_are_empty(pairs):
    assert all((text == "") == findings.report_is_missing for findings, text in pairs)


def test_every_lesion_is_named_last_with_zone_side_level_and_score(pairs):
    positive = [(f, impression(text).lower()) for f, text in pairs if text and f.lesions]
    for findings, text in positive:
        for lesion in findings.lesions:
            assert all(says(text, word) for word in (lesion.zone, lesion.side, lesion.level))
            assert re.search(rf"pi-?rads\D*(v2\.1 score )?{lesion.pirads}\b", text)
            assert re.search(rf"\b{round(lesion.diameter_mm)} mm\b|\b{round(lesion.diameter_mm) / 10:.1f} cm\b", text)
    assert len(positive) > 400


def test_no_other_side_or_level_is_named(pairs):
    for findings, text in pairs:
        named = {lesion.side for lesion in findings.lesions} | {lesion.level for lesion in findings.lesions}
        if text:
            assert {word for word in (*SIDES, *LEVELS) if says(text, word)} == named


def test_reports_without_a_lesion_say_so_with_the_score(pairs):
    negative = [(f, impression(text).lower()) for f, text in pairs if text and not f.lesions]
    for findings, text in negative:
        assert re.search(r"\bno\b|without|normal", text)
        assert re.search(rf"pi-?rads\D*(v2\.1 score )?{findings.pirads}\b", text)
    assert len(negative) > 300


def words(text: str) -> int:
    """Words, numbers and punctuation marks: no tokenizer makes fewer tokens of them."""
    return len(re.findall(r"\w+|[^\w\s]", text))


def test_lengths_range_from_one_line_to_more_than_700_tokens(pairs):
    lengths = np.array([words(text) for _, text in pairs if text])
    assert 0.1 < (lengths < 24).mean() < 0.45
    assert 0.07 < (lengths > 700).mean() < 0.13
    assert (lengths[lengths < 700] < 300).all()


def test_long_reports_begin_with_history_and_technique(pairs):
    longs = [text for _, text in pairs if words(text) > 700]
    for text in longs:
        sections = re.findall(
            r"(?i)\b(clinical information|history|indication|technique|protocol|findings|report|impression|"
            r"conclusion|summary):",
            text,
        )
        assert sections[0].lower() in ("clinical information", "history", "indication")
        assert sections[1].lower() in ("technique", "protocol")
        assert sections[-1].lower() in ("impression", "conclusion", "summary")
    assert longs


def test_gland_volume_and_psa_agree(pairs):
    volumes = psas = 0
    for findings, text in pairs:
        if found := re.search(r"(\d+) (?:ml|cc)\b", text.lower()):
            assert int(found[1]) == round(findings.gland_ml)
            volumes += 1
        if found := re.search(r"(?:psa(?: of|,)?|currently) (\d+\.\d)\b", text.lower()):
            assert float(found[1]) == pytest.approx(findings.psa, abs=0.06)
            psas += 1
    assert volumes > 300
    assert psas > 200


def test_wording_varies_and_depends_on_the_generator_alone():
    findings = replace(next(f for f in map(sample_findings, range(50)) if f.lesions), report_is_missing=False)
    texts = {write_report(findings, np.random.default_rng(seed)) for seed in range(100)}
    assert len(texts) > 95
    assert write_report(findings, np.random.default_rng(3)) == write_report(findings, np.random.default_rng(3))
