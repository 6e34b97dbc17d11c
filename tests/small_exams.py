"""Six small exams with a table, as a hospital could have them, and `prepare` called on them."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy.spatial.transform import Rotation

from scripts.common.problems import UserError
from scripts.prepare import prepare

GRID = {"size": (24, 24, 16), "spacing": (1.5, 1.5, 2.0)}
PATTERNS = {"t2w": "t2.nii.gz", "adc": "adc.nii.gz", "dwi": "b*.nii.gz"}
COLUMNS = {"pirads_column": "pirads", "patient_column": "patient"}
SECRET = "Lesion in the left apex"
POINT = np.array([6.0, -4.0, 9.0])  # RAS world, mm
ROWS = [  # folder, report, pirads, patient
    ("001", SECRET, "4", "A"),
    ("002", "", "2", "A"),
    ("003", SECRET + ", larger", "1", "B"),
    ("004", "No lesion", "2", "C"),
    ("005", "Right base", "5", "D"),
    ("006", "Right mid", "3", "E"),
]


def affine_of(shape, spacing, angles, centre):
    steps = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * spacing
    return nib.affines.from_matvec(steps, np.asarray(centre) - steps @ (np.asarray(shape) - 1) / 2)


def blob(shape, affine, peak):
    """A bright ball around POINT, analytically at every voxel centre."""
    points = nib.affines.apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))
    return peak * np.exp(-(np.linalg.norm(points - POINT, axis=-1) ** 2) / (2 * 4.0**2))


def save(path, values, affine):
    nib.save(nib.Nifti1Image(values.astype(np.float32), affine), path)


def write_exams(root: Path) -> Path:
    """Six small exams; T2w and diffusion lie oblique, each in its own way."""
    t2_affine = affine_of((36, 36, 14), (1.0, 1.0, 3.0), (12, -6, 4), (2, 1, 7))
    dwi_affine = affine_of((22, 24, 16), (2.0, 2.2, 3.2), (-7, 9, -15), (1, 3, 8))
    for folder, *_ in ROWS:
        exam = root / "exams" / folder
        exam.mkdir(parents=True)
        save(exam / "t2.nii.gz", blob((36, 36, 14), t2_affine, 900), t2_affine)
        save(exam / "b1600.nii.gz", blob((22, 24, 16), dwi_affine, 110), dwi_affine)
        save(exam / "adc.nii.gz", blob((22, 24, 16), dwi_affine, 2500), dwi_affine)
    write_table(root, ROWS)
    return root


def write_table(root, rows):
    columns = ["folder", "report", "pirads", "patient"]
    pd.DataFrame(rows, columns=columns).to_csv(root / "table.csv", index=False)


def call(root, **options):
    options = {**GRID, **PATTERNS, **COLUMNS, "test_fraction": 0.4, "workers": 1, **options}
    prepare(options.pop("table", str(root / "table.csv")), str(root / "exams"), str(root / "out"), **options)


def refused(root, *words, **options):
    """prepare refuses with all these words, writes nothing and quotes no report."""
    with pytest.raises(UserError) as caught:
        call(root, **options)
    message = " ".join(str(caught.value).split())
    for word in words:
        assert word in message, message
    assert SECRET not in message
    assert not (root / "out").exists()
    return message


def in_unit(exams, folder, unit):
    """The exam's ADC map in another unit, mm²/s of a grey level."""
    image = nib.load(exams / "exams" / folder / "adc.nii.gz")
    save(exams / "exams" / folder / "adc.nii.gz", image.get_fdata() * 1e-6 / unit, image.affine)
