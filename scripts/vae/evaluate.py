"""How faithful reconstructions are and how latents are distributed: a row a volume, and a summary with intervals."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import nibabel as nib
import numpy as np
import pandas as pd
import torch
from ignite.engine import Engine, Events
from monai.metrics import MAEMetric, PSNRMetric, SSIMMetric
from torch import Tensor

from scripts.common.files import atomic
from scripts.common.problems import UserError
from scripts.evaluation.adherence import PARTS, read_truth, shares, verdict
from scripts.evaluation.class_metrics import Estimate, mean, write_report
from scripts.evaluation.distances import with_interval
from scripts.evaluation.features import Extractor, standardised
from scripts.evaluation.generated import DISTANCES
from scripts.vae.fidelity import what_is_left, where_the_error_is
from scripts.vae.perceptual import PerceptualDistance

logger = logging.getLogger(__name__)

SSIM_WINDOW = 11  # voxels, the metric's own default
VOLUMES = ("original", "reconstruction")
GLAND = "gland.nii.gz"  # a mask that may lie beside the images, on their grid
FEATURES = "features"  # of a row, which no table shows

Rows = Sequence[dict[str, Any]]


class ReconstructionReport:
    """Handler: what reconstructions keep of their originals, and the latents, for every volume.

    Writes `<output_dir>/reconstruction.csv` (a row a volume) and `reconstruction.json`, each figure of which has its
    95 % interval:

    - `fidelity`, by sequence: MAE, PSNR (dB) and SSIM on 0..1 intensities; the perceptual distance, where there is one.
    - `error`, by sequence: MAE in the gland, where its mask lies beside the images, and by the original's intensity.
    - `detail`, by sequence: second differences and power by wavelength, as shares of the originals'.
    - `distances`, by feature set and sequence: of reconstructions to originals, where there are two volumes.
    - `latents`, by sequence and channel: mean and deviation of mu in a volume, mean of sigma.
    - `lesions`, where the data root holds the ground truth of phantoms: whether the analyser finds the lesion in the
      T2w originals and in their reconstructions. A VAE that keeps MAE low may still smooth lesions away.

    Args:
        dataset_dir: the data root.
        volumes: all that are evaluated, of `list_volumes`; their paths tell where masks may lie.
        output_dir: for both files.
        extractors: the feature sets, by name.
        perceptual: another distance, or None.
        seed: of the distances' intervals.
    """

    def __init__(
        self,
        dataset_dir: str | os.PathLike[str],
        volumes: Sequence[Mapping[str, Any]],
        output_dir: str | os.PathLike[str],
        extractors: Mapping[str, Extractor],
        perceptual: PerceptualDistance | None = None,
        seed: int = 0,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.paths = {(volume["folder"], volume["sequence"]): Path(volume["path"]) for volume in volumes}
        self.truth = read_truth(dataset_dir)
        self.extractors, self.seed = extractors, seed
        self.metrics = {
            "mae": MAEMetric(reduction="none"),
            "psnr": PSNRMetric(max_val=1.0, reduction="none"),
            "ssim": SSIMMetric(spatial_dims=3, win_size=SSIM_WINDOW, reduction="none"),
        }
        if perceptual is not None:
            self.metrics["perceptual"] = _on_its_device(perceptual)
        self.rows: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def __call__(self, engine: Engine) -> None:
        """Measure one batch.

        Raises:
            UserError: the volumes are smaller than the window of SSIM, or a gland's mask is on another grid.
        """
        batch, given = engine.state.batch, engine.state.output["pred"]
        images, made = batch["image"], given["image"].cpu()
        if min(images.shape[2:]) < SSIM_WINDOW:
            raise UserError(f"SSIM needs {SSIM_WINDOW} voxels along every axis; these volumes are smaller")
        for index, (folder, sequence) in enumerate(zip(batch["folder"], batch["sequence"], strict=True)):
            pair, affine = (images[index], made[index]), batch["affine"][index].numpy()
            row = {"folder": folder, "sequence": sequence}
            row |= {name: metric(pair[1][None], pair[0][None]).item() for name, metric in self.metrics.items()}
            row |= where_the_error_is(pair[0][0], pair[1][0], self._gland(folder, sequence, affine, images.shape[2:]))
            row |= what_is_left(pair[0][0], pair[1][0])
            row |= _channels(given["mu"][index], given["sigma"][index])
            row[FEATURES] = {name: [extract(volume) for volume in pair] for name, extract in self.extractors.items()}
            if sequence == "axt2" and folder in self.truth:
                row |= self._look(folder, pair, affine)
            self.rows.append(row)

    def _gland(self, folder: str, sequence: str, affine: np.ndarray, size: Sequence[int]) -> Tensor | None:
        """The gland's mask (X, Y, Z), where one lies beside the image."""
        path = self.paths[folder, sequence].with_name(GLAND)
        if not path.is_file():
            return None
        mask = nib.as_closest_canonical(nib.load(path))
        if mask.shape != tuple(size) or not np.allclose(mask.affine, affine, atol=1e-3):
            raise UserError(f"{folder}: {GLAND} is not on the grid of {sequence}: put it there, or take it away")
        return torch.from_numpy(np.asarray(mask.dataobj) > 0)

    def _look(self, folder: str, pair: Sequence[Tensor], affine: np.ndarray) -> dict[str, bool]:
        """What the analyser gets right in the original and in the reconstruction (1, X, Y, Z)."""
        verdicts = [verdict(volume[0].numpy(), affine, self.truth[folder].lesion) for volume in pair]
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
        rows = sorted(rows, key=lambda row: (row["sequence"], row["folder"]))
        frame = pd.DataFrame(rows).drop(columns=FEATURES)
        result = {
            "fidelity": _means(frame, [*self.metrics]),
            "error": _means(frame, [name for name in frame if str(name).startswith("mae_")]),
            "detail": _means(frame, [name for name in frame if str(name).startswith(("detail", "power_"))]),
            "distances": _distances(rows, self.seed),
            "latents": _latents(frame),
            "lesions": _lesions(rows),
        }
        with atomic(self.output_dir / "reconstruction.csv") as temporary:
            frame.to_csv(temporary, index=False)
        write_report(self.output_dir / "reconstruction.json", result)


def _on_its_device(perceptual: PerceptualDistance) -> Any:
    """The distance between volumes in main memory."""
    device = next(perceptual.parameters()).device

    @torch.no_grad()
    def distance(made: Tensor, image: Tensor) -> Tensor:
        return perceptual(made.to(device), image.to(device))

    return distance


def _channels(mu: Tensor, sigma: Tensor) -> dict[str, float]:
    """Mean and deviation of each channel of mu (C, x, y, z), and the mean of sigma."""
    figures = {"mean": mu.mean((1, 2, 3)), "deviation": mu.std((1, 2, 3)), "sigma": sigma.mean((1, 2, 3))}
    return {f"latent_{n}_{name}": value.item() for name, values in figures.items() for n, value in enumerate(values)}


def _means(frame: pd.DataFrame, figures: Sequence[str]) -> dict[str, dict[str, Estimate]]:
    """The mean of each figure over the volumes of a sequence that have it."""
    parts = {str(sequence): part for sequence, part in frame.groupby("sequence")}
    return {
        sequence: {figure: mean(part[figure].dropna()) for figure in figures if part[figure].notna().any()}
        for sequence, part in parts.items()
    }


def _latents(frame: pd.DataFrame) -> dict[str, dict[str, Estimate]]:
    """By sequence and channel, the means over volumes of what `_channels` found."""
    channels = sum(str(name).endswith("_sigma") for name in frame)
    return {
        f"{sequence}, channel {n}": {
            figure: mean(part[f"latent_{n}_{figure}"]) for figure in ("mean", "deviation", "sigma")
        }
        for sequence, part in frame.groupby("sequence")
        for n in range(channels)
    }


def _distances(rows: Rows, seed: int) -> dict[str, dict[str, Estimate]]:
    """Of the reconstructions of each sequence to their originals, by every feature set that judges generated volumes.

    Phantom features have units of their own: they are compared in standard deviations of the originals.
    """
    found = {}
    for sequence in dict.fromkeys(row["sequence"] for row in rows):
        own = [row[FEATURES] for row in rows if row["sequence"] == sequence]
        if len(own) < 2:
            logger.warning(f"{sequence}: one volume has no distance to others; give two or more")
            continue
        for name in own[0]:
            originals, made = (torch.stack([row[name][which] for row in own]) for which in (0, 1))
            if name == "phantom":
                originals, made = standardised(originals, originals), standardised(made, originals)
            found[f"{name}: {sequence}"] = {
                kind: with_interval(distance, made, originals, seed=seed) for kind, distance in DISTANCES.items()
            }
    return found


def _lesions(rows: Rows) -> dict[str, dict[str, Estimate]]:
    """The shares of originals and of reconstructions that show what is there; empty without ground truth."""
    judged = [row for row in rows if "original_presence" in row]
    return {
        f"{volume}s": shares(
            {part: row[f"{volume}_{part}"] for part in PARTS if f"{volume}_{part}" in row} for row in judged
        )
        for volume in VOLUMES
        if judged
    }
