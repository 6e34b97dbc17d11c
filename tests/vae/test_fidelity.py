"""What is measured of a pair of volumes, in closed form."""

from __future__ import annotations

import math

import pytest
import torch

from scripts.vae.fidelity import detail, power, what_is_left, where_the_error_is


def wave(length: float, axis: int = 0, size: int = 64) -> torch.Tensor:
    """A cosine of that wavelength in voxels along an axis of a cube."""
    values = torch.cos(2 * math.pi * torch.arange(size) / length)
    return values.view([-1 if one == axis else 1 for one in range(3)]).expand(size, size, size).clone()


def test_second_differences_see_curves_and_no_slopes():
    ramp = torch.arange(8.0).view(8, 1, 1).expand(8, 8, 8)
    assert detail(ramp) == 0
    assert detail(ramp**2) == pytest.approx(2 / 3)  # 2 along x, 0 along y and z


@pytest.mark.parametrize(("length", "band"), [(32, "over_16"), (10, "8_16"), (6, "4_8"), (3, "2_4")])
@pytest.mark.parametrize("axis", [0, 2])
def test_power_lies_in_the_band_of_its_wavelength(length, band, axis):
    found = power(wave(length, axis))
    assert max(found, key=found.get) == band
    others = sum(value for name, value in found.items() if name != band)
    assert found[band] > 5 * others


def test_a_checkerboard_has_power_along_diagonals_alone():
    found = power(wave(2, 0) * wave(2, 1) * wave(2, 2))
    assert found["under_2"] > 1e3 * found["2_4"]


def test_the_constant_part_is_no_power():
    a = power(wave(6))
    b = power(wave(6) + 7)
    assert a == pytest.approx(b, rel=1e-4, abs=1e-4)


def test_what_is_left_is_a_share_of_the_original():
    image = torch.rand(32, 32, 16, generator=torch.Generator().manual_seed(0))
    assert what_is_left(image, image) == pytest.approx(dict.fromkeys(what_is_left(image, image), 1.0))
    half = what_is_left(image, image.mean() + (image - image.mean()) / 2)
    assert half.pop("detail") == pytest.approx(0.5)
    assert half == pytest.approx(dict.fromkeys(half, 0.25), rel=1e-4)
    smooth = torch.nn.functional.avg_pool3d(image[None], 3, 1, 1, count_include_pad=False)[0]
    left = what_is_left(image, smooth)
    assert left["detail"] < 0.3
    assert left["power_2_4"] < 0.3 < 0.6 < left["power_over_16"]


def test_the_error_is_told_by_intensity_and_in_the_gland():
    image = torch.tensor([0.0, 0.2, 0.25, 0.6, 1.0, 0.9]).view(6, 1, 1)
    made = image + torch.tensor([0.1, -0.3, 0.5, 0.0, 0.2, -0.4]).view(6, 1, 1)
    gland = torch.tensor([True, False, True, False, False, False]).view(6, 1, 1)
    found = where_the_error_is(image, made, gland)
    expected = {"mae_gland": 0.3, "mae_0_25": 0.2, "mae_25_50": 0.5, "mae_50_75": 0.0, "mae_75_100": 0.3}
    assert found == pytest.approx(expected)
    none = where_the_error_is(image[:2], made[:2], None)
    assert "mae_gland" not in none
    assert math.isnan(none["mae_75_100"])
