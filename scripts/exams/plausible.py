"""What voxels tell of an exam that no header does: an ADC map's unit, and an image given in another's place."""

from __future__ import annotations

import re
import unicodedata

import numpy as np
import torch
from monai.data import MetaTensor

ADC_UNIT = 1e-6  # mm²/s, the unit of adc on disk
ADC_UNITS = (1e-6, 1e-3, 1.0)  # mm²/s of a grey level, as scanners and programs write maps
# What the 99th percentile of tissue's ADC can be, in 1e-6 mm²/s; free water at body temperature has 3000.
ADC_PLAUSIBLE = (300, 10_000)
UNITS_IN_WORDS = "µm²/s, 1e-3 mm²/s, mm²/s, or mm²/s of a grey level as a number"
LIKE_DWI = 0.8  # correlation that an ADC map has with the DWI of its exam only if it is a DWI itself


def read_unit(cell: object) -> float | None:
    """The mm²/s of a grey level out of a table's cell: a number, a power of ten, a unit, or both; None where none is.

    >>> read_unit("µm²/s"), read_unit("10^-3 mm2/s"), read_unit("1e-6"), read_unit(0.001)
    (1e-06, 0.001, 1e-06, 0.001)
    """
    text = unicodedata.normalize("NFKC", str(cell)).casefold().replace("μ", "u").replace("−", "-")
    text = re.sub(r"[\s\^*·×()]+", "", text).replace("mm2/sec", "mm2/s").replace("um2/sec", "um2/s")
    scale = next((factor for unit, factor in (("um2/s", 1e-6), ("mm2/s", 1.0)) if text.endswith(unit)), None)
    number = text if scale is None else text[: -len("mm2/s")]
    if power := re.fullmatch(r"(1?x?)10(-\d+)", number):
        number = f"1e{power[2]}"
    try:
        value = float(number.replace(",", ".")) if number else 1.0
    except ValueError:
        return None
    value = float(f"{value * (scale or 1.0):.6g}")
    return value if 0 < value < float("inf") and (number or scale) else None


def adc_level(adc: MetaTensor) -> float:
    """The 99th percentile of the map's grey levels that are not 0: outside a mask and in air they are."""
    values = adc.numpy()
    return float(np.percentile(values[values > 0], 99)) if (values > 0).any() else 0.0


def is_adc(level: float, unit: float) -> bool:
    """Whether `level` (see `adc_level`) is tissue's if a grey level stands for `unit` mm²/s."""
    return ADC_PLAUSIBLE[0] <= level * unit / ADC_UNIT <= ADC_PLAUSIBLE[1]


def adc_unit_of(level: float) -> float | None:
    """The unit in which `level` is tissue's; at most one is, for they are further apart than what is plausible."""
    return next((unit for unit in ADC_UNITS if is_adc(level, unit)), None)


def correlation(one: torch.Tensor, other: torch.Tensor, where: torch.Tensor) -> float:
    """Pearson's correlation of two images on one grid, over the points `where`; 0 where one is constant."""
    values = np.stack([one[where].numpy(), other[where].numpy()]).astype(np.float64)
    if values.shape[1] < 2 or (np.ptp(values, axis=1) == 0).any():
        return 0.0
    return float(np.corrcoef(values)[0, 1])


def same_voxels(one: MetaTensor, other: MetaTensor) -> bool:
    """Whether two images hold the very same values."""
    return one.shape == other.shape and bool(torch.equal(one.as_tensor(), other.as_tensor()))
