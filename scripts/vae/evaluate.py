"""How faithful reconstructions are and how latents are distributed: a row a volume, and a summary."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import pandas as pd
import torch
from ignite.engine import Engine, Events
from monai.metrics import MAEMetric, PSNRMetric, SSIMMetric

from scripts.files import atomic
from scripts.problems import UserError

logger = logging.getLogger(__name__)
SSIM_WINDOW = 11  # voxels, the metric's own default


class ReconstructionReport:
    """Handler: MAE, PSNR (dB) and SSIM on 0..1 intensities, and mean and spread of the latent, for every volume.

    Writes `<output_dir>/reconstruction.csv` (a row a volume) and `reconstruction.json` (mean and standard deviation of
    each column, by sequence). Latent columns: mean and standard deviation of mu over the volume, mean of sigma.
    """

    def __init__(self, output_dir: str | os.PathLike[str]) -> None:
        self.output_dir = Path(output_dir)
        self.metrics = {
            "mae": MAEMetric(reduction="none"),
            "psnr": PSNRMetric(max_val=1.0, reduction="none"),
            "ssim": SSIMMetric(spatial_dims=3, win_size=SSIM_WINDOW, reduction="none"),
        }
        self.rows: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def __call__(self, engine: Engine) -> None:
        """Measure one batch."""
        batch, given = engine.state.batch, engine.state.output["pred"]
        image, made = batch["image"], given["image"].cpu()
        if min(image.shape[2:]) < SSIM_WINDOW:
            raise UserError(f"SSIM needs {SSIM_WINDOW} voxels along every axis; these volumes are smaller")
        values = {name: metric(made, image).flatten().tolist() for name, metric in self.metrics.items()}
        for index, (folder, sequence) in enumerate(zip(batch["folder"], batch["sequence"], strict=True)):
            mu, sigma = given["mu"][index], given["sigma"][index]
            latent = {"latent_mean": mu.mean(), "latent_std": mu.std(), "latent_sigma": sigma.mean()}
            self.rows.append(
                {"folder": folder, "sequence": sequence}
                | {name: numbers[index] for name, numbers in values.items()}
                | {name: value.item() for name, value in latent.items()}
            )

    def write(self, engine: Engine) -> None:
        """Bring the rows of all ranks together and write them; rank 0 only."""
        rows = self.rows
        if idist.get_world_size() > 1:
            parts: list[Any] = [None] * idist.get_world_size()
            torch.distributed.all_gather_object(parts, self.rows)
            rows = [row for part in parts for row in part]
        if idist.get_rank() != 0:
            return
        table = pd.DataFrame(rows).sort_values(["sequence", "folder"], ignore_index=True)
        numbers = table.columns.drop(["folder", "sequence"])
        summary = {
            sequence: {"volumes": len(part)}
            | {name: {"mean": part[name].mean(), "std": part[name].std(ddof=0)} for name in numbers}
            for sequence, part in table.groupby("sequence")
        }
        with atomic(self.output_dir / "reconstruction.csv") as temporary:
            table.to_csv(temporary, index=False)
        with atomic(self.output_dir / "reconstruction.json") as temporary:
            temporary.write_text(json.dumps(summary, indent=2) + "\n")
        for sequence, values in summary.items():
            means = ", ".join(f"{name} {values[name]['mean']:.4f}" for name in numbers)
            logger.info(f"{sequence}, {len(table)} volumes: {means}")
