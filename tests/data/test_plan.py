"""plan.json: read back as it was written, checked in words, and held against its data root."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser

from scripts.common.problems import Problems, UserError
from scripts.data.datalists import one_hot, write_datalist
from scripts.data.plan import PLAN, Plan, planned_sequences, planned_tokens, read_plan, write_plan
from scripts.data.root import check_datalists

OURS = Plan((8, 8, 4), (1.0, 1.0, 2.0), ("axt2", "adc"), 512, {"exams": 2})


@pytest.fixture
def root(tmp_path):
    """A data root of two exams with T2w and ADC, and its plan."""
    for name in ("a", "b"):
        for key in ("axt2", "adc"):
            path = tmp_path / name / f"{key}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(np.zeros(OURS.size, np.int16), np.diag([*OURS.spacing, 1])), path)
        case = {key: f"./{name}/{key}.nii.gz" for key in ("axt2", "adc")}
        case |= {"folder": name, "pirads": one_hot(name == "a"), "spacing": list(OURS.spacing)}
        write_datalist(tmp_path / f"{'train' if name == 'a' else 'test'}.json", [case | {"text": "", "text_isnull": 1}])
    write_plan(tmp_path, OURS)
    return tmp_path


def edit(root, **values):
    plan = json.loads((root / PLAN).read_text()) | values
    (root / PLAN).write_text(json.dumps(plan))


def test_a_plan_is_read_as_it_was_written(root, tmp_path_factory):
    assert read_plan(root) == OURS
    assert read_plan(tmp_path_factory.mktemp("none")) is None
    assert OURS.grid.extent == (8.0, 8.0, 8.0)


def test_what_is_given_goes_before_the_plan_and_a_root_without_one_is_of_the_t2w(root, tmp_path_factory):
    none = tmp_path_factory.mktemp("none")
    assert planned_sequences(root, None) == ["axt2", "adc"]
    assert planned_sequences(root, ["b1600"]) == planned_sequences(root, "b1600") == ["b1600"]
    assert planned_sequences(none, None) == ["axt2"]
    assert (planned_tokens(root, None), planned_tokens(root, 9), planned_tokens(none, None)) == (512, 9, None)


@pytest.mark.parametrize(
    ("config", "name"),
    [("vae/configs/train", "planned"), ("vae/configs/inference", "planned"), ("vae/configs/evaluate", "planned"),
     ("ccella_ldm/configs/train", "sequences")],
)  # fmt: skip
def test_the_bundles_take_their_sequences_from_the_plan(root, repo_root, config, name):
    parser = ConfigParser()
    parser.read_config(repo_root / "bundles" / f"{config}.yaml")
    parser["dataset_dir"] = str(root)
    assert parser.get_parsed_content(name) == ["axt2", "adc"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"sequence": ["axt2"]}, "'sequence' is no value of a plan -> did you mean sequences?"),
        ({"colour": 1}, "'colour' is no value of a plan -> a plan has size"),
        ({"size": [8, 8, 6]}, "size is [8, 8, 6] -> give three whole numbers that 4 divides"),
        ({"size": "8,8,4"}, "size is text of 5 characters -> give three"),
        ({"spacing": [1, 1, -2]}, "spacing is [1, 1, -2] -> give three positive numbers"),
        ({"spacing": [1, 1, float("nan")]}, "spacing is [1, 1, nan] -> give three positive numbers"),
        ({"sequences": []}, "sequences is [] -> give a list of different ones of axt2, b1600, adc"),
        ({"sequences": ["axt2", "axt2"]}, "sequences is a list of 2 -> give a list of different ones"),
        ({"sequences": [["axt2"]]}, "sequences is a list of 1 -> give a list of different ones"),
        ({"max_tokens": True}, "max_tokens is True -> give a whole number"),
        ({"found": 3}, "found is 3 -> leave it"),
    ],
)
def test_a_wrong_value_is_told_in_words(root, values, words):
    edit(root, **values)
    with pytest.raises(UserError) as caught:
        read_plan(root)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"size": [8, 8, 4],\n}', "is not valid JSON at line 2"),
        (b"[]", "is no plan"),
        (b"\xff\xfe", "is no UTF-8 text"),
        (b"[" * 100_000, "plan.json"),
        (b"{}", "size is missing"),
    ],
)
def test_a_file_that_is_no_plan_is_told_in_words(root, content, words):
    (root / PLAN).write_bytes(content)
    with pytest.raises(UserError, match=words):
        read_plan(root)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"size": [8, 8, 8]}, "size is 8×8×8, that of the images 8×8×4"),
        ({"spacing": [1, 1, 3]}, "spacing is 1×1×3 mm, that of a 1×1×2 mm"),
        ({"sequences": ["axt2", "b1600"]}, "sequences has b1600, which 2 of 2 cases do not have (a)"),
        ({"size": None}, "size is None"),
    ],
)
def test_an_edited_value_that_contradicts_the_data_root_is_refused(root, values, words):
    problems = Problems("root")
    check_datalists(root, problems)
    assert not problems
    edit(root, sequences=["axt2"])  # which is what editing is for
    check_datalists(root, problems)
    assert not problems
    edit(root, **values)
    check_datalists(root, problems)
    assert words in str(problems)
    assert len(problems.rows) == 1
