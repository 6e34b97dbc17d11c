"""A step of the VAE's training waits for the GPU once, and sends it its batch and nothing else."""

from __future__ import annotations

from monai.bundle import create_workflow

import tiny
from accelerator import DEVICE, steps_of, tensors_of

STEPS = 3


def test_a_step_waits_for_the_norm_of_its_gradient_alone_and_is_sent_its_images(repo_root, data_root, tmp_path):
    bundle = repo_root / "bundles" / "vae"
    workflow = create_workflow(
        config_file=[str(bundle / "configs" / "train.yaml")], workflow_type="train", logging_file=False,
        bundle_root=str(bundle), model_dir=str(tmp_path / "run"), dataset_dir=str(data_root), device=DEVICE,
        network_def=tiny.VAE_DEF, patch=[8, 8, 8], val_cases=1,
    )  # fmt: skip
    batches = []
    steps = steps_of(workflow.trainer, STEPS, lambda engine: batches.append(tensors_of(engine.state.batch)))
    assert [step.reads for step in steps] == [1] * STEPS
    assert [step.made for step in steps] == [0] * STEPS
    assert [sorted(step.sent) for step in steps] == batches[1:]
