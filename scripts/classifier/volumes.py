"""Volumes as the classifier sees them: preprocessing, augmentation, and the dataset that applies both.

The authors resample with Lanczos before training. Here volumes are resampled as everywhere in this project: linearly,
after smoothing along the axes that shrink, because a Lanczos interpolator at the volume's own resolution still aliases
when slices of 0.56 mm become slices of 3 mm. A volume that has the wanted spacing already, e.g. one resampled by the
authors' script, is left as it is.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from monai.data import CacheDataset, MetaTensor
from monai.transforms import (
    Compose,
    ConcatItemsd,
    CropForegroundd,
    DeleteItemsd,
    EnsureTyped,
    LoadImaged,
    MapTransform,
    Orientationd,
    RandAffined,
    RandFlipd,
    RandRotated,
    RandZoomd,
    ScaleIntensityRanged,
    ScaleIntensityRangePercentilesd,
)
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from scripts.common.problems import Problems, UserError
from scripts.data.datalists import Case
from scripts.data.grid import SPACING_TOLERANCE, Grid, grid_affine, resample
from scripts.data.images import QUANTITATIVE, SCANNER_UNITS, CheckImaged, ImageTransforms, check_voxels
from scripts.engine.loading import Draw, ShuffledEpochs, data_loader

HIGHEST = {"axt2": 98.0}  # percentile that becomes 1, as the authors have it; a lesion is among the brightest of others
USUAL_HIGHEST = 99.5


class ToSpacingd(MapTransform):
    """Resample volumes (1, X, Y, Z) around their centre to a spacing in mm, keeping the field of view."""

    def __init__(self, keys: Sequence[str] | str, spacing: Sequence[float]) -> None:
        super().__init__(keys)
        self.spacing = tuple(float(step) for step in spacing)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Give `data` with resampled volumes."""
        result = dict(data)
        for key in self.key_iterator(result):
            volume: MetaTensor = result[key]
            steps = np.asarray(volume.pixdim)
            if not np.allclose(steps, self.spacing, rtol=0, atol=SPACING_TOLERANCE):
                size = np.maximum(np.rint(np.asarray(volume.shape[1:]) * steps / self.spacing), 1).astype(int)
                grid = Grid(tuple(size.tolist()), self.spacing)
                result[key] = resample(volume, grid, grid_affine(grid, volume.affine, volume.shape[1:]))
        return result


class CropAroundd(MapTransform):
    """Cut a box of voxels out of volumes (1, X, Y, Z) around a place, with zeros where it leaves them.

    The place is `centre` of the case, in mm of the world (RAS), where there is one; else the volumes' middle.
    """

    def __init__(self, keys: Sequence[str] | str, spatial_size: Sequence[int]) -> None:
        super().__init__(keys)
        self.spatial_size = np.asarray(spatial_size, dtype=int)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Give `data` with volumes (1, *spatial_size)."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self._cut(result[key], data.get("centre"))
        return result

    def _cut(self, volume: MetaTensor, centre: Sequence[float] | None) -> Tensor:
        shape = np.asarray(volume.shape[1:])
        first = (shape - self.spatial_size) // 2  # below 0 where there is less than the box
        if centre is not None:
            place = np.linalg.solve(np.asarray(volume.affine, dtype=np.float64), [*centre, 1.0])[:3]
            first = np.rint(place - (self.spatial_size - 1) / 2).astype(int)
        sides = np.stack([-first, first + self.spatial_size - shape], axis=1)
        return F.pad(volume.as_tensor(), sides[::-1].ravel().tolist())  # cuts where a side is below 0


def preprocessing(
    spacing: Sequence[float], spatial_size: Sequence[int], channels: Sequence[str] = ("axt2",)
) -> Compose:
    """From a case with a path for each channel to `image` (channels, *spatial_size), float32 in 0..1.

    RAS, the wanted spacing, crop to the foreground (of the first channel above 0), percentiles 0..98 (T2w) or 0..99.5
    (high b) to 0..1, ADC by its own scale, pad or crop around `centre` in mm, else around the middle.

    Args:
        spacing: mm along x, y, z.
        spatial_size: voxels along x, y, z.
        channels: sequences, in the order in which the network sees them.

    Raises:
        UserError: sizes are none; when applied: an image is missing, broken, constant or not finite.
    """
    if len(spatial_size) != 3 or min(spatial_size) < 1:
        raise UserError(f"spatial_size {list(spatial_size)}: give three whole numbers above 0")
    if len(spacing) != 3 or min(spacing) <= 0:
        raise UserError(f"spacing {list(spacing)}: give three positive numbers in mm")
    channels = list(channels)
    return ImageTransforms(
        [
            LoadImaged(channels, reader="NibabelReader", ensure_channel_first=True),
            Orientationd(channels, axcodes="RAS", labels=None),
            EnsureTyped(channels, dtype=torch.float32),
            CheckImaged(channels, spatial_size=None, factor=1),
            ToSpacingd(channels, spacing),
            CropForegroundd(
                channels, source_key=channels[0], start_coord_key=None, end_coord_key=None, allow_smaller=True
            ),
            *(_scaling(channel) for channel in channels),
            CropAroundd(channels, spatial_size),
            ConcatItemsd(channels, name="image"),
            DeleteItemsd([*channels, "centre"]),
            EnsureTyped("image", dtype=torch.float32, track_meta=False),
        ]
    )


def _scaling(channel: str) -> MapTransform:
    if channel in QUANTITATIVE:
        return ScaleIntensityRanged(channel, a_min=0, a_max=SCANNER_UNITS[channel], b_min=0, b_max=1, clip=True)
    highest = HIGHEST.get(channel, USUAL_HIGHEST)
    return ScaleIntensityRangePercentilesd(channel, lower=0, upper=highest, b_min=0, b_max=1, clip=True)


def augmentation(probability: float, degrees: float, translation: Sequence[int], zoom: Sequence[float]) -> Compose:
    """Left-right flip, rotation in the axial plane, translation and zoom, each with the same probability.

    The four are joined into one interpolation.

    Args:
        probability: of each.
        degrees: largest rotation either way.
        translation: largest shift in voxels along x, y, z.
        zoom: smallest and largest factor.
    """
    # Joined transforms forget their own mode of padding: MONAI then repeats the border, unless it is overridden.
    return Compose(
        [
            RandFlipd("image", prob=probability, spatial_axis=0),
            RandRotated("image", prob=probability, range_z=math.radians(degrees)),
            RandAffined("image", prob=probability, translate_range=[(-t, t) for t in translation]),
            RandZoomd("image", prob=probability, min_zoom=zoom[0], max_zoom=zoom[1]),
            EnsureTyped("image", track_meta=False),
        ],
        lazy=True,
        overrides={"image": {"padding_mode": "zeros"}},
    )


class VolumeDataset(Dataset):
    """Preprocessed volumes, kept in memory, and augmented with a seed of their own.

    How a case is augmented depends on the seed, the epoch and its place in the list alone: not on the batch size, the
    worker or the rank.

    Args:
        data: cases with `folder`, a path for each channel and `label`.
        transform: preprocessing.
        augment: random transform after it; none for validation and test.
        seed: of the augmentation.
        cache_rate: share of the volumes that are kept in memory, by each process its own.

    Raises:
        UserError: everything that is wrong with the images; all are read once.
    """

    def __init__(
        self,
        data: Sequence[Case],
        transform: Compose,
        augment: Compose | None = None,
        seed: int = 0,
        cache_rate: float = 1,
    ) -> None:
        self.data = data
        problems = Problems("volumes")
        # The cache is not copied: nothing changes a volume in place.
        try:
            self.volumes = CacheDataset(data, transform, cache_rate=cache_rate, progress=False, copy_cache=False)
        except UserError:
            check_voxels(data, transform, problems)  # of all cases, where the cache stops at the first one
            problems.raise_if_any()
            raise
        check_voxels(data[self.volumes.cache_num :], transform, problems)
        problems.raise_if_any()
        self.augment = augment
        self.seed = seed

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, place: int | Draw) -> Case:
        """A case with `image` (channels, X, Y, Z) and `label` (1,); a plain index gives it without augmentation."""
        if not isinstance(place, Draw):
            return self.volumes[place]
        case = dict(self.volumes[place.index])
        if self.augment is not None:
            digest = hashlib.sha256(f"{self.seed}/{place.epoch}/{place.index}".encode()).digest()
            self.augment.set_random_state(seed=int.from_bytes(digest[:4], "big"))
            case = self.augment(case)
        return case


def training_loader(dataset: VolumeDataset, batch_size: int, num_workers: int | None, seed: int) -> DataLoader:
    """Batches for training; `batch_size` is that of all processes together.

    Raises:
        UserError: a process would get fewer than two cases a batch, which batch normalisation needs.
    """
    processes = idist.get_world_size()
    share = min(batch_size, len(dataset)) // processes
    if share < 2:
        raise UserError(
            f"batch_size {batch_size} and {len(dataset)} training cases over {processes} processes leave {share} a "
            "batch; batch normalisation needs 2: raise batch_size or use fewer processes"
        )
    # A short last batch is dropped, or its statistics would weigh too much; the next epoch shuffles again.
    batches = ShuffledEpochs(dataset, share, seed, drop_last=True)
    return data_loader(dataset, batch_sampler=batches, num_workers=num_workers)
