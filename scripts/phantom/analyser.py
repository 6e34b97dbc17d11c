"""Reads a T2w volume of the phantom's kind without its ground truth: how big the gland, where and how large a lesion.

It judges reconstructions and generated volumes, so it may rely on how phantoms are drawn (the gland's implicit
surface, which tissues are bright) but not on grey values: tissue levels are estimated anew in every volume.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from scipy.ndimage import binary_dilation, gaussian_filter, label, map_coordinates
from scipy.optimize import least_squares

from scripts.common.problems import UserError
from scripts.data.grid import GRIDS, Coordinates, coordinates, grid_affine
from scripts.phantom.anatomy import Gland, Lesion, Level, Point, Side, Zone

WORK = GRIDS["demo"]  # every volume is read on this grid
EDGE_MM = 1.6  # half width of the template's soft edges, which must also fit blurred volumes
LESION_LEVEL = 0.33  # T2w signal of a lesion, as a part of the transition zone's
THRESHOLD = 0.57  # score from which a lesion is reported; calibrated as docs/phantom.md says
SMOOTH_MM = 0.9
ROUNDNESS = {"PZ": 0.45, "TZ": 0.44}  # a lesion's volume as a part of the sphere on its diameter; calibrated likewise
PRIOR = 0.03  # misfit that one standard deviation from a usual centre (2 mm) or shape (4 %) is worth
START_ML = (20, 26, 34, 44, 56, 70, 88)
PROPORTIONS = (1.28, 0.93, 1.0)


@dataclass(frozen=True)
class Analysis:
    """What the analyser sees. Where it sees no lesion, zone to centre describe the most suspicious place."""

    lesion: bool
    zone: Zone
    side: Side
    level: Level
    diameter_mm: float
    centre_mm: Point
    gland_ml: float
    score: float  # 0: like the tissue around it, 1: as dark as a lesion
    contrast: dict[str, float]  # by sequence, the lesion's mean signal over that of its zone; empty without a lesion
    nodules: int
    nodule_contrast: float  # how far nodules differ from the transition zone's median, as a part of it; NaN without any


def analyse(
    axt2: np.ndarray, affine: np.ndarray, b1600: np.ndarray | None = None, adc: np.ndarray | None = None
) -> Analysis:
    """Look at one T2w volume (X, Y, Z) of any intensity scale; `affine` takes its voxels to RAS+ mm.

    The other sequences, on the same grid, are only asked for their contrast.

    Raises:
        ValueError: a volume is not three-dimensional, not finite or constant.
    """
    given = {"axt2": axt2, "b1600": b1600, "adc": adc}
    images = {
        name: _on_work_grid(np.asarray(volume, np.float32), np.asarray(affine, np.float64))
        for name, volume in given.items()
        if volume is not None
    }
    image = _levelled(images["axt2"])
    gland = _fit_gland(image)
    return _find_lesion(image, gland, images)


def analyse_file(
    path: str | os.PathLike[str], b1600: str | os.PathLike[str] | None = None, adc: str | os.PathLike[str] | None = None
) -> Analysis:
    """Look at a T2w NIfTI file of any orientation, and at other sequences on its grid.

    Raises:
        UserError: a file cannot be read, or holds no volume.
    """
    try:
        image, *others = (
            None if one is None else nib.as_closest_canonical(nib.load(one)) for one in (path, b1600, adc)
        )
        volumes = (None if one is None else np.asarray(one.dataobj, np.float32) for one in others)
        return analyse(np.asarray(image.dataobj, np.float32), image.affine, *volumes)
    except (OSError, EOFError, ValueError, ImageFileError) as error:
        raise UserError(f"{path} cannot be analysed: {error}") from None


def agrees(analysis: Analysis, index_lesion: Lesion | None) -> dict[str, bool]:
    """Which parts of an analysis agree with the truth, or with what a report asked for.

    Without a lesion only presence is judged; where the analyser misses the lesion, its place counts as wrong.
    """
    presence = analysis.lesion == (index_lesion is not None)
    if index_lesion is None:
        return {"presence": presence, "all": presence}
    names = ("zone", "side", "level")
    parts = {name: analysis.lesion and getattr(analysis, name) == getattr(index_lesion, name) for name in names}
    return {"presence": presence, **parts, "all": all(parts.values())}


def _on_work_grid(image: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Resample to the work grid where needed."""
    if image.ndim != 3 or not np.isfinite(image).all() or image.min() == image.max():
        raise ValueError(
            f"a volume of shape {image.shape} that is constant, not finite or not (X, Y, Z) cannot be read"
        )
    to_voxel = np.linalg.inv(affine) @ grid_affine(WORK)
    if image.shape != WORK.size or not np.allclose(to_voxel, np.eye(4), atol=1e-3):
        shrink = np.abs(to_voxel[:3, :3]).max(1)  # work voxels in image voxels, along the image's axes
        image = gaussian_filter(image, 0.4 * np.clip(shrink - 1, 0, None))
        index = np.indices(WORK.size, np.float32).reshape(3, -1)
        index = to_voxel[:3, :3] @ index + to_voxel[:3, 3:]
        image = map_coordinates(image, index, order=1, mode="nearest").reshape(WORK.size)
    return image


def _levelled(image: np.ndarray) -> np.ndarray:
    """Grey values from percentiles 1..95 to 0..1."""
    low, high = np.percentile(image, [1, 95])
    if low == high:
        raise ValueError("a volume that is constant but for a few voxels cannot be read")
    return np.clip((image - low) / (high - low), 0, 1.5)


# ---- the gland -------------------------------------------------------------------------------------------------------
# Surroundings, veins, gland, transition zone and capsule explain the image linearly once the shape is given, so their
# levels are solved for inside the residual and only the six numbers of the shape are searched (variable projection).


def _ramp(distance: np.ndarray) -> np.ndarray:
    return np.clip(0.5 - distance / (2 * EDGE_MM), 0, 1)


def _template(gland: Gland, xyz: Coordinates) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tissue fractions (5, X, Y, Z), and the distances to the gland's and the transition zone's surface in mm."""
    u, v, w = (axis.astype(np.float32) for axis in gland.coordinates(*xyz))
    outer = gland.distance(u, v, w)
    inner = np.minimum(gland.transition_distance(u, v, w), (0.45 - v) * np.float32(gland.semi[1]))
    whole = _ramp(outer)
    capsule = np.clip(1 - np.abs(outer) / EDGE_MM, 0, 1)
    parts = [np.ones_like(outer), _ramp(outer - 3.2) - whole, whole, _ramp(np.maximum(inner, outer)), capsule]
    return np.stack(parts), outer, inner


def _fit_gland(image: np.ndarray) -> Gland:
    """The gland whose template fits best, searched from the two likeliest of a few sizes."""
    coarse = tuple(slice(None, None, step) for step in (3, 3, 2))
    values = gaussian_filter(image, 0.6)[coarse].ravel()
    x, y, z = coordinates(WORK)
    xyz = x[::3], y[:, ::3], z[:, :, ::2]

    def misfit(faces: np.ndarray) -> np.ndarray:
        gland = _between(faces)
        parts, outer, _ = _template(gland, xyz)
        # What lies far outside says little about the gland.
        weight = np.clip(1.25 - outer / 8, 0.02, 1).ravel()
        weight /= np.linalg.norm(weight)
        design, target = parts.reshape(5, -1) * weight, values * weight
        levels = np.linalg.solve(design @ design.T + 1e-9 * np.eye(5), design @ target)
        odd = np.log(gland.semi) - np.log(PROPORTIONS)
        prior = np.concatenate([np.divide(gland.centre, 2), (odd - odd.mean()) / 0.04])
        # Divided by the spread under the same weight, or a shape that looks at little and explains nothing would win.
        spread = np.sqrt(target @ target - (target @ weight) ** 2)
        return np.concatenate([(levels @ design - target) / spread, PRIOR * prior])

    starts = sorted(map(_faces, START_ML), key=lambda faces: np.sum(misfit(faces) ** 2))[:2]
    fits = [least_squares(misfit, start, diff_step=0.01, xtol=1e-3, ftol=1e-4) for start in starts]
    return _between(min(fits, key=lambda fit: fit.cost).x)


def _faces(millilitres: float) -> np.ndarray:
    """The six faces (mm) of the box around a usual gland at the centre: three low ones, three high ones."""
    semi = Gland.of_volume(millilitres, PROPORTIONS, (0.0, 0.0, 0.0)).semi
    return np.array([*np.negative(semi), *semi])


def _between(faces: np.ndarray) -> Gland:
    low, high = faces[:3], faces[3:]
    return Gland(tuple(((low + high) / 2).tolist()), tuple(((high - low) / 2).tolist()))


# ---- the lesion ------------------------------------------------------------------------------------------------------


def _find_lesion(image: np.ndarray, gland: Gland, images: dict[str, np.ndarray]) -> Analysis:
    """Judge the darkest place in the gland, for the tissue that should be there."""
    x, y, z = coordinates(WORK)
    step = np.array(WORK.spacing)
    parts, outer, inner = _template(gland, (x, y, z))
    darkness = np.where(outer < -1, _darkness(image, parts[3], outer, inner), 0)
    smooth = gaussian_filter(darkness, SMOOTH_MM / step)
    # Both capsules, the fibromuscular stroma in front, bladder neck and sphincter are dark by nature.
    _, v, w = gland.coordinates(x, y, z)
    candidates = (outer < -2) & (np.abs(inner) > 1.5) & (v < 0.65) & (np.abs(w) < 0.8)
    peak = np.unravel_index(np.argmax(np.where(candidates, smooth, -1)), smooth.shape)
    score = float(smooth[peak])

    islands, _ = label((smooth > score / 2) & (outer < -1))
    island = islands == islands[peak]
    centre = np.average(np.argwhere(island), axis=0, weights=smooth[island]) * step + grid_affine(WORK)[:3, 3]
    u, v, w = gland.coordinates(*centre)
    zone = "TZ" if gland.transition_distance(u, v, w) < 0 else "PZ"
    diameter = 2 * (island.sum() * step.prod() * 3 / (4 * np.pi * ROUNDNESS[zone])) ** (1 / 3)
    normal = (outer < -2) & (inner < -2.5 if zone == "TZ" else inner > 2.5) & ~binary_dilation(island, iterations=2)
    contrast = {
        name: round(float(signal[island].mean() / signal[normal].mean()), 3)
        for name, signal in images.items()
        if score > THRESHOLD and normal.any()
    }
    nodules, nodule_contrast = _nodules(images["axt2"], (outer < -2) & (inner < -2) & ~binary_dilation(island))
    return Analysis(
        lesion=score > THRESHOLD,
        zone=zone,
        side="left" if u < 0 else "right",
        level="base" if w > 1 / 3 else "apex" if w < -1 / 3 else "mid",
        diameter_mm=round(float(diameter), 1),
        centre_mm=tuple(round(float(value), 1) for value in centre),
        gland_ml=round(gland.millilitres, 1),
        score=round(score, 3),
        contrast=contrast,
        nodules=nodules,
        nodule_contrast=nodule_contrast,
    )


def _nodules(image: np.ndarray, zone: np.ndarray) -> tuple[int, float]:
    """Blobs of about nodules' size in a zone, brighter or darker than its median: how many, and how much so."""
    if not zone.any():
        return 0, float("nan")
    step, level = np.array(WORK.spacing), float(np.median(image[zone]))
    relative = image / level - 1
    band = gaussian_filter(relative, 1.5 / step) - gaussian_filter(relative, 6.0 / step)
    found = [label(zone & (sign * band > 0.08)) for sign in (1, -1)]
    blobs = [islands == number for islands, count in found for number in range(1, count + 1)]
    differs = [abs(float(relative[blob].mean())) for blob in blobs if blob.sum() * step.prod() > 40]
    return len(differs), round(float(np.mean(differs)), 3) if differs else float("nan")


def _darkness(image: np.ndarray, transition: np.ndarray, outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """How far each voxel is on the way from the grey value of its zone (0) to that of a lesion (1)."""
    deep = outer < -2
    levels = [np.median(image[deep & zone]) if (deep & zone).any() else 1.0 for zone in (inner > 2.5, inner < -2.5)]
    expected = levels[0] + (levels[1] - levels[0]) * transition
    lesion = min(LESION_LEVEL * levels[1], 0.5 * min(levels))
    return np.clip((expected - image) / (expected - lesion), -0.5, 1.2)
