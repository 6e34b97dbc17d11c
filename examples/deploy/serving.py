"""What the operators do, without MONAI Deploy: a package's own inference, on one image or one report.

Packages are those of `python -m scripts.package make`; nothing else of the repository is needed.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.bundle import create_workflow


def run(package: Path, **values: Any) -> None:
    """Run a package's `inference` in this process, with these values of its config."""
    workflow = create_workflow(
        config_file=str(package / "configs" / "inference.json"), workflow_type="infer", logging_file=False, **values
    )
    workflow.run()
    workflow.finalize()


def classify(package: Path, voxels: np.ndarray, affine: np.ndarray) -> float:
    """The probability of the positive class of one T2w volume.

    Args:
        package: of the classifier.
        voxels: (X, Y, Z) as the scanner's units have them.
        affine: (4, 4) to mm, RAS.
    """
    with tempfile.TemporaryDirectory() as folder:
        exam, out = Path(folder) / "exam", Path(folder) / "out"
        exam.mkdir()
        nib.save(nib.Nifti1Image(voxels.astype(np.float32), affine), exam / "axt2.nii.gz")
        run(package, input=str(exam.parent), output_dir=str(out))
        (table,) = out.rglob("predictions.csv")
        with table.open(encoding="utf-8") as file:
            (row,) = csv.DictReader(file)
    return float(row["probability"])


def affine_of(about: Mapping[str, Any]) -> np.ndarray:
    """The affine (4, 4) of (X, Y, Z) voxels to mm, RAS, from the metadata of the SDK's image.

    Version 4.0.0 gives the columns of pixels the spacing of the rows, and the rows that of the columns; where they
    differ, its affine is wrong. Directions are right, so that they are kept and the spacings put in again.
    """
    affine = np.array(about["nifti_affine_transform"], dtype=np.float64)
    for axis, name in enumerate(("col_pixel_spacing", "row_pixel_spacing")):
        affine[:3, axis] *= float(about[name]) / np.linalg.norm(affine[:3, axis])
    return affine


def generate(package: Path, report: Path, output_dir: Path) -> Path:
    """A volume from a file that holds a report: `<output_dir>/<name of the file>/axt2.nii.gz`, and a picture beside it.

    Args:
        package: of the generator.
        report: a text file; its name is that of the case, and so should not be a patient's.
    """
    run(package, report_file=str(report), case_name=report.stem, output_dir=str(output_dir))
    return output_dir / report.stem
