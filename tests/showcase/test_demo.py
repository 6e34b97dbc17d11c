"""The shipped weights: small, made for each other, and turned into a volume by the demo's own commands."""

from __future__ import annotations

import functools
import re

import nibabel as nib
import numpy as np
import pytest
from safetensors.torch import load_file

from scripts.common.identity import fingerprint
from scripts.data.outputs import read_record
from scripts.networks.weights import read_header
from scripts.phantom.anatomy import sample_findings
from scripts.reports.encoder import ReportEncoder
from scripts.showcase import demo
from scripts.showcase.stages import bundle

MOST_BYTES = 25_000_000


@pytest.fixture(scope="module")
def shipped(repo_root):
    """The weights of the demo by name; files that a user puts beside them are not shipped."""
    return {path.stem: path for path in repo_root.glob("bundles/*/models/demo_*")}


def test_the_shipped_files_are_small(shipped):
    assert {"demo_vae", "demo_ldm", "demo_t5"} <= shipped.keys()
    files = [file for path in shipped.values() for file in (path.iterdir() if path.is_dir() else [path])]
    assert sum(file.stat().st_size for file in files) <= MOST_BYTES


def test_the_generator_was_trained_on_the_shipped_vae_and_text_encoder(shipped):
    trained = read_header(shipped["demo_ldm"]).meta
    encoder = ReportEncoder(shipped["demo_t5"], device="cpu")
    assert trained["vae_fingerprint"] == fingerprint(load_file(shipped["demo_vae"]))
    assert trained["encoder_fingerprint"] == encoder.fingerprint
    assert trained["embedding_width"] == encoder.width


def test_every_command_of_the_demo_has_options_that_exist(tmp_path, wrong_options):
    assert [told for stage in demo.stages(tmp_path) if (told := wrong_options(stage.command))] == []


def test_a_report_becomes_a_volume_and_a_page(tmp_path, monkeypatch):
    """The whole demo, with one report, one seed and two steps."""
    (name, example), *_ = list(demo.EXAMPLES.items())[1:]
    monkeypatch.setattr(demo, "EXAMPLES", {name: example})
    monkeypatch.setattr(demo, "SEEDS", 1)
    monkeypatch.setattr(demo, "bundle", functools.partial(bundle, steps=2))
    demo.demo(str(tmp_path / "demo"))

    image = nib.load(tmp_path / "demo" / "volumes" / name / "axt2.nii.gz")
    values = np.asarray(image.dataobj)
    assert image.shape == (64, 64, 32)
    assert image.header.get_zooms() == pytest.approx((1.25, 1.25, 1.875))
    assert values.std() > 50  # in scanner-like units: tissue, not a flat field
    assert read_record(tmp_path / "demo" / "volumes", name).probability > 0.5  # the report says PI-RADS 5
    page = (tmp_path / "demo" / "index.html").read_text()
    assert example.report in page
    assert page.count("data:image/png") == 2  # its seeds, and one of them beside a phantom


def test_the_phantoms_shown_are_as_the_reports_say():
    for example in demo.EXAMPLES.values():
        findings = sample_findings(example.phantom, demo.DIFFICULTY)
        lesion = next(iter(findings.lesions), None)
        assert (None if lesion is None else (lesion.zone, lesion.side, lesion.level)) == example.sector
        assert f"PI-RADS {findings.pirads}." in example.report
        size, volume = (re.search(rf"(\d+) {unit}", example.report) for unit in ("mm lesion", "mL"))
        assert float(volume[1]) == pytest.approx(findings.gland_ml, abs=3)
        assert lesion is None or float(size[1]) == pytest.approx(lesion.diameter_mm, abs=0.5)
