"""No package without its facts, and none of a generator that copies, unless told why."""

from __future__ import annotations

import json

import pytest

from packages import FACTS, write_card
from scripts.package import card as module
from scripts.package.card import read_card, read_figures


def test_facts_and_figures_are_read(tmp_path):
    card = read_card(write_card(tmp_path), generates=True)
    assert card.facts["title"] == FACTS["title"]
    assert card.figures["distances / generated / frechet"]["value"] == 12.5
    assert next(iter(card.copies.values()))["value"] == 0.0
    assert card.licence is None


def test_a_missing_file_says_what_goes_into_it(tmp_path, refused):
    with refused("(?s)title.*citation"):
        read_card(tmp_path / "nothing.yaml", generates=False)


@pytest.mark.parametrize("name", module.FACTS["required"])
def test_every_fact_is_asked_for_by_name(tmp_path, refused, name):
    with refused(rf"{name} .*is missing"):
        read_card(write_card(tmp_path, without=name), generates=False)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"version": 1.2}, "version"),
        ({"version": "3.0.0"}, r"changelog.*3\.0\.0"),
        ({"licence": "MIT"}, "licence"),
        ({"limits": []}, "limits"),
        ({"weights_licence": "CC-BY-NC-4.0"}, "licence_file"),
        ({"evaluation": ["other.json"]}, r"other\.json"),
        ({"large_files": {"models": "ftp://x"}}, "large_files"),
    ],
)
def test_wrong_facts_are_told(tmp_path, refused, changes, told):
    with refused(told):
        read_card(write_card(tmp_path, **changes), generates=False)


def test_copies_are_refused_unless_told_why(tmp_path, refused):
    with refused("2.5 % of 40 volumes"):
        read_card(write_card(tmp_path, copies=0.025), generates=True)
    card = read_card(write_card(tmp_path, copies=0.025, copies_explained="looked at: none is"), generates=True)
    assert card.facts["copies_explained"] == "looked at: none is"


def test_a_generator_needs_a_copy_check_and_others_do_not(tmp_path, refused):
    path = write_card(tmp_path, copies=None)
    with refused("no copy check"):
        read_card(path, generates=True)
    assert read_card(path, generates=False).copies == {}


def test_another_licence_of_the_weights_is_read(tmp_path):
    (tmp_path / "nc.txt").write_text("Not for sale.")
    path = write_card(tmp_path, weights_licence="CC-BY-NC-4.0", licence_file="nc.txt")
    assert read_card(path, generates=False).licence == "Not for sale."


def test_figures_of_any_depth_are_found(tmp_path):
    figure = {"value": 1, "low": None, "high": None, "n": 1}
    (tmp_path / "m.json").write_text(json.dumps({"auc": figure, "by": {"zone": {"PZ": figure}}, "seed": 3}))
    assert read_figures(tmp_path / "m.json") == {"auc": figure, "by / zone / PZ": figure}


def test_a_file_without_figures_is_told(tmp_path, refused):
    (tmp_path / "m.json").write_text('{"seed": 3}')
    with refused("holds no figure"):
        read_figures(tmp_path / "m.json")
