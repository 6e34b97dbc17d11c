"""One DICOM series into a volume: its headers are checked, its voxels come from dcm2niix, scaled slice by slice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scripts.common.problems import ImageError
from scripts.dicom.conversion import stored_values
from scripts.dicom.geometry import Stack, stack
from scripts.dicom.headers import Frame
from scripts.dicom.series import Export, Series, scan

ZEROS = 0.25  # share of a slice's rows that are zero at its end, above which it is told


def read_series(
    folder: Path, uid: str | None = None, b_value: int | None = None
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Read one volume from a folder with DICOM files.

    Args:
        folder: its files may be nested in it, and be those of several series.
        uid: of the series; it may be left out where there is one.
        b_value: s/mm²; it may be left out where the series holds one.

    Returns:
        (columns, rows, slices) float32, slopes and RealWorldValueMapping applied; the affine from those voxels to RAS
        world, mm; what a user should know of it.

    Raises:
        ImageError: it cannot be read or used, or is not one volume.
    """
    export = scan(folder)
    series = _the_series(export, uid)
    export.check(series.folders)
    if any(header.is_mosaic for header in series.headers):
        raise ImageError("is a mosaic, all slices in one picture", "convert it with dcm2niix and give the NIfTI")
    frames = _of_b_value(series, b_value)
    placed = stack(frames)
    stored = stored_values(placed)
    values = _scaled(stored, placed)
    told = [*_incomplete(series, frames, export), *_scales(placed), *_blank(stored), *_spoilt(stored, placed)]
    return values, placed.affine, told


def _the_series(export: Export, uid: str | None) -> Series:
    if uid is None:
        if len(export.series) == 1:
            return export.series[0]
        found = "; ".join(str(series) for series in export.series[:8])
        what = f"is a folder with {len(export.series)} DICOM series: {found}"
        raise ImageError(what, "name one by its description or folder in the pattern, or give --series")
    found = [series for series in export.series if series.uid == uid]
    if not found:
        raise ImageError("does not hold the series that was chosen", "correct the table given as --series")
    return found[0]


def _of_b_value(series: Series, b_value: int | None) -> list[Frame]:
    """The frames with a b-value, or all of a series that holds one."""
    frames, there = series.frames, series.b_values
    if b_value is None:
        if len(there) > 1:
            what = f"holds images of several b-values: {', '.join(map(str, there))}"
            raise ImageError(what, f"choose one, e.g. --b_value {there[-1]} for the DWI")
        if there and any(frame.b_value is None for frame in frames):
            without = next(frame for frame in frames if frame.b_value is None)
            what = f"holds images of b-value {there[0]} and others without one ({without.file.name})"
            raise ImageError(what, f"take the others out, or choose with --b_value {there[0]}")
        return frames
    chosen = [frame for frame in frames if frame.b_value == b_value]
    if not chosen:
        found = f"b-values found: {', '.join(map(str, there))}" if there else "no b-value stands in its headers"
        raise ImageError(f"has no image of b-value {b_value}; {found}", "correct --b_value, or leave it out")
    return chosen


def _scaled(stored: np.ndarray, placed: Stack) -> np.ndarray:
    """Each slice by its own slope and intercept; in float64, so that large whole numbers stay what they are."""
    slopes = np.array([frame.slope for frame in placed.frames])
    intercepts = np.array([frame.intercept for frame in placed.frames])
    if not (np.isfinite(slopes) & np.isfinite(intercepts) & (slopes != 0)).all():
        raise ImageError("has a slope that is 0 or no number", "export the series again")
    return (stored * slopes + intercepts).astype(np.float32)


# ---- what is told ----------------------------------------------------------------------------------------------------


def _incomplete(series: Series, frames: Sequence[Frame], export: Export) -> list[str]:
    """Signs that slices are missing at an end, where no gap between them tells.

    Some archives number on from one series to the next: then it is no sign that the numbers begin late.
    """
    count, told = len(series.frames), []
    promised = max((header.promised or 0 for header in series.headers), default=0)
    if promised > count:
        told.append(f"slices may be missing: it has {count}, its headers say {promised} (ImagesInAcquisition)")
    numbers = _numbers(series)
    ends = {_numbers(other)[-1] for other in export.series if other != series and _numbers(other)}
    if numbers and numbers[0] > 1 and numbers[0] - 1 not in ends:
        told.append(f"slices may be missing at its start: their numbers begin at {numbers[0]}")
    if numbers and (gaps := sorted(set(range(numbers[0], numbers[-1])) - set(numbers))):
        first = f"{gaps[0]}" if len(gaps) == 1 else f"{gaps[0]} to {gaps[-1]}"
        told.append(f"slices may be missing: {len(gaps)} numbers up to {numbers[-1]} are not there ({first})")
    by_b = Counter(frame.b_value for frame in series.frames)
    if len(frames) < max(by_b.values()):
        told.append(f"slices may be missing: it has {len(frames)}, another b-value of the series {max(by_b.values())}")
    return told


def _numbers(series: Series) -> list[int]:
    return sorted({frame.number for frame in series.frames if frame.number is not None})


def _scales(placed: Stack) -> list[str]:
    told = []
    if len({(frame.slope, frame.intercept) for frame in placed.frames}) > 1:
        told.append("slopes differ from slice to slice; each was applied to its own")
    units = sorted({frame.unit or "none" for frame in placed.frames})
    if len(units) > 1:
        raise ImageError(f"has slices in different units ({', '.join(units)})", "export the series again")
    if units != ["none"]:
        told.append(f"values are real world values ({units[0]}) as its headers map them")
    return told


def _blank(stored: np.ndarray) -> list[str]:
    """Slices without an image at the ends.

    Raises:
        ImageError: one lies between others.
    """
    blank = np.ptp(stored, axis=(0, 1)) == 0
    if blank.all() or not blank.any():
        return []  # an image that is constant altogether is told by who checks all images
    first, last = np.flatnonzero(~blank)[[0, -1]]
    if blank[first:last].any():
        at = first + int(np.flatnonzero(blank[first:last])[0])
        raise ImageError(f"has a blank slice within it (number {at + 1} of {len(blank)})", "export the series again")
    ends = [f"{n} at its {end}" for n, end in ((first, "start"), (len(blank) - 1 - last, "end")) if n]
    return [f"slices are blank: {' and '.join(ends)}, of {len(blank)}"]


def _spoilt(stored: np.ndarray, placed: Stack) -> list[str]:
    """What damaged pixels look like: compressed ones decode to something, with no error."""
    told = _ending_in_zeros(stored, placed)
    largest = np.array([np.inf if frame.largest is None else frame.largest for frame in placed.frames])
    beyond = np.flatnonzero(np.abs(stored.astype(np.float64)).max(axis=(0, 1)) > largest + 1)
    if len(beyond):
        name = placed.frames[beyond[0]].file.name
        told.append(f"slices hold values that their header leaves no bits for, as if damaged: {len(beyond)} ({name})")
    return told


def _ending_in_zeros(stored: np.ndarray, placed: Stack) -> list[str]:
    """Slices whose lower rows are zero where other slices have an image: the rest of a copy that was cut off.

    A mask leaves zeros above the image as well as below it.
    """
    filled = (stored != 0).any(axis=0)  # rows, slices
    rows = len(filled)
    below = np.where(filled.any(axis=0), np.argmax(filled[::-1], axis=0), 0)
    above = np.where(filled.any(axis=0), np.argmax(filled, axis=0), 0)
    odd = np.flatnonzero((below - above >= rows * ZEROS) & (below - np.median(below) >= rows * ZEROS))
    if not len(odd):
        return []
    names = ", ".join(placed.frames[k].file.name for k in odd[:3]) + (" ..." if len(odd) > 3 else "")
    return [f"slices end in zeros, as if cut off and filled up: {len(odd)} of {len(placed.frames)} ({names})"]
