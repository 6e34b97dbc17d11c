"""What prepare says it has decided: the plan that later steps read, and the page that a person looks through."""

from __future__ import annotations

import json

import nibabel as nib
import pytest

from scripts.common.problems import UserError
from scripts.data.plan import read_plan
from scripts.vae.volumes import list_volumes
from small_exams import GRID, ROWS, call


def test_the_plan_says_what_was_decided_and_what_from(exams):
    call(exams)
    plan = read_plan(exams / "out")
    assert (plan.size, plan.spacing) == (GRID["size"], GRID["spacing"])
    assert plan.sequences == ("axt2", "b1600", "adc")
    train, test = plan.found["lists"]
    assert train["exams"] + test["exams"] == 6
    assert train["patients"] + test["patients"] == 5
    assert train["positive"] + test["positive"] == 3
    assert plan.found["reports"]["different"] == 5
    assert plan.found["reports"]["words"]["longest"] == 6
    assert plan.found["acquired_spacing_mm"]["z"]["axt2"]["median"] == 3.0
    assert plan.found["bytes"]["latents"] == 6 * 3 * 8 * 4 * (6 * 6 * 4)
    assert 0 < plan.found["coverage"]["adc"]["lowest"] <= 1


def test_a_grid_edited_in_the_plan_is_taken_where_none_is_given(exams):
    call(exams)
    plan = json.loads((exams / "out" / "plan.json").read_text())
    (exams / "out" / "plan.json").write_text(json.dumps(plan | {"size": [16, 16, 16], "spacing": [2, 2, 2]}))
    with pytest.raises(UserError, match="size is 16×16×16, that of the images 24×24×16"):
        list_volumes(exams / "out", ["train.json"], ["axt2"])
    call(exams, size=None, spacing=None)
    assert nib.load(exams / "out" / "001" / "axt2.nii.gz").shape == (16, 16, 16)
    assert len(list_volumes(exams / "out", ["train.json", "test.json"], ["axt2"])) == 6
    call(exams)  # what is given goes before
    assert read_plan(exams / "out").size == GRID["size"]


def test_the_page_shows_every_exam_and_no_report(exams):
    call(exams)
    page = (exams / "out" / "prepare.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 6
    assert all(f"<b>{row[0]}</b>" in page for row in ROWS)
    assert "its T2w is the very same image as that of 001 and 4 more" in page
    assert "http" not in page
    for name in ("prepare.html", "plan.json", "001/prepared.json"):
        text = (exams / "out" / name).read_text()
        assert not [report for _, report, *_ in ROWS if report and report in text], name
