"""The validation loss of each held-out case, under several weights: the same noise and timesteps for all of them.

python examples/federated/losses.py --dataset_dir DATA --models_dir MODELS --output_csv losses.csv
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pandas as pd
from ignite.engine import Engine, Events
from monai.bundle import create_workflow

from scripts.cli.run import run
from scripts.showcase.stages import BUNDLES, DEMO_LDM


def losses(dataset_dir: str, models_dir: str, output_csv: str) -> None:
    """Write one row a test case and one column a model, the shipped weights first.

    Args:
        dataset_dir: a data root with test_merged.json, embeddings and latents.
        models_dir: holds `<name>/model.safetensors`, trained from the shipped weights on and with their latents' scale.
        output_csv: the file.
    """
    files = {file.parent.name: file for file in sorted(Path(models_dir).glob("*/model.safetensors"))}
    columns = {name: case_losses(dataset_dir, file) for name, file in {"start": DEMO_LDM, **files}.items()}
    pd.DataFrame(columns).rename_axis("folder").to_csv(output_csv)


def case_losses(dataset_dir: str, weights: Path) -> pd.Series:
    """The noise loss of each test case, the mean over its timesteps, as validation of ccella_ldm computes it."""
    with tempfile.TemporaryDirectory() as folder:
        workflow = create_workflow(
            config_file=[str(BUNDLES / "ccella_ldm" / "configs" / f"{name}.yaml") for name in ("train", "demo")],
            workflow_type="train",
            logging_file=False,
            bundle_root=str(BUNDLES / "ccella_ldm"),
            dataset_dir=dataset_dir,
            ckpt_dir=folder,
            datalist="test_merged.json",
            initial_weights=str(weights),
            latent_scale=str(DEMO_LDM),
            ema_half_life=0,
            val_fraction=0.5,  # of which nothing is made: all cases are looked at
            **{"validate#examples#cases": "@cases"},
        )
        rows: list[tuple[str, float]] = []

        def collect(engine: Engine) -> None:
            answer, wanted = engine.state.output["pred"][0], engine.state.output["label"]["answer"]
            found = (answer.float() - wanted).square().flatten(1).mean(1)
            rows.extend(zip(engine.state.batch["folder"], found.tolist(), strict=True))

        workflow.evaluator.add_event_handler(Events.ITERATION_COMPLETED, collect)
        workflow.evaluator.run()
        workflow.finalize()
    return pd.DataFrame(rows, columns=["folder", "loss"]).groupby("folder")["loss"].mean()


if __name__ == "__main__":
    run(losses)
