"""The real exam, which lies oblique and off the scanner's middle, in PI-CAI's folders with masks drawn onto its T2w.

Skipped where ../shared/data is absent.
"""

from __future__ import annotations

import shutil

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from scripts.cli.run import run
from scripts.data.nifti import save_nifti
from scripts.data.readers import read_volume
from scripts.public.picai import picai

# The finding that the PROSTATEx challenge published for this exam: peripheral zone, clinically significant (LPS, mm).
FINDING = np.array([25.7457, 31.8707, -38.511])
NAME = "10000_1000000"


@pytest.fixture
def download(repo_root, tmp_path):
    """A prostate around the middle of the T2w, and a lesion of 11 mm where the challenge has it."""
    source = repo_root.parent / "shared" / "data" / "ProstateX-0000"
    if not source.is_dir():
        pytest.skip("needs ../shared/data/ProstateX-0000")
    folder = tmp_path / "images" / "10000"
    folder.mkdir(parents=True)
    for sequence in ("t2w", "adc", "hbv"):
        shutil.copyfile(source / f"ProstateX-0000_{sequence}.mha", folder / f"{NAME}_{sequence}.mha")
    volume = read_volume(folder / f"{NAME}_t2w.mha")
    affine, shape = volume.affine.numpy(), volume.shape[1:]
    index = np.moveaxis(np.indices(shape), 0, -1)
    along = (index - (np.array(shape) - 1) / 2) * nib.affines.voxel_sizes(affine)
    gland = (along / (25, 20, 24)) ** 2
    point = FINDING * (-1, -1, 1)
    world = nib.affines.apply_affine(affine, index)
    lesion = np.linalg.norm(world - point, axis=-1) <= 5.5
    zones = np.where(world[..., 1] > world.mean((0, 1, 2))[1], 2, 1)  # the front half and the back
    masks = {
        "csPCa_lesion_delineations/human_expert/resampled": lesion * 3,
        "anatomical_delineations/whole_gland/AI/Bosma22b": gland.sum(-1) <= 1,
        "anatomical_delineations/zonal_pz_tz/AI/Yuan23": zones * (gland.sum(-1) <= 1),
    }
    for place, mask in masks.items():
        save_nifti(tmp_path / "labels" / place / f"{NAME}.nii.gz", mask.astype(np.uint8), affine)
    (tmp_path / "sheet.csv").write_text(
        "patient_id,study_id,patient_age,psa,prostate_volume,case_ISUP,case_csPCa,center\n10000,1000000,66,7.7,50,3,YES,RUMC\n"
    )
    return tmp_path


def test_the_finding_is_where_the_challenge_has_it(download):
    """From the command line. The scanner's x is positive, the patient's side is right: the prostate's middle counts."""
    options = {"images_dir": "images", "labels_dir": "labels", "marksheet": "sheet.csv", "output_dir": "out"}
    argv = [word for name, value in options.items() for word in (f"--{name}", str(download / value))]
    run({"picai": picai}, ["picai", *argv, "--test_centres", "RUMC", "--wordings", "2"])
    lesion = pd.read_csv(download / "out" / "lesions.csv").iloc[0]
    assert (lesion["zone"], lesion["side"], lesion["isup"]) == ("PZ", "right", 3)
    assert lesion["diameter_mm"] == pytest.approx(11, abs=1)
    assert (lesion["x_mm"], lesion["y_mm"], lesion["z_mm"]) == pytest.approx(FINDING * (-1, -1, 1), abs=1)
    exam = pd.read_csv(download / "out" / "exams.csv", dtype=str).iloc[0]
    assert (exam["split"], exam["isup"]) == ("test", "3")
    assert float(exam["gland_ml"]) == pytest.approx(4 / 3 * np.pi * 2.5 * 2.0 * 2.4, rel=0.03)
