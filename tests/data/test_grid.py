"""The grid and resampling against closed forms: linear interpolation must reproduce a linear ramp of world position."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.spatial.transform import Rotation

from scripts.data.grid import GRIDS, Grid, coordinates, field_of_view, grid_affine, resample, slice_angle

GRID = Grid((16, 16, 8), (1.0, 1.0, 1.5))
SLOPE = np.array([3.0, -2.0, 5.0])  # per mm along R, A, S


def affine_of(shape, spacing, angles=(0, 0, 0), centre=(5.0, -7.0, 11.0)):
    steps = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * spacing
    return nib.affines.from_matvec(steps, np.asarray(centre) - steps @ (np.asarray(shape) - 1) / 2)


def world(shape, affine):
    """(X, Y, Z, 3) world positions in mm."""
    return nib.affines.apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))


def ramp(shape, affine):
    return MetaTensor(torch.tensor(world(shape, affine) @ SLOPE, dtype=torch.float32)[None], affine=affine)


def test_the_grids_are_those_of_the_reference_and_the_demo():
    assert GRIDS["reference"] == Grid((256, 256, 128), (0.5, 0.5, 0.5625))
    assert GRIDS["reference"].extent == (128, 128, 72)
    assert GRIDS["demo"].extent == (80, 80, 60)


@pytest.mark.parametrize("angles", [(0, 0, 0), (12, -18, 7)])
@pytest.mark.parametrize("spacing", [(0.8, 1.1, 3.0), (2.0, 2.0, 3.0), (0.4, 0.4, 0.5)])
def test_every_world_point_keeps_its_value(angles, spacing):
    shape = tuple(np.ceil(40 / np.asarray(spacing)).astype(int))
    volume = ramp(shape, affine_of(shape, spacing, angles))
    affine = grid_affine(GRID, volume.affine, volume.shape[1:])
    result = resample(volume, GRID, affine)
    expected = world(GRID.size, affine) @ SLOPE
    assert field_of_view(volume, GRID, affine).all()
    # A Gaussian leaves a ramp as it is, so this holds with smoothing too; 0.01 is 2 micrometres.
    np.testing.assert_allclose(result[0].numpy(), expected, atol=0.01)


def test_an_adc_on_another_oblique_grid_comes_to_the_same_world_points():
    t2w = ramp((40, 40, 14), affine_of((40, 40, 14), (0.7, 0.7, 3.0), (10, 0, -5)))
    adc = ramp((24, 30, 12), affine_of((24, 30, 12), (2.0, 2.0, 3.3), (-8, 14, 20), centre=(2.0, -4.0, 9.0)))
    affine = grid_affine(GRID, t2w.affine, t2w.shape[1:])
    np.testing.assert_allclose(resample(adc, GRID, affine)[0], resample(t2w, GRID, affine)[0], atol=0.01)


def test_the_grid_lies_around_the_centre_along_the_images_own_axes():
    volume = ramp((40, 30, 10), affine_of((40, 30, 10), (0.7, 0.8, 3.0), (10, -20, 5)))
    affine = grid_affine(GRID, volume.affine, volume.shape[1:])
    middle = (np.asarray(GRID.size) - 1) / 2
    np.testing.assert_allclose(nib.affines.apply_affine(affine, middle), (5, -7, 11), atol=1e-9)
    np.testing.assert_allclose(nib.affines.voxel_sizes(affine), GRID.spacing, atol=1e-9)
    own_axes = volume.affine.numpy()[:3, :3] / (0.7, 0.8, 3.0)
    np.testing.assert_allclose(affine[:3, :3] / GRID.spacing, own_axes, atol=1e-9)


def test_a_given_point_becomes_the_centre():
    volume = ramp((40, 30, 10), affine_of((40, 30, 10), (0.7, 0.8, 3.0), (10, -20, 5)))
    affine = grid_affine(GRID, volume.affine, volume.shape[1:], centre=(1.0, 2.0, 3.0))
    np.testing.assert_allclose(nib.affines.apply_affine(affine, (np.asarray(GRID.size) - 1) / 2), (1, 2, 3), atol=1e-9)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, -1, 1), (-1, 1, -1)])
def test_the_order_and_direction_in_which_voxels_are_stored_does_not_matter(order, flips):
    affine = affine_of((12, 14, 10), (2.0, 1.5, 3.0), (8, -6, 15))
    values = np.random.default_rng(0).normal(size=(12, 14, 10)).astype(np.float32)
    image = nib.Nifti1Image(values, affine)
    stored = image.as_reoriented(np.column_stack([order, flips]))
    expected, result = (
        MetaTensor(torch.tensor(i.get_fdata(dtype=np.float32).copy())[None], affine=i.affine) for i in (image, stored)
    )
    target = grid_affine(GRID, expected.affine, expected.shape[1:])
    np.testing.assert_allclose(grid_affine(GRID, result.affine, result.shape[1:]), target, atol=1e-9)
    assert nib.aff2axcodes(target) == ("R", "A", "S")
    np.testing.assert_allclose(resample(result, GRID, target), resample(expected, GRID, target), atol=1e-4)


def test_fine_texture_vanishes_when_shrinking_and_stays_when_not():
    shape = (64, 64, 24)
    stripes = torch.zeros(1, *shape)
    stripes[:, ::2] = 100.0  # the highest frequency that the image can hold
    fine = MetaTensor(stripes, affine=affine_of(shape, (0.25, 0.25, 0.5)))
    shrunk = resample(fine, GRID, grid_affine(GRID, fine.affine, fine.shape[1:]))
    middle = shrunk[0, 1:-1].numpy()  # the border repeats its last stripe
    np.testing.assert_allclose(middle, np.full_like(middle, 50.0), atol=1.0)
    same = Grid((64, 64, 24), (0.25, 0.25, 0.5))
    np.testing.assert_allclose(resample(fine, same, grid_affine(same, fine.affine, fine.shape[1:])), stripes, atol=1e-3)


def test_outside_the_field_of_view_is_zero_and_inside_a_constant_stays():
    volume = MetaTensor(torch.full((1, 10, 20, 20), 7.0), affine=affine_of((10, 20, 20), (1.0, 1.0, 1.0)))
    affine = grid_affine(GRID, volume.affine, volume.shape[1:])
    result, seen = resample(volume, GRID, affine), field_of_view(volume, GRID, affine)
    assert seen.float().mean() == 10 / 16
    np.testing.assert_allclose(result, 7.0 * seen, rtol=1e-6)


def test_a_grid_without_a_case_lies_around_the_origin():
    grid = GRIDS["demo"]
    affine = grid_affine(grid)
    first, last = (nib.affines.apply_affine(affine, corner) for corner in ((0, 0, 0), (63, 63, 31)))
    assert np.allclose(first, -last)
    assert np.allclose(last - first, np.multiply((63, 63, 31), grid.spacing))
    axes = coordinates(grid)
    assert np.allclose([axis.ravel()[0] for axis in axes], first)
    assert nib.aff2axcodes(affine) == ("R", "A", "S")


def test_a_grid_like_the_image_is_the_images():
    rotation = nib.eulerangles.euler2mat(z=0.1, y=-0.05, x=0.2)
    like = nib.affines.from_matvec(rotation * GRIDS["demo"].spacing, [-30, 12, 700])
    assert np.allclose(grid_affine(GRIDS["demo"], like, (64, 64, 32)), like)


def test_another_grid_keeps_the_images_centre_and_axes():
    like = nib.affines.from_matvec(nib.eulerangles.euler2mat(z=0.3) * 0.5, [10, -20, 30])
    made = grid_affine(Grid((32, 16, 8), (1, 2, 3)), like, (100, 80, 40))
    centre = nib.affines.apply_affine(like, (49.5, 39.5, 19.5))
    assert np.allclose(nib.affines.apply_affine(made, (15.5, 7.5, 3.5)), centre)
    assert np.allclose(made[:3, :3] / (1, 2, 3), like[:3, :3] / 0.5)


@pytest.mark.parametrize(
    ("across", "angle"), [((0, 0, 3), 0), ((0, -3, 0), 90), ((3, 0, 0), 90), ((0, 1.5, 1.5 * 3**0.5), 30)]
)
def test_the_angle_of_slices_to_the_axial_plane(across, angle):
    axis = np.array(across, dtype=float)
    first = np.cross(axis, [1.0, 0.3, 0.2])
    first /= np.linalg.norm(first)
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([first, axis, np.cross(first, axis) / 3])  # slices along the second axis
    assert slice_angle(affine) == pytest.approx(angle, abs=1e-5)
