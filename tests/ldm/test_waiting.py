"""A step of the diffusion model's training waits for the GPU once, and sends it its batch and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from monai.bundle import create_workflow
from monai.engines import SupervisedTrainer

import tiny
from accelerator import DEVICE, steps_of, tensors_of

NETWORK = tiny.CCELLA_DEF | {"input_dim": 6}
STEPS = 3


@pytest.fixture
def build(repo_root, data_root, tmp_path) -> Callable[..., SupervisedTrainer]:
    """The bundle's trainer with all its handlers."""

    def trainer(**options) -> SupervisedTrainer:
        bundle = repo_root / "bundles" / "ccella_ldm"
        workflow = create_workflow(
            config_file=[str(bundle / "configs" / "train.yaml")], workflow_type="train", logging_file=False,
            bundle_root=str(bundle), ckpt_dir=str(tmp_path / "run"), dataset_dir=str(data_root), device=DEVICE,
            **{"network_def": NETWORK, "batch_size": 4, "val_fraction": 0, "epochs": 9}, **options,
        )  # fmt: skip
        return workflow.trainer

    return trainer


@pytest.mark.parametrize("options", [{}, {"objective": "rflow", "noise_loss": "l2", "accumulate": 2}])
def test_a_step_waits_for_the_norm_of_its_gradient_alone_and_is_sent_its_batch(build, options):
    trainer = build(**options)
    batches = []
    steps = steps_of(trainer, STEPS, lambda engine: batches.append(tensors_of(engine.state.batch)))
    last = [number % options.get("accumulate", 1) == 0 for number in range(2, STEPS + 2)]
    assert [step.reads for step in steps] == [int(ends) for ends in last]
    assert [step.made for step in steps] == [0] * STEPS
    assert [sorted(step.sent) for step in steps] == batches[1:]


WAITS = [
    lambda output: output["loss"].item(),
    lambda output: bool((output["loss"] > 0).all()),
]
SENDS = [
    lambda output: torch.tensor([1.0], device=output["loss"].device),
    lambda output: output["loss"].new_tensor([1.0]),
    lambda output: torch.tensor(1.0).to(output["loss"].device),
    lambda output: output["label"]["timesteps"][torch.tensor([0, 1])],
]


def test_a_second_wait_and_anything_else_that_is_sent_are_seen(build):
    """Each of them in one of the steps after the first."""
    disturbances = [lambda output: None, *WAITS, *SENDS]
    left = [disturbances[0], *disturbances]
    steps = steps_of(build(), len(disturbances), lambda engine: left.pop(0)(engine.state.output[0]))
    assert [step.reads for step in steps] == [1, *[2] * len(WAITS), *[1] * len(SENDS)]
    asked = [len(step.sent) + step.made for step in steps]
    assert [count - asked[0] for count in asked] == [0] * (1 + len(WAITS)) + [1] * len(SENDS)
