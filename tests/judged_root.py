"""A small data root, and volumes generated for its cases, as `evaluate` finds them."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from scripts.data.clinical import write_clinical
from scripts.data.datalists import one_hot, write_datalist

SPACING = (1.25, 1.25, 1.875)
SECRET = "Lesion in the left apex, about 12 mm, abutting the capsule"
SHORT = "Zorv quil mexi bantu"  # a report as short as a name, of words that stand nowhere else


def write(root, folder, shape=(8, 8, 8), spacing=SPACING, values=None):
    (root / folder).mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).integers(0, 900, shape) if values is None else np.broadcast_to(values, shape)
    nib.save(nib.Nifti1Image(values.astype(np.float32), np.diag([*spacing, 1])), root / folder / "axt2.nii.gz")


def write_sheet(root, *extra: str) -> None:
    sheet = pd.DataFrame({"folder": [*"abcd", *extra], "PIRADS_synth": 1})
    sheet.to_excel(root / "generated" / "synthsheet_all.xlsx", index=False)


def make_judged(tmp_path: Path) -> Path:
    """Real cases a to d, c and d to test on, and a volume generated for each."""
    for place in ("real", "generated"):
        for name in "abcd":
            write(tmp_path / place, name)
    real = tmp_path / "real"
    for split, names in (("train", "ab"), ("test", "cd")):
        cases = [
            {
                "axt2": f"./{name}/axt2.nii.gz", "folder": name, "pirads": one_hot(name in "bd"),
                "spacing": SPACING, "text": SECRET, "text_isnull": 0,
            }
            for name in names
        ]  # fmt: skip
        write_datalist(real / f"{split}.json", cases)
    sheet = pd.DataFrame({"folder": [*"abcd"], "PosPIRADS": [0, 1, 0, 1], "PosISUP": None, "Label": "train"})
    write_clinical(real / "clinical.xlsx", sheet)
    write_sheet(tmp_path)
    return tmp_path
