"""How the slices of a stack lie: one orientation, one spacing, even steps at right angles, or what is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from scripts.common.problems import ImageError
from scripts.dicom.headers import Frame

ANGLE_TOLERANCE = 1e-3  # of a direction cosine
SLICE_TOLERANCE = 0.1  # mm that a slice may lie off its even place
SPACING_TOLERANCE = 1e-3  # mm
LARGEST_SPACING = 50.0  # mm; beyond it stands a wrong unit or a damaged number
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
NEEDED = {"orientation": "ImageOrientationPatient", "position": "ImagePositionPatient", "spacing": "PixelSpacing"}
WHOLE = "export the whole series again, alone"


@dataclass(frozen=True)
class Stack:
    """Frames in the order of their places, and where they lie."""

    frames: tuple[Frame, ...]
    affine: np.ndarray  # (4, 4), voxels (column, row, slice) to RAS world in mm

    @property
    def shape(self) -> tuple[int, int, int]:
        """Columns, rows, slices."""
        return self.frames[0].columns, self.frames[0].rows, len(self.frames)


def stack(frames: Sequence[Frame]) -> Stack:
    """Order the frames of one volume along their normal and make sure that they are evenly stacked.

    Raises:
        ImageError: what the headers lack, or how they contradict each other, with the file of the odd one out.
    """
    for name, attribute in NEEDED.items():
        without = [frame for frame in frames if not _usable(getattr(frame, name), name)]
        if without:
            what = f"has no valid {name} in {len(without)} of {len(frames)} slices ({_name(without[0])})"
            raise ImageError(what, f"export the original series, whose headers have {attribute}")
    _agree(frames, "orientation", lambda frame: frame.orientation, ANGLE_TOLERANCE)
    _agree(frames, "pixel spacing", lambda frame: frame.spacing, SPACING_TOLERANCE)
    _agree(frames, "size", lambda frame: (frame.rows, frame.columns), 0)
    if len(frames) < 2:
        raise ImageError("has one slice", "give a series of slices, or a 3D image")
    return _stacked(frames)


def _usable(values: tuple[float, ...] | None, name: str) -> bool:
    if values is None or not np.isfinite(values).all():
        return False
    if name == "spacing":
        return all(0 < value <= LARGEST_SPACING for value in values)
    if name == "orientation":
        axes = np.reshape(values, (2, 3))
        return bool(np.abs(axes @ axes.T - np.eye(2)).max() <= ANGLE_TOLERANCE * 2)
    return True


def _agree(frames: Sequence[Frame], name: str, value: Callable[[Frame], Sequence[float]], tolerance: float) -> None:
    """All frames have the value that most of them have."""
    common = Counter(map(value, frames)).most_common(1)[0][0]
    others = [frame for frame in frames if np.abs(np.subtract(value(frame), common)).max() > tolerance]
    if others:
        what = f"has slices of another {name} ({len(others)} of {len(frames)}: {_name(others[0])})"
        raise ImageError(what, "give the slices of one volume alone; take the others out or export them again")


def _stacked(frames: Sequence[Frame]) -> Stack:
    along, down = np.reshape(frames[0].orientation, (2, 3))
    along = along / np.linalg.norm(along)
    down = down / np.linalg.norm(down)
    normal = np.cross(along, down)
    ordered = sorted(frames, key=lambda frame: float(np.dot(frame.position, normal)))
    places = np.array([frame.position for frame in ordered])
    heights = places @ normal
    _check_apart(ordered, heights)
    step = (places[-1] - places[0]) / (len(ordered) - 1)
    _check_even(ordered, heights)
    lean = np.abs([along @ step, down @ step]).max() / np.linalg.norm(step)
    off = np.abs(places - (places[0] + np.arange(len(ordered))[:, None] * step)).max()
    if lean > ANGLE_TOLERANCE or off > SLICE_TOLERANCE:
        drift = np.linalg.norm(places - places[0] - np.outer(heights - heights[0], normal), axis=1).max()
        what = f"has slices that drift sideways by up to {drift:.1f} mm: its axes are not at right angles"
        raise ImageError(what, "export the series as acquired, or resample it to a grid without shear")
    if not 0 < np.linalg.norm(step) <= LARGEST_SPACING:
        raise ImageError(f"has slices {np.linalg.norm(step):.3g} mm apart", WHOLE)
    rows_apart, columns_apart = frames[0].spacing
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([along * columns_apart, down * rows_apart, normal * np.dot(normal, step)])
    affine[:3, 3] = places[0]
    return Stack(tuple(ordered), LPS_TO_RAS @ affine)


def _check_apart(ordered: Sequence[Frame], heights: np.ndarray) -> None:
    placed = zip(ordered, heights, strict=True)
    same = [(one, other) for (one, low), (other, high) in pairwise(placed) if high - low < SLICE_TOLERANCE]
    if not same:
        return
    twice = sum(one.uid == other.uid for one, other in same)
    which = f"{_name(same[0][0])} and {_name(same[0][1])}"
    if twice:
        raise ImageError(f"has a slice twice ({which})", "take the copy out")
    what = f"has several images at one place ({len(same) + 1} of {len(ordered)}, such as {which})"
    raise ImageError(what, "give one volume alone: one echo, direction or time of the series")


def _check_even(ordered: Sequence[Frame], heights: np.ndarray) -> None:
    steps = np.diff(heights)
    usual = float(np.median(steps))
    even = heights[0] + np.arange(len(heights)) * (heights[-1] - heights[0]) / (len(heights) - 1)
    if np.abs(heights - even).max() <= SLICE_TOLERANCE:
        return
    at = int(np.argmax(np.abs(steps - usual)))
    between = f"between {_name(ordered[at])} and {_name(ordered[at + 1])}"
    missing = round(steps[at] / usual) - 1
    if missing > 0:
        what = f"has slices missing {between} (about {missing}): they lie {steps[at]:.1f} mm apart, others {usual:.1f}"
    else:
        what = f"has slices off an even distance {between}: {steps[at]:.2f} mm apart, others {usual:.2f}"
    raise ImageError(what, WHOLE)


def _name(frame: Frame) -> str:
    return frame.file.name if frame.index == 0 else f"{frame.file.name}, frame {frame.index + 1}"
