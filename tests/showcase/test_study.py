"""The study's chain holds together, and its page shows what the stages left, with intervals and in words."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from scripts.classifier.arms import ARMS, merge
from scripts.common.problems import UserError
from scripts.data.grid import Grid
from scripts.data.images import save_volume
from scripts.data.outputs import SHEET, Record, find_records, write_sheet
from scripts.evaluation.adherence import PARTS
from scripts.evaluation.class_metrics import Estimate
from scripts.evaluation.generated import REAL as ANALYSER
from scripts.phantom.dataset import write_dataset
from scripts.showcase.stages import DEMO_LDM
from scripts.showcase.study import __main__ as command
from scripts.showcase.study.classifiers import BOTH, REAL, SYNTHETIC, classifier_stages, count_cases, planned_trainings
from scripts.showcase.study.generators import generator_stages, planned_generators
from scripts.showcase.study.page import write_page
from scripts.showcase.study.results import areas, arms_table, curve, fooled, has_learnt
from scripts.showcase.study.sizes import GENERATED, SIZES, STUDIED, epochs_of

SIZE = SIZES["smoke"]
GRID = Grid((16, 16, 8), (5.0, 5.0, 7.5))


@pytest.fixture(params=SIZES)
def chain(tmp_path, request):
    size = SIZES[request.param]
    epochs = dict.fromkeys(planned_trainings(size), 1)
    return [*generator_stages(tmp_path, size, seed=0), *classifier_stages(tmp_path, size, 0, epochs)]


def test_a_stage_needs_earlier_stages_only(chain):
    names = [stage.name for stage in chain]
    assert len(set(names)) == len(names)
    for number, stage in enumerate(chain):
        assert set(stage.needs) <= set(names[:number]), stage.name


def test_every_option_of_every_stage_exists(tmp_path, wrong_options):
    epochs = dict.fromkeys(planned_trainings(SIZE), 1)
    chain = [*generator_stages(tmp_path, SIZE, seed=0), *classifier_stages(tmp_path, SIZE, 0, epochs)]
    kinds = {
        tuple(word for word in stage.command if not word[0].isdigit() and "/" not in word): stage for stage in chain
    }
    assert [told for stage in kinds.values() if (told := wrong_options(stage.command))] == []


def test_what_a_stage_reads_is_what_a_needed_stage_writes(chain, tmp_path):
    """A path below the study's folder belongs to the stage that is given it first; later ones wait for that stage."""
    waits: dict[str, set[str]] = {}
    owner: dict[str, str] = {}
    for stage in chain:
        waits[stage.name] = {stage.name}.union(*(waits[name] for name in stage.needs))
        words = [word.removesuffix("/model.safetensors") for word in stage.command if word.startswith(str(tmp_path))]
        if stage.name.startswith("test_"):  # results lie beside each other
            words = [word for word in words if "/results/" not in word]
        for word in words:
            if stage.name.startswith("train_") and word.endswith("/volumes") and "_s0_" in stage.name:
                continue  # given and not read
            if "/classifier/" in word:
                word = next((one for one in owner if one.startswith(word) or word.startswith(one)), word)
            first = owner.setdefault(word, stage.name)
            assert first in waits[stage.name] or "/classifier/" in word, (stage.name, word)


def option(stage, name: str) -> str:
    """What a stage's command gives for an option."""
    return stage.command[stage.command.index(f"--{name}") + 1]


def test_a_precision_that_is_asked_for_is_that_of_every_network(tmp_path, values_of):
    size = replace(SIZE, amp="bf16")
    epochs = dict.fromkeys(planned_trainings(size), 1)
    chain = [*generator_stages(tmp_path, size, seed=0), *classifier_stages(tmp_path, size, 0, epochs)]
    found = {stage.name: values["amp"] for stage in chain if "amp" in (values := values_of(stage.command))}
    begins = {name.split("_")[0] for name in found}
    assert {"encode", "ldm", "generate", "train", "test"} <= begins
    assert set(found.values()) == {"bf16"}


def test_three_sequences_are_generated_and_classifiers_see_t2w_alone(chain):
    for stage in chain:
        kind = stage.name.partition("_")[0]
        given = {
            "encode": "sequences", "ldm": "channels", "generate": "channels", "train": "channels", "test": "channels",
        }.get("" if stage.name.startswith("ldm_evaluate") else kind)  # fmt: skip
        if given:
            wanted = STUDIED if kind in ("train", "test") else GENERATED
            assert option(stage, given) == str(list(wanted)), stage.name
    assert set(STUDIED) < set(GENERATED)


def test_every_generator_weighs_lesions_and_is_judged_on_test_reports(chain):
    names = {stage.name for stage in chain}
    trained = [stage for stage in chain if stage.name.startswith("ldm") and "ccella_ldm/configs/train" in str(stage)]
    assert trained
    for stage in trained:
        assert option(stage, "focus_mask") == "lesions.nii.gz"
        assert float(option(stage, "focus_weight")) == 20
        if stage.name != "ldm_start":  # which others begin from, and no arm sees
            assert f"ldm_evaluate{stage.name.removeprefix('ldm')}" in names


def test_a_generator_from_shared_weights_adapts_them_to_the_same_patients(tmp_path):
    stages = {stage.name: stage for stage in generator_stages(tmp_path, SIZES["long"], seed=0)}
    first, shared = stages["ldm"], stages["ldm_shared"]
    assert option(shared, "initial_weights") == option(shared, "latent_scale") == str(DEMO_LDM)
    assert shared.reads == (DEMO_LDM,)  # adapted anew where other weights are shipped
    assert option(shared, "dataset_dir") == option(first, "dataset_dir")
    assert float(option(shared, "lr")) == pytest.approx(3e-4)
    assert int(option(shared, "epochs")) * (160 // 8) == SIZES["long"].adapt_steps == 1000
    assert "--initial_weights" not in first.command


def test_of_all_generators_the_same_reports_are_judged_also_after_a_stop(tmp_path):
    size = replace(SIZES["long"], judged=3)
    stages = [stage for stage in generator_stages(tmp_path, size, seed=0) if stage.name.startswith("generate_test")]
    assert len(stages) == 4
    for stage in stages:
        expression = option(stage, "dataset#data").removeprefix("$").replace("@jobs", "jobs")
        for done in range(4):
            jobs = SimpleNamespace(all=list("abcde"), todo=list("abcde")[done:])
            assert eval(expression, {"jobs": jobs}) == list("abc")[done:]


def test_no_patient_of_the_study_is_another_seeds(tmp_path):
    """Nor are they of a dataset that shipped weights or pilots have seen, whose seeds are below 100."""
    seeds = [
        int(option(stage, "seed"))
        for seed in (0, 1)
        for stage in generator_stages(tmp_path, SIZES["long"], seed)
        if stage.name.startswith("phantom")
    ]
    assert len(set(seeds)) == len(seeds) == 8
    assert min(seeds) >= 1000


def test_a_pretrained_classifier_waits_for_the_weights_that_it_starts_from(tmp_path):
    stages = {one.name: one for one in classifier_stages(tmp_path, SIZE, 0, dict.fromkeys(planned_trainings(SIZE), 1))}
    for start in ("arms", "elsewhere"):
        stage = stages[f"train_curve_{start}_2_{REAL.name}_seed1"]
        needed = stages[f"train_{start}_{SYNTHETIC.name}_seed1"]
        assert needed.name in stage.needs
        weights = stage.command[stage.command.index("--initial_weights") + 1]
        assert weights == str(needed.makes / "model.safetensors")
        seeds = [one.command[one.command.index("--seed") + 1] for one in (stage, needed)]
        assert seeds[0] == seeds[1]  # or the patients that validate would have been pretrained on
    left = [one for one in planned_trainings(SIZE) if one.group != "elsewhere"]
    names = [one.name for one in classifier_stages(tmp_path, SIZE, 0, dict.fromkeys(left, 1))]
    assert not any("elsewhere" in name for name in names)


def test_every_arm_has_as_many_steps_whatever_it_is_trained_on():
    for cases in (8, 100, 128, 640, 3000):
        steps = epochs_of(480, cases, 8) * (cases // 8)
        assert steps == pytest.approx(480, rel=0.25)
    assert epochs_of(4, 19, 8) == 2
    assert epochs_of(3, 5, 8) == 3  # fewer cases than a batch are a step


@pytest.mark.parametrize("name", SIZES)
def test_sizes_have_the_five_arms_with_every_seed_and_no_name_twice(name):
    planned = planned_trainings(SIZES[name])
    assert len({training.name for training in planned}) == len(planned)
    arms = [training.arm.name for training in planned if training.group == "arms"]
    for arm in ARMS:
        assert arms.count(arm.name) == SIZES[name].seeds >= 2
    assert name == "smoke" or SIZES[name].regime == type(SIZES[name].regime)()


def test_an_unknown_size_is_refused(tmp_path):
    with pytest.raises(UserError, match="short, long"):
        command.study(str(tmp_path), size="tiny")


def test_an_arm_is_left_out_where_the_generator_predicts_one_class(tmp_path):
    size = replace(
        SIZE, replicates=1, adapt_steps=0, reports=0, unlabelled=0, others=0, ceiling=0, fractions=(), seeds=1
    )
    write_dataset(tmp_path / "data", cases=24, seed=0, grid=GRID, test_fraction=0.25, workers=1)
    train = json.loads((tmp_path / "data" / "train.json").read_text())
    volumes = tmp_path / "volumes"

    def predict(classes: list[int]) -> dict[str, int]:
        for case, predicted in zip(train, classes, strict=True):
            name = case["folder"]
            shutil.copytree(tmp_path / "data" / name, volumes / name, dirs_exist_ok=True)
            sequences = ["axt2", "b1600", "adc"]
            Record(name, name, "train", 0, 7, case["pirads"][1], predicted, None, "train", sequences).write(volumes)
        write_sheet(volumes / SHEET, find_records(volumes))
        return {one.arm.name: count_cases(tmp_path, one, size, seed=0) for one in planned_trainings(size)}

    counts = predict([1] * len(train))
    kept = len(train) - 4  # a fifth validates
    assert counts == dict(zip([arm.name for arm in ARMS], [kept, kept, 0, 2 * kept, 2 * kept], strict=True))
    assert all(predict([number % 2 for number in range(len(train))]).values())


# ---- what came out ---------------------------------------------------------------------------------------------------


def write_predictions(folder: Path, group: str, arm, seed: int, strength: float) -> None:
    """Answers for the test cases of `folder`, right as often as `strength` makes them."""
    cases = json.loads((folder / "data" / "test.json").read_text())
    labels = np.array([case["pirads"][1] for case in cases])
    noise = np.random.default_rng([seed, *f"{group} {arm.name}".encode()]).normal(size=len(cases))
    probability = 1 / (1 + np.exp(-strength * (2 * labels - 1) - noise))
    names = [case["folder"] for case in cases]
    frame = pd.DataFrame({"folder": names, "patient": names, "probability": probability, "threshold": 0.5})
    frame = frame.assign(prediction=(probability >= 0.5).astype(int), label=labels)
    path = folder / "results" / group / f"seed{seed}" / arm.name / "predictions.csv"
    path.parent.mkdir(parents=True)
    frame.to_csv(path, index=False)


def found_out(obeyed: float) -> dict:
    """What evaluation leaves of a generator whose volumes obey this share of 200 reports, 120 of them with a lesion."""

    def figure(value: float | None, n: int) -> dict:
        return {"value": value, "low": value and 0.4, "high": value and 0.6, "n": n}

    adherence = {
        row: {part: figure(share, 200 if part in ("presence", "all") else 120) for part in PARTS}
        for row, share in (("generated", obeyed), (ANALYSER, 0.95))
    }
    distances = {f"phantom: {row} to real test": {"frechet": figure(9.0, 200)} for row in ("generated", "real train")}
    measures = {"generated": {}, "real": {"lesion_signal_axt2": figure(None, 1)}}  # no lesion was seen
    return {"adherence": adherence, "distances": distances, "measures": measures, "copies": {}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """What the stages leave, in small: predictions, one generated test case, one row a table, an undefined figure."""
    folder = tmp_path_factory.mktemp("study")
    write_dataset(folder / "data", cases=30, seed=0, grid=GRID, test_fraction=0.6, workers=1)
    for training in planned_trainings(SIZE):
        if training.group != "elsewhere" and training.arm.name != "ds_enb0_r0_s1_l1":
            strength = 3.0 if training.arm.name == BOTH.name else 0.8
            write_predictions(folder, training.group, training.arm, training.seed, strength)
    name = json.loads((folder / "data" / "test.json").read_text())[0]["folder"]
    volume, affine = np.random.default_rng(0).random(GRID.size), np.diag([*GRID.spacing, 1])
    save_volume(folder / "volumes_test" / name / "axt2.nii.gz", volume, affine, "axt2")
    values = {"split": "test", "replicate": 0, "seed": 0, "pirads_real": 1, "pirads_synth": 1, "probability": 0.9}
    Record(folder=name, source=name, label="test", sequences=["axt2"], **values).write(folder / "volumes_test")
    for number, suffix in enumerate(("", "_shared", "_more", "_elsewhere")):
        path = folder / f"ldm_evaluation{suffix}" / "metrics.json"
        path.parent.mkdir()
        path.write_text(json.dumps(found_out(0.5 + number / 100)))
    return folder


def test_the_page_shows_arms_with_intervals_and_says_what_can_be_concluded(finished):
    left_out = [one for one in planned_trainings(SIZE) if one.arm.name == "ds_enb0_r0_s1_l1"]
    write_page(finished, SIZE, left_out, {"phantom": 90.0})
    page = (finished / "index.html").read_text()
    table = pd.read_csv(finished / "results" / "arms.csv").set_index("trained on")
    assert all(figure in page for figure in table["roc_auc"])
    assert all(f"<td>{row}</td>" in page for row in table.index)
    assert "axt2, b1600, adc; classifiers see axt2 alone" in page
    assert "at a rate of at most 0.0003 instead of 0.0004" in page
    assert "The arm of real volumes has learnt: AUC" in page
    assert "cannot be told apart from real volumes alone" in page
    assert "about 4 steps of 8 volumes, whatever" in page
    assert "No classifier was trained on synthetic with synthetic labels" in page
    assert "1/2 of the real patients, pretrained on synthetic volumes: " in page
    assert "undefined (n = 1)" in page
    assert "<td>phantom</td><td>1.5</td>" in page.replace("\n", "")
    assert "Copies of training cases" not in page  # nothing was found out about them
    assert page.count("data:image/png") >= 5


def test_the_page_says_of_every_generator_whether_it_obeys_reports(finished):
    write_page(finished, SIZE, [], {})
    page = (finished / "index.html").read_text().replace("\n", "")
    made = [generator for generator in planned_generators(SIZE) if generator.makes]
    assert [generator.group for generator in made] == ["arms", "shared", "more", "elsewhere"]
    for number, generator in enumerate(made):
        assert f"<td>{generator.told}</td><td>{50 + number}.0 % (40.0 to 60.0)</td>" in page
    assert "<td>real volumes, by the same analyser</td><td>95.0 % (40.0 to 60.0)</td>" in page
    assert "A generator that drew none would obey 40 % in everything" in page
    assert "weighs 20 times under lesions.nii.gz" in page
    assert "begun from the shipped ones" in page
    alone = replace(SIZE, adapt_steps=0, unlabelled=0, others=0)
    write_page(finished, alone, [], {})
    assert "begun from the shipped ones" not in (finished / "index.html").read_text()


def test_the_table_has_the_arms_of_every_generator_each_corrected_by_themselves(finished):
    table, again = (arms_table(finished, SIZE) for _ in range(2))
    assert table.to_csv() == again.to_csv()
    assert list(table["trained on"]).count("real") == 1
    told = [f"{arm}, {words}" for words in ("from shared weights", "from 6 more patients") for arm in (SYNTHETIC, BOTH)]
    assert list(table["trained on"])[-4:] == told
    by_row = table.set_index("trained on")["AUC p corrected (Holm)"]
    merge(finished / "results" / "arms")
    alone = pd.read_csv(finished / "results" / "arms" / "arms.csv").set_index("trained on")["AUC p corrected (Holm)"]
    assert {row: float(p) for row, p in alone.dropna().items()} == {
        row: float(by_row[row]) for row in alone.dropna().index
    }


def test_the_curve_has_a_point_for_every_start_and_share(finished):
    points, table = curve(finished, SIZE)
    assert {(point.start, point.one_in) for point in points} == {
        (start, one_in) for start in ("scratch", "arms", "elsewhere") for one_in in (2, 1)
    }
    assert len(table) == 4  # two ways to pretrain at two shares, corrected for together
    real = areas(finished, SIZE)[str(REAL)]
    assert str(next(point.auc for point in points if (point.start, point.one_in) == ("scratch", 1))) == str(real)


def test_what_fooled_a_classifier_are_its_surest_wrong_answers():
    frame = pd.DataFrame(
        {
            "folder": [*"abcdef"], "probability": [0.1, 0.3, 0.9, 0.2, 0.6, 0.95], "threshold": 0.5,
            "label": [1, 1, 1, 0, 0, 0],
        }
    )  # fmt: skip
    other = frame.assign(probability=[0.1, 0.3, 0.9, 0.2, 0.8, 0.85])
    wrong = fooled([frame, other], most=1)
    assert [(one.folder, one.label) for one in wrong] == [("a", 1), ("f", 0)]
    assert wrong[1].probability == pytest.approx(0.9)
    assert [one.folder for one in fooled([frame, other], most=9)] == [*"ab", *"fe"]


def test_a_study_whose_real_arm_has_not_learnt_says_so(finished, monkeypatch):
    from scripts.showcase.study import results

    answers = results.answers_of(finished, "arms")
    assert "has learnt" in has_learnt(answers)
    guess = answers[REAL]._replace(probabilities=np.full_like(answers[REAL].probabilities, 0.5))
    assert "has not been seen to learn" in has_learnt({REAL: guess})
    assert "missing" in has_learnt({BOTH: guess})


def test_a_forest_without_a_ceiling_is_drawn(tmp_path):
    from scripts.showcase.study.pictures import draw_forest

    draw_forest({"real": Estimate(0.8, 0.7, 0.9, 90), "both": Estimate(0.85, 0.8, 0.9, 90)}, tmp_path / "arms.png")
    assert (tmp_path / "arms.png").stat().st_size > 1000
