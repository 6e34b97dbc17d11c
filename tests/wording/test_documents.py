"""Reports say what their exam says, nothing else, and in very many ways."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from scripts.wording.documents import write_report
from scripts.wording.findings import Exam, Lesion, Place, Report
from scripts.wording.writer import POOLS, Style, compiled, institution
from wording_reader import IDIOM, draw_exam, parts, plain, read, running

CLEAN = Style(typos=0.0, rough=0.0)
ONE = Exam((Lesion(Place("PZ", "left", ("mid",), "PZpl"), (14.0, 9.0), 4),), psa=7.2, gland_ml=45.0)


def written(count: int, style: Style, first: int = 0) -> list[tuple[Exam, Report]]:
    exams = [draw_exam(np.random.default_rng([seed, 0])) for seed in range(first, first + count)]
    return [
        (exam, write_report(exam, style, np.random.default_rng([seed, 1]))) for seed, exam in enumerate(exams, first)
    ]


@pytest.fixture(scope="module")
def pairs() -> list[tuple[Exam, Report]]:
    return written(3000, CLEAN) + [pair for seed in range(30) for pair in of_institution(seed)]


def of_institution(seed: int) -> list[tuple[Exam, Report]]:
    return written(60, replace(institution(seed), typos=0.0, rough=0.0), first=100_000 + 100 * seed)


def test_every_lesion_is_read_with_zone_side_and_level(pairs):
    lesions = 0
    for exam, report in pairs:
        readings = read(report.text)
        for lesion, known in zip(report.says.lesions, exam.lesions, strict=True):
            assert (lesion.place.zone, lesion.place.side) == (known.place.zone, known.place.side)
            assert lesion.place.levels == known.place.levels
            if not running(report.text):
                of_it = [reading for reading in readings if reading.agrees(lesion)]
                assert any(reading.zones and reading.sides and reading.levels for reading in of_it), report.text
                assert {len(lesion.size_mm), 0} >= {len(reading.size) for reading in of_it}
                assert bool(lesion.size_mm) == any(reading.size for reading in of_it), report.text
                assert (lesion.pirads is not None) == any(reading.pirads for reading in of_it), report.text
                lesions += 1
    assert lesions > 3000


def test_nothing_else_is_read_as_a_lesion_of_today(pairs):
    for _, report in pairs:
        if not running(report.text):
            for reading in read(report.text):
                if report.says.lesions:
                    assert any(reading.agrees(lesion) for lesion in report.says.lesions), (reading, report.text)
                else:
                    assert not reading.has_place, (reading, report.text)
                    assert not reading.size, (reading, report.text)
                    assert reading.pirads in (None, report.says.pirads)


def test_text_without_stops_names_the_places_of_its_lesions_alone(pairs):
    dictated = [report for _, report in pairs if running(report.text) and report.says.lesions]
    for report in dictated:
        read_all = parts(plain(report.text))
        assert read_all.zones == {lesion.place.zone for lesion in report.says.lesions}
        assert read_all.levels == {level for lesion in report.says.lesions for level in lesion.place.levels}
        if "bilateral" not in read_all.sides:
            assert read_all.sides == {lesion.place.side for lesion in report.says.lesions}
    assert len(dictated) > 50


def test_what_it_says_is_what_is_known(pairs):
    for exam, report in pairs:
        for said, known in zip(report.says.lesions, exam.lesions, strict=True):
            for name in ("t2", "dwi", "dce", "adc", "image", "pirads"):
                assert getattr(said, name) in (None, getattr(known, name))
            rounded = tuple(float(round(axis)) for axis in known.size_mm)
            assert said.size_mm in ((), rounded, rounded[:1])
        for name in ("extension", "vesicles", "nodes", "bones", "age", "indication", "field_t", "contrast"):
            assert getattr(report.says, name) in (None, getattr(exam, name))
        for name, step in (("psa", 0.051), ("psa_density", 0.0051), ("gland_ml", 0.51)):
            if (said := getattr(report.says, name)) is not None:
                assert said == pytest.approx(getattr(exam, name), abs=step)


@pytest.mark.parametrize(
    ("fact", "pattern"),
    [
        ("psa", r"(?i)PSA(?: ng/ml)?\W{0,4}(?:of|elevation,|equals)? ?(\d+[.,]\d)(?!\d)"),
        ("gland_ml", r"(\d+) (?:m[lL]|cc|cm3|cm³)(?!\w)"),
        ("age", r"(?i)(?:\bage\W{1,4}|(?=\d\d(?:[- ]y|m\b)))(\d\d)(?!\d)"),
        ("psa_density", r"(?i)(0[.,]\d\d)\b"),
    ],
)
def test_other_facts_stand_in_the_text_exactly_where_it_says_them(pairs, fact, pattern):
    told = 0
    for _, report in pairs:
        found = {float(number.replace(",", ".")) for number in re.findall(pattern, plain(report.text))}
        value = getattr(report.says, fact)
        assert found == (set() if value is None else {value}), report.text
        told += value is not None
    assert told > 300


def test_scores_of_sequences_and_details_are_in_the_text(pairs):
    for _, report in pairs:
        for name, pattern in (
            ("t2", r"\bT2W?(?: score)?(?:: | |=|\t)(\d)\b"),
            ("dwi", r"DWI(?: score)?(?:: | |=|\t)(\d)\b"),
        ):
            values = {str(getattr(lesion, name)) for lesion in report.says.lesions} - {"None"}
            assert values >= set(re.findall(f"(?i){pattern}", report.text)), report.text
        for lesion in report.says.lesions:
            assert lesion.adc is None or str(lesion.adc) in report.text
            assert lesion.image is None or re.search(rf"\b{lesion.image}\b", plain(report.text))


def test_the_past_is_told_as_such(pairs):
    told = 0
    for _, report in pairs:
        for past in report.says.earlier:
            if past.year is not None:
                assert str(past.year) in report.text
            if past.gleason is not None:
                assert f"Gleason {past.gleason}" in report.text or report.text.islower()
            told += 1
    assert told > 300


def test_an_exam_of_which_nothing_is_known_says_nothing_else():
    for seed in range(500):
        text = write_report(Exam(), Style(), np.random.default_rng(seed)).text
        assert not re.search(r"\b(psa \d|gleason|20\d\d|ml\b|cc\b|year|normal|unremarkable)", text, re.IGNORECASE), text
        assert not re.search(r"(?i)\b(left|lt|l)\b\W+\d", text), text


def test_a_lesion_without_a_place_gets_none():
    exam = Exam((Lesion(size_mm=(14,), pirads=4),))
    for seed in range(500):
        text = plain(write_report(exam, CLEAN, np.random.default_rng(seed)).text)
        assert not parts(IDIOM.sub("", text.replace("one zone", ""))).has_place, text
        assert re.search(r"\b14 ?mm|\b14-mm|14 mill|1[.,]4 ?c|PR ?4|P4|\b4\b|RADS", text), text


def test_a_vague_style_leaves_out_part_of_the_place():
    kept = Counter()
    for seed in range(600):
        report = write_report(replace(ONE, psa=None), replace(CLEAN, vague=1.0), np.random.default_rng(seed))
        where, seen = report.says.lesions[0].place, parts(IDIOM.sub("", plain(report.text)))
        clear = [part.place for part in report.says.clear]
        assert None in (where.zone, where.side) or not where.levels
        assert seen.levels == {*where.levels, *(level for part in clear for level in part.levels)}, report.text
        assert seen.sides == {where.side, *(part.side for part in clear)} - {None}, report.text
        kept[where.zone, where.side, where.levels] += 1
    assert len(kept) == 6


def test_what_is_said_to_be_clear_is_clear(pairs):
    told = 0
    for exam, report in pairs:
        for part in report.says.clear:
            assert not any(lesion.place.may_touch(part.place) for lesion in exam.lesions)
            benign = exam.benign or ()
            assert not part.normal or (
                exam.benign is not None and not any(b.place.may_touch(part.place) for b in benign)
            )
            told += 1
    assert told > 500


def test_all_that_the_grammar_has_is_written():
    style = replace(CLEAN, british=1.0)
    text = "\n".join(report.text for _, report in written(6000, style)).lower()
    rare = [Exam(pirads=1, benign=())]
    rare += [
        Exam((Lesion(Place(sector[:2], side, ("mid",), sector), (12.0,), 4),))
        for sector in ("PZa", "PZpl", "PZpm", "TZa")
        for side in ("left", "right")
    ]
    text += "\n".join(
        write_report(exam, style, np.random.default_rng(seed)).text.lower() for exam in rare for seed in range(300)
    )
    chosen = (
        "form",
        "block",
        "form.nothing",
        "axes",
        "code.order",
        "sections.order",
        "findings.order",
        "sections.case",
        "lesions.order",
        "figures",
        "export.layout",
        "export.lesion",
    )
    for pool in POOLS.keys() - set(chosen):  # those are chosen, not written
        for option in POOLS[pool]:
            literals = re.split(r"\{[^}]+\}|[\[\]]|a\(n\)", option.lower())
            assert max(literals, key=len) in text, (pool, option)


def test_options_of_the_past_and_of_benign_findings_all_say_the_same_facts():
    kinds = ("negative biopsy", "cancer", "lesion.gone", "lesion.before", "exam", "rectal finding")
    kinds += ("focal therapy", "radiotherapy", "resection", "medication")
    kinds += ("wedge", "diffuse", "hyperplasia", "stromal", "glandular", "haemorrhage", "cyst", "median lobe")
    for kind in kinds:
        assert len({frozenset(name.partition(":")[0] for name in option.facts) for option in compiled(kind)}) == 1, kind


def test_lengths_run_from_two_words_to_a_page(pairs):
    lengths = np.array([len(report.text.split()) for _, report in pairs])
    assert lengths.min() <= 2
    assert (lengths < 12).mean() > 0.05
    assert (lengths > 250).mean() > 0.01
    assert lengths.max() < 700


def test_long_reports_end_with_the_lesions(pairs):
    longest = [report for _, report in pairs if len(report.text.split()) > 200 and report.says.lesions]
    for report in longest:
        end = " ".join(report.text.split(" ")[-220:])
        for lesion in report.says.lesions:
            assert any(r.agrees(lesion) and r.zones and r.sides and r.levels for r in read(end)), report.text
    assert len(longest) > 50


def test_one_exam_has_very_many_reports_and_a_generator_has_one():
    texts = {write_report(ONE, CLEAN, np.random.default_rng(seed)).text for seed in range(2000)}
    assert len(texts) > 1900
    style = institution(7)
    again = [write_report(ONE, style, np.random.default_rng(5)) for _ in range(2)]
    assert again[0] == again[1]
    assert institution(7) == style


def test_institutions_write_differently():
    def words(style_seed: int, first: int) -> Counter:
        texts = [report.text for _, report in written(300, institution(style_seed), first)]
        return Counter(word for text in texts for word in re.findall("[A-Za-z]{2,}", text))

    def apart(one: Counter, other: Counter) -> float:
        return sum(abs(one[word] / one.total() - other[word] / other.total()) for word in one | other) / 2

    here, again, there = words(1, 0), words(1, 1000), words(2, 0)
    assert apart(here, there) > 2 * apart(here, again)


def test_normal_exams_have_reports_of_a_few_words():
    texts = {write_report(Exam(pirads=1, benign=()), CLEAN, np.random.default_rng(seed)).text for seed in range(3000)}
    assert {"Normal prostate MRI", "No suspicious lesion", "PI-RADS 1"} <= texts
