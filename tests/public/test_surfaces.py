"""Surfaces whose volume and inside are known."""

from __future__ import annotations

import numpy as np
import pytest

from public_downloads import save_triangles, write_stl
from scripts.public.surfaces import grid_around, inside, read_stl, volume_ml

AFFINE = np.array([[1.0, 0, 0, -20], [0, 1, 0, 5], [0, 0, 1, 100], [0, 0, 0, 1]])


def ball(centre, radius, shape=(40, 40, 40)):
    grid = np.moveaxis(np.indices(shape), 0, -1)
    return np.linalg.norm(grid - centre, axis=-1) <= radius


def centre_of(mask, grid):
    return np.argwhere(mask).mean(0) * grid.spacing + grid.affine[:3, 3]


def test_volume_place_and_inside_of_a_ball(tmp_path):
    write_stl(tmp_path / "ball.STL", ball((15, 20, 22), 12), AFFINE)
    surface = read_stl(tmp_path / "ball.STL")
    assert volume_ml(surface) == pytest.approx(4 / 3 * np.pi * 1.2**3, rel=0.03)
    grid = grid_around([surface], 0.75)
    mask = inside(surface, grid)
    assert mask.sum() * 0.75**3 / 1000 == pytest.approx(volume_ml(surface), rel=0.01)
    assert centre_of(mask, grid) == pytest.approx((-5, 25, 122), abs=0.1)
    assert not mask[0].any()
    assert not mask[:, :, -1].any()


def test_a_hole_is_not_inside(tmp_path):
    write_stl(tmp_path / "shell.STL", ball((20, 20, 20), 15) & ~ball((20, 20, 20), 8), AFFINE)
    surface = read_stl(tmp_path / "shell.STL")
    grid = grid_around([surface], 1.0)
    mask = inside(surface, grid)
    middle = np.rint((np.array([0, 25, 120]) - grid.affine[:3, 3]) / grid.spacing).astype(int)
    assert not mask[tuple(middle)]
    assert mask[tuple(middle + np.array([11, 0, 0]))]


def test_a_tetrahedron_by_its_corners(tmp_path):
    a, b, c, d = np.array([[0, 0, 0], [30, 0, 0], [0, 30, 0], [0, 0, 30.0]])
    save_triangles(tmp_path / "four.stl", np.array([[a, b, c], [a, b, d], [a, c, d], [b, c, d]]))
    surface = read_stl(tmp_path / "four.stl")
    assert surface[0].tolist() == [[0, 0, 0], [-30, 0, 0], [0, -30, 0]]  # LPS to RAS
    grid = grid_around([surface], 0.5)
    assert inside(surface, grid).sum() * 0.5**3 == pytest.approx(30**3 / 6, rel=0.03)


def test_what_is_no_surface_is_refused(tmp_path, refused):
    (tmp_path / "text.stl").write_text("solid prostate\nfacet normal 0 0 1\n" + "outer loop\n" * 20)
    write_stl(tmp_path / "cut.stl", ball((20, 20, 20), 5), AFFINE)
    (tmp_path / "cut.stl").write_bytes((tmp_path / "cut.stl").read_bytes()[:-7])
    for name in ("text", "cut"):
        with refused(f"{name}.stl: is no binary STL, or is cut short"):
            read_stl(tmp_path / f"{name}.stl")
    with refused("cannot be read"):
        read_stl(tmp_path / "absent.stl")
