"""A tiny data root and a generator's output made from it; positives have a dark centre."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from records import write_record
from scripts.data.clinical import write_clinical
from scripts.data.datalists import one_hot, write_datalist

AFFINE = np.diag([5.0, 5.0, 10.0, 1.0])


def write_volume(path: Path, positive: bool, rng: np.random.Generator) -> None:
    """A bright box with noise, 16×16×8 voxels at 5×5×10 mm."""
    volume = rng.normal(20, 5, (16, 16, 8)).clip(0)
    volume[2:14, 2:14, 1:7] += 400
    if positive:
        volume[6:10, 6:10, 3:5] -= 300
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(volume.astype(np.int16), AFFINE)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)


@pytest.fixture(scope="session")
def real_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """14 training and 6 test cases of 7 and 3 patients, two exams each, half of the patients positive."""
    root = tmp_path_factory.mktemp("real")
    rng = np.random.default_rng(0)
    splits: dict[str, list] = {"train": [], "test": []}
    rows = []
    for number in range(20):
        patient = number // 2
        positive = patient % 2 == 1
        folder = f"{number:03d}"
        write_volume(root / folder / "axt2.nii.gz", positive, rng)
        split = "train" if patient < 7 else "test"
        splits[split].append(
            {
                "axt2": f"./{folder}/axt2.nii.gz", "dataset": "tiny", "folder": folder, "patient": f"P{patient}",
                "pirads": one_hot(positive), "spacing": [5.0, 5.0, 10.0], "text": "secret report", "text_isnull": 0,
            }
        )  # fmt: skip
        # Every third label comes from the ISUP column.
        pirads, isup = (None, int(positive)) if number % 3 == 0 else (int(positive), None)
        rows.append({"folder": folder, "PosPIRADS": pirads, "PosISUP": isup, "Label": split, "patient": f"P{patient}"})
    for split, cases in splits.items():
        write_datalist(root / f"{split}.json", cases)
    write_clinical(root / "clinical.xlsx", pd.DataFrame(rows).astype({"PosPIRADS": "Int64", "PosISUP": "Int64"}))
    return root


def write_synthetic(root: Path, real_root: Path) -> pd.DataFrame:
    """A synthetic volume for each real case; the predicted class is wrong for every fifth. Returns the sheet."""
    rng = np.random.default_rng(1)
    rows = []
    for number in range(20):
        positive = (number // 2) % 2 == 1
        write_volume(root / f"{number:03d}" / "axt2.nii.gz", positive, rng)
        write_record(root, f"{number:03d}", f"{number:03d}", "train" if number < 14 else "test")
        predicted = positive != (number % 5 == 0)
        rows.append(
            {"folder": f"{number:03d}", "PIRADS_real": int(positive), "PIRADS_synth": int(predicted), "Label": "x"}
        )
    frame = pd.DataFrame(rows)
    frame.to_excel(root / "synthsheet_all.xlsx", index=False)
    return frame


@pytest.fixture(scope="session")
def synthetic_root(tmp_path_factory: pytest.TempPathFactory, real_root: Path) -> Path:
    """What the generator's inference leaves behind for `real_root`."""
    root = tmp_path_factory.mktemp("synthetic")
    write_synthetic(root, real_root)
    return root
