"""Training on a GPU: it learns what a CPU learns, goes on exactly, scales fp16, and works under NCCL."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from ignite.engine import Events
from monai.engines.utils import IterationEvents

from closeness import all_apart, apart
from scripts.showcase.stages import BUNDLES, REPOSITORY
from scripts.showcase.workflows import network_def, workflow, write_latents, write_root

pytestmark = pytest.mark.gpu

CASES = 6
HUGE = 2.0**30  # a scale of fp16 gradients that overflows, and is halved until it does not


class Interrupted(Exception):
    """Ends a training in the middle."""


@pytest.fixture
def root(tmp_path, small) -> Path:
    """A data root of random latents and embedded reports."""
    write_root(tmp_path / "data", small, CASES, "train")
    write_latents(tmp_path / "data" / "latents", small, CASES)
    return tmp_path / "data"


@pytest.fixture
def options(root, small) -> dict:
    """Of a training of tiny networks: three steps an epoch."""
    return {
        "dataset_dir": str(root), "network_def": network_def(small), "batch_size": small.batch, "val_fraction": 0,
        "epochs": 2, "lr": 1e-3, "lr_warmup": 0, "amp": "fp32", "checkpoint_minutes": 0, "num_workers": 0,
    }  # fmt: skip


def start(folder: Path, device: torch.device, **options):
    """The workflow of train.yaml, about to run on a device, and repeating itself there."""
    made = workflow("train", ckpt_dir=str(folder), device=device, **options)
    torch.backends.cudnn.benchmark = False  # which every workflow turns on
    return made


@pytest.fixture
def repeatable(monkeypatch):
    """Kernels that give the same numbers again."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def checkpoint(folder: Path) -> dict:
    return torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)


def test_a_gpu_learns_what_a_cpu_learns(device, options, tmp_path, record_property):
    """Losses, and how far the weights have moved: on a CPU, other kernels lie 9e-8 and 5e-6 apart."""
    losses: dict[str, list[float]] = {}
    for name, where in (("cpu", torch.device("cpu")), ("device", device), ("start", device)):
        made = start(tmp_path / name, where, **options | ({"lr": 0.0} if name == "start" else {}))
        told = losses.setdefault(name, [])
        made.trainer.add_event_handler(
            IterationEvents.LOSS_COMPLETED, lambda engine, told=told: told.append(engine.state.output["loss"].item())
        )
        made.run()
    begin, one, other = (checkpoint(tmp_path / name)["network"] for name in ("start", "cpu", "device"))
    moved = [{name: tensor - begin[name] for name, tensor in state.items()} for state in (other, one)]
    record_property("losses_apart", apart(torch.tensor(losses["device"]), torch.tensor(losses["cpu"])))
    record_property("moves_apart", all_apart(*moved))
    assert losses["device"] == pytest.approx(losses["cpu"], rel=1e-4)
    assert all_apart(*moved) < 1e-2


def test_a_replayed_training_learns_as_one_that_is_not(device, small, options, tmp_path, repeatable, record_property):
    """Five cases in twos, so that passes have two shapes."""
    write_root(tmp_path / "five", small, 5, "train")
    write_latents(tmp_path / "five" / "latents", small, 5)
    options |= {"dataset_dir": str(tmp_path / "five")}
    for name, replay in (("started", False), ("replayed", True)):
        start(tmp_path / name, device, **options | {"replay": replay, "lr_warmup": 2, "epochs": 4}).run()
    one, other = (checkpoint(tmp_path / name)["network"] for name in ("started", "replayed"))
    record_property("apart", all_apart(other, one))
    assert all_apart(other, one) < 1e-4


def test_a_training_that_was_cut_short_goes_on_exactly(device, options, tmp_path, repeatable, record_property):
    """Where kernels repeat themselves: to 1e-6, and to the last bit where none of them adds in another order."""
    start(tmp_path / "whole", device, **options).run()
    cut = start(tmp_path / "parts", device, **options)

    def interrupt() -> None:
        raise Interrupted

    cut.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=4), interrupt)  # in the second epoch
    with pytest.raises(Interrupted):
        cut.trainer.run()
    assert checkpoint(tmp_path / "parts")["epoch"] == 1
    start(tmp_path / "parts", device, **options).run()
    whole, parts = (checkpoint(tmp_path / name)["network"] for name in ("whole", "parts"))
    record_property("identical", all(torch.equal(whole[name], parts[name]) for name in whole))
    record_property("apart", all_apart(parts, whole))
    assert all_apart(parts, whole) < 1e-6


def test_fp16_leaves_out_a_step_that_overflows_and_lowers_its_scale(device, options, tmp_path, record_property):
    made = start(tmp_path / "run", device, **options | {"amp": "fp16", "epochs": 6})
    trainer, seen = made.trainer, []

    def weights() -> dict[str, torch.Tensor]:
        return {name: tensor.detach().cpu().clone() for name, tensor in trainer.network.named_parameters()}

    @trainer.on(Events.ITERATION_STARTED(once=3))
    def enlarge() -> None:
        trainer.scaler.update(HUGE)
        seen.append(weights())

    @trainer.on(Events.ITERATION_COMPLETED(once=3))
    def look() -> None:
        seen.append(weights())
        assert trainer.scaler.get_scale() == HUGE / 2

    made.run()
    assert all(torch.equal(seen[0][name], tensor) for name, tensor in seen[1].items())
    last = checkpoint(tmp_path / "run")
    record_property("scale", last["scaler"]["scale"])
    assert last["scaler"]["scale"] < HUGE / 2
    assert all(tensor.isfinite().all() for tensor in last["network"].values())
    assert not all(torch.equal(last["network"][name], tensor) for name, tensor in seen[1].items())


def test_wrapped_for_several_processes_the_gradients_are_the_same(device, tiny_network, tmp_path, record_property):
    """One process, with the backend that talks between cards."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    if not torch.distributed.is_backend_available(backend):
        pytest.skip(f"this PyTorch has no {backend}")
    generator = torch.Generator().manual_seed(0)
    x, text = (torch.randn(*shape, generator=generator).to(device) for shape in ((2, 4, 8, 8, 8), (2, 5, 12)))
    times, spacing = torch.full((2,), 500.0, device=device), torch.full((2, 3), 0.5, device=device)
    gradients = []
    torch.distributed.init_process_group(
        backend, init_method=(tmp_path / "store").as_uri(), rank=0, world_size=1
    )  # fmt: skip
    try:
        wrapped = partial(torch.nn.parallel.DistributedDataParallel, gradient_as_bucket_view=True)
        for network in (tiny_network.train(), wrapped(tiny_network)):
            tiny_network.zero_grad(set_to_none=True)
            network(x, times, text, spacing).noise_pred.square().mean().backward()
            gradients.append({name: parameter.grad.clone() for name, parameter in tiny_network.named_parameters()})
    finally:
        torch.distributed.destroy_process_group()
    record_property("apart", all_apart(*reversed(gradients)))
    assert all_apart(*reversed(gradients)) < 1e-6


def test_a_training_under_torchrun_with_one_process(device, options, tmp_path):
    overlay = tmp_path / "options.json"
    overlay.write_text(json.dumps(options | {"epochs": 1}))
    configs = [str(BUNDLES / "ccella_ldm" / "configs" / "train.yaml"), str(overlay)]
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1",
            "-m", "monai.bundle", "run", "--config_file", str(configs), "--ckpt_dir", str(tmp_path / "run"),
        ],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert checkpoint(tmp_path / "run")["epoch"] == 1, done.stdout + done.stderr
