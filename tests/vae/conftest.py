"""A data root of smooth random volumes, and a VAE small enough to train within a test."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

SHAPE, SPACING = (16, 16, 16), [1.25, 1.25, 1.875]
AFFINE = np.array([[1.25, 0, 0, -10], [0, 1.25, 0, 5], [0, 0, 1.875, -3], [0, 0, 0, 1]])


@pytest.fixture
def affine():
    return AFFINE.copy()


@pytest.fixture
def data_root(tmp_path):
    """Six cases, four to train and two to test, with T2w and ADC."""
    root = tmp_path / "data"
    for split, folders in (("train", ["001", "002", "003", "004"]), ("test", ["005", "006"])):
        cases = []
        for folder in folders:
            random = np.random.default_rng(int(folder))
            (root / folder).mkdir(parents=True)
            case = {"folder": folder, "dataset": "d", "pirads": [1, 0], "spacing": SPACING, "text": "SECRET"}
            for sequence, top in (("axt2", 900), ("adc", 2500)):
                values = gaussian_filter(random.random(SHAPE), 1.5)
                values = (top * (values - values.min()) / np.ptp(values)).astype(np.int16)
                nib.save(nib.Nifti1Image(values, AFFINE), root / folder / f"{sequence}.nii.gz")
                case[sequence] = f"./{folder}/{sequence}.nii.gz"
            cases.append(case | {"text_isnull": 0})
        (root / f"{split}.json").write_text(json.dumps(cases))
    return root
