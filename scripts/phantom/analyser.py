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
from scipy.ndimage import (
    binary_dilation,
    gaussian_filter,
    label,
    map_coordinates,
    maximum_filter,
    percentile_filter,
)
from scipy.optimize import least_squares

from scripts.common.problems import UserError
from scripts.data.grid import GRIDS, Coordinates, coordinates, grid_affine
from scripts.phantom.anatomy import Lesion, Level, Side, Zone
from scripts.phantom.gland import Gland, Point

WORK = GRIDS["demo"]  # every volume is read on this grid
EDGE_MM = 1.6  # half width of the template's soft edges, which must also fit blurred volumes
LESION_LEVEL = {"axt2": 0.33, "b1600": 2.6, "adc": 0.5}  # signal of a lesion, as a part of the transition zone's
THRESHOLD = (0.63, 0.335)  # score from which a lesion is reported, on T2w alone and on more; see docs/phantom.md
SMOOTH_MM = 0.9
SOLID_MM = 2.6  # a lesion fills a ball of this radius: rims, septa and noise do not
SOLID_SHARE = 40  # percentile of the evidence in that ball
NODULE_MM = 1.8  # a nodule stands out at this scale (a Gaussian's deviation) from what is around it at twice the scale
NODULE_CONTRAST = 0.08  # by this part of the zone's median
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
    contrast: dict[str, float]  # the lesion's mean signal over its zone's median, by sequence; empty without a lesion
    nodules: int  # round things in the transition zone that are brighter or darker than what surrounds them
    nodule_contrast: float  # their mean difference from that as a part of the zone's median; 0 where there are none


def analyse(
    axt2: np.ndarray, affine: np.ndarray, b1600: np.ndarray | None = None, adc: np.ndarray | None = None
) -> Analysis:
    """Look at an exam, T2w alone or with what else there is.

    Args:
        axt2: (X, Y, Z), of any intensity scale.
        affine: (4, 4), takes its voxels to RAS+ mm.
        b1600: high-b image on the same grid.
        adc: map on the same grid.

    Raises:
        ValueError: a volume is not three-dimensional, not finite or constant.
    """
    given = {"axt2": axt2, "b1600": b1600, "adc": adc}
    affine = np.asarray(affine, np.float64)
    images = {name: _on_work_grid(np.asarray(v, np.float32), affine) for name, v in given.items() if v is not None}
    levelled = {name: _levelled(image) for name, image in images.items()}
    return _find_lesion(images, levelled, _fit_gland(levelled["axt2"]))


def analyse_file(
    axt2: str | os.PathLike[str], b1600: str | os.PathLike[str] | None = None, adc: str | os.PathLike[str] | None = None
) -> Analysis:
    """Look at NIfTI files of any orientation, of one exam and on one grid.

    Raises:
        UserError: a file cannot be read, or holds no volume.
    """
    try:
        images = [None if path is None else nib.as_closest_canonical(nib.load(path)) for path in (axt2, b1600, adc)]
        volumes = [None if image is None else np.asarray(image.dataobj, np.float32) for image in images]
        return analyse(volumes[0], images[0].affine, *volumes[1:])
    except (OSError, EOFError, ValueError, ImageFileError) as error:
        raise UserError(f"{axt2} cannot be analysed: {error}") from None


def agrees(analysis: Analysis, index_lesion: Lesion | None) -> dict[str, bool]:
    """Which parts of an analysis agree with the truth, or with what a report asked for.

    Without a lesion only presence is judged; where the analyser misses the lesion, its place counts as wrong. Of a
    lesion's place that is judged which is known.
    """
    presence = analysis.lesion == (index_lesion is not None)
    if index_lesion is None:
        return {"presence": presence, "all": presence}
    names = [name for name in ("zone", "side", "level") if getattr(index_lesion, name) is not None]
    parts = {name: analysis.lesion and getattr(analysis, name) == getattr(index_lesion, name) for name in names}
    return {"presence": presence, **parts, "all": presence and all(parts.values())}


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


def _find_lesion(images: dict[str, np.ndarray], levelled: dict[str, np.ndarray], gland: Gland) -> Analysis:
    """Judge the place in the gland that looks most like a lesion, for the tissue that should be there.

    It is looked for where grey values are `levelled`; its contrast is that of the images as they are.
    """
    step = np.array(WORK.spacing)
    x, y, z = coordinates(WORK)
    parts, outer, inner = _template(gland, (x, y, z))
    deep = outer < -1
    evidence = np.mean([_evidence(name, image, parts[3], outer, inner) for name, image in levelled.items()], axis=0)
    evidence = np.where(deep, evidence, 0)
    # Both capsules, the fibromuscular stroma in front, bladder neck and sphincter are dark by nature.
    _, v, w = gland.coordinates(x, y, z)
    candidates = (outer < -2) & (np.abs(inner) > 1.5) & (v < 0.65) & (np.abs(w) < 0.8)
    solid = percentile_filter(evidence, SOLID_SHARE, footprint=_ball(SOLID_MM))
    peak = np.unravel_index(np.argmax(np.where(candidates, solid, -1)), solid.shape)
    score = float(solid[peak])

    smooth = gaussian_filter(evidence, SMOOTH_MM / step)
    islands, _ = label((smooth > smooth[peak] / 2) & deep)
    island = islands == islands[peak]
    centre = np.average(np.argwhere(island), axis=0, weights=smooth[island]) * step + grid_affine(WORK)[:3, 3]
    u, v, w = gland.coordinates(*centre)
    zone = "TZ" if gland.transition_distance(u, v, w) < 0 else "PZ"
    diameter = 2 * (island.sum() * step.prod() * 3 / (4 * np.pi * ROUNDNESS[zone])) ** (1 / 3)
    inside = (inner < 0) if zone == "TZ" else (inner > 0)
    normal = deep & inside & (smooth < smooth[peak] / 2)
    core = island & (smooth > 0.8 * smooth[peak])
    contrast = {name: _ratio(image[core].mean(), np.median(image[normal])) for name, image in images.items()}
    lesion = score > THRESHOLD[len(images) > 1]
    nodules = _nodules(images["axt2"], (inner < -2) & deep & ~binary_dilation(island, iterations=2))
    return Analysis(
        lesion=lesion,
        zone=zone,
        side="left" if u < 0 else "right",
        level="base" if w > 1 / 3 else "apex" if w < -1 / 3 else "mid",
        diameter_mm=round(float(diameter), 1),
        centre_mm=tuple(round(float(value), 1) for value in centre),
        gland_ml=round(gland.millilitres, 1),
        score=round(score, 3),
        contrast=contrast if lesion else {},
        nodules=len(nodules),
        nodule_contrast=round(float(np.mean(np.abs(nodules))), 3) if len(nodules) else 0.0,
    )


def _ratio(lesion: float, normal: float) -> float:
    return round(float(lesion / normal), 3) if normal > 0 else float("nan")


def _nodules(image: np.ndarray, where: np.ndarray) -> np.ndarray:
    """How much each nodule within a mask is brighter (or darker: negative), as a part of the median there."""
    step = np.array(WORK.spacing)
    band = gaussian_filter(image, NODULE_MM / step) - gaussian_filter(image, 2 * NODULE_MM / step)
    level = np.median(image[where]) if where.any() else 1.0
    strong = where & (np.abs(band) > NODULE_CONTRAST * level)
    peaks = strong & (np.abs(band) == maximum_filter(np.abs(band), footprint=_ball(2 * NODULE_MM)))
    return band[peaks] / level


def _ball(radius_mm: float) -> np.ndarray:
    """A ball of that radius on the work grid, as a footprint."""
    half = [int(radius_mm / step) for step in WORK.spacing]
    x, y, z = (np.arange(-n, n + 1) * step for n, step in zip(half, WORK.spacing, strict=True))
    return np.sqrt(x[:, None, None] ** 2 + y[:, None] ** 2 + z**2) <= radius_mm


def _evidence(name: str, image: np.ndarray, transition: np.ndarray, outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """How far each voxel is on the way from the grey value of its zone (0) to that of a lesion (1)."""
    deep = outer < -2
    levels = [np.median(image[deep & zone]) if (deep & zone).any() else 1.0 for zone in (inner > 2.5, inner < -2.5)]
    expected = levels[0] + (levels[1] - levels[0]) * transition
    lesion = LESION_LEVEL[name] * levels[1]
    if name == "axt2":
        lesion = min(lesion, 0.5 * min(levels))
    return np.clip((expected - image) / (expected - lesion), -0.5, 1.2)
