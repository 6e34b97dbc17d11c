"""Where the gland is, for volumes that are cropped around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy.ndimage import center_of_mass

from scripts.common.problems import Problems, UserError
from scripts.data.datalists import SEQUENCES, Case

CENTRES = ("foreground", "gland")
MASK = "gland.nii.gz"  # beside the images of a case
ENTRY = "gland_centre"  # of a datalist: mm of the world along x, y, z (RAS)


def add_centres(cases: Sequence[Case], entries: Sequence[Mapping[str, Any]], centre: str) -> None:
    """Give each case its `centre` in mm of the world (RAS), which volumes are cropped around.

    Args:
        cases: of one kind, with paths of images.
        entries: what the datalist says of each: its `gland_centre`, if it has one, goes before the mask.
        centre: `foreground` adds nothing, volumes are cropped around the middle of what is above 0; `gland` is the
            middle of the mask `gland.nii.gz` beside the images.

    Raises:
        UserError: no such centre; cases whose gland is not known, all of them.
    """
    if centre not in CENTRES:
        raise UserError(f"centre is {centre!r}; give one of {', '.join(CENTRES)}")
    if centre == "foreground":
        return
    problems = Problems("gland")
    for case, entry in zip(cases, entries, strict=True):
        try:
            case["centre"] = _centre(entry, image_path(case).parent / MASK)
        except ValueError as error:
            problems.add(case["folder"], str(error), f"put {MASK} beside its images, or give --centre foreground")
    problems.raise_if_any()


def image_path(case: Case) -> Path:
    """One of the images of a case."""
    return next(Path(case[name]) for name in SEQUENCES if name in case)


def _centre(entry: Mapping[str, Any], mask: Path) -> np.ndarray:
    """(3,) mm.

    Raises:
        ValueError: it is not known, with what is wrong.
    """
    if ENTRY in entry:
        try:
            centre = np.asarray(entry[ENTRY], dtype=np.float64)
        except (TypeError, ValueError):
            centre = np.empty(0)
        if centre.shape != (3,) or not np.isfinite(centre).all():
            raise ValueError(f"{ENTRY} is not three numbers in mm")
        return centre
    if not mask.is_file():
        raise ValueError(f"has no {MASK} and no {ENTRY} in its datalist")
    try:
        image = nib.load(mask)
        inside = np.asarray(image.dataobj) > 0
    except Exception as error:  # nibabel raises whatever the broken bytes lead it to
        raise ValueError(f"{MASK} cannot be read ({type(error).__name__})") from None
    if inside.ndim != 3 or not inside.any():
        raise ValueError(f"{MASK} marks nothing in a 3D image")
    return nib.affines.apply_affine(image.affine, center_of_mass(inside))
