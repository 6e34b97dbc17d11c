"""Training examples of the latent diffusion model: latents and report embeddings of checked cases, drawn with noise.

Every random number of an example (the latent's noise, the diffusion noise, the timestep, what is dropped) comes from a
generator of its own, seeded by the run's seed, the epoch and the case. An example is therefore the same whatever the
batch, the rank, the number of processes and workers, and a resumed run needs no random state to go on bit by bit.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from scripts.common.files import inside
from scripts.common.problems import Problems, UserError
from scripts.data.grid import FACTOR, Grid, coordinates
from scripts.data.latents import read_latent, read_latent_header
from scripts.engine.randomness import generator_for
from scripts.ldm.cases import TrainingCase
from scripts.reports.embeddings import read_embedding

STACKED = ("latent", "noise", "uniform", "focus", "pirads", "spacing", "text_isnull", "class_keep")
CENTRE = "centre"  # in place of a mask's name
# Semi-axes in mm, left-right, anterior-posterior and cranio-caudal, of the smallest ellipsoid around the image's centre
# that holds any phantom's gland of 90 mL, the largest there is, centred within 2.5 mm of it: such a gland measures 33,
# 24 and 26 mm from its centre, each 3 % more or less, and is no ellipsoid itself (`scripts/phantom/gland.py`).
CENTRE_MM = (44.0, 31.0, 31.0)


@dataclass(frozen=True)
class Dropout:
    """How often conditions are left out of an example, for the answers that guidance asks for (`Guidance.terms`).

    Attributes:
        class_: probability that only the class vector is zeroed.
        both: probability that it is, and the report is replaced by the empty one; what is left is the unconditional
            model.
    """

    class_: float = 0.0
    both: float = 0.0

    def __post_init__(self) -> None:
        shares = (self.class_, self.both)
        if min(shares) < 0 or sum(shares) > 1:
            raise UserError(f"the dropout probabilities are {shares}; each must be at least 0, their sum at most 1")

    def decide(self, uniform: float) -> tuple[bool, bool]:
        """(report dropped, class dropped) from one uniform number in [0, 1)."""
        return uniform < self.both, uniform < self.both + self.class_


@dataclass(frozen=True)
class Focus:
    """What is small and matters weighs more in the loss: a lesion is ten cells of a latent's thousands.

    Attributes:
        mask: name of a NIfTI mask beside the images, such as `lesions.nii.gz`, on their grid; "" for none; `centre` for
            an ellipsoid in the middle of every volume, where the gland lies, which asks for no mask.
        weight: of a latent cell that the mask touches, or whose centre the ellipsoid holds; the others weigh 1.
    """

    mask: str = ""
    weight: float = 1.0

    def read(self, folder: Path, shape: Sequence[int], spacing: Sequence[float]) -> Tensor:
        """The weights (1, X, Y, Z) of a case, on the latent's grid; `spacing` is the image's, in mm.

        Raises:
            UserError: there is no such mask, it cannot be read, or it is on another grid.
        """
        if self.mask == CENTRE:
            return _centre_weights(tuple(shape), tuple(spacing), self.weight)
        try:
            mask = torch.from_numpy(np.asarray(nib.load(inside(folder, self.mask)).dataobj) > 0)
        except (OSError, ValueError, nib.filebasedimages.ImageFileError):
            raise UserError(f"{self.mask} is missing or cannot be read; focus_mask needs it in every case") from None
        factors = [size // cells for size, cells in zip(mask.shape, shape, strict=True)]
        if [f * c for f, c in zip(factors, shape, strict=True)] != list(mask.shape):
            raise UserError(f"{self.mask} has {tuple(mask.shape)} voxels, which is not the grid of the latents")
        touched = torch.nn.functional.max_pool3d(mask[None].float(), factors)
        return 1 + (self.weight - 1) * touched


@cache  # one tensor for all cases of a grid
def _centre_weights(shape: tuple[int, int, int], spacing: tuple[float, float, float], weight: float) -> Tensor:
    """The weights (1, X, Y, Z) of a latent's cells where the image's spacing is that, in mm: the middle weighs more."""
    grid = Grid(shape, (FACTOR * spacing[0], FACTOR * spacing[1], FACTOR * spacing[2]))
    radius = sum((axis / semi) ** 2 for axis, semi in zip(coordinates(grid), CENTRE_MM, strict=True))
    return 1 + (weight - 1) * torch.from_numpy(radius <= 1)[None].float()


class Slot(NamedTuple):
    """A place in an optimizer step: which case, in which epoch, and what it counts there (see `batches.py`)."""

    epoch: int
    index: int
    case_weight: float
    report_weight: float


class LatentDataset(Dataset[dict[str, Any]]):
    """Examples drawn from cases.

    Args:
        cases: as `read_training_cases` gives them.
        dataset_dir: the data root, for the masks.
        seed: of the run.
        dropout: how often conditions are left out.
        fresh_noise: draw each latent anew in every epoch; else one draw serves all epochs, as the authors store it.
        focus: where the loss weighs more, and how much: under a mask of something small (a lesion), or in the middle.
        cache: keep all latents and embeddings in memory.
    """

    def __init__(
        self,
        cases: Sequence[TrainingCase],
        dataset_dir: str | os.PathLike[str],
        *,
        seed: int,
        dropout: Dropout | None = None,
        fresh_noise: bool = True,
        focus: Focus | None = None,
        cache: bool = True,
    ) -> None:
        self.cases = list(cases)
        self.seed = seed
        self.dropout = dropout or Dropout()
        self.fresh_noise = fresh_noise
        self.focus = focus or Focus()
        self.root = Path(dataset_dir)
        self._weights = self._read_weights()
        empty = next((case.empty for case in self.cases if case.empty is not None), None)
        self.empty = None if empty is None else read_embedding(empty)
        self._read_latents, self._read_embedding = _read_latents, read_embedding
        if cache:
            latents = {case.latents: _read_latents(case.latents) for case in self.cases}
            paths = {case.embedding for case in self.cases if case.embedding is not None}
            embeddings = {path: read_embedding(path) for path in paths}
            self._read_latents, self._read_embedding = latents.__getitem__, embeddings.__getitem__

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, slot: Slot | int) -> dict[str, Any]:
        """One example.

        Returns:
            latent (C, X, Y, Z) before scaling, noise of that shape, uniform () in [0, 1) for the timestep, focus
            (1, X, Y, Z) or (1, 1, 1, 1) how much the loss weighs in each place, pirads (2,), spacing (3,) in mm,
            embedding (T, D) or None, text_isnull () 1 where no report is given, class_keep () bool, case_weight and
            report_weight as in the slot, folder.
        """
        if isinstance(slot, int):
            slot = Slot(0, slot, 1.0, 1.0)
        case = self.cases[slot.index]
        no_report, no_class = self.dropped(slot.epoch, slot.index)
        embedding = self.empty
        if not no_report and case.embedding is not None:
            embedding = self._read_embedding(case.embedding)
        latent = self.latent(slot.epoch if self.fresh_noise else 0, slot.index)
        generator = generator_for(self.seed, slot.epoch, case.folder, "diffusion")
        return {
            "latent": latent,
            "uniform": torch.rand((), generator=generator),
            "noise": torch.randn(latent.shape, generator=generator),
            "focus": self._weights.get(case.folder, torch.ones(1, 1, 1, 1)),
            "pirads": torch.tensor(case.pirads, dtype=torch.float32),
            "spacing": torch.tensor(case.spacing, dtype=torch.float32),
            "embedding": embedding,
            "text_isnull": torch.tensor(no_report),
            "class_keep": torch.tensor(not no_class),
            "case_weight": slot.case_weight,
            "report_weight": slot.report_weight,
            "folder": case.folder,
        }

    def latent(self, epoch: int, index: int) -> Tensor:
        """The latent (C, X, Y, Z) of a case as drawn in an epoch: mu + sigma·eps."""
        case = self.cases[index]
        mu, sigma = self._read_latents(case.latents)
        if sigma is None:
            return mu
        return mu + sigma * torch.randn(mu.shape, generator=generator_for(self.seed, epoch, case.folder, "latent"))

    def dropped(self, epoch: int, index: int) -> tuple[bool, bool]:
        """Whether the example of this epoch has (no report, no class), by dropout or because the case has none."""
        case = self.cases[index]
        uniform = torch.rand((), generator=generator_for(self.seed, epoch, case.folder, "dropout")).item()
        no_report, no_class = self.dropout.decide(uniform)
        return no_report or case.text_isnull, no_class

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape (C, X, Y, Z) of every latent."""
        channels = [read_latent_header(path).cells for path in self.cases[0].latents]
        return (sum(cells[0] for cells in channels), *channels[0][1:])

    def _read_weights(self) -> dict[str, Tensor]:
        """The weights of every case, where some places weigh more; all problems are told at once."""
        problems, weights = Problems("focus masks"), {}
        if self.focus.mask:
            for case in self.cases:
                try:
                    weights[case.folder] = self.focus.read(self.root / case.folder, self.shape[1:], case.spacing)
                except UserError as error:
                    problems.add(case.folder, str(error))
        problems.raise_if_any()
        return weights


class TimestepGrid(Dataset[dict[str, Any]]):
    """Held-out examples for validation: every case once in each of `buckets` equal parts of the draws for timesteps.

    Timesteps are thus spread as in training, and the losses of both compare. The draws are the same in every epoch, so
    validation losses of different epochs compare too, and so do those of runs with the same shift of the timesteps.
    """

    def __init__(self, examples: LatentDataset, buckets: int) -> None:
        self.examples, self.buckets = examples, buckets

    def __len__(self) -> int:
        return len(self.examples) * self.buckets

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One example; beyond the last, where processes are many, an earlier one that weighs nothing."""
        case, bucket = divmod(index % len(self), self.buckets)
        example = self.examples[case]
        # Rounding must not make the last draw 1, which would be a timestep of its own.
        uniform = ((bucket + example["uniform"]) / self.buckets).clamp(max=1 - 2**-24)
        return example | {"uniform": uniform, "case_weight": float(index < len(self))}


def collate(examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Examples as one batch: tensors stacked, embeddings as one row of tokens (sum of T, D) and the `tokens` of each.

    They are padded on the device: padding would be most of what a worker hands over, and of what is copied. What is
    real then is told by `text_mask` (B, longest T).
    """
    batch: dict[str, Any] = {key: torch.stack([example[key] for example in examples]) for key in STACKED}
    embeddings = [example["embedding"] for example in examples if example["embedding"] is not None]
    batch["embedding"] = torch.cat(embeddings) if embeddings else None
    batch["tokens"] = [len(embedding) for embedding in embeddings]
    batch["text_mask"] = torch.arange(max(batch["tokens"], default=0)) < torch.tensor(batch["tokens"])[:, None]
    for key in ("case_weight", "report_weight"):
        batch[key] = torch.tensor([example[key] for example in examples], dtype=torch.float32)
    batch["folder"] = [example["folder"] for example in examples]
    return batch


def _read_latents(paths: Sequence[Path]) -> tuple[Tensor, Tensor | None]:
    """mu and sigma (C, X, Y, Z) of all channels; sigma is None where a file holds one draw only."""
    latents = [read_latent(path) for path in paths]
    mu = torch.cat([latent.mu.float() for latent in latents])
    if any(latent.sigma is None for latent in latents):
        return mu, None
    return mu, torch.cat([latent.sigma.float() for latent in latents])
