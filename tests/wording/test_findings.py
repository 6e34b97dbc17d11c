"""The interface takes what a table can hold, and refuses what cannot be."""

from __future__ import annotations

import pytest

from scripts.wording.findings import Benign, Beside, Earlier, Exam, Lesion, Place


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Place("pz"), "zone"),
        (lambda: Place(side="Left"), "side"),
        (lambda: Place(levels=("middle",)), "level"),
        (lambda: Place(levels=("base", "apex")), "adjoin"),
        (lambda: Place(levels=("mid", "base")), "adjoin"),
        (lambda: Place("TZ", sector="PZpl"), "sector PZpl"),
        (lambda: Place(sector="PZpl"), "sector PZpl"),
        (lambda: Benign("tumour"), "kind"),
        (lambda: Earlier("biopsy"), "kind"),
        (lambda: Lesion(course="worse"), "course"),
        (lambda: Lesion(course="grown", before=Earlier("cancer")), "cancer"),
        (lambda: Lesion(course="new", before=Earlier("lesion")), "new"),
        (lambda: Lesion(before=Earlier("lesion")), "unknown course"),
        (lambda: Beside("gallstone"), "kind"),
        (lambda: Beside("hydrocele", "upper"), "side"),
        (lambda: Exam(organs=("hips",), beside=(Beside("hip prosthesis"),)), "hips cannot be normal"),
        (lambda: Exam(indication="fear"), "indication"),
        (lambda: Exam(organs=("liver",)), "organ"),
        (lambda: Exam(pirads=4), "PI-RADS 4"),
        (lambda: Exam((Lesion(pirads=5),), pirads=3), "PI-RADS 3"),
    ],
)
def test_what_cannot_be_is_refused(make, told):
    with pytest.raises(ValueError, match=told):
        make()


def test_nothing_need_be_known():
    assert Exam((Lesion(),)).pirads is None
    assert Place() == Lesion().place


@pytest.mark.parametrize(
    ("other", "touches"),
    [
        (Place("PZ", "left", ("mid",)), True),
        (Place("PZ", "right", ("mid",)), False),
        (Place("PZ", "bilateral"), True),
        (Place("PZ", "midline"), True),
        (Place("TZ"), False),
        (Place(levels=("base",)), False),
        (Place(levels=("mid", "apex")), True),
        (Place(), True),
    ],
)
def test_places_touch_unless_they_surely_do_not(other, touches):
    here = Place("PZ", "left", ("mid",))
    assert here.may_touch(other) == other.may_touch(here) == touches
