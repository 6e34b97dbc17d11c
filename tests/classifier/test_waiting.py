"""A step of the classifier's training waits for the GPU once, and sends it its batch and nothing else."""

from __future__ import annotations

from monai.bundle import create_workflow

from accelerator import DEVICE, steps_of

STEPS = 3


def test_a_step_waits_for_the_norm_of_its_gradient_alone_and_is_sent_images_and_labels(repo_root, real_root, tmp_path):
    configs = repo_root / "bundles" / "classifier" / "configs"
    workflow = create_workflow(
        config_file=[str(configs / name) for name in ("train.yaml", "demo.yaml")], workflow_type="train",
        logging_file=False, bundle_root=str(configs.parent), models_dir=str(tmp_path), dataset_dir=str(real_root),
        device=DEVICE, channels=["axt2"], spacing=[5, 5, 10], spatial_size=[32, 32, 32], batch_size=4,
    )  # fmt: skip
    steps = steps_of(workflow.trainer, STEPS)
    assert [step.reads for step in steps] == [1] * STEPS
    assert [step.made for step in steps] == [0] * STEPS
    assert [sorted(step.sent) for step in steps] == [[(4, 1), (4, 1, 32, 32, 32)]] * STEPS
