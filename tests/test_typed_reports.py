"""The reports typed by hand: every field holds what it may, and both sets hold every kind of lesion equally often."""

from __future__ import annotations

import json
from collections import Counter
from itertools import product
from pathlib import Path

import pytest

PATH = Path(__file__).parent / "data" / "typed_reports.json"
FIELDS = {"id", "text", "lesion", "pirads", "style", "others", "set"}
LESION_FIELDS = {"zone", "side", "level", "pirads", "size_mm"}
PLACES = set(product(("PZ", "TZ"), ("left", "right"), ("base", "mid", "apex")))


def place(lesion: dict) -> tuple[str, str, str]:
    return lesion["zone"], lesion["side"], lesion["level"]


@pytest.fixture(scope="module")
def reports() -> list[dict]:
    return json.loads(PATH.read_text(encoding="utf-8"))


def test_every_report_has_its_fields_and_nothing_else(reports):
    for report in reports:
        assert set(report) == FIELDS, report
        assert report["set"] in ("choose", "judge"), report["id"]
        assert report["text"].strip() == report["text"] != "", report["id"]
        assert report["style"].strip() == report["style"] != "", report["id"]
        assert len(report["style"].split()) <= 2, report["id"]


def test_ids_and_texts_are_unique(reports):
    assert [report["id"] for report in reports] == [f"typed_{i:03d}" for i in range(1, len(reports) + 1)]
    texts = {" ".join(report["text"].lower().split()) for report in reports}
    assert len(texts) == len(reports)


def test_lesions_hold_allowed_values(reports):
    for report in reports:
        for lesion in [*filter(None, [report["lesion"]]), *report["others"]]:
            assert set(lesion) == LESION_FIELDS, report["id"]
            assert place(lesion) in PLACES, report["id"]
            assert lesion["pirads"] in (3, 4, 5), report["id"]
            size = lesion["size_mm"]
            assert size is None or (type(size) is int and 3 <= size <= 60), report["id"]


def test_the_lesion_is_the_index_and_gives_the_category(reports):
    for report in reports:
        lesion = report["lesion"]
        if lesion is None:
            assert report["pirads"] in (1, 2), report["id"]
            assert report["others"] == [], report["id"]
            continue
        assert report["pirads"] == lesion["pirads"], report["id"]
        for other in report["others"]:
            assert (other["pirads"], other["size_mm"] or 0) < (lesion["pirads"], lesion["size_mm"] or 0), report["id"]


def test_there_are_enough_of_each_kind(reports):
    places = Counter(place(report["lesion"]) for report in reports if report["lesion"])
    assert len(reports) >= 90
    assert places.total() >= 60
    assert len(reports) - places.total() >= 25
    assert set(places) == PLACES
    assert min(places.values()) >= 4
    assert {report["pirads"] for report in reports} == {1, 2, 3, 4, 5}


def test_a_third_chooses_and_two_thirds_judge_in_every_kind(reports):
    kinds = {}
    for report in reports:
        kind = place(report["lesion"]) if report["lesion"] else None
        kinds.setdefault(kind, Counter())[report["set"]] += 1
    for kind, sets in kinds.items():
        assert sets["judge"] == 2 * sets["choose"] > 0, kind
