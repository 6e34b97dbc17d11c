"""What masks say: how large the prostate is, and of each lesion in it zone, side, level, sector and axes.

Everything is measured along the image's own axes, in the order and direction closest to RAS, as a radiologist does it
on axial slices: x runs to the patient's right, y to the front, z to the head, and the prostate's thirds are thirds of
its slices.
"""

from __future__ import annotations

import os
from functools import cached_property
from typing import NamedTuple

import nibabel as nib
import numpy as np
from nibabel.processing import resample_from_to
from scipy.spatial import cKDTree
from skimage.measure import label

from scripts.common.problems import UserError
from scripts.public.exams import Focus
from scripts.wording.findings import LEVELS, Level, Place, Sector, Side, Zone

PART = 1 / 3  # of a lesion that lies in a level, or on a side, is worth telling
SPECK_MM = 3.0  # what is smaller is a resampled edge, not a lesion
ASIDE = (25, 35)  # degrees from straight back: posteromedial below, posterolateral above, undecided between
DIRECTIONS = np.linspace(0, np.pi, 60, endpoint=False)


class Labels(NamedTuple):
    """Whole numbers on a grid."""

    voxels: np.ndarray  # (X, Y, Z)
    affine: np.ndarray  # (4, 4), voxels to RAS world, mm; x, y, z of the voxels run roughly along R, A, S

    @property
    def spacing(self) -> np.ndarray:
        return nib.affines.voxel_sizes(self.affine)


def read_labels(path: str | os.PathLike[str], like: Labels | None = None) -> Labels:
    """A NIfTI mask, its axes turned closest to RAS; on the grid of `like`, where it has another one.

    Raises:
        UserError: it cannot be read, or is not 3D.
    """
    try:
        image = nib.load(path)
        image = nib.Nifti1Image(np.rint(np.asanyarray(image.dataobj)).astype(np.int16), image.affine)
    except Exception:  # nibabel raises whatever the broken bytes lead it to
        raise UserError(f"{path}: is no readable NIfTI mask; download it again") from None
    if image.ndim != 3:
        raise UserError(f"{path}: has shape {image.shape}; a mask must be 3D")
    image = nib.as_closest_canonical(image)
    if like is not None and not (
        image.shape == like.voxels.shape and np.allclose(image.affine, like.affine, atol=1e-2)
    ):
        image = resample_from_to(image, (like.voxels.shape, like.affine), order=0)
    return Labels(np.asarray(image.dataobj).astype(np.int16), image.affine)


class Prostate:
    """A prostate by its mask, and by that of its zones where there is one.

    Args:
        gland: anything but 0 is prostate; of several parts the largest counts.
        zones: on the same grid, two values: the peripheral zone's is that which lies further back, so that it does not
            matter which way round a data set numbers them. A mask that holds more or fewer says nothing.

    Raises:
        UserError: the gland's mask is empty.
    """

    def __init__(self, gland: Labels, zones: Labels | None = None) -> None:
        parts = label(gland.voxels > 0, connectivity=3)
        if not parts.any():
            raise UserError("the prostate's mask is empty; leave it out or download it again")
        self.mask = parts == np.argmax(np.bincount(parts.ravel())[1:]) + 1
        self.affine, self.spacing = gland.affine, gland.spacing
        where = np.argwhere(self.mask)
        self.low, self.high = where.min(0), where.max(0) + 1  # edges, in voxels
        self.middle = where.mean(0)
        self.zones = zones if zones is not None and len(np.setdiff1d(zones.voxels, [0])) == 2 else None

    @property
    def millilitres(self) -> float:
        return float(self.mask.sum() * np.prod(self.spacing) / 1000)

    @property
    def size_mm(self) -> tuple[float, float, float]:
        """Left-right, anterior-posterior, cranio-caudal."""
        return tuple(((self.high - self.low) * self.spacing).tolist())

    @property
    def centre_mm(self) -> tuple[float, float, float]:
        """The centre of mass in RAS world."""
        return tuple(nib.affines.apply_affine(self.affine, self.middle).tolist())

    @cached_property
    def _zoned(self) -> tuple[cKDTree, np.ndarray]:
        """The voxels that have a zone, to look up in mm, and whether each is of the peripheral one."""
        where = np.argwhere(self.zones.voxels > 0)
        values = self.zones.voxels[tuple(where.T)]
        first, second = np.unique(values)
        behind = where[values == first, 1].mean() < where[values == second, 1].mean()
        return cKDTree(where * self.spacing), values == (first if behind else second)

    def zone(self, where: np.ndarray) -> Zone | None:
        """The zone that most of the voxels (N, 3) lie in or nearest to."""
        if self.zones is None:
            return None
        tree, peripheral = self._zoned
        return "PZ" if peripheral[tree.query(where * self.spacing)[1]].mean() > 0.5 else "TZ"

    def side(self, where: np.ndarray) -> Side:
        """The side of the voxels (N, 3); midline where a third or more lies on either side of the prostate's middle."""
        right = float(np.mean(where[:, 0] > self.middle[0]))
        return "right" if right > 1 - PART else "left" if right < PART else "midline"

    def levels(self, where: np.ndarray) -> tuple[Level, tuple[Level, ...]]:
        """The third of the prostate's slices that most of the voxels (N, 3) lie in, and all that hold a third or more.

        What lies above or below the prostate belongs to its last third.
        """
        depth = (self.high[2] - (where[:, 2] + 0.5)) / (self.high[2] - self.low[2])  # 0 at the base, 1 at the apex
        shares = np.bincount(np.clip(depth * 3, 0, 2).astype(int), minlength=3) / len(where)
        told = np.flatnonzero(shares >= min(PART, shares.max()))
        return LEVELS[int(shares.argmax())], LEVELS[told[0] : told[-1] + 1]

    def sector(self, zone: Zone | None, where: np.ndarray) -> Sector | None:
        """The sector of PI-RADS v2.1 on the slice that holds the middle of the voxels (N, 3); None near a border."""
        if zone not in ("PZ", "TZ") or (zone == "TZ" and self.zones is None):
            return None
        slice_ = int(np.clip(round(where[:, 2].mean()), self.low[2], self.high[2] - 1))
        section = self.mask if zone == "PZ" else self._transition
        outline = np.argwhere(section[:, :, slice_])
        if not len(outline):
            return None
        low, high = outline.min(0), outline.max(0) + 1
        if zone == "TZ":
            front = float(np.mean(where[:, 1] + 0.5 > (low[1] + high[1]) / 2))
            return "TZa" if front > 1 - PART else "TZp" if front < PART else None
        across, ahead = (where[:, :2].mean(0) + 0.5 - (low + high) / 2) / ((high - low) / 2)
        if ahead > 0:
            return "PZa"
        aside = np.rad2deg(np.arctan2(abs(across), -ahead))
        return "PZpm" if aside < ASIDE[0] else "PZpl" if aside > ASIDE[1] else None

    @cached_property
    def _transition(self) -> np.ndarray:
        transition = np.zeros_like(self.mask)
        tree, peripheral = self._zoned
        transition[tuple(np.rint(tree.data[~peripheral] / self.spacing).astype(int).T)] = True
        return transition


def foci(lesions: Labels, prostate: Prostate | None) -> list[Focus]:
    """Each lesion of a mask, the largest first: connected voxels of one value are one lesion, of which `isup` is that.

    Args:
        lesions: on the prostate's grid.
        prostate: without it only size and centre are known.
    """
    numbered = label(lesions.voxels, connectivity=3)
    found = []
    for number in range(1, numbered.max() + 1):
        mask = numbered == number
        size = axes_mm(mask, lesions.spacing)
        if size[0] >= SPECK_MM:
            where = np.argwhere(mask)
            found.append(focus(where, lesions, prostate, size, int(lesions.voxels[tuple(where[0])])))
    return sorted(found, key=lambda one: one.size_mm[0], reverse=True)


def focus(
    where: np.ndarray,
    grid: Labels,
    prostate: Prostate | None,
    size: tuple[float, ...] = (),
    isup: int | None = None,
    zone: Zone | None = None,
) -> Focus:
    """The lesion whose voxels on a grid are `where` (N, 3); its zone, if it is given, or as the zones' mask has it."""
    centre = tuple(nib.affines.apply_affine(grid.affine, where.mean(0)).tolist())
    if prostate is None:
        return Focus(Place(zone), None, size, centre, isup=isup)
    zone, (level, levels) = zone or prostate.zone(where), prostate.levels(where)
    place = Place(zone, prostate.side(where), levels, prostate.sector(zone, where))
    return Focus(place, level, size, centre, isup=isup)


def axes_mm(mask: np.ndarray, spacing: np.ndarray) -> tuple[float, float]:
    """The longest axis that a lesion (X, Y, Z) has on an axial slice, and the one across it on that slice.

    A lesion reaches from edge to edge of its outer voxels, so an axis is one voxel longer than their centres lie apart.
    """
    directions = np.stack([np.cos(DIRECTIONS), np.sin(DIRECTIONS)])
    width = np.abs(directions * np.reshape(spacing[:2], (2, 1))).max(0)
    best = (0.0, 0.0)
    for slice_ in np.flatnonzero(mask.any((0, 1))):
        points = np.argwhere(mask[:, :, slice_]) * spacing[:2]
        extents = np.ptp(points @ directions, axis=0) + width
        longest = int(extents.argmax())
        across = (longest + len(DIRECTIONS) // 2) % len(DIRECTIONS)
        best = max(best, (float(extents[longest]), float(extents[across])))
    return best
