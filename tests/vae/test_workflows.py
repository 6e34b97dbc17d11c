"""The vae bundle's workflows on tiny data, as `monai.bundle` runs them."""

from __future__ import annotations

import errno
import gzip
import json
import logging
import os
import subprocess
import sys
import threading

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow, verify_metadata, verify_net_in_out
from monai.handlers import from_engine
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import tiny
from scripts.common import identity
from scripts.common.problems import UserError
from scripts.data.latents import read_latent, write_latent
from scripts.engine.loading import Draw
from scripts.engine.share import rank_share, validation_share
from scripts.vae.encode import encode
from scripts.vae.inference import make_dataset
from scripts.vae.losses import VAELoss
from scripts.vae.network import is_vae, load_vae, maisi_vae, save_vae, vae_fingerprint
from scripts.vae.training import epoch_loader
from scripts.vae.volumes import VolumeDataset, list_volumes, split, vary


@pytest.fixture
def workflow(repo_root, data_root):
    """Makes a workflow of one of the bundle's configs, on the tiny data and network."""
    bundle = repo_root / "bundles" / "vae"

    def make(name: str, **overrides):
        return ConfigWorkflow(
            config_file=str(bundle / "configs" / f"{name}.yaml"),
            meta_file=str(bundle / "configs" / "metadata.json"),
            logging_file=False,
            workflow_type="train" if name == "train" else "inference",
            **({"bundle_root": str(bundle), "dataset_dir": str(data_root), "network_def": tiny.VAE_DEF} | overrides),
        )

    return make


def run(workflow) -> None:
    workflow.initialize()
    workflow.run()
    workflow.finalize()


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    network = maisi_vae(**tiny.VAE)
    save_vae(network, tmp_path / "vae.safetensors")
    return str(tmp_path / "vae.safetensors"), vae_fingerprint(network)


TRAIN = {
    "epochs": 2, "batch_size": 1, "patch": [8, 8, 8], "lr": 1e-3, "val_cases": 1, "val_interval": 2,
    "checkpoint_minutes": 0, "adversarial_weight": 0, "ema_half_life": 0, "augment_intensity": 0,
}  # fmt: skip


# ---- training --------------------------------------------------------------------------------------------------------


def checkpoint(folder) -> dict:
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def test_a_killed_training_ends_as_an_uninterrupted_one(workflow, tmp_path):
    run(workflow("train", model_dir=str(tmp_path / "whole"), **TRAIN))
    killed = workflow("train", model_dir=str(tmp_path / "parts"), **TRAIN)
    killed.initialize()

    def die():
        raise KeyboardInterrupt

    # In the middle of the second epoch; the first one's checkpoint is the last.
    killed.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=5), die)
    with pytest.raises(KeyboardInterrupt):
        killed.run()
    assert checkpoint(tmp_path / "parts")["epoch"] == 1
    torch.manual_seed(99)
    run(workflow("train", model_dir=str(tmp_path / "parts"), **TRAIN))
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    whole, parts = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts")
    assert all(torch.equal(whole["network"][name], parts["network"][name]) for name in whole["network"])
    for number, moments in whole["optimizer"]["state"].items():
        for name, value in moments.items():
            assert torch.equal(value, parts["optimizer"]["state"][number][name])
    for name in ("schedule", "epoch", "scaler", "settings"):
        assert whole[name] == parts[name]
    assert any((tmp_path / "whole" / "logs").iterdir())


def test_a_decoder_learns_alone_and_latents_stay_its_own(workflow, weights, tmp_path, refused):
    options = TRAIN | {"fixed_encoder": True, "adversarial_weight": 0.1, "adversarial_after": 0, "ema_half_life": 10}
    options["discriminator_def#channels"], options["discriminator_def#num_layers_d"] = 4, 1
    path, fingerprint = weights
    run(workflow("train", model_dir=str(tmp_path / "on"), initial_weights=path, **options))
    before, after = load_file(path), load_file(tmp_path / "on" / "model.safetensors")
    learnt = {name for name in before if not torch.equal(before[name], after[name])}
    assert learnt
    assert all(name.startswith(("decoder.", "post_quant_conv.")) for name in learnt)
    network = load_vae(maisi_vae(**tiny.VAE), tmp_path / "on" / "model.safetensors")
    assert is_vae(network, fingerprint)
    assert not is_vae(network, "another")
    with refused("give those, too"):
        run(workflow("train", model_dir=str(tmp_path / "random"), **options))


def test_a_vae_knows_latents_that_tell_the_fingerprint_of_all_its_weights(weights):
    network = load_vae(maisi_vae(**tiny.VAE), weights[0])
    assert is_vae(network, identity.fingerprint(network.state_dict()))
    assert is_vae(network, None)


@pytest.mark.parametrize("amp", ["fp32", "bf16"])
def test_it_trains_in_the_precision_that_is_asked_for(workflow, tmp_path, amp):
    seen = set()
    train = workflow("train", model_dir=str(tmp_path), amp=amp, **TRAIN | {"epochs": 1, "patch": [16, 16, 16]})
    train.initialize()
    train.trainer.network.encoder.blocks[0].register_forward_hook(lambda _, __, out: seen.add(out.dtype))
    train.run()
    assert seen >= {torch.bfloat16 if amp == "bf16" else torch.float32}


@pytest.mark.parametrize("cache", [True, False])
def test_loading_processes_change_no_weight(workflow, tmp_path, cache):
    for processes in (0, 1, 3):
        options = TRAIN | {"num_workers": processes, "cache": cache, "augment": True}
        run(workflow("train", model_dir=str(tmp_path / str(processes)), **options))
    alone, one, three = (checkpoint(tmp_path / name)["network"] for name in ("0", "1", "3"))
    for name in alone:
        assert torch.equal(alone[name], one[name])
        assert torch.equal(alone[name], three[name])


def test_a_finished_training_given_more_epochs_follows_the_longer_schedule(workflow, tmp_path):
    run(workflow("train", model_dir=str(tmp_path / "model"), **TRAIN | {"epochs": 1}))
    longer = workflow("train", model_dir=str(tmp_path / "model"), **TRAIN)
    longer.initialize()
    optimizer, rates = longer.trainer.optimizer, []
    longer.trainer.add_event_handler(Events.ITERATION_STARTED, lambda: rates.append(optimizer.param_groups[0]["lr"]))
    longer.run()
    assert checkpoint(tmp_path / "model")["epoch"] == 2
    # Three steps an epoch, six in all, down from a peak at step 0.05 · 7 - 1.
    assert rates == pytest.approx([1e-3 * (1 + np.cos(np.pi * (n + 0.65) / 6.65)) / 2 for n in (3, 4, 5)], rel=1e-3)


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_finished_training_given_no_more_epochs_stays_as_it_is(workflow, tmp_path, caplog, epochs):
    run(workflow("train", model_dir=str(tmp_path / "model"), **TRAIN))
    before = {path: path.read_bytes() for path in (tmp_path / "model").iterdir() if path.is_file()}
    run(workflow("train", model_dir=str(tmp_path / "model"), **TRAIN | {"epochs": epochs}))
    assert "the run has 2 epochs and was to have no more: nothing is trained" in caplog.text
    assert {path: path.read_bytes() for path in (tmp_path / "model").iterdir() if path.is_file()} == before


def test_a_checkpoint_made_with_other_settings_is_refused_and_can_be_replaced(workflow, tmp_path, refused):
    folder = tmp_path / "model"
    run(workflow("train", model_dir=str(folder), **TRAIN | {"epochs": 1}))
    changed = {"kl_weight": 0.5, "lr": 0.25, "augment": "false", "seed": 1}
    told = r"augment was True, is False; kl_weight was 0.0001, is 0.5; lr was 0.001, is 0.25; seed was 0, is 1"
    with refused(rf"checkpoint\.pt .*: {told}\. Give the values .* --resume false"):
        run(workflow("train", model_dir=str(folder), **TRAIN | changed))
    assert checkpoint(folder)["settings"]["seed"] == 0
    run(workflow("train", model_dir=str(folder), resume="false", **TRAIN | changed | {"epochs": 1}))
    assert checkpoint(folder)["settings"]["seed"] == 1


def test_a_truncated_checkpoint_is_named(workflow, tmp_path, refused):
    path = tmp_path / "model" / "checkpoint.pt"
    run(workflow("train", model_dir=str(path.parent), **TRAIN | {"epochs": 1}))
    path.write_bytes(path.read_bytes()[:3000])
    with refused(r"model/checkpoint\.pt cannot be read.*delete it, or start anew with --resume false"):
        run(workflow("train", model_dir=str(path.parent), **TRAIN))


def test_weights_and_checkpoint_are_of_the_same_epoch_when_the_disk_is_full(workflow, tmp_path, monkeypatch, refused):
    folder = tmp_path / "model"
    run(workflow("train", model_dir=str(folder), **TRAIN | {"epochs": 1}))
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}

    def full(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr("scripts.vae.training.save_vae", full)
    with refused("checkpoint of epoch 1 is intact"):
        run(workflow("train", model_dir=str(folder), **TRAIN))
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_figures_are_watched_and_mlflow_finds_the_loss(workflow, tmp_path):
    made = workflow("train", model_dir=str(tmp_path / "model"), **TRAIN | {"epochs": 1})
    run(made)
    assert {"loss", "images_per_second", "lr"} <= made.trainer.state.metrics.keys()
    assert from_engine(["loss"], first=True)(made.trainer.state.output) > 0  # as the handler of --tracking asks for it


def test_a_disk_that_is_full_for_tensorboard_is_told_in_words(workflow, tmp_path, monkeypatch, refused):
    made = workflow("train", model_dir=str(tmp_path / "model"), **TRAIN | {"epochs": 1})
    made.initialize()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", full)
    with refused(r"cannot write to .*model in epoch 1, .* No space left on device.*make room"):
        made.run()


def test_a_loss_that_is_not_finite_names_the_cases_and_keeps_the_checkpoint(workflow, tmp_path, monkeypatch, refused):
    monkeypatch.setattr(VAELoss, "forward", lambda self, prediction, image: prediction[0].sum() * float("nan"))
    with refused(r"the loss is nan in epoch 2, iteration 5; the step holds the cases 00.*5 steps in a row"):
        run(workflow("train", model_dir=str(tmp_path / "model"), **TRAIN))
    state = checkpoint(tmp_path / "model")
    assert (state["epoch"], state["schedule"]["last_epoch"], state["optimizer"]["state"]) == (1, 0, {})


def test_validation_takes_windows_where_memory_is_short(workflow, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("scripts.vae.windows.available", lambda device: 600_000)  # a whole decode takes 524,288 bytes
    monkeypatch.setattr("scripts.vae.windows.SMALLEST", 8)
    monkeypatch.setattr("scripts.vae.windows.AROUND", 0)  # of volumes as small as these little else would be left
    caplog.set_level(logging.INFO)
    run(workflow("train", model_dir=str(tmp_path / "model"), **TRAIN | {"epochs": 1, "val_interval": 1}))
    assert "decode: windows of 8×16×16 voxels" in caplog.text


def test_two_processes_validate_as_one_does(workflow, repo_root, data_root, tmp_path):
    """Three volumes, after every epoch; a rate near nothing keeps the weights equal. Judged by what is written."""
    options = TRAIN | {"epochs": 3, "val_cases": 3, "val_interval": 1, "lr": 1e-12}
    run(workflow("train", model_dir=str(tmp_path / "one"), **options))
    (tmp_path / "options.json").write_text(json.dumps({"network_def": tiny.VAE_DEF, **options}))
    bundle = repo_root / "bundles" / "vae"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
        "-m", "monai.bundle", "run", "--config_file", f"['{bundle}/configs/train.yaml','{tmp_path}/options.json']",
        "--bundle_root", str(bundle), "--dataset_dir", str(data_root), "--model_dir", str(tmp_path / "two"),
    ]  # fmt: skip
    subprocess.run(command, cwd=repo_root, check=False, capture_output=True, timeout=300)
    assert checkpoint(tmp_path / "two")["epoch"] == 3
    logs = [EventAccumulator(str(tmp_path / name / "logs")).Reload() for name in ("one", "two")]
    for name in ("val_psnr", "val_mae"):
        one, two = ([event.value for event in log.Scalars(name)] for log in logs)
        assert len(one) == 3
        assert one == pytest.approx(two, rel=1e-5)


@pytest.mark.parametrize("processes", [2, 5])
def test_validation_leaves_no_process_and_no_volume_out(data_root, monkeypatch, processes):
    volumes = list_volumes(data_root, ["train.json"], ["axt2"])
    monkeypatch.setattr("ignite.distributed.get_world_size", lambda: processes)
    seen = []
    for rank in range(processes):
        monkeypatch.setattr("ignite.distributed.get_rank", lambda rank=rank: rank)
        share = validation_share(volumes)
        assert share
        seen += [volume["folder"] for volume in share]
    assert set(seen) == {"001", "002", "003", "004"}
    assert len(seen) == max(4, processes)


def test_the_loss_is_its_stated_sum():
    image = torch.zeros(1, 1, 4, 4, 4)
    ramp = torch.arange(4.0).view(1, 1, 4, 1, 1).expand_as(image)
    mu, sigma = torch.full((1, 4, 1, 1, 1), 2.0), torch.full((1, 4, 1, 1, 1), 0.5)
    parts = VAELoss().parts((ramp, mu, sigma), image)
    assert parts["l1"].item() == pytest.approx(1.5)
    assert parts["gradient"].item() == pytest.approx(1 / 3)  # 1 along x, 0 along y and z
    assert parts["coarse"].item() == pytest.approx(1.5 + 1.5)
    assert parts["kl"].item() == pytest.approx(0.5 * (4 + 0.25 - np.log(0.25) - 1))
    loss = VAELoss(kl_weight=0.1, gradient_weight=0.5, coarse_weight=2.0)((ramp, mu, sigma), image)
    assert loss.item() == pytest.approx(1.5 + 0.5 / 3 + 2 * 3 + 0.1 * parts["kl"].item())


@pytest.mark.parametrize(("processes", "sizes"), [(1, [3, 1]), (3, [2])])
def test_an_epoch_sees_every_volume(data_root, monkeypatch, processes, sizes):
    """Four of them; every process takes the same steps."""
    dataset = VolumeDataset(list_volumes(data_root, ["train.json"], ["axt2"]))
    monkeypatch.setattr("ignite.distributed.get_world_size", lambda: processes)
    seen = set()
    for rank in range(processes):
        monkeypatch.setattr("ignite.distributed.get_rank", lambda rank=rank: rank)
        loader = epoch_loader(dataset, batch_size=3, num_workers=0, seed=0)
        batches = list(loader.batch_sampler.epoch(1))
        assert [len(batch) for batch in batches] == sizes
        assert len(loader) == len(sizes)
        seen |= {draw.index for batch in batches for draw in batch}
    assert seen == {0, 1, 2, 3}


def test_patches_depend_on_seed_epoch_and_index_only(data_root):
    data = list_volumes(data_root, ["train.json"], ["axt2"])
    one, two = (VolumeDataset(data, patch=[8, 8, 4], seed=3, augment=True, cache=c) for c in (True, False))
    assert one[1]["image"].shape == (1, 8, 8, 4)
    assert torch.allclose(one[1]["image"], two[1]["image"], atol=1e-3)  # the cache is in half precision
    assert torch.equal(one[1]["image"], one[Draw(0, 1)]["image"])
    assert not torch.equal(one[1]["image"], one[Draw(1, 1)]["image"])
    with pytest.raises(UserError, match="multiples of 4"):
        VolumeDataset(data, patch=[8, 8, 6])


def test_patches_grow_from_their_epoch_on(data_root):
    data = list_volumes(data_root, ["train.json"], ["axt2"])
    dataset = VolumeDataset(data, patch=[8, 8, 4], larger_patches=[[3, 8, 12, 8], [4, 32, 12, 8]])
    sizes = [dataset[Draw(epoch, 0)]["image"].shape[1:] for epoch in (1, 2, 3, 4, 5)]
    assert sizes == [(8, 8, 4), (8, 8, 4), (8, 12, 8), (16, 12, 8), (16, 12, 8)]  # a volume has 16 voxels
    for wrong, told in (([[3, 8, 8, 6]], "multiples of 4"), ([[5, 8, 8, 8], [4, 8, 8, 8]], r"\[5, 4\]: .*order")):
        with pytest.raises(UserError, match=told):
            VolumeDataset(data, patch=[8, 8, 4], larger_patches=wrong)


def test_intensities_vary_as_stated():
    image = torch.tensor([0.0, 0.25, 0.5, 1.0]).view(1, 4, 1, 1)
    assert torch.equal(vary(image, 0.0, 0.0, 0.0), image)
    torch.testing.assert_close(vary(image, np.log(2), 0.0, 0.0), image**2)
    mean = 0.4375
    torch.testing.assert_close(vary(image, 0.0, np.log(0.5), 0.0), mean + (image - mean) / 2)
    torch.testing.assert_close(vary(image, 0.0, 0.0, np.log(3)).flatten(), torch.tensor([0.0, 0.75, 1.0, 1.0]))


def test_what_is_varied_depends_on_seed_epoch_and_index_and_stays_in_range(data_root):
    data = list_volumes(data_root, ["train.json"], ["axt2"])
    plain, varied = (VolumeDataset(data, patch=[8, 8, 4], seed=3, intensity=strength) for strength in (0.0, 0.5))
    assert torch.equal(varied[Draw(2, 1)]["image"], varied[Draw(2, 1)]["image"])
    one, two = ([patches[Draw(epoch, 1)]["image"] for epoch in (1, 2)] for patches in (plain, varied))
    for image, other in zip(one, two, strict=True):
        assert (other - image).abs().max() > 0.01
        assert 0 <= other.min() <= other.max() <= 1
        assert np.corrcoef(image.flatten(), other.flatten())[0, 1] > 0.9  # the same patch


def test_passes_that_make_no_whole_step_are_left_out(data_root):
    dataset = VolumeDataset(list_volumes(data_root, ["train.json"], ["axt2"]))
    loader = epoch_loader(dataset, batch_size=1, num_workers=0, seed=0, accumulate=3)
    assert len(loader) == len(list(loader.batch_sampler.epoch(1))) == 3
    with pytest.raises(UserError, match="4 volumes make no step of 5 batches"):
        epoch_loader(dataset, batch_size=1, num_workers=0, seed=0, accumulate=5)


def test_volumes_are_kept_where_they_fit_for_all_processes_of_a_node(data_root, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    data = list_volumes(data_root, ["train.json"], ["axt2"])
    monkeypatch.setattr("scripts.vae.memory._machine", lambda: 4 * 2 * 4 * 16**3)  # four times what is needed
    monkeypatch.setattr("scripts.vae.memory._container", list)
    for processes, kept in ((2, True), (3, False)):
        monkeypatch.setattr("ignite.distributed.get_nproc_per_node", lambda processes=processes: processes)
        VolumeDataset(data)
        assert ("read anew every epoch" not in caplog.text) == kept


def test_validation_cases_are_kept_out_whole(data_root):
    volumes = list_volumes(data_root, ["train.json"], ["axt2", "adc"])
    train, held_out = split(volumes, 1, seed=0)
    assert len(train) == 6
    assert len({v["folder"] for v in held_out}) == 1
    assert not {v["folder"] for v in held_out} & {v["folder"] for v in train}
    with pytest.raises(UserError, match="val_cases"):
        split(volumes, 4, seed=0)


def test_all_bad_images_are_told_at_once_and_no_report_is(data_root):
    for folder, values in (("001", np.zeros((16, 16, 16))), ("003", np.full((16, 16, 16), np.nan))):
        affine = nib.load(data_root / folder / "axt2.nii.gz").affine
        nib.save(nib.Nifti1Image(values.astype(np.float32), affine), data_root / folder / "axt2.nii.gz")
    with pytest.raises(UserError) as caught:
        VolumeDataset(list_volumes(data_root, ["train.json"], ["axt2"]))
    assert "001/axt2" in str(caught.value)
    assert "003/axt2" in str(caught.value)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("name", ["inference", "evaluate"])
def test_one_broken_image_stops_everything_before_anything_is_written(workflow, weights, data_root, tmp_path, name):
    last = data_root / "006" / "axt2.nii.gz"
    last.write_bytes(last.read_bytes()[:2000])
    outputs = {"output_dir": str(tmp_path / "out")} | ({"mode": "encode"} if name == "inference" else {})
    with pytest.raises(RuntimeError) as caught:
        run(workflow(name, weights=weights[0], **outputs))
    error = caught.value
    while error.__cause__ is not None:
        error = error.__cause__
    assert isinstance(error, UserError)
    assert "006  an image cannot be read" in str(error)
    assert not (data_root / "latents").exists()
    assert not (tmp_path / "out").exists()


def test_grids_are_refused_by_their_headers(data_root, affine):
    for path, shape in (("002/axt2", (16, 16, 18)), ("003/adc", (16, 16, 20))):
        nib.save(nib.Nifti1Image(np.zeros(shape, dtype=np.int16), affine), data_root / f"{path}.nii.gz")
    with pytest.raises(UserError) as caught:
        list_volumes(data_root, ["train.json", "test.json"], ["axt2"])
    message = " ".join(str(caught.value).split())
    assert "002 axt2 (axt2.nii.gz) has size 16×16×18, not divisible by 4" in message
    assert "003 its sequences lie on different grids" in message


def test_one_datalist_and_one_sequence_may_come_as_words(data_root):
    """As the command line hands `--datalists test.json --sequences adc` over."""
    volumes = list_volumes(data_root, "test.json", "adc")
    assert [(volume["folder"], volume["sequence"]) for volume in volumes] == [("005", "adc"), ("006", "adc")]


def test_a_patient_to_test_on_is_not_trained_on(data_root):
    for name in ("train.json", "test.json"):
        cases = json.loads((data_root / name).read_text())
        cases[0]["patient"] = "P1"
        (data_root / name).write_text(json.dumps(cases))
    with pytest.raises(UserError, match=r"patient P1 .*both train and test"):
        list_volumes(data_root, ["train.json"], ["axt2"])


# ---- inference -------------------------------------------------------------------------------------------------------


def test_encoding_writes_every_latent_once(workflow, weights, data_root, affine, caplog):
    path, made_by = weights
    overrides = {"weights": path, "sequences": ["axt2", "adc"], "mode": "encode"}
    (data_root / "latents" / "001" / ".part-of-a-killed-run").mkdir(parents=True)
    run(workflow("inference", **overrides))
    assert not list((data_root / "latents").rglob(".part-*"))
    files = sorted((data_root / "latents").rglob("*.safetensors"))
    assert len(files) == 12
    latent = read_latent(files[0])
    assert latent.fingerprint == made_by
    assert latent.mu.shape == latent.sigma.shape == (4, 4, 4, 4)
    assert np.allclose(latent.affine, affine)

    times = {file: file.stat().st_mtime_ns for file in files}
    files[3].write_bytes(b"half a fi")
    files[5].unlink()
    caplog.set_level(logging.INFO)
    run(workflow("inference", **overrides))
    assert "10 of 12 volumes are there already" in caplog.text
    changed = [file for file in files if file.stat().st_mtime_ns != times[file]]
    assert changed == [files[3], files[5]]
    run(workflow("inference", **overrides))
    assert "nothing left to do" in caplog.text


def test_decoding_latents_gives_the_reconstructions(workflow, weights, data_root, affine, tmp_path):
    path, _ = weights
    run(workflow("inference", weights=path, mode="encode"))
    run(workflow("inference", weights=path, mode="decode", output_dir=str(tmp_path / "decoded")))
    run(workflow("inference", weights=path, mode="reconstruct", output_dir=str(tmp_path / "both")))
    decoded, both = (nib.load(tmp_path / name / "005" / "axt2.nii.gz") for name in ("decoded", "both"))
    assert np.array_equal(np.asarray(decoded.dataobj), np.asarray(both.dataobj))
    assert np.allclose(decoded.affine, affine)
    assert np.allclose(both.affine, affine)
    assert (tmp_path / "both" / "005" / "axt2.png").read_bytes()[:4] == b"\x89PNG"


def test_real_exams_are_not_replaced(workflow, weights, data_root, refused):
    before = {path: path.read_bytes() for path in data_root.rglob("*") if path.is_file()}
    with refused(r"axt2\.nii\.gz is there already and was not made by inference -> give another output_dir"):
        run(workflow("inference", weights=weights[0], mode="reconstruct", output_dir=str(data_root)))
    assert {path: path.read_bytes() for path in data_root.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("mode", ["decode", "reconstruct"])
def test_images_are_made_once_and_again_when_their_source_changes(workflow, weights, data_root, tmp_path, mode):
    run(workflow("inference", weights=weights[0], mode="encode"))
    options = {"weights": weights[0], "mode": mode, "output_dir": str(tmp_path / "out")}
    run(workflow("inference", **options))
    made = sorted((tmp_path / "out").rglob("*.nii.gz"))
    assert len(made) == 6

    def redone(**changes) -> list[str]:
        times = {file: file.stat().st_mtime_ns for file in made if file.exists()}
        run(workflow("inference", **(options | changes)))
        return [file.parent.name for file in made if file.stat().st_mtime_ns != times.get(file)]

    assert redone() == []
    made[1].write_bytes(b"half a fi")
    made[4].unlink()
    assert redone() == ["002", "005"]
    # Another image under the same name; its latent follows when it is encoded again.
    source = data_root / "003" / "axt2.nii.gz"
    image = nib.load(source)
    values = np.asarray(image.dataobj)[::-1]
    nib.save(nib.Nifti1Image(values, image.affine), source)
    run(workflow("inference", weights=weights[0], mode="encode"))
    assert redone() == ["003"]
    assert redone(amp="bf16") == ["001", "002", "003", "004", "005", "006"]


def test_files_that_were_written_again_make_nothing_anew(workflow, weights, data_root, tmp_path, caplog):
    """An image compressed at another time, and a latent whose origin is told in other words, hold the same."""
    caplog.set_level(logging.INFO)
    options = {"weights": weights[0], "output_dir": str(tmp_path / "out")}
    for mode in ("encode", "decode"):
        run(workflow("inference", mode=mode, **options))
    image = data_root / "001" / "axt2.nii.gz"
    content = gzip.decompress(image.read_bytes())
    with gzip.GzipFile(image, "wb", mtime=5) as file:
        file.write(content)
    path = data_root / "latents" / "002" / "axt2_latent.safetensors"
    latent = read_latent(path)
    told = {"fingerprint": weights[1], "affine": latent.affine, "shape": latent.shape}
    write_latent(path, latent.mu, latent.sigma, **told, made_from=f"encode {weights[1]} bf16 contents_0")
    caplog.clear()
    for mode in ("encode", "decode"):
        run(workflow("inference", mode=mode, **options))
    assert "encode: 5 of 6 volumes are there already" in caplog.text  # 002's was said to be made in bf16
    assert "decode: 6 of 6 volumes are there already" in caplog.text


def test_processes_share_out_the_reading_of_what_is_told_apart(data_root, monkeypatch, tmp_path):
    volumes = list_volumes(data_root, ["train.json"], ["axt2"])
    read = []
    monkeypatch.setattr("scripts.vae.inference.file_identity", lambda path, metadata: read.append(path) or "contents_0")
    monkeypatch.setattr("ignite.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("ignite.distributed.all_gather", lambda own: [own, own])
    made = make_dataset(volumes, "encode", tmp_path / "latents", tmp_path, "vae")
    assert read == [volumes[0]["path"], volumes[2]["path"]]
    assert [volume["made_from"] for volume in made.data] == ["encode vae fp32 contents_0"] * 2


def test_latents_that_are_not_finite_are_not_written(workflow, weights, data_root, monkeypatch, refused):
    calls = []

    def overflown(*args):
        calls.append(args)
        mu, sigma = encode(*args)
        return mu, sigma * (torch.inf if len(calls) == 2 else 1)

    monkeypatch.setattr("scripts.vae.inference.encode", overflown)
    with refused("002: the VAE's encode of axt2 is not finite; give --amp fp32"):
        run(workflow("inference", weights=weights[0], mode="encode"))
    written = {path.parent.name for path in (data_root / "latents").rglob("*.safetensors")}
    assert "001" in written
    assert "002" not in written


def test_the_next_volumes_are_made_while_one_is_written_and_the_run_waits_for_it(
    workflow, weights, data_root, monkeypatch
):
    """The first latent is written when all others are made."""
    made, all_made, written = [], threading.Event(), []

    def encode_and_count(*args):
        made.append(args)
        if len(made) == 6:
            all_made.set()
        return encode(*args)

    def first_waits(path, *args, **kwargs):
        if path.parent.name == "001":
            assert all_made.wait(60)
        write_latent(path, *args, **kwargs)
        written.append(path.parent.name)

    monkeypatch.setattr("scripts.vae.inference.encode", encode_and_count)
    monkeypatch.setattr("scripts.vae.inference.write_latent", first_waits)
    run(workflow("inference", weights=weights[0], mode="encode"))
    assert sorted(written) == ["001", "002", "003", "004", "005", "006"]


def test_latents_of_another_vae_are_refused(workflow, weights, tmp_path):
    path, made_by = weights
    run(workflow("inference", weights=path, mode="encode"))
    torch.manual_seed(1)
    save_vae(maisi_vae(**tiny.VAE), tmp_path / "other.safetensors")
    bad = workflow("inference", weights=str(tmp_path / "other.safetensors"), mode="decode")
    bad.initialize()
    with pytest.raises(Exception) as caught:  # noqa: PT011 - MONAI wraps what a component raises
        bad.run()
    assert made_by in str(caught.value.__cause__ or caught.value)


def test_evaluation_has_a_row_a_volume_and_a_summary(workflow, weights, tmp_path):
    path, _ = weights
    run(workflow("evaluate", weights=path, sequences=["axt2", "adc"], output_dir=str(tmp_path / "eval")))
    table = pd.read_csv(tmp_path / "eval" / "reconstruction.csv", dtype={"folder": str})
    summary = json.loads((tmp_path / "eval" / "reconstruction.json").read_text())
    assert table[["sequence", "folder"]].to_numpy().tolist() == [
        [s, f] for s in ("adc", "axt2") for f in ("005", "006")
    ]
    figures = {name: summary["fidelity"]["adc"][name] for name in ("mae", "psnr", "ssim")}
    figures |= {"detail": summary["detail"]["adc"]["detail"], "mae_25_50": summary["error"]["adc"]["mae_25_50"]}
    channel = summary["latents"]["adc, channel 2"]
    figures |= {f"latent_2_{name}": channel[name] for name in ("mean", "deviation", "sigma")}
    for name, figure in figures.items():
        mean = table.loc[table.sequence == "adc", name].mean()
        assert figure["value"] == pytest.approx(mean, rel=1e-4, abs=1e-6)
        assert figure["low"] <= figure["value"] <= figure["high"]
        assert figure["n"] == 2
    assert summary["lesions"] == {}  # no phantoms
    assert {"phantom: adc", "phantom: axt2"} == summary["distances"].keys()
    # On 0..1 intensities PSNR is at most that of an even error: the mean square is never below the square of the mean.
    assert (table.psnr <= -20 * np.log10(table.mae) + 1e-3).all()


def test_more_processes_than_volumes_to_evaluate_are_refused(data_root, monkeypatch):
    volumes = list_volumes(data_root, ["train.json"], ["axt2"])
    monkeypatch.setattr("ignite.distributed.get_world_size", lambda: 3)
    shares = []
    for rank in range(3):
        monkeypatch.setattr("ignite.distributed.get_rank", lambda rank=rank: rank)
        shares += rank_share(volumes)
    assert sorted(volume["folder"] for volume in shares) == ["001", "002", "003", "004"]
    with pytest.raises(UserError, match=r"2 cases cannot .* fewer processes"):
        rank_share(volumes[:2])


def test_evaluation_of_an_empty_datalist_is_refused(workflow, weights, data_root, refused):
    (data_root / "test.json").write_text("[]")
    with refused("hold no case"):
        run(workflow("evaluate", weights=weights[0]))


# ---- the bundle ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["train", "inference", "evaluate"])
def test_the_workflow_has_all_properties(workflow, weights, name, tmp_path):
    own = {"model_dir": str(tmp_path), "val_cases": 1} if name == "train" else {"weights": weights[0]}
    made = workflow(name, **own)
    made.initialize()
    assert made.check_properties() == []


def test_the_network_takes_and_gives_what_the_metadata_say(repo_root, caplog):
    caplog.set_level(logging.INFO)
    configs = repo_root / "bundles" / "vae" / "configs"
    verify_net_in_out(
        "network_def",
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.yaml"),
        device="cpu",
        n=4,
        network_def=tiny.VAE_DEF,
    )
    assert "verified with no error" in caplog.text


def test_the_metadata_follow_the_official_schema(repo_root, tmp_path):
    schema = repo_root.parent / "shared" / "schema" / "meta_schema_20240725.json"
    if not schema.is_file():
        pytest.skip(f"{schema} is absent and nothing is downloaded in tests")
    meta = repo_root / "bundles" / "vae" / "configs" / "metadata.json"
    verify_metadata(meta_file=str(meta), filepath=str(schema))  # raises where it does not hold
    assert json.loads(meta.read_text())["schema"].endswith(schema.name)
