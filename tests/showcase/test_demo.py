"""The shipped weights: small, made for each other, and turned into a volume by the demo's own commands."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from monai.bundle import ConfigParser, create_workflow
from safetensors.torch import load_file

from scripts.classifier.weights import read_header as read_classifier
from scripts.data.datalists import SEQUENCES
from scripts.data.grid import GRIDS
from scripts.data.nifti import save_nifti
from scripts.data.outputs import images_of, read_record
from scripts.evaluation.adherence import agreement, look_at
from scripts.networks.weights import read_header
from scripts.phantom.anatomy import sample_findings
from scripts.phantom.imaging import make_case
from scripts.reports.encoder import ReportEncoder
from scripts.showcase import demo
from scripts.showcase.stages import bundle
from scripts.showcase.subjects import demo_size
from scripts.vae.network import is_vae, load_vae, maisi_vae

MOST_BYTES = 36_000_000


@pytest.fixture(scope="module")
def shipped(repo_root):
    """The weights of the demo by name; files that a user puts beside them are not shipped."""
    return {path.stem: path for path in repo_root.glob("bundles/*/models/demo_*")}


def test_the_shipped_files_are_small(shipped):
    assert {"demo_vae", "demo_ldm", "demo_t5", "demo_classifier"} <= shipped.keys()
    files = [file for path in shipped.values() for file in (path.iterdir() if path.is_dir() else [path])]
    assert sum(file.stat().st_size for file in files) <= MOST_BYTES


def test_the_generator_was_trained_on_the_shipped_vae_and_text_encoder(shipped):
    trained = read_header(shipped["demo_ldm"]).meta
    encoder = ReportEncoder(shipped["demo_t5"], device="cpu")
    vae = load_vae(maisi_vae(**demo_size().vae), shipped["demo_vae"])
    assert is_vae(vae, trained["vae_fingerprint"])
    assert trained["vae_fingerprint"]
    assert trained["encoder_fingerprint"] == encoder.fingerprint
    assert trained["embedding_width"] == encoder.width


def test_generator_and_classifier_are_of_the_sequences_that_their_overlays_name(shipped, repo_root):
    named = {
        name: ConfigParser.load_config_file(repo_root / "bundles" / name / "configs" / "demo.yaml")
        for name in ("vae", "ccella_ldm", "classifier")
    }
    seen = {name: json.loads(value) for name, value in read_classifier(shipped["demo_classifier"]).items()}
    trained = read_header(shipped["demo_ldm"]).meta
    assert trained["channels"] == named["ccella_ldm"]["channels"] == named["vae"]["sequences"] == list(SEQUENCES)
    assert {name: seen[name] for name in ("channels", "spacing", "spatial_size")} == {
        name: named["classifier"][name] for name in ("channels", "spacing", "spatial_size")
    }


@pytest.mark.parametrize("name", ["demo_ldm", "demo_classifier"])
def test_what_is_shipped_in_half_precision_is(shipped, name):
    assert {str(tensor.dtype) for tensor in load_file(shipped[name]).values()} == {"torch.float16"}


def test_every_command_of_the_demo_has_options_that_exist(tmp_path, wrong_options):
    assert [told for stage in demo.stages(tmp_path) if (told := wrong_options(stage.command))] == []


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory) -> Path:
    """The phantoms that are shown, a folder each."""
    folder = tmp_path_factory.mktemp("phantoms")
    for name, example in demo.EXAMPLES.items():
        case = make_case(example.phantom, GRIDS["demo"], demo.DIFFICULTY)
        for sequence, image in case.volumes.items():
            save_nifti(folder / name / f"{sequence}.nii.gz", image, case.affine)
    return folder


def test_the_shipped_classifier_suspects_the_phantoms_with_a_lesion_more(phantoms, repo_root, tmp_path):
    bundle_root = repo_root / "bundles" / "classifier"
    create_workflow(
        config_file=[str(bundle_root / "configs" / f"{name}.yaml") for name in ("inference", "demo")],
        workflow_type="infer", logging_file=False, bundle_root=str(bundle_root),
        input=str(phantoms), output_dir=str(tmp_path), saliency=0,
    ).run()  # fmt: skip
    (table,) = tmp_path.rglob("predictions.csv")
    told = pd.read_csv(table).set_index("folder")["probability"]
    assert told["no_lesion"] < min(told[name] for name in told.index if name != "no_lesion")


def test_a_report_becomes_a_volume_and_a_page(tmp_path, monkeypatch):
    """The whole demo, with one report, one seed and two steps."""

    def quick(name, config, overlays, **values):
        return bundle(name, config, overlays, **values, **({"steps": 2} if name == "ccella_ldm" else {}))

    (name, example), *_ = list(demo.EXAMPLES.items())[1:]
    monkeypatch.setattr(demo, "EXAMPLES", {name: example})
    monkeypatch.setattr(demo, "SEEDS", 1)
    monkeypatch.setattr(demo, "bundle", quick)
    demo.demo(str(tmp_path / "demo"))

    for sequence, spread in (("axt2", 50), ("b1600", 5), ("adc", 150)):  # in its own units: tissue, not a flat field
        image = nib.load(tmp_path / "demo" / "volumes" / name / f"{sequence}.nii.gz")
        assert image.shape == (64, 64, 32)
        assert image.header.get_zooms() == pytest.approx((1.25, 1.25, 1.875))
        assert np.asarray(image.dataobj).std() > spread
    assert read_record(tmp_path / "demo" / "volumes", name).probability > 0.5  # the report says PI-RADS 5
    page = (tmp_path / "demo" / "index.html").read_text()
    assert example.report in page
    assert page.count("data:image/png") == 2  # one beside a phantom, and its seeds
    rows = {row[0]: row[1:] for row in re.findall(r"<td>(\S+)</td>" + 7 * "<td>(.*?)</td>", page)}
    assert list(rows) == [f"volumes/{name}", f"phantoms/{name}"]
    assert all(0 <= float(row[-1]) <= 1 for row in rows.values())  # what the classifier says
    assert "yes" in rows[f"phantoms/{name}"]  # what the analyser finds is what the report says


def test_the_analyser_finds_in_the_phantoms_what_the_reports_say(phantoms):
    for name, example in demo.EXAMPLES.items():
        lesion = next(iter(sample_findings(example.phantom, demo.DIFFICULTY).lesions), None)
        assert agreement(look_at(images_of(phantoms / name)), lesion)["all"]


def test_the_phantoms_shown_are_as_the_reports_say():
    for example in demo.EXAMPLES.values():
        findings = sample_findings(example.phantom, demo.DIFFICULTY)
        lesion = next(iter(findings.lesions), None)
        assert (None if lesion is None else (lesion.zone, lesion.side, lesion.level)) == example.sector
        assert f"PI-RADS {findings.pirads}." in example.report
        size, volume = (re.search(rf"(\d+) {unit}", example.report) for unit in ("mm lesion", "mL"))
        assert float(volume[1]) == pytest.approx(findings.gland_ml, abs=3)
        assert lesion is None or float(size[1]) == pytest.approx(lesion.diameter_mm, abs=0.5)
