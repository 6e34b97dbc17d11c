"""What generated volumes are judged by: distances, copies, and for phantoms what they show."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from judged_root import write
from scripts.evaluation.features import phantom
from scripts.evaluation.generated import evaluate, extract
from scripts.evaluation.volumes import read_volumes
from scripts.phantom.__main__ import make


def different(root):
    """Give every volume other numbers; the generated ones are those of the real cases."""
    for number, name in enumerate("abcd"):
        for place in ("real", "generated"):
            write(root / place, name, values=np.random.default_rng(number).random((8, 8, 8)))


@pytest.mark.parametrize("rows", ["abcd", "cd"])
def test_costly_features_are_computed_of_test_volumes_only_and_copies_found_among_all(root, monkeypatch, rows):
    sheet = pd.DataFrame({"folder": [*rows], "PIRADS_synth": 1})
    sheet.to_excel(root / "generated" / "synthsheet_all.xlsx", index=False)
    different(root)
    runs = []

    def costly(volume):
        runs.append(volume)
        return volume.flatten(1)[:, :6].reshape(3, 2)

    monkeypatch.setattr(
        "scripts.evaluation.generated.make_extractors", lambda *_: {"phantom": phantom(), "costly": costly}
    )
    result = evaluate(root / "real", root / "generated", root / "out")
    assert len(runs) == 2 + 2 + 2  # real training, real test, and generated test volumes
    # The generated volumes are the real ones.
    assert result["distances"]["costly: generated to real test"]["frechet"]["value"] == pytest.approx(0, abs=1e-9)
    copies = pd.read_csv(root / "out" / "copies.csv")
    assert sorted(copies["folder"]) == [*rows]
    near = copies[copies["distance"] < 1e-6]
    assert dict(zip(near["folder"], near["nearest"], strict=True)) == {name: name for name in rows if name in "ab"}


def test_training_volumes_that_are_few_and_alike_do_not_blow_up_distances(root):
    different(root)
    for name in "ab":
        write(root / "real", name, values=np.random.default_rng(0).random((8, 8, 8)))
    for number, name in enumerate("abcd"):
        write(root / "generated", name, values=np.random.default_rng(9 + number).random((8, 8, 8)))
    distances = evaluate(root / "real", root / "generated", root / "out")["distances"]
    assert 0 < distances["phantom: generated to real test"]["frechet"]["value"] < 1e4


def test_generated_volumes_that_show_nothing_are_judged_and_told(root, caplog):
    write(root / "generated", "a", values=7)
    read_volumes(root / "real", root / "generated", "axt2")
    made = extract({"phantom": phantom()}, [("a", str(root / "generated" / "a" / "axt2.nii.gz"))], "axt2", "volumes")
    assert made["phantom"].isfinite().all()
    assert "volumes: 1 show nothing" in caplog.text


def test_distances_to_reconstructions_stand_beside_those_to_real_volumes(root):
    """The reconstructions here are the real volumes, so that both are the same, and theirs is none."""
    different(root)
    result = evaluate(root / "real", root / "generated", root / "out", reconstructed_dir=root / "real")["distances"]
    assert list(result) == [
        "phantom: generated to real test",
        "phantom: real train to real test",
        "phantom: reconstructed test to real test",
        "phantom: generated to reconstructed test",
        "phantom: real train to reconstructed test",
    ]
    assert result["phantom: reconstructed test to real test"]["frechet"]["value"] == pytest.approx(0, abs=1e-6)
    train = [
        result[f"phantom: real train to {target} test"]["frechet"]["value"] for target in ("real", "reconstructed")
    ]
    assert train[0] == pytest.approx(train[1])
    assert train[0] > 1


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantoms")
    make(str(root), cases=8, seed=7, test_fraction=0.75, workers=1)
    return root


def generate(phantoms, output, change=lambda name, volume: volume, sequences=("axt2",)):
    """Volumes of the test cases as inference leaves them: the phantoms' own, but for `change`."""
    folders = [case["folder"] for case in json.loads((phantoms / "test.json").read_text())]
    for folder in folders:
        for name in sequences:
            image = nib.load(phantoms / folder / f"{name}.nii.gz")
            volume = change(name, image.get_fdata(dtype="float32"))
            (output / folder).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(volume, image.affine), output / folder / f"{name}.nii.gz")
    pd.DataFrame({"folder": folders, "PIRADS_synth": 1}).to_excel(output / "synthsheet_all.xlsx", index=False)
    return output


def test_what_phantoms_show_is_measured_beside_real_and_reconstructed_ones(phantoms, tmp_path):
    """Volumes that are the real ones have their figures, on all sequences that they have."""
    made = generate(phantoms, tmp_path / "made", sequences=("axt2", "adc"))
    result = evaluate(phantoms, made, tmp_path / "out", reconstructed_dir=made)
    assert list(result["adherence"]) == ["generated", "real (the analyser's own accuracy)", "reconstructed"]
    rows = result["measures"]
    assert rows["generated"] == rows["real"] == rows["reconstructed"]
    names = {"diameter_error_mm", "gland_error_ml", "nodules", "nodule_contrast"}
    assert set(rows["real"]) == names | {"lesion_signal_axt2", "lesion_signal_adc"}
    assert abs(rows["real"]["diameter_error_mm"]["value"]) < 2
    assert rows["real"]["lesion_signal_axt2"]["value"] < 0.7
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert written["measures"] == rows


@pytest.mark.parametrize("lacks", ["reconstructed", "generated", "grid"])
def test_the_analyser_is_given_what_all_volumes_have(phantoms, tmp_path, lacks):
    """ADC beside some volumes alone, or on another grid than their T2w, would make figures that do not compare."""
    both = ("axt2", "adc")
    made = generate(phantoms, tmp_path / "made", sequences=both if lacks != "generated" else ("axt2",))
    again = generate(phantoms, tmp_path / "again", sequences=both if lacks != "reconstructed" else ("axt2",))
    if lacks == "grid":
        for path in made.glob("*/adc.nii.gz"):
            image = nib.load(path)
            nib.save(nib.Nifti1Image(image.get_fdata(dtype="float32")[:-2], image.affine), path)
    rows = evaluate(phantoms, made, tmp_path / "out", reconstructed_dir=again)["measures"]
    assert rows["generated"] == rows["real"] == rows["reconstructed"]
    assert "lesion_signal_adc" not in rows["real"]


def test_volumes_that_show_nothing_have_no_figures(phantoms, tmp_path):
    made = generate(phantoms, tmp_path / "made", change=lambda name, volume: np.zeros_like(volume))
    result = evaluate(phantoms, made, tmp_path / "out")
    assert result["adherence"]["generated"]["all"]["value"] == 0
    figures = result["measures"]["generated"]
    assert figures["gland_error_ml"] == {"value": None, "low": None, "high": None, "n": 0}
    assert "lesion_signal_axt2" not in figures
    assert result["measures"]["real"]["gland_error_ml"]["n"] > 0
