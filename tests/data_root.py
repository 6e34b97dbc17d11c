"""A small, sound data root, and how tests of its parts write and refuse one."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from scripts.common.problems import UserError
from scripts.data.clinical import write_clinical
from scripts.data.datalists import one_hot, read_datalist, write_datalist

SPACING = [1.5, 1.5, 2.0]
SECRET = "Lesion in the left apex"


def entry(folder, positive=False, **changes):
    case = {
        "axt2": f"./{folder}/axt2.nii.gz",
        "dataset": "Institute1",
        "folder": folder,
        "pirads": one_hot(positive),
        "spacing": SPACING,
        "text": SECRET,
        "text_isnull": 0,
    }
    return {key: value for key, value in (case | changes).items() if value is not None}


def sheet(*rows):
    return pd.DataFrame(rows, columns=["folder", "PosPIRADS", "PosISUP", "Label"])


def make_root(tmp_path: Path) -> Path:
    """A sound data root: 0017 and b train, c tests."""
    for folder in ("0017", "b", "c"):
        (tmp_path / folder).mkdir()
        image = nib.Nifti1Image(np.arange(64, dtype=np.int16).reshape(4, 4, 4), np.diag([*SPACING, 1]))
        nib.save(image, tmp_path / folder / "axt2.nii.gz")
    write_datalist(tmp_path / "train.json", [entry("0017", True), entry("b")])
    write_datalist(tmp_path / "test.json", [entry("c")])
    write_clinical(
        tmp_path / "clinical.xlsx", sheet(["0017", 1, None, "train"], ["b", 0, 1, "train"], ["c", None, 0, "negative"])
    )
    return tmp_path


def refused(call, *words):
    """The message of the UserError that `call` raises, white space made one; it has every word and no report."""
    with pytest.raises(UserError) as caught:
        call()
    message = " ".join(str(caught.value).split())
    for word in words:
        assert word in message, message
    assert SECRET not in message
    return message


def with_train(root, *entries):
    write_datalist(root / "train.json", entries)
    return lambda: read_datalist(root / "train.json", root)


def save(root, folder, sequence="axt2", shape=(4, 4, 4), affine=None):
    affine = np.diag([*SPACING, 1]) if affine is None else affine
    image = nib.Nifti1Image(np.arange(np.prod(shape), dtype=np.int16).reshape(shape), affine)
    nib.save(image, root / folder / f"{sequence}.nii.gz")
