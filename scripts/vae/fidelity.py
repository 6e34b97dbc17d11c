"""What is left of a volume in its reconstruction: its detail, its spectrum, and where the error lies."""

from __future__ import annotations

import itertools
import math
from functools import reduce

import torch
from torch import Tensor

# Wavelengths in voxels, along whatever direction; under 2 there is something along diagonals only.
WAVELENGTHS = (math.inf, 16, 8, 4, 2, 0)
INTENSITIES = (0, 25, 50, 75, 100)  # borders of the bands, in percent of the range


def detail(volume: Tensor) -> float:
    """The mean absolute second difference between neighbours along the three axes of (X, Y, Z): noise and texture."""
    return torch.stack([volume.diff(n=2, dim=axis).abs().mean() for axis in range(3)]).mean().item()


def power(volume: Tensor) -> dict[str, float]:
    """Mean power of (X, Y, Z), averaged over all directions, by wavelength in voxels: `over_16`, `8_16` ... `under_2`.

    The volume fades to its mean at the borders (Hann), whose jumps would look like detail.
    """
    windows = [torch.hann_window(n, periodic=False, dtype=torch.float64) for n in volume.shape]
    fading = reduce(lambda one, other: one[..., None] * other, windows)
    spectrum = torch.fft.fftn(fading * (volume.double() - volume.double().mean())).abs().square()
    frequencies = torch.meshgrid(*(torch.fft.fftfreq(n, dtype=torch.float64) for n in volume.shape), indexing="ij")
    wavelength = 1 / sum(frequency.square() for frequency in frequencies).sqrt()
    found = {}
    for above, below in itertools.pairwise(WAVELENGTHS):
        name = f"over_{below}" if math.isinf(above) else f"{below}_{above}" if below else f"under_{above}"
        found[name] = spectrum[(wavelength >= below) & (wavelength < above)].mean().item()
    return found


def what_is_left(image: Tensor, made: Tensor) -> dict[str, float]:
    """`detail` and `power_...` of the reconstruction, as shares of the image's; both (X, Y, Z)."""
    before, after = power(image), power(made)
    shares = {f"power_{name}": after[name] / before[name] if before[name] else math.nan for name in before}
    return {"detail": detail(made) / detail(image), **shares}


def where_the_error_is(image: Tensor, made: Tensor, gland: Tensor | None) -> dict[str, float]:
    """Mean absolute error, by the image's intensity in percent of the range: `mae_0_25` ...; and in the gland's mask.

    Both volumes and the mask are (X, Y, Z); what no voxel belongs to is NaN.
    """
    error = (made - image).abs()
    band = torch.bucketize(image.contiguous(), torch.tensor(INTENSITIES[1:-1]) / 100, right=True)
    borders = enumerate(itertools.pairwise(INTENSITIES))
    found = {f"mae_{low}_{high}": error[band == number].mean().item() for number, (low, high) in borders}
    return found if gland is None else {"mae_gland": error[gland].mean().item(), **found}
