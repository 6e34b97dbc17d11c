"""How an institution's scanner sees: field strength, contrast, sharpness, noise and shading, drawn from its name."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

SHIFT = 1.5  # how far institutions lie apart at difficulty 1; at the default difficulty three quarters of one


@dataclass(frozen=True)
class Protocol:
    """What an institution changes about every image it makes; the default changes nothing.

    Attributes:
        field_t: tesla.
        t2_contrast: exponent of the T2w signal: above 1 a longer echo time.
        adc_scale: of the ADC map: b values and fit differ.
        high_b_scale: of the signal at high b.
        noise: factor of the noise.
        shading: factor of the coil's shading.
        slice_mm: thickness of the slices that were acquired; thinner than the grid's changes nothing.
        blur_mm: standard deviation of the in-plane point spread.
    """

    field_t: float = 3.0
    t2_contrast: float = 1.0
    adc_scale: float = 1.0
    high_b_scale: float = 1.0
    noise: float = 1.0
    shading: float = 1.0
    slice_mm: float = 0.0
    blur_mm: float = 0.0


def protocol(institute: str, difficulty: float) -> Protocol:
    """The protocol of the institution of this name; all are alike at difficulty 0."""
    if not difficulty:
        return Protocol()
    rng = np.random.default_rng(zlib.crc32(institute.encode()))
    shift = SHIFT * difficulty
    field_t = 1.5 if rng.random() < 0.3 else 3.0
    contrast, adc, high_b, noise, shading = rng.uniform(-1, 1, 5)
    slice_mm, blur = rng.uniform(1.5, 3.6), rng.uniform(0, 0.6)
    return Protocol(
        field_t,
        t2_contrast=1 + 0.10 * shift * contrast,
        adc_scale=1 + 0.06 * shift * adc,
        high_b_scale=float(np.exp(0.3 * shift * high_b)),
        noise=(1.25 if field_t < 3 else 1.0) * float(np.exp(0.2 * shift * noise)),
        shading=float(np.exp(0.4 * shift * shading)),
        slice_mm=float(slice_mm),
        blur_mm=float(blur * min(shift, 1)),
    )
