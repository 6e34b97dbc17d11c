"""Volumes as pictures: the right way round, and to scale."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.image import imread

from scripts.data.montage import montage, plane, side_by_side

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


def test_volumes_lie_side_by_side_in_one_window(tmp_path):
    """Grey 0.3 beside 0.7: each is as bright as it is, whatever stands beside it, in every row and sequence."""
    dark, bright = ({name: np.full((16, 16, 8), grey) for name in ("axt2", "adc")} for grey in (0.3, 0.7))
    rows = {title: [(dark, (8, 8, 4)), (bright, (8, 8, 2))] for title in ("one lesion", "another")}
    words = {"axt2": "T2w", "adc": "ADC"}
    side_by_side(rows, ("generated", "phantom"), words, (5, 5, 5), tmp_path / "pairs.png")
    picture = imread(tmp_path / "pairs.png")[..., 0]
    for part in (0.3, 0.8):  # of its height: in the first row and in the second
        line = picture[int(part * len(picture))]
        shown = [grey for grey in (0.3, 0.7) for _ in np.flatnonzero(np.abs(line - grey) < 0.01)]
        starts = np.flatnonzero(np.abs(np.diff(line)) > 0.2)
        assert shown.count(0.3) == pytest.approx(shown.count(0.7), rel=0.1)
        assert shown.count(0.3) > 0.3 * len(line)
        assert len(starts) >= 4


def test_a_slice_goes_through_its_voxel(tmp_path):
    """The bright slice of one volume is shown, and that of the other is not."""
    volume = np.zeros((16, 16, 8))
    volume[..., 5] = 1
    rows = {"": [({"axt2": volume}, (0, 0, 5)), ({"axt2": volume}, (0, 0, 1))]}
    side_by_side(rows, ("a", "b"), {"axt2": "T2w"}, (5, 5, 5), tmp_path / "a.png")
    picture = imread(tmp_path / "a.png")[..., 0]
    bright = (picture > 0.9).mean(axis=0)
    assert bright[int(0.5 * picture.shape[1])] > 0.6
    assert bright[int(0.8 * picture.shape[1])] < 0.1
