"""The VAE's data set: every sequence of every case is one volume of one channel."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.utils import ensure_tuple
from torch.utils.data import Dataset
from tqdm import tqdm

from scripts.common.problems import Problems, UserError
from scripts.data.datalists import check_headers, read_datalist
from scripts.data.images import image_transforms
from scripts.data.root import check_root
from scripts.engine.loading import Draw
from scripts.vae.memory import available
from scripts.vae.network import FACTOR

logger = logging.getLogger(__name__)


def list_volumes(
    dataset_dir: str | os.PathLike[str], datalists: Sequence[str] | str, sequences: Sequence[str] | str
) -> list[dict[str, Any]]:
    """All volumes of the datalists `dataset_dir`/<name>, in their order: folder, sequence, path, spacing.

    Reports and labels are left behind: no error or log of the VAE can hold them.

    Raises:
        UserError: everything that is wrong with the datalists and with the images' headers.
    """
    datalists, sequences = ensure_tuple(datalists), ensure_tuple(sequences)  # one alone comes as a word
    problems = Problems("datalists and images")
    cases = []
    for name in datalists:
        path = Path(dataset_dir) / name
        cases += read_datalist(path, dataset_dir, keys=sequences, check_files=False, problems=problems)
    check_headers(cases, problems, factor=FACTOR)
    check_root(dataset_dir, problems)
    problems.raise_if_any()
    return [
        {"folder": case["folder"], "sequence": sequence, "path": case[sequence], "spacing": case["spacing"]}
        for case in cases
        for sequence in sequences
    ]


def split(volumes: Sequence[Mapping[str, Any]], held_out: int, seed: int) -> tuple[list[Any], list[Any]]:
    """Volumes to train on and to validate on, by case: `held_out` cases, drawn by `seed`, are kept for validation.

    Raises:
        UserError: no case would be left to train on.
    """
    folders = sorted({volume["folder"] for volume in volumes})
    if not 0 < held_out < len(folders):
        raise UserError(f"{held_out} validation cases of {len(folders)} leave nothing to train on: lower val_cases")
    kept = set(np.random.default_rng(seed).permutation(folders)[:held_out].tolist())
    return [v for v in volumes if v["folder"] not in kept], [v for v in volumes if v["folder"] in kept]


class VolumeDataset(Dataset):
    """Volumes in 0..1, whole or as random patches, kept in memory in half precision when they fit.

    Item: `image` (1, X, Y, Z) float32, `folder`, `sequence`, and `affine` (4, 4) where volumes are whole.
    Patch, flip and intensities depend on seed, epoch and index only, so neither workers nor ranks change them.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        patch: Sequence[int] | None = None,
        seed: int = 0,
        augment: bool = False,
        cache: bool = True,
        larger_patches: Sequence[Sequence[int]] = (),
        intensity: float = 0.0,
    ) -> None:
        """Take `data` from `list_volumes`.

        Args:
            data: the volumes.
            patch: voxels of a random patch, multiples of 4; None for whole volumes.
            seed: of patches and flips.
            augment: flip left and right at random.
            larger_patches: (epoch, x, y, z): from that epoch on, patches of this size instead.
            intensity: how much gamma, contrast and brightness vary, see `vary`; 0: not at all.
            cache: keep volumes in memory if half of this process' share of what is free holds them.

        Raises:
            UserError: a patch does not divide, or everything that is wrong with the images: all are read once, so
                that the last one does not end what was hours of work on the others.
        """
        self.data = list(data)
        self.patches = _patches(patch, larger_patches)
        self.seed, self.augment, self.intensity = seed, augment, intensity
        self.transforms = {s: image_transforms((s,), factor=FACTOR) for s in {v["sequence"] for v in self.data}}
        self.kept: list[tuple[torch.Tensor, torch.Tensor]] | None = self._read_all(cache)

    def load(self, index: int) -> torch.Tensor:
        """The whole volume as a `MetaTensor` (1, X, Y, Z), float32 in 0..1."""
        volume = self.data[index]
        name = volume["sequence"]
        case = {"folder": volume["folder"], name: volume["path"], "spacing": volume["spacing"]}
        return self.transforms[name](case)[name]

    def _read_all(self, cache: bool) -> list[tuple[torch.Tensor, torch.Tensor]] | None:
        """Check every volume; give them and their affines, or None where they are not to be kept or do not fit."""
        # Headers were read before; half precision takes two bytes a voxel.
        needed = 2 * sum(math.prod(nib.load(volume["path"]).shape) for volume in self.data) if cache else 0
        if needed > available(torch.device("cpu")) / 2:
            logger.info(f"{len(self.data)} volumes need {needed / 2**30:.1f} GiB: they are read anew every epoch")
            cache = False
        kept, problems = [], Problems("volumes")
        for index in tqdm(range(len(self.data)), desc="reading volumes", disable=None):
            try:
                image = self.load(index)
            except UserError as error:
                problems.add_error(self.data[index]["folder"], error)
            else:
                if cache:
                    kept.append((image.as_tensor().half(), image.affine))
        problems.raise_if_any()
        return kept if cache else None

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, place: int | Draw) -> dict[str, Any]:
        epoch, index = place if isinstance(place, Draw) else (0, place)
        volume = self.data[index]
        if self.kept is None:
            loaded = self.load(index)
            image, affine = loaded.as_tensor(), loaded.affine
        else:
            image, affine = self.kept[index]
        item = {name: volume[name] for name in ("folder", "sequence", "made_from") if name in volume}
        random = np.random.default_rng([self.seed, epoch, index])
        patch = [size for first, size in self.patches if first <= max(epoch, 1)][-1]
        if patch is not None:
            size = [min(want, have) for want, have in zip(patch, image.shape[1:], strict=True)]
            start = [int(random.integers(have - n + 1)) for n, have in zip(size, image.shape[1:], strict=True)]
            image = image[(slice(None), *(slice(a, a + n) for a, n in zip(start, size, strict=True)))]
        if self.augment and random.random() < 0.5:
            image = image.flip(1)
        image = image.float()
        if self.intensity:
            image = vary(image, *(float(number) for number in random.uniform(-self.intensity, self.intensity, 3)))
        if patch is None:
            item["affine"] = affine
        return {"image": image, **item}


def vary(image: torch.Tensor, gamma: float, contrast: float, brightness: float) -> torch.Tensor:
    """An image in 0..1 as another scanner, coil or window might show it; 0, 0, 0 leaves it as it is.

    It is raised to the power e^gamma, its distance from its mean is multiplied by e^contrast and all of it by
    e^brightness, and what then lies outside 0..1 is clipped.
    """
    image = image.clamp(0, 1) ** math.exp(gamma)
    mean = image.mean()
    return ((mean + (image - mean) * math.exp(contrast)) * math.exp(brightness)).clamp(0, 1)


def _patches(patch: Sequence[int] | None, larger: Sequence[Sequence[int]]) -> list[tuple[int, Sequence[int] | None]]:
    """First epoch and size of each kind of patch, in their order.

    Raises:
        UserError: a size does not divide, or the epochs do not rise.
    """
    patches = [(1, patch), *((first, size) for first, *size in larger)]
    for _, size in patches:
        if size is not None and (len(size) != 3 or any(n < FACTOR or n % FACTOR for n in size)):
            raise UserError(f"patch {size} must be three multiples of {FACTOR}, or null for whole volumes")
    epochs = [first for first, _ in patches]
    if epochs != sorted(set(epochs)):
        raise UserError(f"larger_patches begin in epochs {epochs[1:]}: give them in their order, from epoch 2 on")
    return patches
