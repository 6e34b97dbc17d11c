"""Volumes as pictures: the right way round, and to scale."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.image import imread

from scripts.data.montage import montage, plane

SPACING = (1.25, 1.25, 1.875)


@pytest.mark.parametrize(
    ("name", "voxel", "corner"),
    [
        # A bright voxel, and the corner (row, column) of the picture where a radiologist expects it.
        ("axial", (5, 6, 2), (0, 0)),  # right anterior: top left
        ("axial", (0, 6, 2), (0, -1)),  # left anterior: top right
        ("axial", (0, 0, 2), (-1, -1)),  # left posterior: bottom right
        ("coronal", (5, 2, 7), (0, 0)),  # right superior: top left
        ("coronal", (0, 2, 0), (-1, -1)),  # left inferior: bottom right
        ("sagittal", (2, 6, 7), (0, 0)),  # anterior superior: top left
        ("sagittal", (2, 0, 0), (-1, -1)),  # posterior inferior: bottom right
    ],
)
def test_planes_are_in_radiological_orientation(name, voxel, corner):
    volume = np.zeros((6, 7, 8))  # x to the right, y to anterior, z to superior
    volume[voxel] = 1
    picture = plane(volume, name, 2)
    assert picture[corner] == 1
    assert picture.shape == {"axial": (7, 6), "coronal": (8, 6), "sagittal": (8, 7)}[name]


def test_montage_shows_a_voxel_on_its_side(tmp_path):
    """The patient's right half bright: every axial and coronal panel is bright on the viewer's left."""
    volume = np.zeros((16, 16, 8), np.int16)
    volume[8:] = 900
    montage([volume], ["case"], SPACING, tmp_path / "case.png")
    picture = imread(tmp_path / "case.png")[..., 0]
    row = picture[int(0.6 * len(picture))]
    edges = np.flatnonzero(np.diff((row > 0.5).astype(int)) == -1)
    width = picture.shape[1]
    assert len(edges) >= 6  # five axial panels and the coronal one fall from bright to dark
    assert row[int(0.03 * width)] > 0.9
    assert row[int(0.12 * width)] < 0.2


def test_montage_grows_with_volumes_and_keeps_the_aspect(tmp_path):
    volume = np.random.default_rng(0).integers(0, 900, (16, 16, 8))
    montage([volume], ["a"], SPACING, tmp_path / "one.png")
    montage([volume, volume, volume], ["a", "b", "c"], SPACING, tmp_path / "three.png")
    one, three = imread(tmp_path / "one.png"), imread(tmp_path / "three.png")
    assert three.shape[0] == pytest.approx(3 * one.shape[0], abs=3)
    assert three.shape[1] == one.shape[1]


@pytest.mark.parametrize("focus", [(0, 0, 0), (15, 15, 7)])
def test_montage_takes_a_focus_at_the_border(tmp_path, focus):
    montage([np.ones((16, 16, 8))], ["a"], SPACING, tmp_path / "a.png", focus)
    assert (tmp_path / "a.png").stat().st_size > 0
