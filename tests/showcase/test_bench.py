"""The benchmark: what its commands compare, and the tables that it makes of what they leave."""

import itertools
import json
from dataclasses import replace

import pytest
from monai.bundle import ConfigParser

from scripts.common.problems import UserError
from scripts.data.datalists import SEQUENCES, read_datalist
from scripts.data.grid import Grid
from scripts.data.outputs import Record
from scripts.networks.variants import VARIANTS
from scripts.phantom.dataset import write_dataset
from scripts.showcase import bench as bench_module
from scripts.showcase.bench import SIZES, ablation, bench, data_stages, recipes, row_stages, write_page
from scripts.showcase.comparison import shown_case

VARIANT_FOLDERS = [name.lower() for name in VARIANTS]
GRID = Grid((16, 16, 8), (5.0, 5.0, 7.5))


def stages(folder, size):
    rows = [*recipes(size).rows.values(), *ablation().rows.values()]
    return [*data_stages(folder, size, 0), *row_stages(folder, size, 0, rows)]


def judged(value: float, agreement: bool) -> dict:
    """What evaluate.yaml leaves in metrics.json, as far as the tables read it."""
    share = {"value": value, "low": value - 0.1, "high": value + 0.05, "n": 40}
    distances = {"frechet": {**share, "value": 12.5}, "kernel": {**share, "value": 0.125}}
    adherence = dict.fromkeys(("presence", "zone", "side", "level", "all"), share)
    rows, near = ("generated", "real train", "reconstructed test"), {**distances, "frechet": {**share, "value": 7.5}}
    to_reconstructed = {f"phantom: {row} to reconstructed test": near for row in rows[:2]}
    sizes = {"diameter_error_mm": {**share, "value": 1.25}, "lesion_signal_b1600": {**share, "value": 0.375}}
    return {
        "distances": {f"phantom: {row} to real test": distances for row in rows} | to_reconstructed,
        "adherence": {row: adherence for row in ("generated", "real (the analyser's own accuracy)", "reconstructed")},
        "measures": dict.fromkeys(("generated", "real", "reconstructed"), sizes),
        "class": {"PIRADS_synth": {"accuracy": share}} if agreement else {},
    }


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    root = tmp_path_factory.mktemp("bench") / "data"
    write_dataset(root, 6, 0, GRID, 0.5, 1)
    return root


@pytest.fixture
def done(tmp_path, phantoms):
    """A finished benchmark, as far as the page reads it: two volumes, without voxels, and one set of figures a row."""
    (tmp_path / "data").symlink_to(phantoms)
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
        for case in read_datalist(phantoms / "test.json", phantoms):
            (tmp_path / "volumes" / name / case["folder"]).mkdir()
            for sequence in ("axt2",) if name in VARIANT_FOLDERS else SEQUENCES:
                (tmp_path / "volumes" / name / case["folder"] / f"{sequence}.nii.gz").touch()
    return tmp_path


@pytest.fixture
def drawn(monkeypatch):
    """What would be drawn: folders' names by sequence, for each picture."""
    calls = []

    def draw(case, data, volumes, sequences, path):
        calls.append((sequences, [folder.name for folder in volumes.values()]))
        path.parent.mkdir(exist_ok=True)
        path.touch()

    monkeypatch.setattr(bench_module, "draw", draw)
    return calls


def test_both_recipes_have_the_same_data_and_the_same_number_of_optimizer_steps(repo_root, tmp_path):
    commands = {stage.name: stage.command for stage in stages(tmp_path, SIZES["short"])}

    def without_folder_and_overlay(command):
        return [part for part in command if "ldm/" not in part and "train.yaml" not in part]

    ours, authors = (without_folder_and_overlay(commands[f"train_{name}"]) for name in ("ours", "authors"))
    demo = ConfigParser.load_config_file(repo_root / "bundles" / "ccella_ldm" / "configs" / "demo.yaml")
    assert authors == [*ours, "--lr", str(demo["lr"]), "--lr_warmup", str(demo["lr_warmup"])]
    assert "authors.yaml" in str(commands["train_authors"])
    assert without_folder_and_overlay(commands["train_single"]) == [*ours, "--latent_scale", "single"]
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
    assert [row.steps for row in recipes(SIZES["short"]).rows.values()] == [1000, 1000, 20, *2 * [50, 20, 10, 5]]


def test_the_shipped_weights_are_judged_on_the_same_reports_without_a_training(tmp_path):
    chain = {stage.name: stage for stage in stages(tmp_path, SIZES["short"])}
    ours, shipped = (dict(itertools.pairwise(chain[f"generate_{name}_20"].command)) for name in ("ours", "shipped"))
    assert ours["--dataset_dir"] == shipped["--dataset_dir"]
    assert "--model_file" in ours
    assert "--model_file" not in shipped
    assert "train_shipped" not in chain


def test_each_table_is_of_the_same_sequences_in_all_rows(tmp_path, values_of):
    """Phantoms have all three, and the analyser is given those that real, reconstructed and generated volumes have."""
    chain = {stage.name: values_of(stage.command) for stage in stages(tmp_path, SIZES["short"])}
    assert chain["encode"]["sequences"] == chain["reconstruct"]["sequences"] == list(SEQUENCES)
    for table, sequences in ((recipes(SIZES["short"]), list(SEQUENCES)), (ablation(), ["axt2"])):
        for row in table.rows.values():
            assert chain[f"generate_{row.name}"]["channels"] == sequences
            assert row.training == "shipped" or chain[f"train_{row.training}"]["channels"] == sequences


def test_all_trainings_weigh_lesions_alike_and_phantoms_are_of_the_default_difficulty(tmp_path, values_of):
    chain = {stage.name: values_of(stage.command) for stage in stages(tmp_path, SIZES["short"])}
    trainings = [values for name, values in chain.items() if name.startswith("train_")]
    assert {(values["focus_mask"], values["focus_weight"]) for values in trainings} == {("lesions.nii.gz", "20")}
    assert "difficulty" not in chain["phantom"]


def test_a_precision_that_is_asked_for_is_that_of_every_network(tmp_path, values_of):
    chain = stages(tmp_path, replace(SIZES["short"], amp="bf16"))
    found = {stage.name: values["amp"] for stage in chain if "amp" in (values := values_of(stage.command))}
    assert {"encode", "reconstruct", "train_ours", "generate_shipped_20"} <= set(found)
    assert set(found.values()) == {"bf16"}


def test_each_variant_is_trained_and_sampled_as_itself(tmp_path, values_of):
    chain = {stage.name: values_of(stage.command) for stage in stages(tmp_path, SIZES["short"])}
    for name in VARIANTS:
        assert chain[f"train_{name.lower()}"]["variant"] == chain[f"generate_{name.lower()}"]["variant"] == name


def test_every_row_is_judged_beside_reconstructions_that_are_written_once(tmp_path):
    chain = stages(tmp_path, SIZES["short"])
    written = [dict(itertools.pairwise(s.command))["--output_dir"] for s in chain if s.name == "reconstruct"]
    judges = [stage for stage in chain if stage.name.startswith("judge_")]
    assert {dict(itertools.pairwise(stage.command))["--reconstructed_dir"] for stage in judges} == set(written)
    assert len(written) == 1
    assert all("reconstruct" in stage.needs for stage in judges)


def test_the_page_shows_every_row_with_intervals(done, drawn):
    write_page(done, SIZES["smoke"], [recipes(SIZES["smoke"]), ablation()])
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


def test_the_page_shows_what_each_row_made_of_a_report_in_each_of_its_sequences(done, drawn, phantoms):
    write_page(done, SIZES["smoke"], [recipes(SIZES["smoke"]), ablation()])
    first, second = ([row.name for row in table.rows.values()] for table in (recipes(SIZES["smoke"]), ablation()))
    assert drawn == [
        *(([sequence], ["reconstructions", *first]) for sequence in SEQUENCES),
        (["axt2"], ["reconstructions", *second]),
    ]
    page = (done / "index.html").read_text()
    assert page.count("<img ") == 4
    assert shown_case(phantoms)["text"][:40] in page


def test_the_page_says_what_the_loss_reads_and_which_rows_compare(done, drawn):
    write_page(done, SIZES["smoke"], [recipes(SIZES["smoke"]), ablation()])
    for text in ((done / "bench.md").read_text(), (done / "index.html").read_text()):
        assert "weighs the cells of lesions 20 times" in text
        assert "not with those of the other table" in text


def test_the_first_table_is_shown_before_the_variants_are_trained(done, drawn):
    write_page(done, SIZES["smoke"], [recipes(SIZES["smoke"])])
    text = (done / "bench.md").read_text()
    assert "authors' recipe, 20 steps" in text
    assert "Nine variants" not in text


def test_a_share_of_no_case_is_undefined(done, drawn):
    path = done / "judged" / "ours_5" / "metrics.json"
    figures = json.loads(path.read_text())
    figures["adherence"]["generated"]["zone"] = {"value": None, "low": None, "high": None, "n": 0}
    path.write_text(json.dumps(figures))
    write_page(done, SIZES["smoke"], [recipes(SIZES["smoke"])])
    assert "undefined (n = 0)" in (done / "bench.md").read_text()


def test_unknown_size_is_refused(tmp_path):
    with pytest.raises(UserError, match="smoke, short, long"):
        bench(str(tmp_path), size="huge")
