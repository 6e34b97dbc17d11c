"""The study's chain holds together, and its page shows what the stages left, with intervals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scripts.common.problems import UserError
from scripts.data.grid import GRIDS
from scripts.data.images import save_volume
from scripts.data.outputs import SHEET, Record, find_records, write_sheet
from scripts.phantom.dataset import write_dataset
from scripts.showcase import study

SIZE = study.SIZES["smoke"]


@pytest.fixture
def chain(tmp_path):
    return [*study.generator_stages(tmp_path, SIZE, seed=0), *study.classifier_stages(tmp_path, SIZE, seed=0)]


def test_a_stage_needs_earlier_stages_only(chain):
    names = [stage.name for stage in chain]
    assert len(set(names)) == len(names)
    for number, stage in enumerate(chain):
        assert set(stage.needs) <= set(names[:number]), stage.name


def test_every_option_of_every_stage_exists(chain, wrong_options):
    assert [told for stage in chain if (told := wrong_options(stage.command))] == []


def test_what_a_stage_reads_is_what_a_needed_stage_writes(chain, tmp_path):
    """A path below the study's folder belongs to the stage that is given it first; later ones wait for that stage."""
    waits: dict[str, set[str]] = {}
    owner: dict[str, str] = {}
    for stage in chain:
        waits[stage.name] = set(stage.needs).union(*(waits[name] for name in stage.needs))
        if "ds_enb0" in stage.name:  # the arms write below the same folders, each its own part
            assert {"generate"} <= waits[stage.name]
            continue
        for word in stage.command:
            if word.startswith(str(tmp_path)):
                first = owner.setdefault(word.removesuffix("/model.safetensors"), stage.name)
                assert first in {stage.name, *waits[stage.name]}, word


def test_an_unknown_size_is_refused(tmp_path):
    with pytest.raises(UserError, match="short, long"):
        study.study(str(tmp_path), size="tiny")


def test_an_arm_is_left_out_where_the_generator_predicts_one_class(tmp_path):
    write_dataset(tmp_path / "data", cases=24, seed=0, grid=GRIDS["demo"], test_fraction=0.25, workers=1)
    train = json.loads((tmp_path / "data" / "train.json").read_text())

    def case_file(name: str) -> Path:
        return tmp_path / "data" / name / "axt2.nii.gz"

    def predict(classes: list[int]) -> list[str]:
        for case, predicted in zip(train, classes, strict=True):
            name = case["folder"]
            Record(name, name, "train", 0, 7, case["pirads"][1], predicted, None, "train", []).write(volumes)
            shutil.copy(case_file(name), volumes / name)
        write_sheet(volumes / SHEET, find_records(volumes))
        return [arm.name for arm in study.trainable_arms(tmp_path, seed=0)]

    volumes = tmp_path / "volumes"
    some = ["ds_enb0_r1_s0_l0", "ds_enb0_r0_s1_l0", "ds_enb0_r1_s1_l0", "ds_enb0_r1_s1_l1"]
    assert predict([1] * len(train)) == some
    assert len(predict([number % 2 for number in range(len(train))])) == 5


@pytest.fixture
def finished(tmp_path):
    """What the stages leave, in small: one generated test case, one row a table, an undefined figure."""
    volume, affine = np.random.default_rng(0).random((16, 16, 8)), np.eye(4)
    save_volume(tmp_path / "data" / "007" / "axt2.nii.gz", volume, affine, "axt2")
    save_volume(tmp_path / "volumes" / "007" / "axt2.nii.gz", volume, affine, "axt2")
    values = {"split": "test", "replicate": 0, "seed": 0, "pirads_real": 1, "pirads_synth": 1, "probability": 0.9}
    record = Record(folder="007", source="007", label="test", sequences=["axt2"], **values)
    record.write(tmp_path / "volumes")
    share = {"value": 0.84, "low": 0.78125, "high": 0.885, "n": 201}
    undefined = {"value": None, "low": None, "high": None, "n": 1}
    single = {"value": 0.03125, "low": None, "high": None, "n": 1}
    tables = {
        "data/test.json": [{"folder": "007", "text": "Left base <5 mm."}],
        "vae_evaluation/reconstruction.json": {
            "fidelity": {"axt2": {"mae": single}},
            "lesions": {"originals": {"all": share}},
        },
        "ldm_evaluation/metrics.json": {"adherence": {"test": {"side": share, "zone": undefined}}, "copies": {}},
    }
    for name, content in tables.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "arms").mkdir()
    row = dict.fromkeys(study.ARM_COLUMNS) | {"arm": "ds_enb0_r1_s0_l0", "accuracy": "0.75 (0.62 to 0.85)"}
    pd.DataFrame([row]).to_csv(tmp_path / "arms" / "arms.csv", index=False)
    return tmp_path


def test_the_page_shows_every_figure_with_its_interval(finished):
    study.write_page(finished, SIZE, {"phantom": 90.0})
    page = (finished / "index.html").read_text()
    assert "84.0 % (78.1 to 88.5)" in page
    assert "undefined (n = 1)" in page
    assert "0.75 (0.62 to 0.85)" in page
    assert "0.0312" in page
    assert "Left base &lt;5 mm." in page
    assert page.count("data:image/png") == 1
    assert "<td>phantom</td><td>1.5</td>" in page.replace("\n", "")
    assert "No classifier was trained on synthetic with synthetic labels" in page
    assert "Copies of training cases" not in page  # nothing was found out about them
