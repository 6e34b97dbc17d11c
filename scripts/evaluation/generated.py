"""Judges generated volumes against real ones: distances, classes, copies, and for phantoms report adherence.

Everything is judged on the test reports, but copies, which are looked for among all generated volumes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from scripts.common.files import atomic
from scripts.common.problems import Problems, UserError
from scripts.data.datalists import Case, is_positive
from scripts.data.grid import SPACING_TOLERANCE, by, read_grid
from scripts.data.images import check_voxels, image_transforms
from scripts.data.names import is_folder_name, name_of, shown
from scripts.data.outputs import SHEET, read_record
from scripts.data.root import read_splits
from scripts.data.tables import cell_flag, cell_name, read_table
from scripts.evaluation import features
from scripts.evaluation.adherence import index_lesions, shares, verdict
from scripts.evaluation.class_metrics import Estimate, class_metrics, write_report
from scripts.evaluation.copies import find_copies
from scripts.evaluation.distances import frechet_distance, kernel_distance, with_interval
from scripts.evaluation.features import Extractor

logger = logging.getLogger(__name__)

DISTANCES = {"frechet": frechet_distance, "kernel": kernel_distance}


class Generated(NamedTuple):
    """A generated volume: where it is, the real case whose report it was made from, and the predicted class."""

    folder: str
    image: str
    case: Case
    is_test: bool
    predicted: float | None  # probability of the positive class, or the class itself; None without a class head


def evaluate(
    dataset_dir: str | os.PathLike[str],
    generated_dir: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    *,
    sequence: str = "axt2",
    medicalnet_file: str | os.PathLike[str] = "",
    radimagenet_file: str | os.PathLike[str] = "",
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> dict[str, Any]:
    """Judge a generator's output; print tables, write `metrics.json` and `copies.csv`.

    Args:
        dataset_dir: real cases: train.json, test.json, clinical.xlsx; `lesions.csv` where they are phantoms.
        generated_dir: what inference wrote: `synthsheet_all.xlsx` and `<folder>/<sequence>.nii.gz`.
        output_dir: for the results.
        sequence: axt2, b1600 or adc.
        medicalnet_file: MedicalNet weights; with them, distances on its features.
        radimagenet_file: RadImageNet weights; with them, distances on its features of slices in three planes.
        device: for both networks.
        seed: of the intervals.

    Returns:
        What metrics.json holds; every figure as value, low, high, n.

    Raises:
        UserError: everything that is wrong with the cases and volumes, before any network is made; weights are missing.
    """
    train, test, generated = read_volumes(dataset_dir, generated_dir, sequence)
    extractors = make_extractors(medicalnet_file, radimagenet_file, device)

    result: dict[str, dict[str, dict[str, Estimate]]] = {}
    real = {name: [(c["folder"], c[sequence]) for c in cases] for name, cases in (("train", train), ("test", test))}
    result["distances"], copies, result["copies"] = _from_features(extractors, real, generated, sequence, seed)
    result["class"] = _class_prediction(generated, seed)
    if sequence == "axt2" and (Path(dataset_dir) / "lesions.csv").is_file():
        result["adherence"] = _adherence(dataset_dir, generated, test)

    output = Path(output_dir)
    with atomic(output / "copies.csv") as part:
        copies.to_csv(part, index=False)
    return write_report(output / "metrics.json", result)


# ---- the volumes -----------------------------------------------------------------------------------------------------


def read_volumes(
    dataset_dir: str | os.PathLike[str], generated_dir: str | os.PathLike[str], sequence: str
) -> tuple[list[Case], list[Case], list[Generated]]:
    """Training cases, test cases and generated volumes, all of them checked: tables, headers, then voxels.

    Raises:
        UserError: everything that is wrong, in one table; or there is too little to judge.
    """
    problems = Problems("volumes to judge")
    train, test = read_splits(dataset_dir, keys=(sequence,), problems=problems)
    generated = read_generated(generated_dir, train, test, sequence, problems)
    real = [{"folder": case["folder"], sequence: case[sequence]} for case in [*train, *test]]
    made = [{"folder": f"generated {g.folder}", sequence: g.image} for g in generated]
    for volumes, constant in ((real, False), (made, True)):
        # What is missing or cannot be read was told with the headers.
        readable = [volume for volume in volumes if _grid_of(volume[sequence])]
        check_voxels(readable, image_transforms((sequence,), factor=1, constant=constant), problems)
    problems.raise_if_any()
    if len(train) < 2 or len(test) < 2:
        raise UserError(f"{len(train)} training, {len(test)} test cases: distances need two of each")
    if sum(g.is_test for g in generated) < 2:
        raise UserError(f"{generated_dir}: fewer than two volumes are of test reports; run inference on test.json")
    return train, test, generated


def read_generated(
    root: str | os.PathLike[str], train: Sequence[Case], test: Sequence[Case], sequence: str, problems: Problems
) -> list[Generated]:
    """The generated volumes, each with its real case, as far as sheet and headers are sound; the rest is noted.

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
    for made in generated.values():
        _check_grid(made, sequence, problems)
    return list(generated.values())


def _check_grid(made: Generated, sequence: str, problems: Problems) -> None:
    """A volume of another size or spacing has other features, whatever it shows.

    Where it lies in the world changes none: inference that had no real image puts it around the origin.
    """
    name, path = f"generated {made.folder}", Path(made.image)
    found, real = _grid_of(path), _grid_of(made.case[sequence])
    if not path.is_file():
        problems.add(name, f"{path.name} is missing", f"put it at {path}, or generate it again")
    elif found is None:
        problems.add(name, f"{path.name} cannot be read as a 3D NIfTI volume", "generate it again")
    elif real is not None:
        (size, spacing), (real_size, real_spacing) = found, real
        if size != real_size:
            problems.add(name, f"has size {by(size)}, the real case {by(real_size)}", "generate on the real grid")
        if not np.allclose(spacing, real_spacing, rtol=0, atol=SPACING_TOLERANCE):
            what = f"has spacing {by(spacing.round(4))} mm, the real case {by(real_spacing.round(4))}"
            problems.add(name, what, "generate on the real grid")


def _grid_of(path: str | os.PathLike[str]) -> tuple[tuple[int, ...], np.ndarray] | None:
    """Size and spacing (mm) along R, A, S, or None where no volume can be read."""
    try:
        affine, size = read_grid(path)
    except ValueError:
        return None
    return size, nib.affines.voxel_sizes(affine)


# ---- features --------------------------------------------------------------------------------------------------------


def make_extractors(medicalnet: Any, radimagenet: Any, device: torch.device | str) -> dict[str, Extractor]:
    """The feature sets that volumes are judged by, by name: the phantom features, and others whose file is given."""
    extractors: dict[str, Extractor] = {"phantom": features.phantom()}
    if medicalnet:
        extractors["medicalnet"] = features.medicalnet(medicalnet, device)
    if radimagenet:
        for plane in features.PLANES:
            extractors[f"radimagenet {plane}"] = features.radimagenet(radimagenet, plane, device)
    return extractors


def extract(
    extractors: dict[str, Extractor], volumes: Iterable[tuple[str, str]], sequence: str, what: str
) -> dict[str, Tensor]:
    """Features (N, D), or (N, slices, D), of volumes given as (folder, path), by every extractor; each is read once."""
    read = image_transforms((sequence,), factor=1, constant=True)
    found: dict[str, list[Tensor]] = {name: [] for name in extractors}
    constant = 0
    for folder, path in tqdm(list(volumes), desc=what, disable=None):
        volume = read({"folder": folder, sequence: path})[sequence].as_tensor()
        constant += bool(volume.min() == volume.max())
        for name, extractor in extractors.items():
            found[name].append(extractor(volume))
    if constant:
        logger.warning("%s: %d show nothing, every voxel is the same; they are judged as they are", what, constant)
    return {name: torch.stack(rows) for name, rows in found.items()}


def _from_features(
    extractors: dict[str, Extractor],
    real: dict[str, list[tuple[str, str]]],
    generated: Sequence[Generated],
    sequence: str,
    seed: int,
) -> tuple[dict[str, dict[str, Estimate]], pd.DataFrame, dict[str, dict[str, Estimate]]]:
    """Distances of generated test volumes to real test volumes, and copies of training volumes.

    Beside each distance stands that of real training volumes to real test volumes: what a perfect generator would get.
    """
    train = extract(extractors, real["train"], sequence, "real training volumes")
    test = extract(extractors, real["test"], sequence, "real test volumes")
    judged, others = ([g for g in generated if g.is_test is wanted] for wanted in (True, False))
    made = extract(extractors, [(g.folder, g.image) for g in judged], sequence, "generated volumes of test reports")
    # Of the others nothing but copies is asked, and those are found by the phantom features.
    rest = {"phantom": made["phantom"][:0]}
    if others:
        phantom = {"phantom": extractors["phantom"]}
        rest = extract(phantom, [(g.folder, g.image) for g in others], sequence, "other generated volumes")
    # Phantom features have units of their own: they are compared in standard deviations of the real training volumes.
    mean, deviation = train["phantom"].mean(0), train["phantom"].std(0).clamp_min(1e-6)
    for vectors in (train, test, made, rest):
        vectors["phantom"] = (vectors["phantom"] - mean) / deviation
    distances = {}
    for name in extractors:
        rows = {"generated": made[name], "real train": train[name]}
        for row, vectors in rows.items():
            distances[f"{name}: {row} to real test"] = {
                kind: with_interval(distance, vectors, test[name], seed=seed) for kind, distance in DISTANCES.items()
            }
    copies, share = find_copies(
        torch.cat([made["phantom"], rest["phantom"]]), train["phantom"], test["phantom"],
        generated_names=[g.folder for g in [*judged, *others]], train_names=[folder for folder, _ in real["train"]],
    )  # fmt: skip
    return distances, copies, {"all generated volumes": {"share nearer to a training case than real ones": share}}


# ---- classes and reports ---------------------------------------------------------------------------------------------


def _class_prediction(generated: Sequence[Generated], seed: int) -> dict[str, dict[str, Estimate]]:
    """The class head's figures on the test reports, absent ones left out; each report counts once."""
    by_report = {g.case["folder"]: g for g in generated if g.is_test and not g.case["text_isnull"]}
    judged = [g for g in by_report.values() if g.predicted is not None]
    if not judged:
        return {}
    labels = [int(is_positive(g.case)) for g in judged]
    return {"PIRADS_synth": class_metrics(labels, [g.predicted for g in judged], seed=seed)}


def _adherence(
    dataset_dir: str | os.PathLike[str], generated: Sequence[Generated], test: Sequence[Case]
) -> dict[str, dict[str, Estimate]]:
    """Share of test volumes that show what their report says; beside it the analyser's own figures on real ones."""
    truth = index_lesions(dataset_dir)

    def judge(volumes: Iterable[tuple[str, str]], what: str) -> dict[str, Estimate]:
        images = ((case, nib.load(path)) for case, path in tqdm(list(volumes), what, disable=None))
        return shares(verdict(image.get_fdata(dtype="float32"), image.affine, truth[case]) for case, image in images)

    return {
        "generated": judge(
            ((g.case["folder"], g.image) for g in generated if g.is_test and not g.case["text_isnull"]), "adherence"
        ),
        "real (the analyser's own accuracy)": judge(((c["folder"], c["axt2"]) for c in test), "analyser"),
    }
