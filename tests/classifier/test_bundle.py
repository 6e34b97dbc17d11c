"""The classifier bundle as a user runs it, on a tiny data set."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import pandas as pd
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser, create_workflow
from monai.bundle.scripts import verify_metadata, verify_net_in_out
from monai.handlers import ROCAUC, from_engine
from safetensors.torch import load_file

from scripts.classifier.network import lesion_net
from scripts.classifier.training import start_network
from scripts.classifier.weights import load_weights, read_header, threshold_of
from scripts.common.identity import file_identity
from scripts.common.problems import UserError
from scripts.engine.steps import one_cycle

ARM = "ds_enb0_r1_s1_l1"
TINY = {
    "channels": ["axt2"], "spacing": [5, 5, 10], "spatial_size": [32, 32, 32], "batch_size": 8, "real": 1,
    "synthetic": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def configs(repo_root):
    return repo_root / "bundles/classifier/configs"


def start(configs, name, kind, overlay="demo", **options):
    files = [str(configs / f"{name}.yaml")]
    if name != "evaluate":
        files.append(str(configs / f"{overlay}.yaml"))
    if name == "inference":  # not the shipped weights, which the overlay names
        options.setdefault("model_file", f"{options['models_dir']}/{ARM}/model.safetensors")
    options = {"bundle_root": str(configs.parent), "synthetic_labels": 1, **options}
    return create_workflow(config_file=files, workflow_type=kind, logging_file=False, **options)


def cause(error):
    while error.__cause__ is not None:
        error = error.__cause__
    return error


@pytest.fixture(scope="module")
def trained(configs, real_root, synthetic_root, tmp_path_factory):
    """Two epochs of training in one go."""
    folder = tmp_path_factory.mktemp("models")
    options = {**TINY, "dataset_dir": str(real_root), "synthetic_dir": str(synthetic_root), "models_dir": str(folder)}
    workflow = start(configs, "train", "train", epochs=2, **options)
    assert workflow.check_properties() == []
    workflow.run()
    return folder, options


def test_training_keeps_the_best_weights_and_a_checkpoint(trained):
    folder, _ = trained
    assert sorted(path.name for path in (folder / ARM).iterdir()) == ["checkpoint.pt", "logs", "model.safetensors"]
    state = torch.load(folder / ARM / "checkpoint.pt", weights_only=True)
    assert state["epoch"] == 2
    assert 0 <= state["best_metric"] <= 1


def test_interrupted_and_resumed_training_ends_with_the_same_weights(trained, configs, tmp_path):
    folder, options = trained
    options = {**options, "models_dir": str(tmp_path)}
    first = start(configs, "train", "train", epochs=2, checkpoint_minutes=0, **options)

    def interrupt():
        raise KeyboardInterrupt

    first.trainer.add_event_handler(Events.EPOCH_STARTED(once=2), interrupt)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    torch.manual_seed(99)
    start(configs, "train", "train", epochs=2, **options).run()
    whole, resumed = (torch.load(root / ARM / "checkpoint.pt", weights_only=True) for root in (folder, tmp_path))
    assert all(torch.equal(whole["network"][name], resumed["network"][name]) for name in whole["network"])
    for number, moments in whole["optimizer"]["state"].items():
        for name, value in moments.items():
            assert torch.equal(value, resumed["optimizer"]["state"][number][name])
    for name in ("schedule", "epoch", "best_metric", "best_metric_epoch", "settings"):
        assert whole[name] == resumed[name]
    best, kept = (load_file(root / ARM / "model.safetensors") for root in (folder, tmp_path))
    assert all(torch.equal(best[name], kept[name]) for name in best)


# A training that ends at once, as by a power cut, in the middle of its second epoch.
KILLED = """
import json, os, pathlib, signal, sys, time
from ignite.engine import Events
from monai.bundle import ConfigParser, create_workflow

files, options, checkpoint = json.loads(sys.argv[1])
workflow = create_workflow(config_file=files, workflow_type="train", logging_file=False, **options)

def die():
    while not pathlib.Path(checkpoint).is_file():  # it is written while the training goes on
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)

workflow.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=workflow.trainer.state.epoch_length + 1), die)
workflow.run()
"""


def test_a_training_killed_within_an_epoch_ends_bit_identical(trained, configs, repo_root, tmp_path):
    folder, options = trained
    options = {**options, "models_dir": str(tmp_path), "epochs": 2}
    files = [str(configs / f"{name}.yaml") for name in ("train", "demo")]
    given = {"bundle_root": str(configs.parent), "synthetic_labels": 1, "checkpoint_minutes": 0, **options}
    checkpoint = tmp_path / ARM / "checkpoint.pt"
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    words = [sys.executable, "-c", KILLED, json.dumps([files, given, str(checkpoint)])]
    done = subprocess.run(words, cwd=repo_root, env=environment, capture_output=True, check=False, timeout=600)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert torch.load(checkpoint, weights_only=True)["epoch"] == 1
    start(configs, "train", "train", **options).run()
    whole, resumed = (torch.load(root / ARM / "checkpoint.pt", weights_only=True) for root in (folder, tmp_path))
    assert all(torch.equal(whole["network"][name], resumed["network"][name]) for name in whole["network"])
    assert whole["threshold"] == resumed["threshold"]
    best, kept = (load_file(root / ARM / "model.safetensors") for root in (folder, tmp_path))
    assert all(torch.equal(best[name], kept[name]) for name in best)


def test_loading_processes_change_no_weight(trained, configs, tmp_path):
    folder, options = trained
    start(configs, "train", "train", epochs=2, num_workers=2, **{**options, "models_dir": str(tmp_path)}).run()
    alone, two = (torch.load(root / ARM / "checkpoint.pt", weights_only=True) for root in (folder, tmp_path))
    assert all(torch.equal(alone["network"][name], two["network"][name]) for name in alone["network"])
    assert alone["best_metric"] == two["best_metric"]


def test_the_best_weights_are_kept_where_no_checkpoint_is_written_in_their_epoch(
    trained, configs, tmp_path, monkeypatch
):
    """Two more epochs that validation finds worse, and the only checkpoint after the last of them."""
    _, options = trained
    workflow = start(configs, "train", "train", epochs=3, **{**options, "models_dir": str(tmp_path)})
    found, best = [], iter([0.9, 0.1, 0.2])
    monkeypatch.setattr(ROCAUC, "compute", lambda _: next(best))

    def note(engine):
        if engine.state.epoch == 1:
            assert not (tmp_path / ARM / "checkpoint.pt").exists()
            found.append({name: tensor.clone() for name, tensor in engine.network.state_dict().items()})

    workflow.trainer.add_event_handler(Events.EPOCH_COMPLETED, note)
    workflow.run()
    kept = load_file(tmp_path / ARM / "model.safetensors")
    (expected,) = found
    state = torch.load(tmp_path / ARM / "checkpoint.pt", weights_only=True)
    assert state["epoch"] == 3
    assert all(torch.equal(kept[name], tensor) for name, tensor in expected.items())
    assert any(not torch.equal(kept[name], tensor) for name, tensor in state["network"].items())
    (tmp_path / ARM / "model.safetensors").unlink()
    start(configs, "train", "train", epochs=3, **{**options, "models_dir": str(tmp_path)}).run()
    again = load_file(tmp_path / ARM / "model.safetensors")
    assert all(torch.equal(kept[name], again[name]) for name in kept)


@pytest.fixture
def copy(trained, tmp_path):
    """The trained arm's folder, to change, and the options that it was trained with."""
    folder, options = trained
    shutil.copytree(folder, tmp_path / "models")
    return tmp_path / "models" / ARM, {**options, "models_dir": str(tmp_path / "models")}


def test_a_finished_training_given_more_epochs_follows_the_longer_schedule(copy, configs):
    folder, options = copy
    workflow = start(configs, "train", "train", epochs=3, **options)
    optimizer, rates = workflow.trainer.optimizer, []
    workflow.trainer.add_event_handler(Events.EPOCH_STARTED, lambda: rates.append(optimizer.param_groups[0]["lr"]))
    workflow.run()
    done, planned = 2, 3  # epochs, each of as many steps
    steps = workflow.trainer.state.epoch_length
    expected = one_cycle(optimizer, planned * steps).lr_lambdas[0](done * steps)
    assert rates == pytest.approx([optimizer.defaults["lr"] * expected])
    assert torch.load(folder / "checkpoint.pt", weights_only=True)["epoch"] == 3
    assert {"loss", "images_per_second", "lr"} <= workflow.trainer.state.metrics.keys()
    assert from_engine(["loss"], first=True)(workflow.trainer.state.output) > 0  # as --tracking mlflow asks for it


def test_a_training_that_validation_finds_no_better_ends_and_stays_ended(trained, configs, tmp_path, monkeypatch):
    _, options = trained
    found = iter([0.5, 0.9, 0.1, 0.9, 0.95])
    monkeypatch.setattr(ROCAUC, "compute", lambda _: next(found))
    options = {**options, "models_dir": str(tmp_path), "epochs": 9, "patience": 2}

    def train():
        start(configs, "train", "train", **options).run()
        return torch.load(tmp_path / ARM / "checkpoint.pt", weights_only=True)

    ended = train()
    assert (ended["epoch"], ended["best_metric_epoch"]) == (4, 2)
    again = train()
    assert again["epoch"] == 4
    assert all(torch.equal(ended["network"][name], again["network"][name]) for name in ended["network"])


def test_the_threshold_is_that_of_the_best_epochs_validation(trained, configs, tmp_path):
    folder, _ = trained
    state = torch.load(folder / ARM / "checkpoint.pt", weights_only=True)
    assert float(read_header(folder / ARM / "model.safetensors")["threshold"]) == state["threshold"]
    assert threshold_of(folder / ARM / "model.safetensors") == state["threshold"] != 0.5
    assert threshold_of(folder / ARM / "model.safetensors", given=0.3) == 0.3


def test_the_authors_protocol_validates_on_the_test_cases_and_keeps_the_last_epoch(trained, configs, tmp_path):
    _, options = trained
    options = {**options, "models_dir": str(tmp_path), "epochs": 2, "val_interval": 1}
    workflow = start(configs, "train", "train", overlay="authors", **options)
    validated = [case["folder"] for case in workflow.evaluator.data_loader.dataset.data]
    assert validated == [f"{number:03d}" for number in range(14, 20)]
    workflow.run()
    last = torch.load(tmp_path / ARM / "checkpoint.pt", weights_only=True)["network"]
    kept = load_file(tmp_path / ARM / "model.safetensors")
    assert all(torch.equal(kept[name], last[name]) for name in last)
    assert threshold_of(tmp_path / ARM / "model.safetensors") == 0.5  # test cases choose none


def test_a_checkpoint_made_with_other_settings_is_refused(copy, configs, refused):
    folder, options = copy
    before = (folder / "checkpoint.pt").read_bytes()
    told = r"cases_digest was \w+, is \w+; lr was 0.001, is 0.5; seed was 0, is 1\. Give the values .* --resume false"
    with refused(rf"checkpoint\.pt .*: {told}"):
        start(configs, "train", "train", epochs=3, lr=0.5, seed=1, **options).run()
    assert (folder / "checkpoint.pt").read_bytes() == before


def test_a_truncated_checkpoint_is_named(copy, configs, refused):
    folder, options = copy
    path = folder / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:3000])
    with refused(rf"{ARM}/checkpoint\.pt cannot be read.*delete it, or start anew with --resume false"):
        start(configs, "train", "train", epochs=3, **options).run()


def test_a_step_that_is_not_finite_reaches_neither_weights_nor_running_statistics(trained, configs, tmp_path):
    _, options = trained
    workflow = start(configs, "train", "train", epochs=1, **{**options, "models_dir": str(tmp_path)})
    trainer = workflow.trainer
    before = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}

    def overflow():
        trainer.state.batch["image"] /= 0

    trainer.add_event_handler(Events.ITERATION_STARTED, overflow)
    workflow.run()
    assert all(torch.equal(before[name], tensor) for name, tensor in trainer.network.state_dict().items())
    assert torch.load(tmp_path / ARM / "checkpoint.pt", weights_only=True)["optimizer"]["state"] == {}


def test_weights_in_half_precision_are_the_whole_ones_rounded_and_are_read(trained, configs, real_root, tmp_path):
    """The same training; what it goes on from stays whole, so that more epochs are those of before."""
    folder, options = trained
    start(configs, "train", "train", epochs=2, export_half=True, **{**options, "models_dir": str(tmp_path)}).run()
    whole, half = (load_file(root / ARM / "model.safetensors") for root in (folder, tmp_path))
    assert all(torch.equal(half[name], whole[name].half()) for name in whole)
    headers = [read_header(root / ARM / "model.safetensors") for root in (folder, tmp_path)]
    assert headers[0] == headers[1]
    states = [torch.load(root / ARM / "checkpoint.pt", weights_only=True) for root in (folder, tmp_path)]
    assert all(torch.equal(states[0]["network"][name], states[1]["network"][name]) for name in whole)
    told = []
    for number, root in enumerate((folder, tmp_path)):
        out = tmp_path / str(number)
        common = {**TINY, "dataset_dir": str(real_root), "models_dir": str(root), "output_dir": str(out)}
        start(configs, "inference", "infer", saliency=0, **common).run()
        told.append(pd.read_csv(out / ARM / "predictions.csv")["probability"])
    assert told[0].tolist() == pytest.approx(told[1].tolist(), abs=2e-3)


def test_bf16_is_taken_on_the_cpu_too(trained, configs, real_root, tmp_path):
    """Probabilities nearly as in fp32, but not the same, and none rounded to bf16; weights learn other last digits."""
    folder, options = trained
    told = {}
    for amp in ("fp32", "bf16"):
        common = {**TINY, "dataset_dir": str(real_root), "models_dir": str(folder), "output_dir": str(tmp_path / amp)}
        start(configs, "inference", "infer", saliency=0, amp=amp, **common).run()
        told[amp] = pd.read_csv(tmp_path / amp / ARM / "predictions.csv")["probability"].tolist()
    assert told["bf16"] == pytest.approx(told["fp32"], abs=0.01)
    assert told["bf16"] != told["fp32"]
    assert any(torch.tensor(value).bfloat16().item() != pytest.approx(value, rel=1e-6) for value in told["bf16"])
    start(configs, "train", "train", epochs=1, amp="bf16", **{**options, "models_dir": str(tmp_path)}).run()
    state = torch.load(tmp_path / ARM / "checkpoint.pt", weights_only=True)
    assert all(weight.dtype == torch.float32 for weight in state["network"].values())


def test_the_demos_overlay_names_the_shipped_weights_and_no_others(configs, real_root, tmp_path, refused):
    """A folder of one's own is never answered by them."""
    parser = ConfigParser()
    parser.read_config([str(configs / f"{name}.yaml") for name in ("inference", "demo")])
    parser["bundle_root"] = str(configs.parent)
    assert parser.get_parsed_content("model_file") == str(configs.parent / "models" / "demo_classifier.safetensors")
    for name in parser["channels"]:
        (tmp_path / "case").mkdir(exist_ok=True)
        shutil.copy(real_root / "000" / "axt2.nii.gz", tmp_path / "case" / f"{name}.nii.gz")
    options = {"bundle_root": str(configs.parent), "input": str(tmp_path), "models_dir": str(tmp_path)}
    files = [str(configs / f"{name}.yaml") for name in ("inference", "demo")]
    with refused("demo_classifier.safetensors: no weights there"):
        create_workflow(config_file=files, workflow_type="infer", logging_file=False, **options).run()


def test_inference_and_evaluate_judge_the_real_test_cases(trained, configs, real_root, tmp_path):
    folder, _ = trained
    common = {**TINY, "dataset_dir": str(real_root), "models_dir": str(folder), "output_dir": str(tmp_path)}
    workflow = start(configs, "inference", "infer", **common)
    assert workflow.check_properties() == []
    workflow.run()
    frame = pd.read_csv(tmp_path / ARM / "predictions.csv", dtype={"folder": str})
    assert frame["folder"].tolist() == [f"{number:03d}" for number in range(14, 20)]
    assert frame["label"].tolist() == [1, 1, 0, 0, 1, 1]
    assert frame["probability"].between(0, 1).all()
    start(configs, "evaluate", None, real=1, synthetic=1, output_dir=str(tmp_path)).run()
    assert json.loads((tmp_path / ARM / "metrics.json").read_text())["accuracy"]["n"] == 6


def test_any_folder_of_volumes_is_predicted_without_labels(trained, configs, real_root, tmp_path):
    folder, _ = trained
    for number in (0, 3):
        shutil.copy(real_root / f"{number:03d}" / "axt2.nii.gz", tmp_path / f"exam {number}.nii.gz")
    common = {**TINY, "models_dir": str(folder), "output_dir": str(tmp_path / "out"), "dataset_dir": "nowhere"}
    start(configs, "inference", "infer", input=str(tmp_path), threshold=0.0, **common).run()
    written = sorted(path.name for path in (tmp_path / "out" / ARM).iterdir())
    assert written == ["predictions.csv", "predictions.xlsx", "saliency.png"]
    frame = pd.read_csv(tmp_path / "out" / ARM / "predictions.csv")
    assert frame["folder"].tolist() == ["exam 0", "exam 3"]
    assert frame["label"].isna().all()
    assert frame["prediction"].tolist() == [1, 1]


def test_missing_weights_and_predictions_say_what_to_do(configs, real_root, tmp_path):
    options = {**TINY, "dataset_dir": str(real_root), "models_dir": str(tmp_path), "output_dir": str(tmp_path)}
    with pytest.raises(RuntimeError) as error:
        start(configs, "inference", "infer", **options).run()
    assert isinstance(cause(error.value), UserError)
    assert "train this arm first" in str(cause(error.value))
    with pytest.raises(RuntimeError) as error:
        start(configs, "evaluate", None, real=1, synthetic=1, output_dir=str(tmp_path)).run()
    assert "run the classifier bundle's inference first" in str(cause(error.value))
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_arm_is_told_before_anything_is_made(configs, real_root, tmp_path):
    with pytest.raises(RuntimeError) as error:
        start(configs, "train", "train", dataset_dir=str(real_root), synthetic_labels=1, models_dir=str(tmp_path))
    assert "without synthetic volumes" in str(cause(error.value))
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_network_are_refused(trained):
    folder, _ = trained
    with pytest.raises(UserError, match="no weights of this network"):
        load_weights(torch.nn.Linear(2, 2), folder / ARM / "model.safetensors")


def test_weights_of_other_channels_or_another_grid_are_refused(trained, configs, real_root, tmp_path, refused):
    folder, _ = trained
    file = folder / ARM / "model.safetensors"
    seen = {"channels": ["axt2"], "centre": "foreground", "spacing": [5, 5, 10], "spatial_size": [32, 32, 32]}
    assert {name: json.loads(read_header(file)[name]) for name in seen} == seen
    shutil.copytree(real_root / "000", tmp_path / "volumes" / "000")
    shutil.copy(real_root / "000" / "axt2.nii.gz", tmp_path / "volumes" / "000" / "adc.nii.gz")
    options = {**TINY, "models_dir": str(folder), "output_dir": str(tmp_path), "input": str(tmp_path / "volumes")}
    with refused(r'was trained with channels \["axt2"\], not \["adc", "axt2"\].*the values of its training'):
        start(configs, "inference", "infer", **{**options, "channels": ["adc", "axt2"]}).run()
    with refused(r"spatial_size \[32, 32, 32\], not \[32, 32, 16\]"):
        start(configs, "inference", "infer", **{**options, "spatial_size": [32, 32, 16]}).run()


# ---- fine-tuning -----------------------------------------------------------------------------------------------------


def fine_tune(configs, weights, folder, epochs=1, **options):
    """A training on the half of the real volumes that starts from weights; the trainer, before it has run."""
    files = [str(configs / f"{name}.yaml") for name in ("train", "demo", "finetune")]
    values = {"synthetic": 0, "synthetic_labels": 0, "real_fraction": 0.5, "initial_weights": str(weights)}
    values |= {"bundle_root": str(configs.parent), "models_dir": str(folder), "epochs": epochs}
    return create_workflow(config_file=files, workflow_type="train", logging_file=False, **(options | values))


def test_fine_tuning_starts_from_the_weights_and_says_what_it_saw(trained, configs, tmp_path):
    folder, options = trained
    weights = folder / ARM / "model.safetensors"
    options = {name: value for name, value in options.items() if name != "models_dir"}
    workflow = fine_tune(configs, weights, tmp_path, **options)
    started, expected = workflow.trainer.network.state_dict(), load_file(weights)
    assert all(torch.equal(started[name], expected[name]) for name in expected)
    assert workflow.trainer.network.training
    assert workflow.trainer.optimizer.defaults["lr"] < 1e-3
    workflow.run()
    written = tmp_path / "ds_enb0_r1_s0_l0" / "model.safetensors"
    assert any(not torch.equal(load_file(written)[name], expected[name]) for name in expected)
    told = {name: json.loads(read_header(written)[name]) for name in ("arm", "real_fraction", "initial_weights")}
    assert told == {"arm": "ds_enb0_r1_s0_l0", "real_fraction": 0.5, "initial_weights": file_identity(weights)}
    before = {name: json.loads(read_header(weights)[name]) for name in ("arm", "real_fraction", "initial_weights")}
    assert before == {"arm": ARM, "real_fraction": 1.0, "initial_weights": None}


def test_fine_tuning_goes_on_from_its_own_checkpoint_and_from_no_others(trained, configs, tmp_path, refused):
    folder, options = trained
    weights = folder / ARM / "model.safetensors"
    options = {name: value for name, value in options.items() if name != "models_dir"}
    fine_tune(configs, weights, tmp_path, **options).run()
    fine_tune(configs, weights, tmp_path, epochs=2, **options).run()
    arm = tmp_path / "ds_enb0_r1_s0_l0"
    with refused(r"initial_weights was \S+, is \S+"):
        fine_tune(configs, arm / "model.safetensors", tmp_path, epochs=3, **options).run()


def test_weights_of_other_channels_or_another_network_are_no_start(trained, configs, tmp_path, refused):
    folder, _ = trained
    network, weights = lesion_net(widths=(16, 32), strides=(2, 2)), folder / ARM / "model.safetensors"
    cases, size = [{"label": [0]}, {"label": [1]}], [32, 32, 32]
    start_network(network, cases, size, initial_weights=weights)
    with refused(r'was trained with channels \["axt2"\], not \["adc"\]'):
        start_network(network, cases, size, channels=["adc"], initial_weights=weights)
    with refused("holds no weights of this network"):
        start_network(lesion_net(), cases, size, initial_weights=weights)
    (tmp_path / "other.safetensors").write_bytes(b"no weights")
    with refused("damaged or no safetensors file"):
        start_network(network, cases, size, initial_weights=tmp_path / "other.safetensors")


def test_metadata_fits_the_schema(repo_root, configs, tmp_path):
    schema = repo_root.parent / "shared/schema/meta_schema_20240725.json"
    if not schema.is_file():
        pytest.skip(f"no schema at {schema}")
    local = tmp_path / "schema.json"
    local.write_bytes(schema.read_bytes())
    verify_metadata(meta_file=str(configs / "metadata.json"), filepath=str(local))
    assert json.loads((configs / "metadata.json").read_text())["schema"].endswith("meta_schema_20240725.json")


def test_the_network_is_what_the_metadata_says(configs, capsys):
    """On the smallest size that the network takes; channels and type do not depend on it."""
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.yaml"),
        device="cpu",
        **{"_meta_#network_data_format#inputs#image#spatial_shape": [32, 32, 32]},
    )
    assert "Error" not in capsys.readouterr().err
