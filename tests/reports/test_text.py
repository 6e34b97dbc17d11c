"""Report text: what an encoder is given of it, and when a report is absent."""

from __future__ import annotations

import pytest

from scripts.reports.text import normalise_report, report_of, tell_absent


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\0", "\u00a0\u2003"])
def test_white_space_is_an_absent_report(text):
    assert normalise_report(text) == ("", True)


@pytest.mark.parametrize("text", ["Left base, PI-RADS 4.", " led by space\n", "Prostatakarzinom, Größe 12 mm µ 🩻"])
def test_ordinary_text_is_left_as_it_is(text):
    assert normalise_report(text) == (text, False)


def test_lone_surrogates_are_replaced_and_pairs_joined():
    assert normalise_report("a\ud800b")[0] == "a\ufffdb"
    assert normalise_report("\ud83d\ude00")[0] == "😀"


def test_a_report_that_is_marked_as_absent_is_not_used_and_both_kinds_are_counted(caplog):
    texts = [("left base", 0), ("", 1), (" \n", 0), ("\0", 0), ("right apex", 1), ("\0", 1)]
    cases = [{"text": text, "text_isnull": isnull} for text, isnull in texts]
    assert [report_of(case) for case in cases] == ["left base", "", "", "", "", ""]
    tell_absent(cases)
    assert "2 reports are empty or white space" in caplog.text
    assert "1 reports are marked as absent" in caplog.text
    assert "apex" not in caplog.text
