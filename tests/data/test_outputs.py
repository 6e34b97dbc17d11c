"""What inference leaves behind: pictures the right way round, grids in place, records, sheets and datalists."""

from __future__ import annotations

import dataclasses

import nibabel as nib
import numpy as np
import openpyxl
import pytest
from matplotlib.image import imread

from scripts.data.cases import read_datalist
from scripts.data.images import save_volume
from scripts.data.outputs import (
    RECORD,
    Record,
    find_records,
    grid_affine,
    montage,
    plane,
    read_record,
    write_merged,
    write_rank_sheets,
)

SPACING = (1.25, 1.25, 1.875)


def record(folder: str, split: str = "train", **changes) -> Record:
    made = Record(
        folder=folder,
        source=folder,
        split=split,
        replicate=0,
        seed=7,
        pirads_real=1,
        pirads_synth=0,
        probability=0.25,
        label="train",
        sequences=["axt2"],
        entry={"dataset": "Institute1", "spacing": list(SPACING)},
        settings={"steps": 20},
    )
    return dataclasses.replace(made, **changes)


def put(output_dir, *records: Record) -> None:
    for made in records:
        for sequence in made.sequences:
            volume = np.linspace(0, 1, 64).reshape(4, 4, 4)
            save_volume(
                output_dir / made.folder / f"{sequence}.nii.gz", volume, grid_affine((4, 4, 4), SPACING), sequence
            )
        made.write(output_dir)


# ---- pictures --------------------------------------------------------------------------------------------------------


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


# ---- grids -----------------------------------------------------------------------------------------------------------


def test_a_grid_without_a_case_lies_around_the_origin():
    affine = grid_affine((64, 64, 32), SPACING)
    first, last = (nib.affines.apply_affine(affine, corner) for corner in ((0, 0, 0), (63, 63, 31)))
    assert np.allclose(first, -last)
    assert np.allclose(last - first, np.multiply((63, 63, 31), SPACING))
    assert nib.aff2axcodes(affine) == ("R", "A", "S")


def test_a_grid_like_the_image_is_the_images():
    rotation = nib.eulerangles.euler2mat(z=0.1, y=-0.05, x=0.2)
    like = nib.affines.from_matvec(rotation * np.array(SPACING), [-30, 12, 700])
    assert np.allclose(grid_affine((64, 64, 32), SPACING, like, (64, 64, 32)), like)


def test_another_grid_keeps_the_images_centre_and_axes():
    like = nib.affines.from_matvec(nib.eulerangles.euler2mat(z=0.3) * 0.5, [10, -20, 30])
    made = grid_affine((32, 16, 8), (1, 2, 3), like, (100, 80, 40))
    centre = nib.affines.apply_affine(like, (49.5, 39.5, 19.5))
    assert np.allclose(nib.affines.apply_affine(made, (15.5, 7.5, 3.5)), centre)
    assert np.allclose(made[:3, :3] / (1, 2, 3), like[:3, :3] / 0.5)


# ---- records, sheets and datalists -----------------------------------------------------------------------------------


def test_a_record_comes_back(tmp_path):
    put(tmp_path, record("007"))
    assert read_record(tmp_path, "007") == record("007")


@pytest.mark.parametrize("damage", ["volume missing", "record missing", "record cut short", "record of another format"])
def test_an_incomplete_case_counts_as_not_made(tmp_path, damage):
    put(tmp_path, record("a"))
    place = tmp_path / "a" / RECORD
    if damage == "volume missing":
        (tmp_path / "a" / "axt2.nii.gz").unlink()
    elif damage == "record missing":
        place.unlink()
    else:
        place.write_text(place.read_text()[:40] if damage == "record cut short" else '{"folder": "a"}')
    assert read_record(tmp_path, "a") is None
    assert find_records(tmp_path) == []


def sheet(path) -> list[tuple]:
    return list(openpyxl.load_workbook(path).active.values)


def test_sheets_have_the_authors_columns(tmp_path):
    records = [record("007"), record("b", pirads_real=0, pirads_synth=None), record("c", "test", label=None)]
    put(tmp_path, *records)
    write_rank_sheets(tmp_path, 0, records[:1])
    write_rank_sheets(tmp_path, 1, records[1:])
    write_merged(tmp_path, find_records(tmp_path))
    head = ("folder", "PIRADS_real", "PIRADS_synth", "Label")
    assert sheet(tmp_path / "synthsheet_0_train.xlsx") == [head, ("007", 1, 0, "train")]
    assert sheet(tmp_path / "synthsheet_1_train.xlsx") == [head, ("b", 0, None, "train")]
    assert sheet(tmp_path / "synthsheet_1_test.xlsx") == [head, ("c", 1, 0, None)]
    rows = [("007", 1, 0, "train"), ("b", 0, None, "train"), ("c", 1, 0, None)]
    assert sheet(tmp_path / "synthsheet_all.xlsx") == [head, *rows]


def test_folders_stay_text_in_excel(tmp_path):
    write_rank_sheets(tmp_path, 0, [record("007")])
    cell = openpyxl.load_workbook(tmp_path / "synthsheet_0_train.xlsx").active["A2"]
    assert (cell.value, cell.data_type, cell.number_format) == ("007", "s", "@")


def test_datalists_of_generated_cases_can_be_read(tmp_path):
    put(tmp_path, record("007"), record("b", pirads_real=0), record("c", "test"))
    write_merged(tmp_path, find_records(tmp_path))
    train = read_datalist(tmp_path / "train.json", tmp_path)
    assert [(case["folder"], case["pirads"], case["text_isnull"]) for case in train] == [
        ("007", [0, 1], 1),
        ("b", [1, 0], 1),
    ]
    assert [case["folder"] for case in read_datalist(tmp_path / "test.json", tmp_path)] == ["c"]


def test_typed_reports_are_not_found_for_sheets_and_datalists(tmp_path):
    put(tmp_path, record("a"), record("typed", split=""))
    assert [made.folder for made in find_records(tmp_path)] == ["a"]
