"""Which volumes are judged: real, generated and reconstructed ones, all of them checked before any is looked at."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np

from scripts.common.problems import Problems, UserError
from scripts.data.datalists import SEQUENCES, Case
from scripts.data.grid import SPACING_TOLERANCE, by, read_grid
from scripts.data.images import check_voxels, image_transforms
from scripts.data.names import is_folder_name, name_of, shown
from scripts.data.outputs import SHEET, images_of, read_record
from scripts.data.root import REPORTS, read_splits
from scripts.data.tables import cell_flag, cell_name, read_table


class Generated(NamedTuple):
    """A generated volume: where it is, the real case whose report it was made from, and the predicted class."""

    folder: str
    image: str
    case: Case
    is_test: bool
    predicted: float | None  # probability of the positive class, or the class itself; None without a class head

    def sequences(self) -> dict[str, str]:
        """All sequences of the volume that lie beside `image`, on its grid, by name."""
        paths = images_of(Path(self.image).parent)
        size, spacing = _grid_of(self.image) or ((), 0)
        grids = {name: grid for name, path in paths.items() if (grid := _grid_of(path))}
        return {
            name: str(paths[name])
            for name, (its_size, its_spacing) in grids.items()
            if its_size == size and np.allclose(its_spacing, spacing, rtol=0, atol=SPACING_TOLERANCE)
        }


class Volumes(NamedTuple):
    """Everything that is judged: cases of the training and the test, what was made of them, and reconstructions.

    `reconstructed` holds one for each test case, or none.
    """

    train: list[Case]
    test: list[Case]
    generated: list[Generated]
    reconstructed: list[Generated]


def read_volumes(
    dataset_dir: str | os.PathLike[str],
    generated_dir: str | os.PathLike[str],
    sequence: str,
    reconstructed_dir: str | os.PathLike[str] = "",
) -> Volumes:
    """Everything that is to be judged, checked: tables, headers, then voxels.

    Raises:
        UserError: everything that is wrong, in one table; or there is too little to judge.
    """
    problems = Problems("volumes to judge")
    train, test = read_splits(dataset_dir, keys=(sequence,), problems=problems)
    generated = read_generated(generated_dir, train, test, sequence, problems)
    reconstructed = []
    if reconstructed_dir:
        root = Path(reconstructed_dir)
        places = [(case, str(root / case["folder"] / f"{sequence}.nii.gz")) for case in test]
        reconstructed = [Generated(case["folder"], image, case, True, None) for case, image in places]
    real = [{"folder": case["folder"], sequence: case[sequence]} for case in [*train, *test]]
    made = []
    for kind, todo, volumes in (
        ("generated", "generate it again", generated),
        ("reconstructed", "reconstruct test.json again", reconstructed),
    ):
        for volume in volumes:
            _check_grid(f"{kind} {volume.folder}", volume, sequence, todo, problems)
        made += [{"folder": f"{kind} {volume.folder}", sequence: volume.image} for volume in volumes]
    for volumes, constant in ((real, False), (made, True)):
        # What is missing or cannot be read was told with the headers.
        readable = [volume for volume in volumes if _grid_of(volume[sequence])]
        check_voxels(readable, image_transforms((sequence,), factor=1, constant=constant), problems)
    beside = [{"folder": volume.folder, **volume.sequences()} for volume in [*generated, *reconstructed]]
    for name in (name for name in SEQUENCES if name != sequence):  # which the analyser looks at, too
        readable = [volume for volume in beside if name in volume]
        check_voxels(readable, image_transforms((name,), factor=1, constant=True), problems)
    problems.raise_if_any()
    if len(train) < 2 or len(test) < 2:
        raise UserError(f"{len(train)} training, {len(test)} test cases: distances need two of each")
    if sum(g.is_test for g in generated) < 2:
        raise UserError(f"{generated_dir}: fewer than two volumes are of test reports; run inference on test.json")
    return Volumes(train, test, generated, reconstructed)


def read_generated(
    root: str | os.PathLike[str], train: Sequence[Case], test: Sequence[Case], sequence: str, problems: Problems
) -> list[Generated]:
    """The generated volumes, each with its real case, as far as the sheet is sound; the rest is noted.

    Volumes made from reports without images, which no real one can be held against, are left out.

    Raises:
        UserError: there is no sheet, or it is no table.
    """
    root = Path(root)
    if not (root / SHEET).is_file():
        raise UserError(f"generated_dir {str(root)!r} holds no {SHEET}; give the folder that inference wrote")
    sheet = read_table(root / SHEET)
    if "folder" not in sheet:
        raise UserError(f"{root / SHEET}: has no column folder; make the volumes again with inference")
    known = {case["folder"]: case for case in [*train, *test]}
    tested = {case["folder"] for case in test}
    generated = {}
    for number, row in zip(sheet.index, sheet.to_dict("records"), strict=True):
        folder, place = cell_name(row["folder"]), f"{SHEET} row {number}"
        if folder is None or not is_folder_name(folder):
            problems.add(place, f"folder {shown(row['folder'])} is not a folder's name", "format the column as Text")
            continue
        record = read_record(root, folder)
        if record and record.split == REPORTS:
            continue
        source = record.source if record else folder
        if source not in known:
            what = "was made from no report of dataset_dir"
            problems.add(name_of(folder, place), what, "give the dataset_dir that it was made from")
            continue
        if folder in generated:
            problems.add(f"generated {folder}", f"has another row in {SHEET}, row {number}", "keep one")
            continue
        predicted = cell_flag(row["PIRADS_synth"]) if row.get("PIRADS_synth") is not None else None
        if record and record.probability is not None:
            predicted = record.probability
        image = root / folder / f"{sequence}.nii.gz"
        generated[folder] = Generated(folder, str(image), known[source], source in tested, predicted)
    return list(generated.values())


def _check_grid(name: str, made: Generated, sequence: str, todo: str, problems: Problems) -> None:
    """A volume of another size or spacing has other features, whatever it shows.

    Where it lies in the world changes none: inference that had no real image puts it around the origin.
    """
    path = Path(made.image)
    found, real = _grid_of(path), _grid_of(made.case[sequence])
    if not path.is_file():
        problems.add(name, f"{path.name} is missing", f"put it at {path}, or {todo}")
    elif found is None:
        problems.add(name, f"{path.name} cannot be read as a 3D NIfTI volume", todo)
    elif real is not None:
        (size, spacing), (real_size, real_spacing) = found, real
        if size != real_size:
            problems.add(name, f"has size {by(size)}, the real case {by(real_size)}", "make it on the real grid")
        if not np.allclose(spacing, real_spacing, rtol=0, atol=SPACING_TOLERANCE):
            what = f"has spacing {by(spacing.round(4))} mm, the real case {by(real_spacing.round(4))}"
            problems.add(name, what, "make it on the real grid")


def _grid_of(path: str | os.PathLike[str]) -> tuple[tuple[int, ...], np.ndarray] | None:
    """Size and spacing (mm) along R, A, S, or None where no volume can be read."""
    try:
        affine, size = read_grid(path)
    except ValueError:
        return None
    return size, nib.affines.voxel_sizes(affine)
