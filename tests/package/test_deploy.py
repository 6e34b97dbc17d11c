"""The example for MONAI Deploy: what it does without the SDK, and where that is installed, its two applications."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import dicom_files

needs_sdk = pytest.mark.skipif(find_spec("monai.deploy") is None, reason="monai-deploy-app-sdk is not installed")


@pytest.fixture
def example(repo_root, monkeypatch) -> Path:
    folder = repo_root / "examples" / "deploy"
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    return folder


@pytest.fixture
def report(tmp_path) -> Path:
    (tmp_path / "reports").mkdir()
    path = tmp_path / "reports" / "case1.txt"
    path.write_text("Impression: Zzyzx, left base, PI-RADS 5.")
    return path


def run(script: Path, source: Path, package: Path, out: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(script), "-i", str(source), "-m", str(package), "-o", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)


def test_a_volume_becomes_a_probability(packages, example):
    from serving import classify

    affine = np.diag([2.5, 2.5, 2.5, 1.0])
    volume = np.random.default_rng(0).random((32, 32, 32)).astype(np.float32)
    assert 0 < classify(packages / "classifier", volume, affine) < 1


def test_a_report_becomes_a_volume(packages, example, report, tmp_path):
    from serving import generate

    folder = generate(packages / "ccella_ldm", report, tmp_path / "out")
    assert np.isfinite(nib.load(folder / "axt2.nii.gz").get_fdata()).all()


@needs_sdk
def test_a_dicom_series_becomes_a_probability(packages, example, tmp_path):
    dicom_files.write_series(tmp_path / "dicom")
    done = run(example / "classify.py", tmp_path / "dicom", packages / "classifier", tmp_path / "out")
    told = json.loads((tmp_path / "out" / "probability.json").read_text())
    assert 0 < told["probability"] < 1
    assert told["series"] == dicom_files.uid(1)
    assert dicom_files.SECRET not in done.stdout + done.stderr + json.dumps(told)


def test_the_affine_of_pixels_that_are_not_square_is_put_right(example):
    """Directions as the SDK gives them, the spacings of rows and columns exchanged."""
    from serving import affine_of

    column, row = dicom_files.SPACING[:2]
    given = dicom_files.AFFINE @ np.diag([row / column, column / row, 1.0, 1.0])
    about = {"nifti_affine_transform": given, "row_pixel_spacing": str(row), "col_pixel_spacing": str(column)}
    assert affine_of(about) == pytest.approx(dicom_files.AFFINE)
    right = about | {"nifti_affine_transform": dicom_files.AFFINE}
    assert affine_of(right) == pytest.approx(dicom_files.AFFINE)


@needs_sdk
def test_a_report_file_becomes_a_volume(packages, example, report, tmp_path):
    done = run(example / "generate.py", report.parent, packages / "ccella_ldm", tmp_path / "out")
    assert (tmp_path / "out" / "case1" / "axt2.nii.gz").is_file()
    assert "Zzyzx" not in done.stdout + done.stderr
