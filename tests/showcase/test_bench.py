"""The benchmark: what its commands compare, and the tables that it makes of what they leave."""

import itertools
import json

import pytest
from monai.bundle import ConfigParser

from scripts.common.problems import UserError
from scripts.data.outputs import Record
from scripts.showcase.bench import SIZES, ablation, bench, data_stages, recipes, row_stages, write_tables


def stages(folder, size):
    rows = list(dict.fromkeys([*recipes(size), *ablation()]))
    return [*data_stages(folder, size, 0), *row_stages(folder, size, 0, rows)]


def judged(value: float, agreement: bool) -> dict:
    """What evaluate.yaml leaves in metrics.json, as far as the tables read it."""
    share = {"value": value, "low": value - 0.1, "high": value + 0.05, "n": 40}
    distances = {"frechet": {**share, "value": 12.5}, "kernel": {**share, "value": 0.125}}
    adherence = dict.fromkeys(("presence", "zone", "side", "level", "all"), share)
    rows, near = ("generated", "real train", "reconstructed test"), {**distances, "frechet": {**share, "value": 7.5}}
    to_reconstructed = {f"phantom: {row} to reconstructed test": near for row in rows[:2]}
    sizes = {"diameter_error_mm": {**share, "value": 1.25}, "lesion_signal_axt2": {**share, "value": 0.375}}
    return {
        "distances": {f"phantom: {row} to real test": distances for row in rows} | to_reconstructed,
        "adherence": {row: adherence for row in ("generated", "real (the analyser's own accuracy)", "reconstructed")},
        "measures": dict.fromkeys(("generated", "real", "reconstructed"), sizes),
        "class": {"PIRADS_synth": {"accuracy": share}} if agreement else {},
    }


@pytest.fixture
def done(tmp_path):
    """A finished benchmark, as far as the tables read it: two volumes and one set of figures a row."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.json").write_text(json.dumps([{}] * 20))
    names = [stage.name.removeprefix("judge_") for stage in stages(tmp_path, SIZES["smoke"]) if "judge" in stage.name]
    for name in names:
        (tmp_path / "judged" / name).mkdir(parents=True)
        figures = judged(0.5, agreement=name not in ("maisi", "ellamaisi"))
        (tmp_path / "judged" / name / "metrics.json").write_text(json.dumps(figures))
        for folder, seconds in (("001", 1.0), ("002", 3.0)):
            (tmp_path / "volumes" / name / folder).mkdir(parents=True)
            Record(folder, folder, "test", 0, 7, 1, 1, 0.9, "test", [], seconds=seconds).write(
                tmp_path / "volumes" / name
            )
    return tmp_path


def test_both_recipes_have_the_same_data_and_the_same_number_of_optimizer_steps(repo_root, tmp_path):
    commands = {stage.name: stage.command for stage in stages(tmp_path, SIZES["short"])}

    def without_folder_and_overlay(command):
        return [part for part in command if "ldm/" not in part and "train.yaml" not in part]

    ours, authors = (without_folder_and_overlay(commands[f"train_{name}"]) for name in ("ours", "authors"))
    demo = ConfigParser.load_config_file(repo_root / "bundles" / "ccella_ldm" / "configs" / "demo.yaml")
    assert authors == [*ours, "--lr", str(demo["lr"]), "--lr_warmup", str(demo["lr_warmup"])]
    assert "authors.yaml" in str(commands["train_authors"])
    assert "/t2w.yaml" in str(commands["train_authors"])
    own_rate = without_folder_and_overlay(commands["train_authors_rate"])
    assert own_rate == ours
    assert "authors.yaml" in str(commands["train_authors_rate"])


def test_every_option_of_every_stage_exists_and_what_it_needs_comes_before(tmp_path, wrong_options):
    chain = stages(tmp_path, SIZES["short"])
    assert [told for stage in chain if (told := wrong_options(stage.command))] == []
    names = [stage.name for stage in chain]
    assert len(set(names)) == len(names)
    assert all(set(stage.needs) <= set(names[:number]) for number, stage in enumerate(chain))


@pytest.mark.parametrize("training", ["authors", "authors_rate"])
def test_the_authors_sample_with_ddpm_and_without_guidance(tmp_path, training):
    command = next(s.command for s in stages(tmp_path, SIZES["short"]) if s.name == f"generate_{training}")
    options = dict(itertools.pairwise(command))
    assert (options["--scheduler"], options["--steps"], options["--guidance_report"]) == ("ddpm", "1000", "1")
    assert [row.steps for row in recipes(SIZES["short"])] == [1000, 1000, *2 * [50, 20, 10, 5]]


def test_the_shipped_weights_are_judged_on_the_same_reports_without_a_training(tmp_path):
    chain = {stage.name: stage for stage in stages(tmp_path, SIZES["short"])}
    ours, shipped = (dict(itertools.pairwise(chain[f"generate_{name}_20"].command)) for name in ("ours", "shipped"))
    assert ours["--dataset_dir"] == shipped["--dataset_dir"]
    assert "--model_file" in ours
    assert "--model_file" not in shipped
    assert "train_shipped" not in chain


def test_every_row_is_judged_beside_reconstructions_that_are_written_once(tmp_path):
    chain = stages(tmp_path, SIZES["short"])
    written = [dict(itertools.pairwise(s.command))["--output_dir"] for s in chain if s.name == "reconstruct"]
    judges = [stage for stage in chain if stage.name.startswith("judge_")]
    assert {dict(itertools.pairwise(stage.command))["--reconstructed_dir"] for stage in judges} == set(written)
    assert len(written) == 1
    assert all("reconstruct" in stage.needs for stage in judges)


def test_tables_show_every_row_with_intervals(done):
    write_tables(done, SIZES["smoke"], [*recipes(SIZES["smoke"]), *ablation()])
    text = (done / "bench.md").read_text()
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| ")}
    for name in ("real training volumes", "authors' recipe, 20 steps", "ours, 20 steps", "ours, 5 steps", "L1ONLY"):
        assert "50.0 % (40.0 to 55.0)" in rows[name]
        assert "12.5 (0.4 to 0.55)" in rows[name]
        assert "7.5 (0.4 to 0.55)" in rows[name]
        assert "1.25 (0.4 to 0.55)" in rows[name]
        assert "0.375 (0.4 to 0.55)" in rows[name]
    assert text.count("| reconstructions of the test volumes | 12.5 (0.4 to 0.55) | – |") == 2
    assert "| 2.00 |" in rows["CCELLA"]
    assert "no class head" in rows["MAISI"]
    assert "Nine variants" in (done / "index.html").read_text()


def test_the_first_table_is_shown_before_the_variants_are_trained(done):
    write_tables(done, SIZES["smoke"], recipes(SIZES["smoke"]))
    text = (done / "bench.md").read_text()
    assert "authors' recipe, 20 steps" in text
    assert "Nine variants" not in text


def test_a_share_of_no_case_is_undefined(done):
    path = done / "judged" / "ours_5" / "metrics.json"
    figures = json.loads(path.read_text())
    figures["adherence"]["generated"]["zone"] = {"value": None, "low": None, "high": None, "n": 0}
    path.write_text(json.dumps(figures))
    write_tables(done, SIZES["smoke"], [*recipes(SIZES["smoke"]), *ablation()])
    assert "undefined (n = 0)" in (done / "bench.md").read_text()


def test_unknown_size_is_refused(tmp_path):
    with pytest.raises(UserError, match="smoke, short, long"):
        bench(str(tmp_path), size="huge")
