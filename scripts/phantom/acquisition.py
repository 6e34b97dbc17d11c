"""Turns tissue signal into the images of a scanner: shading, gain, sharpness, Rician noise."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from scripts.phantom.canvas import Canvas
from scripts.phantom.gland import Point
from scripts.phantom.institutions import Protocol
from scripts.phantom.tissues import TISSUE

BOX = 12**-0.5  # standard deviation of a slice profile, as a part of the slice's thickness
DWI_MM = 1.1  # standard deviation of the point spread of DWI: echo-planar images are coarser


def acquire(canvas: Canvas, spacing: Point, protocol: Protocol, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The scanner's int16 images (X, Y, Z) of what was painted; DWI is blurred and noisier than T2w."""
    x, y, z = canvas.xyz
    slopes = protocol.shading * rng.uniform(-0.12, 0.12, 3) / 40
    shading = np.exp(
        slopes[0] * x + slopes[1] * y + slopes[2] * z - protocol.shading * rng.uniform(0, 6e-5) * (x**2 + y**2)
    ).astype(np.float32)
    gain = rng.uniform(0.9, 1.08)
    noise = protocol.noise * 700 / rng.uniform(25, 40)
    t2, high_b, adc = canvas.images
    if protocol.t2_contrast != 1:  # the peripheral zone keeps its signal; textures may go below 0
        bright = TISSUE["peripheral"][0]
        t2 = bright * (np.maximum(t2, 0) / bright) ** np.float32(protocol.t2_contrast)
    thick = max(protocol.slice_mm**2 - spacing[2] ** 2, 0) ** 0.5 * BOX
    blur = (protocol.blur_mm, protocol.blur_mm, thick)
    volumes = {
        "axt2": _rician(_blurred(t2, blur, spacing) * shading * np.float32(gain), noise, rng),
        "b1600": _rician(
            _blurred(high_b, (DWI_MM,) * 3, spacing) * np.float32(protocol.high_b_scale) * shading,
            2.2 * protocol.noise,
            rng,
        ),
        "adc": _blurred(adc, (DWI_MM,) * 3, spacing) * np.float32(protocol.adc_scale)
        + np.float32(55 * protocol.noise) * rng.standard_normal(adc.shape, dtype=np.float32),
    }
    return {name: np.rint(np.clip(volume, 0, 4095)).astype(np.int16) for name, volume in volumes.items()}


def _blurred(image: np.ndarray, sigma_mm: Point, spacing: Point) -> np.ndarray:
    """The image after a Gaussian point spread; a standard deviation of 0 leaves an axis as it is."""
    return gaussian_filter(image, np.divide(sigma_mm, spacing))


def _rician(signal: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Magnitude of a complex signal with Gaussian noise of this sigma in both channels."""
    real = signal + sigma * rng.standard_normal(signal.shape, dtype=np.float32)
    return np.hypot(real, sigma * rng.standard_normal(signal.shape, dtype=np.float32))
