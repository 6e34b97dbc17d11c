"""Which generated volumes are judged, and what is said about those that cannot be."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from scripts.evaluation.generated import read_generated
from scripts.problems import UserError

SPACING = (1.25, 1.25, 1.875)
SECRET = "Lesion in the left apex, about 12 mm, abutting the capsule"


def write(root, folder, shape=(8, 8, 8), spacing=SPACING):
    (root / folder).mkdir(parents=True, exist_ok=True)
    values = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    nib.save(nib.Nifti1Image(values, np.diag([*spacing, 1])), root / folder / "axt2.nii.gz")
    return str(root / folder / "axt2.nii.gz")


@pytest.fixture
def read(tmp_path):
    """Reads four generated volumes, two of test reports, whose sheet and files a test may have changed."""
    cases = [{"folder": name, "axt2": write(tmp_path / "real", name)} for name in "abcd"]
    for name in "abcd":
        write(tmp_path / "generated", name)

    def call(*extra: str):
        sheet = pd.DataFrame({"folder": [*"abcd", *extra], "PIRADS_synth": 1})
        sheet.to_excel(tmp_path / "generated" / "synthsheet_all.xlsx", index=False)
        return read_generated(tmp_path / "generated", cases[:2], cases[2:], "axt2")

    return call


def test_volumes_are_joined_with_their_real_cases(read):
    assert [(g.folder, g.case["folder"], g.is_test) for g in read()] == [(name, name, name in "cd") for name in "abcd"]


def test_everything_wrong_is_told_at_once_without_quoting_cells(read, tmp_path):
    write(tmp_path / "generated", "a", shape=(8, 8, 4))
    write(tmp_path / "generated", "b", spacing=(1, 1, 1))
    (tmp_path / "generated" / "c" / "axt2.nii.gz").write_bytes(b"no image")
    (tmp_path / "generated" / "d" / "axt2.nii.gz").unlink()
    with pytest.raises(UserError) as caught:
        read("a", "stranger", SECRET + "/")
    message = " ".join(str(caught.value).split())
    for words in (
        "a has size (8, 8, 4), the real case (8, 8, 8)",
        "b has spacing [1.0, 1.0, 1.0] mm, the real case [1.25, 1.25, 1.875]",
        "c axt2.nii.gz cannot be read",
        "d axt2.nii.gz is missing",
        "a has 2 rows",
        "stranger was made from no report of dataset_dir",
        "is not a folder's name",
    ):
        assert words in message, message
    assert SECRET not in message


def test_a_folder_that_is_no_output_of_inference_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds no synthsheet_all\.xlsx"):
        read_generated(tmp_path, [], [], "axt2")
