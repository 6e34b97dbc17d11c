"""The train workflow as a user runs it, on tiny latents."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from ignite.engine import Events
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi
from monai.bundle import ConfigParser, create_workflow, verify_metadata, verify_net_in_out
from safetensors import SafetensorError
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import tiny
from scripts.data.latents import latent_path, read_latent, write_latent
from scripts.ldm.loss import NOISE_LOSSES
from scripts.ldm.recipe import make_recipe
from scripts.ldm.sample_pictures import SamplePictures
from scripts.networks.ccella import CCELLA
from scripts.networks.weights import load_weights, read_header
from scripts.reports.embeddings import read_embedding, write_embedding
from scripts.vae.network import maisi_vae, save_vae, vae_fingerprint

SCHEMA = Path(__file__).resolve().parents[3] / "shared" / "schema" / "meta_schema_20240725.json"
NETWORK = tiny.CCELLA_DEF | {"input_dim": 6}  # as wide as the embeddings of `data_root`
OPTIONS = {
    "network_def": NETWORK, "epochs": 4, "batch_size": 4, "lr": 1e-2, "lr_warmup": 0, "val_fraction": 0.3,
    "val_interval": 2, "checkpoint_minutes": 0,
}  # fmt: skip

EVEN = {"timestep_shift": 1.0, "timestep_std": "null"}  # timesteps, so that every quarter of them has some


@pytest.fixture
def bundle(repo_root) -> Path:
    return repo_root / "bundles" / "ccella_ldm"


@pytest.fixture
def build(bundle, data_root):
    """Builds the workflow that trains into a folder."""

    def workflow(folder: Path, *overlays: str, **options):
        return create_workflow(
            config_file=[str(bundle / "configs" / name) for name in ("train.yaml", *overlays)],
            workflow_type="train",
            logging_file=False,
            bundle_root=str(bundle),
            ckpt_dir=str(folder),
            **{"dataset_dir": str(data_root), **OPTIONS, **options},
        )

    return workflow


def checkpoint(folder: Path) -> dict:
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def assert_same(one, other) -> None:
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


def command(bundle: Path, data_root: Path, folder: Path, tmp_path: Path, *program: str, **options) -> list[str]:
    overlay = tmp_path / "options.json"
    overlay.write_text(json.dumps(OPTIONS | options))
    files = [str(bundle / "configs" / "train.yaml"), str(overlay)]
    return [
        sys.executable, *program, "run", "--config_file", str(files), "--bundle_root", str(bundle),
        "--dataset_dir", str(data_root), "--ckpt_dir", str(folder),
    ]  # fmt: skip


# ---- what comes out --------------------------------------------------------------------------------------------------


def test_training_writes_weights_that_say_how_they_were_made(build, tmp_path):
    build(tmp_path / "run", drop_both=0.2).run()
    network = CCELLA(**tiny.CCELLA | {"input_dim": 6})
    weights = load_weights(tmp_path / "run" / "model.safetensors", network)
    state = checkpoint(tmp_path / "run")
    assert asdict(weights.scale) == state["latent_scale"]
    assert weights.scale.factor == pytest.approx([1] * 4, abs=0.2)
    assert len(set(weights.scale.mean)) == 4
    assert (weights.objective, weights.prediction) == ("rflow", "velocity")
    assert [weights.meta[name] for name in ("noise_loss", "timestep_shift", "timestep_std")] == ["l2", 3.0, 1.0]
    assert weights.meta["trained_with_dropout"] == {"class": 0.05, "both": 0.2}
    assert weights.meta["vae_fingerprint"] == "vae"
    assert weights.meta["encoder_fingerprint"] == "encoder"
    assert weights.meta["latent_shape"] == [4, 4, 4, 4]
    assert weights.meta["spacing"] == [0.5, 0.5, 0.5]
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, state["average"][f"module.{name}"])


def test_losses_by_timestep_class_accuracy_and_speed_are_watched(build, tmp_path):
    workflow = build(tmp_path / "run", **EVEN)
    workflow.run()
    figures, held_out = workflow.trainer.state.metrics, workflow.evaluator.state.metrics
    assert {"loss", "noise_loss", "class_loss", "class_accuracy", "lr", "images_per_second"} <= figures.keys()
    parts = [held_out[f"val_loss_t{low:03d}-{low + 250}"] for low in (0, 250, 500, 750)]
    assert held_out["val_loss"] == pytest.approx(sum(parts) / 4, rel=1e-4)
    assert 0 <= held_out["val_class_accuracy"] <= 1
    assert list((tmp_path / "run" / "logs").iterdir())


def test_mlflow_has_the_same_figures(bundle, data_root, tmp_path, repo_root, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    given = command(bundle, data_root, tmp_path / "run", tmp_path, "-m", "monai.bundle", epochs=2, **EVEN)
    subprocess.run([*given, "--tracking", "mlflow"], cwd=repo_root, check=True)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'run' / 'mlruns.db'}")
    (experiment,) = (one for one in client.search_experiments() if one.name == "monai_experiment")
    (run,) = client.search_runs([experiment.experiment_id])
    named = {"loss", "noise_loss", "class_accuracy", "images_per_second", "lr", "val_loss", "val_loss_t000-250"}
    assert named <= run.data.metrics.keys()
    assert {point.step for point in client.get_metric_history(run.info.run_id, "loss")} == {1, 2}


def vae_options(tmp_path: Path) -> tuple[dict, str]:
    torch.manual_seed(0)
    vae = maisi_vae(**tiny.VAE)
    save_vae(vae, tmp_path / "vae.safetensors")
    return {"vae_file": str(tmp_path / "vae.safetensors"), "vae_def": tiny.VAE_DEF}, vae_fingerprint(vae)


def latents_of_a_vae(data_root: Path, tmp_path: Path) -> dict:
    """Puts a VAE's fingerprint into all latents; the options that name it."""
    options, fingerprint = vae_options(tmp_path)
    for path in (data_root / "latents").rglob("*.safetensors"):
        latent = read_latent(path)
        write_latent(path, latent.mu, latent.sigma, fingerprint=fingerprint, affine=latent.affine, shape=latent.shape)
    return options


@pytest.mark.parametrize("average", [0, 100])
def test_held_out_reports_are_sampled_into_pictures_without_changing_the_run(build, data_root, tmp_path, average):
    options = latents_of_a_vae(data_root, tmp_path)
    build(tmp_path / "plain", epochs=2, ema_half_life=average).run()
    build(tmp_path / "run", "pictures.yaml", epochs=2, ema_half_life=average, sample_every=1, **options).run()
    assert_same(checkpoint(tmp_path / "plain"), checkpoint(tmp_path / "run"))
    log = EventAccumulator(str(tmp_path / "run" / "logs"), size_guidance={"images": 0}).Reload()
    assert log.Tags()["images"] == ["samples/axt2"]
    shown = log.Images("samples/axt2")
    assert [image.step for image in shown] == [1, 2]
    assert {(image.width, image.height) for image in shown} == {(2 * 16, 16)}  # two held-out cases


def test_each_channel_of_three_sequences_has_a_scale_from_training_to_pictures_and_going_on(build, data_root, tmp_path):
    options, fingerprint = vae_options(tmp_path)
    for path in list((data_root / "latents").rglob("*.safetensors")):
        latent = read_latent(path)
        about = {"fingerprint": fingerprint, "affine": latent.affine, "shape": latent.shape}
        for spread, name in enumerate(("axt2", "b1600", "adc"), start=1):
            target = latent_path(data_root / "latents", path.parent.name, name)
            write_latent(target, spread * latent.mu, latent.sigma, **about)
    network = NETWORK | {"in_channels": 12, "out_channels": 12}
    options |= {"channels": ["axt2", "b1600", "adc"], "network_def": network, "sample_every": 1}
    for epochs in (1, 2):
        build(tmp_path / "run", "pictures.yaml", epochs=epochs, **options).run()
    header = read_header(tmp_path / "run" / "model.safetensors")
    assert header.meta["epoch"] == 2
    assert asdict(header.scale) == checkpoint(tmp_path / "run")["latent_scale"]
    first, second, third = (header.scale.factor[n : n + 4] for n in (0, 4, 8))
    assert second == pytest.approx([one / 2 for one in first], rel=0.05)
    assert third == pytest.approx([one / 3 for one in first], rel=0.05)
    assert header.scale.mean[8:] == pytest.approx([3 * mean for mean in header.scale.mean[:4]], abs=0.1)
    log = EventAccumulator(str(tmp_path / "run" / "logs")).Reload()
    assert log.Tags()["images"] == ["samples/axt2", "samples/b1600", "samples/adc"]


def test_pictures_follow_the_schedule_of_inference(build, data_root, tmp_path):
    options = latents_of_a_vae(data_root, tmp_path)
    options |= {"objective": "rflow", "timestep_shift": 3.0, "epochs": 1, "sample_every": 1}
    workflow = build(tmp_path / "run", "pictures.yaml", **options)
    workflow.run()
    pictures = next(h for h in workflow.parser.get_parsed_content("train#handlers") if isinstance(h, SamplePictures))
    recipe = make_recipe(  # reads the shift from the weights' header
        model_file=tmp_path / "run" / "model.safetensors", vae_file=options["vae_file"], network_config={},
        channels=["axt2"], size=None, spacing=None, scheduler="dpmpp_2m", steps=20, guidance_report=1.0,
        guidance_class=1.0, guidance_interval=[0, 1000], amp="fp32", seed=0,
    )  # fmt: skip
    assert torch.equal(pictures.schedule.timesteps, recipe.schedule.timesteps)
    assert pictures.schedule.sigma == recipe.schedule.sigma


def test_pictures_need_held_out_cases_and_the_vae_of_the_latents(build, tmp_path, refused):
    options, _ = vae_options(tmp_path)
    with refused("no case is held out"):
        build(tmp_path / "run", "pictures.yaml", val_fraction=0, **options).run()
    with refused("the latents were made by VAE vae"):
        build(tmp_path / "run", "pictures.yaml", **options).run()


def test_wrong_options_of_pictures_are_told_at_once_before_anything_is_read(build, tmp_path, refused):
    wrong = {"sample_every": 0, "sample_count": 0, "sample_guidance": -1}
    with refused("options: 3 problems"):
        build(tmp_path / "run", "pictures.yaml", dataset_dir=str(tmp_path / "nowhere"), **wrong)
    with refused(r"vae\.pt are missing"):
        build(tmp_path / "run", "pictures.yaml", vae_file=str(tmp_path / "vae.pt"))  # not run, so no network is built


def test_guided_pictures_need_the_empty_reports_embedding(build, data_root, tmp_path, refused):
    options = latents_of_a_vae(data_root, tmp_path)
    path = data_root / "train_merged.json"
    cases = [case | {"text": "embeddings/0.safetensors", "text_isnull": 0} for case in json.loads(path.read_text())]
    path.write_text(json.dumps(cases))
    (data_root / "embeddings" / "empty.safetensors").unlink()
    never = {"drop_class": 0, "drop_both": 0}
    with refused("empty report"):
        build(tmp_path / "run", "pictures.yaml", sample_guidance=2.0, **never, **options)
    build(tmp_path / "run", "pictures.yaml", **never, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"variant": "MAISI", "timestep_std": "null"},
        {"objective": "ddpm", "min_snr_gamma": 5, **EVEN},
        {"lr_split": True, "ema_half_life": 0, "latent_scale": "single"},
        {"focus_mask": "centre", "focus_weight": 4},
    ],
)
def test_other_objectives_variants_and_options_train(build, tmp_path, options):
    build(tmp_path / "run", epochs=1, **options).run()
    assert checkpoint(tmp_path / "run")["epoch"] == 1


def test_the_authors_recipe_is_an_overlay(build, tmp_path):
    workflow = build(tmp_path / "run", "authors.yaml", amp="fp32", epochs=1, val_fraction=0)
    workflow.run()
    assert "average" not in checkpoint(tmp_path / "run")
    assert not workflow.train_dataset.fresh_noise
    prepare = workflow.parser.get_parsed_content("prepare_batch")
    assert (prepare.objective, prepare.prediction, prepare.min_snr_gamma) == ("ddpm", "noise", None)
    assert (prepare.timestep_shift, prepare.timestep_std) == (1, None)
    latents = torch.stack([read_latent(case.latents[0]).mu for case in workflow.train_dataset.cases])
    assert prepare.scale.factor == pytest.approx((1 / latents.std().item(),), rel=0.02)  # mu, not the draw
    assert prepare.scale.mean == (0.0,)
    loss = workflow.parser.get_parsed_content("train#loss")
    assert (loss.joint.noise_loss, loss.joint.class_weight) == (NOISE_LOSSES["l1"], 1e-4)


def test_a_run_begun_with_the_defaults_of_before_is_refused_in_words(build, tmp_path, refused):
    """Its settings name no prediction, no latent_scale and a moving average by steps."""
    build(tmp_path / "run", epochs=1).run()
    state = checkpoint(tmp_path / "run")
    del state["settings"]["latent_scale"], state["settings"]["ema_half_life"]
    torch.save(state | {"settings": state["settings"] | {"ema_decay": 0.999}}, tmp_path / "run" / "checkpoint.pt")
    with refused(r"ema_decay was 0\.999, is None; .*latent_scale was None, is channel.*resume false"):
        build(tmp_path / "run", epochs=2).run()


@pytest.mark.parametrize(("processes", "batch_size"), [(None, 8), ("2", 16)])
def test_the_authors_recipe_is_theirs_whatever_stands_before_it(bundle, monkeypatch, processes, batch_size):
    if processes is None:
        monkeypatch.delenv("WORLD_SIZE", raising=False)
    else:
        monkeypatch.setenv("WORLD_SIZE", processes)
    parser = ConfigParser()
    parser.read_config([str(bundle / "configs" / f"{name}.yaml") for name in ("train", "demo", "authors")])
    theirs = {
        "objective": "ddpm", "prediction": "noise", "noise_loss": "l1", "timestep_shift": 1, "timestep_std": None,
        "min_snr_gamma": None, "epochs": 400, "batch_size": batch_size, "latent_scale": "single",
        "scale_cases": batch_size,
        "accumulate": 1, "lr": 1e-4, "lr_power": 2, "lr_warmup": 0, "lr_split": False, "gradient_clip": 1,
        "ema_half_life": 0, "val_fraction": 0, "fresh_noise": False, "drop_class": 0, "drop_both": 0, "focus_weight": 1,
        "class_weight": None, "amp": "fp16",
    }  # fmt: skip
    assert {name: parser.get_parsed_content(name) for name in theirs} == theirs


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_half_precision_learns_what_full_precision_learns(build, wide_root, tmp_path, amp):
    """The weights move alike: by the correlation of what two epochs of one-case steps changed."""
    options = {"dataset_dir": str(wide_root), "epochs": 2, "batch_size": 1, "lr": 1e-3, "ema_half_life": 0}
    build(tmp_path / "start", **options | {"lr": 0.0}).run()
    build(tmp_path / "full", **options).run()
    build(tmp_path / "half", **options, amp=amp).run()
    start, full, half = (
        torch.cat([tensor.flatten() for tensor in checkpoint(tmp_path / name)["network"].values()])
        for name in ("start", "full", "half")
    )
    assert torch.corrcoef(torch.stack([full - start, half - start]))[0, 1] > 0.7
    assert not torch.equal(full, half)
    scaler = checkpoint(tmp_path / "half")["scaler"]
    assert scaler["scale"] > 1 if amp == "fp16" else scaler is None


def test_activation_checkpointing_changes_no_weight(build, tmp_path):
    for name, switch in (("kept", "false"), ("computed_again", "true")):
        build(tmp_path / name, epochs=2, activation_checkpointing=switch).run()
    assert_same(checkpoint(tmp_path / "kept"), checkpoint(tmp_path / "computed_again"))


@pytest.mark.parametrize(("backend", "exact"), [("eager", True), ("aot_eager", False)])
def test_a_compiled_unet_learns_the_same_under_the_same_names(build, tmp_path, compiling, backend, exact):
    """One graph for each size of a step, of three cases and of two, without breaks; the adapter's reports vary."""
    build(tmp_path / "plain", epochs=3).run()
    counters = compiling(backend)
    build(tmp_path / "compiled", epochs=3, compile=True).run()
    assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]
    plain, compiled = (checkpoint(tmp_path / name) for name in ("plain", "compiled"))
    if exact:
        assert_same(plain, compiled)
    assert plain["network"].keys() == compiled["network"].keys()
    for name, weight in plain["network"].items():
        torch.testing.assert_close(compiled["network"][name], weight, rtol=1e-3, atol=1e-4)


def test_compiling_is_refused_on_the_cpu_before_the_network_is_built(build, tmp_path, refused):
    with refused("compile is true on the CPU"):
        build(tmp_path / "run", compile="true", network_def=NETWORK | {"_target_": "scripts.nothing.CannotBeBuilt"})


def test_a_frozen_unet_from_maisi_keeps_its_weights_while_the_adapter_learns(build, tmp_path):
    torch.manual_seed(1)
    theirs = DiffusionModelUNetMaisi(
        spatial_dims=3, in_channels=4, out_channels=4, include_spacing_input=True, **tiny.UNET
    ).state_dict()
    torch.save({"unet_state_dict": theirs, "scale_factor": 1.0}, tmp_path / "maisi.pt")
    options = {"pretrained_unet": str(tmp_path / "maisi.pt"), "freeze_unet": "true", "epochs": 1}
    build(tmp_path / "run", **options).run()
    build(tmp_path / "run", **options | {"epochs": 2}).run()  # goes on
    build(tmp_path / "start", **options, lr=0.0).run()
    learned, start = (checkpoint(tmp_path / name)["network"] for name in ("run", "start"))
    # The attention to a report is new, and so are the columns of the time embedding for the class.
    copied = [name for name in theirs if f"unet.{name}" in learned and "time_emb_proj" not in name]
    assert len(copied) > 0.7 * len(theirs)
    assert all(torch.equal(learned[f"unet.{name}"], theirs[name]) for name in copied)
    assert all((learned[name] != start[name]).any() for name in learned if name.startswith(("ella.", "unet.pirads")))


def test_passes_do_not_change_what_is_learned(build, tmp_path):
    build(tmp_path / "whole", epochs=2, batch_size=5).run()
    build(tmp_path / "passes", epochs=2, batch_size=5, accumulate=2).run()
    whole, passes = (checkpoint(tmp_path / name)["network"] for name in ("whole", "passes"))
    for name in whole:
        assert torch.allclose(whole[name], passes[name], atol=2e-5), name


@pytest.mark.parametrize("cache", [True, False])
def test_loading_processes_change_no_weight(build, tmp_path, cache):
    for processes in (0, 1, 3):
        build(tmp_path / str(processes), epochs=3, num_workers=processes, cache=cache).run()
        assert_same(checkpoint(tmp_path / "0"), checkpoint(tmp_path / str(processes)))


# ---- going on --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"amp": "bf16"}, {"amp": "fp16"}])
def test_an_interrupted_run_ends_bit_identical_to_an_uninterrupted_one(build, wide_root, tmp_path, options):
    options = options | ({"dataset_dir": str(wide_root)} if "amp" in options else {})
    build(tmp_path / "whole", **options).run()
    workflow = build(tmp_path / "parts", **options)

    def interrupt(engine):
        raise RuntimeError("stop here")

    # In the middle of the third epoch; the second one's checkpoint is the last.
    passes = 2 * len(workflow.trainer.data_loader) + 1
    workflow.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=passes), interrupt)
    with pytest.raises(Exception, match="stop here"):
        workflow.trainer.run()
    assert checkpoint(tmp_path / "parts")["epoch"] == 2
    torch.manual_seed(99)
    build(tmp_path / "parts", **options).run()
    assert_same(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts"))


def test_a_checkpoint_holds_what_it_always_held(build, tmp_path):
    """Running trainings go on with newer code."""
    build(tmp_path / "run", epochs=1).run()
    names = {"network", "optimizer", "schedule", "average", "epoch", "latent_scale", "scaler", "settings"}
    assert checkpoint(tmp_path / "run").keys() == names


def test_a_run_goes_on_with_latents_and_embeddings_that_were_made_again(build, data_root, tmp_path, refused):
    """Equal tensors under other bytes; a latent of other numbers is other data."""
    build(tmp_path / "run", epochs=1).run()
    embedding = data_root / "embeddings" / "0.safetensors"
    write_embedding(embedding, read_embedding(embedding), "encoder")
    path = data_root / "latents" / "case0" / "axt2_latent.safetensors"
    latent = read_latent(path)
    told = {"fingerprint": "vae", "affine": latent.affine, "shape": latent.shape}
    write_latent(path, latent.mu, latent.sigma, **told, made_from="encode vae bf16 contents_0")
    build(tmp_path / "run", epochs=2).run()
    assert checkpoint(tmp_path / "run")["epoch"] == 2
    write_latent(path, latent.mu + 1, latent.sigma, **told)
    with refused(r"cases_digest was \w+, is \w+"):
        build(tmp_path / "run", epochs=3).run()


def test_a_finished_run_given_more_epochs_follows_the_longer_schedule(build, tmp_path):
    build(tmp_path / "run", epochs=1).run()
    workflow = build(tmp_path / "run", epochs=2)
    optimizer, rates = workflow.trainer.optimizer, []
    workflow.trainer.add_event_handler(Events.ITERATION_STARTED, lambda: rates.append(optimizer.param_groups[0]["lr"]))
    workflow.run()
    assert checkpoint(tmp_path / "run")["epoch"] == 2
    steps = len(rates)
    assert rates == pytest.approx([1e-2 * (1 - n / (2 * steps)) ** 2 for n in range(steps, 2 * steps)])


def test_a_checkpoint_of_another_run_is_refused_and_can_be_replaced(build, tmp_path, refused):
    build(tmp_path / "run", epochs=1).run()
    with refused(r"seed was 0, is 1.*resume false"):
        build(tmp_path / "run", epochs=2, seed=1).run()
    # As Fire hands `--resume false` over.
    build(tmp_path / "run", epochs=1, seed=1, resume="false").run()
    assert checkpoint(tmp_path / "run")["settings"]["seed"] == 1


@pytest.mark.parametrize(
    ("writer", "error"),
    [  # what each of them raised when it wrote into a full file system
        ("torch.save", RuntimeError("[enforce fail at inline_container.cc:672]")),
        ("scripts.common.tensors.save_file", SafetensorError("I/O error: No space left on device (os error 28)")),
    ],
)
def test_a_full_disk_leaves_the_last_checkpoint_and_a_clear_error(build, tmp_path, monkeypatch, writer, error, refused):
    build(tmp_path / "run", epochs=1).run()
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}

    def full(*args, **kwargs):
        raise error

    monkeypatch.setattr(writer, full)
    with refused(r"GiB are free there.*checkpoint of epoch 1 is intact; make room"):
        build(tmp_path / "run", epochs=2).run()
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()} == before


def test_a_diverging_run_stops_names_the_cases_and_keeps_its_last_checkpoint(build, tmp_path, refused):
    """One step an epoch: the first goes too far, and none after it reaches the weights."""
    build(tmp_path / "first", batch_size=7, lr=1e36, epochs=1, lr_power=0.0).run()
    with refused(r"the loss is (nan|inf) in epoch 6.* cases case\d.*5 steps in a row.*last checkpoint is intact"):
        build(tmp_path / "run", batch_size=7, lr=1e36, epochs=8, lr_power=0.0).run()
    first, last = checkpoint(tmp_path / "first"), checkpoint(tmp_path / "run")
    assert last["epoch"] == 5
    for name in ("network", "optimizer", "average", "schedule"):
        assert_same(first[name], last[name])


def test_a_gradient_that_explodes_in_an_epochs_last_step_does_not_reach_its_checkpoint(build, tmp_path):
    """The loss is finite: without a look at the gradient, broken weights would replace the good checkpoint."""
    workflow = build(tmp_path / "run", batch_size=7, epochs=2)
    trainer = workflow.trainer
    weight = next(trainer.network.parameters())
    weight.register_hook(lambda gradient: gradient * (torch.nan if trainer.state.epoch == 2 else 1))
    workflow.run()
    state = checkpoint(tmp_path / "run")
    assert (state["epoch"], state["schedule"]["last_epoch"]) == (2, 1)
    assert all(tensor.isfinite().all() for tensor in state["network"].values())


def test_a_broken_checkpoint_is_named(build, tmp_path, refused):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"broken")
    with refused(r"checkpoint\.pt cannot be read.*resume false"):
        build(tmp_path / "run").run()


# `python -m monai.bundle`, with a process that ends at once, as by a power cut, at a moment of the second checkpoint.
KILLED = """
import os, pathlib, runpy, signal, torch

MOMENT = {moment!r}

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def save(state, path, kept=torch.save):
    kept(state, path)
    if MOMENT == "half of it is written" and state["epoch"] == 2:
        os.truncate(path, os.path.getsize(path) // 2)
        die()

def replace(self, target, kept=pathlib.Path.replace):
    if MOMENT == "before it gets its name" and target.name == "checkpoint.pt" and target.exists():
        die()
    return kept(self, target)

torch.save, pathlib.Path.replace = save, replace
runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
"""


def start(command: list[str], repo_root: Path) -> None:
    """Run to the end, which may be any; judged by what was written.

    Nothing waits for what is printed: a loading process that was starting when its parent was killed lives on.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(command, cwd=repo_root, check=False, timeout=600, env=environment, **quiet)


@pytest.mark.parametrize("moment", ["half of it is written", "before it gets its name"])
def test_a_run_killed_while_it_writes_a_checkpoint_ends_bit_identical(
    build, bundle, data_root, tmp_path, repo_root, moment
):
    build(tmp_path / "whole").run()
    (tmp_path / "killed.py").write_text(KILLED.format(moment=moment))
    start(command(bundle, data_root, tmp_path / "run", tmp_path, str(tmp_path / "killed.py")), repo_root)
    assert checkpoint(tmp_path / "run")["epoch"] == 1
    assert list((tmp_path / "run").glob(".part-*"))
    build(tmp_path / "run").run()
    assert_same(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "run"))
    assert not list((tmp_path / "run").glob(".part-*"))


def test_a_killed_run_goes_on(build, bundle, data_root, tmp_path, repo_root):
    build(tmp_path / "whole", epochs=60).run()
    process = subprocess.Popen(
        command(bundle, data_root, tmp_path / "killed", tmp_path, "-m", "monai.bundle", epochs=60),
        cwd=repo_root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )  # fmt: skip
    while not (tmp_path / "killed" / "checkpoint.pt").is_file() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoint(tmp_path / "killed")["epoch"] < 60
    build(tmp_path / "killed", epochs=60).run()
    assert_same(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "killed"))
    assert not list((tmp_path / "killed").glob(".part-*"))


def test_two_processes_learn_what_one_learns_and_go_on_bit_by_bit(build, bundle, data_root, tmp_path, repo_root):
    """Each in two passes a step and with a loading process; then killed while the second checkpoint is written."""
    options = {"epochs": 2, "batch_size": 5}
    build(tmp_path / "one", **options).run()
    (tmp_path / "killed.py").write_text(KILLED.format(moment="half of it is written"))
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    options |= {"accumulate": 2, "num_workers": 1}
    module = ("-m", "monai.bundle")
    for name, program in (("two", module), ("parts", (str(tmp_path / "killed.py"),)), ("parts", module)):
        start(command(bundle, data_root, tmp_path / name, tmp_path, *launcher, *program, **options), repo_root)
        assert checkpoint(tmp_path / name)["epoch"] == (2 if program == module else 1)
    one, two = checkpoint(tmp_path / "one"), checkpoint(tmp_path / "two")
    assert two["latent_scale"] == one["latent_scale"]  # to the last bit
    for name in one["network"]:
        assert torch.allclose(one["network"][name], two["network"][name], atol=2e-5), name
    assert_same(two, checkpoint(tmp_path / "parts"))


# ---- bad input and the bundle's own checks ---------------------------------------------------------------------------


def test_bad_data_is_told_before_the_network_is_built(build, data_root, tmp_path, refused):
    (data_root / "latents" / "case2" / "axt2_latent.safetensors").unlink()
    network = NETWORK | {"_target_": "scripts.nothing.CannotBeBuilt"}
    with refused("case2"):
        build(tmp_path / "run", network_def=network)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("overlays", [(), ("multi_gpu_train.yaml",), ("variants/last.yaml",)])
def test_properties_are_complete(build, tmp_path, overlays):
    assert build(tmp_path / "run", *overlays, amp="fp32", batch_size=4).check_properties() == []


@pytest.mark.skipif(not SCHEMA.is_file(), reason=f"{SCHEMA} is not there")
def test_metadata_follows_the_schema(bundle):
    assert verify_metadata(meta_file=str(bundle / "configs" / "metadata.json"), filepath=str(SCHEMA)) is None


def test_network_fits_its_metadata(bundle):
    files = [str(bundle / "configs" / name) for name in ("inference.yaml", "demo.yaml", "t2w.yaml")]
    meta = str(bundle / "configs" / "metadata.json")
    assert verify_net_in_out("latent_denoiser", meta_file=meta, config_file=files, device="cpu", n=1) is None
