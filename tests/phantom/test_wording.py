"""A phantom patient is an exam of the grammar, true to the anatomy."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from scripts.phantom.anatomy import sample_anatomy
from scripts.phantom.wording import exam_of, report_text, sector
from scripts.wording.documents import write_report
from scripts.wording.writer import Style
from wording_reader import read, running


@pytest.fixture(scope="module")
def patients():
    return [sample_anatomy(seed) for seed in range(600)]


def test_the_exam_is_the_patient(patients):
    for anatomy in patients:
        exam, findings = exam_of(anatomy), anatomy.findings
        for lesion, drawn in zip(exam.lesions, findings.lesions, strict=True):
            assert (lesion.place.zone, lesion.place.side, *lesion.place.levels) == (drawn.zone, drawn.side, drawn.level)
            assert lesion.size_mm == (drawn.diameter_mm,)
            assert lesion.pirads == drawn.pirads
        assert (exam.pirads, exam.gland_ml, exam.psa, exam.age) == (
            findings.pirads,
            findings.gland_ml,
            findings.psa,
            findings.age,
        )


def test_benign_changes_and_the_scanner_are_known_to_the_report(patients):
    for anatomy in patients:
        exam, findings = exam_of(anatomy), anatomy.findings
        told = {(one.kind, one.place.side, one.place.levels) for one in exam.benign if one.place.side}
        assert told == {(one.kind, one.side, (one.level,)) for one in findings.changes}
        assert exam.field_t in (1.5, 3.0)
    assert exam_of(sample_anatomy(3, difficulty=0.0)).field_t is None


def test_sectors_follow_from_the_lesions_centre(patients):
    """From behind to the front of the peripheral zone: posteromedial, posterolateral, anterior."""
    gland = patients[0].gland
    lesion = next(lesion for anatomy in patients for lesion in anatomy.findings.lesions if lesion.zone == "PZ")
    for sign in (-1, 1):
        found = []
        for angle in np.deg2rad([5, 20, 60, 130]):
            centre = gland.world(*gland.zone_mid(sign * angle, 0.0), 0.0)
            found.append(sector(gland, replace(lesion, centre_mm=centre)))
        assert found == ["PZpm", "PZpm", "PZpl", "PZa"]


def test_a_sector_of_the_transition_zone_is_where_the_centre_lies(patients):
    told = Counter()
    for anatomy in patients:
        gland, (_, depth) = anatomy.gland, anatomy.gland.transition
        for lesion in anatomy.findings.lesions:
            _, v, _ = gland.coordinates(*lesion.centre_mm)
            found, middle = sector(gland, lesion), gland.ANTERIOR - depth
            if found in ("TZa", "TZp"):
                assert (v > middle) == (found == "TZa")
                told[found] += 1
    assert min(told["TZa"], told["TZp"]) > 30


def test_most_lesions_have_a_sector(patients):
    sectors = Counter(
        (lesion.place.zone, lesion.place.sector) for anatomy in patients for lesion in exam_of(anatomy).lesions
    )
    assert sectors["PZ", "PZpl"] > 5 * sectors["PZ", None]
    assert sectors["TZ", "TZa"] + sectors["TZ", "TZp"] > 3 * sectors["TZ", None] > 0


def test_a_lesion_at_the_capsule_is_told_to_touch_it(patients):
    room = {True: [], False: []}
    for anatomy in patients:
        for lesion, drawn in zip(exam_of(anatomy).lesions, anatomy.findings.lesions, strict=True):
            if lesion.contact is not None:
                depth = -anatomy.gland.distance(*anatomy.gland.coordinates(*drawn.centre_mm))
                room[lesion.contact].append(depth - drawn.diameter_mm / 2)
    assert min(map(len, room.values())) > 30
    assert max(room[True]) < 0 < 4 < min(room[False])


def test_the_past_is_no_finding_of_today(patients):
    pasts = [(past, anatomy.findings) for anatomy in patients for past in exam_of(anatomy).earlier]
    for past, findings in pasts:
        if past.gone or past.kind == "focal therapy":
            assert all((past.place.side, past.place.levels) != (one.side, (one.level,)) for one in findings.lesions)
    assert 0.2 < len(pasts) / len(patients) < 0.6
    done = {"focal therapy", "radiotherapy", "resection", "medication"}
    assert {past.kind for past, _ in pasts} == {"negative biopsy", "cancer", "lesion", "rectal finding"} | done


def test_a_lesion_that_has_changed_was_of_another_size(patients):
    courses = Counter()
    for anatomy in patients:
        for lesion in exam_of(anatomy).lesions:
            courses[lesion.course] += 1
            if lesion.before:
                growth = lesion.size_mm[0] - lesion.before.size_mm
                assert {"grown": growth > 1.5, "smaller": growth < -1.5, "unchanged": growth == 0}[lesion.course]
                assert 3 <= lesion.before.pirads <= lesion.pirads
    assert min(courses[course] for course in ("new", "grown", "unchanged", "smaller")) > 5
    assert courses[None] > courses.total() / 2


def test_reports_tell_the_lesions(patients):
    style, told = Style(typos=0.0, rough=0.0), 0
    for anatomy in patients:
        text = write_report(exam_of(anatomy), style, np.random.default_rng(anatomy.findings.seed)).text
        if not running(text):
            readings = read(text)
            assert anatomy.findings.lesions or not any(reading.has_place for reading in readings), text
            for lesion in anatomy.findings.lesions:
                place = {lesion.zone}, {lesion.side}, {lesion.level}
                assert place in [(reading.zones, reading.sides, reading.levels) for reading in readings], text
                told += 1
    assert told > 300


def test_a_missing_report_is_empty_and_institutes_have_styles(patients):
    words = {f"Institute{number}": Counter() for number in (1, 2, 3)}
    for anatomy in patients:
        text = report_text(anatomy.findings, np.random.default_rng([anatomy.findings.seed, 4]))
        assert (text == "") == anatomy.findings.report_is_missing
        words[anatomy.findings.institute].update(text.split())
    shares = [{word: count / used.total() for word, count in used.items()} for used in words.values()]
    for one, other in combinations(shares, 2):
        assert sum(abs(one.get(word, 0) - other.get(word, 0)) for word in one | other) > 0.3
