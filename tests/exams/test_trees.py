"""Exams by folder, or by patient and study."""

from __future__ import annotations

import pytest

from scripts.common.problems import UserError
from scripts.exams.trees import check_tree, exam_folders, exam_name, patient_folder


def test_studies_are_named_by_patient_and_study(tmp_path):
    for study in ("p1/2019", "p1/2020", "p2/2019", "p2/.cache", "out/p3"):
        (tmp_path / study).mkdir(parents=True)
    studies = exam_folders(tmp_path, tmp_path / "out", "patient/study")
    assert studies == {name: tmp_path / name.replace("_", "/") for name in ("p1_2019", "p1_2020", "p2_2019")}
    assert sorted(exam_folders(tmp_path, tmp_path / "out", "exam")) == ["p1", "p2"]


def test_two_studies_of_one_name_are_refused(tmp_path):
    for study in ("a_b/c", "a/b_c"):
        (tmp_path / study).mkdir(parents=True)
    with pytest.raises(UserError, match="a_b_c"):
        exam_folders(tmp_path, tmp_path / "out", "patient/study")


@pytest.mark.parametrize("cell", ["p1", "p1/2019/t2", "../2019", "/2019", "p1/", 17, None])
def test_what_is_no_patient_and_study_stays_what_it_is(cell):
    assert patient_folder(cell) is None
    assert exam_name(cell, "patient/study") == cell


def test_a_tree_of_another_kind_is_refused():
    with pytest.raises(UserError, match="exam or patient/study"):
        check_tree("study")
