import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from scripts.classifier.inputs import read_input
from scripts.common.problems import UserError


def save(path, shape=(8, 8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.arange(np.prod(shape), dtype=np.float32).reshape(shape), np.eye(4)), path)


def names(cases):
    return [case["folder"] for case in cases]


def test_every_volume_of_a_folder_is_a_case_named_after_where_it_lies(tmp_path):
    for name in ("b.nii", "a.nii.gz", "deep/er/c.nii.gz"):
        save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("nothing")
    cases = read_input(tmp_path, "")
    assert names(cases) == ["a", "b", "deep/er/c"]
    assert [case["axt2"] for case in cases] == [str(tmp_path / n) for n in ("a.nii.gz", "b.nii", "deep/er/c.nii.gz")]
    assert all(case["label"][0] == -1 for case in cases)


def test_folders_that_name_the_sequence_are_a_case_each(tmp_path):
    """A data root or the generator's output: its masks are no cases."""
    for folder in ("p1", "p2"):
        for name in ("axt2", "adc", "gland"):
            save(tmp_path / folder / f"{name}.nii.gz")
    assert names(read_input(tmp_path, "")) == ["p1", "p2"]
    both = read_input(tmp_path, "", channels=["adc", "axt2"])
    assert both[1]["adc"] == str(tmp_path / "p2" / "adc.nii.gz")
    (tmp_path / "p2" / "adc.nii.gz").unlink()
    with pytest.raises(UserError, match=r"p2 +adc\.nii\.gz is missing"):
        read_input(tmp_path, "", channels=["axt2", "adc"])


@pytest.mark.parametrize("channels", [[], ["axt2", "axt2"], ["t1"]])
def test_channels_that_are_none_are_refused(tmp_path, channels):
    with pytest.raises(UserError, match="different ones of axt2, b1600, adc"):
        read_input(tmp_path, "", channels=channels)


def test_a_folder_that_cannot_be_understood_is_told(tmp_path):
    with pytest.raises(UserError, match="holds no case"):
        read_input(tmp_path, "")
    save(tmp_path / "a.nii")
    with pytest.raises(UserError, match="do not say which sequence"):
        read_input(tmp_path, "", channels=["axt2", "adc"])
    save(tmp_path / "a.nii.gz")
    with pytest.raises(UserError, match=r"a is there as \.nii and as \.nii\.gz"):
        read_input(tmp_path, "")
    with pytest.raises(UserError, match="no folder of volumes and no datalist"):
        read_input(tmp_path / "nowhere", "")


def test_sequences_on_different_grids_are_told(tmp_path):
    save(tmp_path / "p" / "axt2.nii.gz")
    save(tmp_path / "p" / "adc.nii.gz", (8, 8, 4))
    with pytest.raises(UserError, match="p +its sequences lie on different grids"):
        read_input(tmp_path, "", channels=["axt2", "adc"])


def test_a_datalist_brings_its_labels_and_empty_input_the_test_cases(real_root, tmp_path):
    listed = read_input(real_root / "train.json", "")
    assert [int(case["label"][0]) for case in listed][:4] == [0, 0, 1, 1]
    assert [case["patient"] for case in listed][:4] == ["P0", "P0", "P1", "P1"]
    tested = read_input("", real_root)
    assert names(tested) == [case["folder"] for case in json.loads((real_root / "test.json").read_text())]
    copy = shutil.copytree(real_root, tmp_path / "copy")
    (copy / "train.json").write_text("[]")
    with pytest.raises(UserError, match="holds no case"):
        read_input(copy / "train.json", "")
