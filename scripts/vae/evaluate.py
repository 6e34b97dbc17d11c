"""How faithful reconstructions are and how latents are distributed: a row a volume, and a summary with intervals."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import pandas as pd
import torch
from ignite.engine import Engine, Events
from monai.metrics import MAEMetric, PSNRMetric, SSIMMetric

from scripts.common.files import atomic
from scripts.common.problems import UserError
from scripts.evaluation.adherence import PARTS, index_lesions, shares, verdict
from scripts.evaluation.class_metrics import Estimate, mean, write_report

SSIM_WINDOW = 11  # voxels, the metric's own default
FIGURES = ("mae", "psnr", "ssim", "latent_mean", "latent_std", "latent_sigma")
VOLUMES = ("original", "reconstruction")


class ReconstructionReport:
    """Handler: MAE, PSNR (dB) and SSIM on 0..1 intensities, and mean and spread of the latent, for every volume.

    Latent columns: mean and standard deviation of mu over the volume, mean of sigma. Where the data root holds the
    ground truth of phantoms, the analyser looks for the lesion in each T2w original and in its reconstruction: a VAE
    that keeps MAE low may still smooth lesions away.

    Writes `<output_dir>/reconstruction.csv` (a row a volume) and `reconstruction.json`: `fidelity`, the mean of each
    figure by sequence, and `lesions`, the shares of originals and reconstructions that show what is there; each with
    its 95 % interval.

    Args:
        dataset_dir: the data root.
        output_dir: for both files.
    """

    def __init__(self, dataset_dir: str | os.PathLike[str], output_dir: str | os.PathLike[str]) -> None:
        self.output_dir = Path(output_dir)
        self.lesions = index_lesions(dataset_dir)
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
        """Measure one batch.

        Raises:
            UserError: the volumes are smaller than the window of SSIM.
        """
        batch, given = engine.state.batch, engine.state.output["pred"]
        image, made = batch["image"], given["image"].cpu()
        if min(image.shape[2:]) < SSIM_WINDOW:
            raise UserError(f"SSIM needs {SSIM_WINDOW} voxels along every axis; these volumes are smaller")
        values = {name: metric(made, image).flatten().tolist() for name, metric in self.metrics.items()}
        for index, (folder, sequence) in enumerate(zip(batch["folder"], batch["sequence"], strict=True)):
            mu, sigma = given["mu"][index], given["sigma"][index]
            latent = {"latent_mean": mu.mean(), "latent_std": mu.std(), "latent_sigma": sigma.mean()}
            row = {"folder": folder, "sequence": sequence}
            row |= {name: numbers[index] for name, numbers in values.items()}
            row |= {name: value.item() for name, value in latent.items()}
            if sequence == "axt2" and folder in self.lesions:
                row |= self._look(folder, (image[index, 0], made[index, 0]), batch["affine"][index])
            self.rows.append(row)

    def _look(self, folder: str, pair: Sequence[torch.Tensor], affine: torch.Tensor) -> dict[str, bool]:
        """What the analyser gets right in the original and in the reconstruction (X, Y, Z)."""
        verdicts = [verdict(volume.numpy(), affine.numpy(), self.lesions[folder]) for volume in pair]
        named = zip(VOLUMES, verdicts, strict=True)
        return {f"{volume}_{part}": right for volume, parts in named for part, right in parts.items()}

    def write(self, engine: Engine) -> None:
        """Bring the rows of all ranks together, write and print them; rank 0 only."""
        rows = self.rows
        if idist.get_world_size() > 1:
            parts: list[Any] = [None] * idist.get_world_size()
            torch.distributed.all_gather_object(parts, self.rows)
            rows = [row for part in parts for row in part]
        if idist.get_rank() != 0:
            return
        frame = pd.DataFrame(rows).sort_values(["sequence", "folder"], ignore_index=True)
        result = {"fidelity": _fidelity(frame), "lesions": _lesions(rows)}
        with atomic(self.output_dir / "reconstruction.csv") as temporary:
            frame.to_csv(temporary, index=False)
        write_report(self.output_dir / "reconstruction.json", result)


def _fidelity(frame: pd.DataFrame) -> dict[str, dict[str, Estimate]]:
    """The mean of each figure over the volumes of a sequence."""
    return {str(name): {figure: mean(part[figure]) for figure in FIGURES} for name, part in frame.groupby("sequence")}


def _lesions(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Estimate]]:
    """The shares of originals and of reconstructions that show what is there; empty without ground truth."""
    judged = [row for row in rows if "original_presence" in row]
    return {
        f"{volume}s": shares(
            {part: row[f"{volume}_{part}"] for part in PARTS if f"{volume}_{part}" in row} for row in judged
        )
        for volume in VOLUMES
        if judged
    }
