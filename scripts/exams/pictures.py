"""Small pictures of an exam: the middle slice of its T2w, and every other image laid over it in colour."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from io import BytesIO

import matplotlib
import numpy as np
from PIL import Image

from scripts.data.images import QUANTITATIVE, SCANNER_UNITS
from scripts.data.montage import plane

HEIGHT = 128  # pixels of a slice
GAP = 2  # pixels between two
COLOURS = {"b1600": "hot", "adc": "viridis"}
OPACITY = 0.55  # of what is laid over the T2w
QUALITY = 82  # of the JPEG: about 5 kB an exam of three images


def contact(volumes: Mapping[str, np.ndarray], spacing: Sequence[float]) -> str:
    """The middle axial slices side by side, a JPEG in base64: the T2w, then each other image over it.

    T2w and DWI are shown from 0 to their 99.5th percentile; ADC from 0 to 3000e-6 mm²/s in every exam, so that a map
    in a wrong unit looks it.

    Args:
        volumes: RAS arrays (X, Y, Z) on one grid, `axt2` among them.
        spacing: of their voxels, mm.
    """
    middle = volumes["axt2"].shape[2] // 2
    grey = np.repeat(_shown(volumes["axt2"], "axt2", middle)[..., None], 3, axis=2)
    slices = [grey, *(_over(grey, volumes[key], key, middle) for key in COLOURS if key in volumes)]
    width = round(HEIGHT * grey.shape[1] * spacing[0] / (grey.shape[0] * spacing[1]))
    sheet = Image.new("RGB", ((width + GAP) * len(slices) - GAP, HEIGHT))
    for number, one in enumerate(slices):
        tile = Image.fromarray((255 * one).astype(np.uint8)).resize((width, HEIGHT), Image.Resampling.LANCZOS)
        sheet.paste(tile, (number * (width + GAP), 0))
    file = BytesIO()
    sheet.save(file, "JPEG", quality=QUALITY)
    return base64.b64encode(file.getvalue()).decode()


def _shown(volume: np.ndarray, key: str, index: int) -> np.ndarray:
    """A slice as it stands on the screen, in 0..1."""
    top = SCANNER_UNITS[key] if key in QUANTITATIVE else max(float(np.percentile(volume, 99.5)), 1e-6)
    return np.clip(plane(volume, "axial", index) / top, 0, 1)


def _over(grey: np.ndarray, volume: np.ndarray, key: str, index: int) -> np.ndarray:
    """An image in colour over the T2w; where it saw nothing, the T2w alone."""
    shown = _shown(volume, key, index)
    colour = matplotlib.colormaps[COLOURS[key]](shown)[..., :3]
    return np.where((plane(volume, "axial", index) != 0)[..., None], (1 - OPACITY) * grey + OPACITY * colour, grey)
