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


@needs_sdk
def test_the_affine_is_that_of_the_series(example, tmp_path):
    """Of pixels that are not square."""
    from monai.deploy.core import Application
    from monai.deploy.operators import (
        DICOMDataLoaderOperator,
        DICOMSeriesSelectorOperator,
        DICOMSeriesToVolumeOperator,
    )

    from operators import affine_of

    class App(Application):
        def compose(self) -> None:
            """Nothing: its operators are called here."""

    dicom_files.write_series(tmp_path)
    app = App()
    study = DICOMDataLoaderOperator(app, input_folder=tmp_path, name="files").load_data_to_studies(tmp_path)
    rules = {"selections": [{"name": "T2w", "conditions": {"SeriesDescription": "(?i)t2"}}]}
    series = DICOMSeriesSelectorOperator(app, name="series").filter(rules, study)
    image = DICOMSeriesToVolumeOperator(app, name="volume").convert_to_image(series)
    assert affine_of(image.metadata()) == pytest.approx(dicom_files.AFFINE, abs=1e-4)
    assert np.array_equal(image.asnumpy().transpose(2, 1, 0), dicom_files.VOXELS)


@needs_sdk
def test_a_report_file_becomes_a_volume(packages, example, report, tmp_path):
    done = run(example / "generate.py", report.parent, packages / "ccella_ldm", tmp_path / "out")
    assert (tmp_path / "out" / "case1" / "axt2.nii.gz").is_file()
    assert "Zzyzx" not in done.stdout + done.stderr
