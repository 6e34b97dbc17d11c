"""Judges generated volumes against real ones: distances, classes, copies, and for phantoms report adherence.

Everything is judged on the test reports, but copies, which are looked for among all generated volumes.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from scripts.common.files import atomic
from scripts.data.datalists import SEQUENCES, is_positive
from scripts.data.images import image_transforms
from scripts.evaluation import features
from scripts.evaluation.adherence import Truth, agreement, look_at, measures, read_truth, shares
from scripts.evaluation.class_metrics import Estimate, class_metrics, write_report
from scripts.evaluation.copies import find_copies
from scripts.evaluation.distances import frechet_distance, kernel_distance, with_interval
from scripts.evaluation.features import Extractor
from scripts.evaluation.volumes import Generated, Volumes, read_volumes

logger = logging.getLogger(__name__)

REAL = "real (the analyser's own accuracy)"
DISTANCES = {"frechet": frechet_distance, "kernel": kernel_distance}


def evaluate(
    dataset_dir: str | os.PathLike[str],
    generated_dir: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    *,
    sequence: str = "axt2",
    reconstructed_dir: str | os.PathLike[str] = "",
    medicalnet_file: str | os.PathLike[str] = "",
    radimagenet_file: str | os.PathLike[str] = "",
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> dict[str, Any]:
    """Judge a generator's output; print tables, write `metrics.json` and `copies.csv`.

    Args:
        dataset_dir: real cases: train.json, test.json, clinical.xlsx; `lesions.csv` where the truth is known.
        generated_dir: what inference wrote: `synthsheet_all.xlsx` and `<folder>/<sequence>.nii.gz`.
        output_dir: for the results.
        sequence: axt2, b1600 or adc. Where phantoms' T2w is judged, the analyser also looks at the other sequences that
            all volumes have, real, generated and reconstructed ones.
        reconstructed_dir: what the VAE's mode reconstruct wrote of the test cases: they are judged as if generated, and
            distances are also given to them, which leave out what the VAE's decoding costs.
        medicalnet_file: MedicalNet weights; with them, distances on its features.
        radimagenet_file: RadImageNet weights; with them, distances on its features of slices in three planes.
        device: for both networks.
        seed: of the intervals.

    Returns:
        What metrics.json holds; every figure as value, low, high, n.

    Raises:
        UserError: everything that is wrong with the cases and volumes, before any network is made; weights are missing.
    """
    volumes = read_volumes(dataset_dir, generated_dir, sequence, reconstructed_dir)
    extractors = make_extractors(medicalnet_file, radimagenet_file, device)

    result: dict[str, dict[str, dict[str, Estimate]]] = {}
    result["distances"], copies, result["copies"] = _from_features(extractors, volumes, sequence, seed)
    result["class"] = _class_prediction(volumes.generated, seed)
    truth = read_truth(dataset_dir) if sequence == "axt2" else {}
    if truth:
        result["adherence"], result["measures"] = _against_truth(truth, volumes)

    output = Path(output_dir)
    with atomic(output / "copies.csv") as part:
        copies.to_csv(part, index=False)
    return write_report(output / "metrics.json", result)


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
    extractors: dict[str, Extractor], volumes: Volumes, sequence: str, seed: int
) -> tuple[dict[str, dict[str, Estimate]], pd.DataFrame, dict[str, dict[str, Estimate]]]:
    """Distances of generated test volumes to real and to reconstructed test volumes, and copies of training volumes.

    Beside each distance stands that of real training volumes: what a perfect generator would get.
    """

    def features_of(
        paths: Iterable[tuple[str, str]], what: str, by: dict[str, Extractor] = extractors
    ) -> dict[str, Tensor]:
        return extract(by, paths, sequence, what)

    judged, others = ([g for g in volumes.generated if g.is_test is wanted] for wanted in (True, False))
    train = features_of([(c["folder"], c[sequence]) for c in volumes.train], "real training volumes")
    test = features_of([(c["folder"], c[sequence]) for c in volumes.test], "real test volumes")
    made = features_of(_paths(judged), "generated volumes of test reports")
    again = features_of(_paths(volumes.reconstructed), "reconstructed test volumes") if volumes.reconstructed else {}
    # Of the others nothing but copies is asked, and those are found by the phantom features.
    rest = {"phantom": made["phantom"][:0]}
    if others:
        rest = features_of(_paths(others), "other generated volumes", {"phantom": extractors["phantom"]})
    reference = torch.cat([train["phantom"], test["phantom"]])  # all real ones: either list may be short
    for vectors in filter(None, (train, test, made, again, rest)):
        vectors["phantom"] = features.standardised(vectors["phantom"], reference)
    rows = {"generated": made, "real train": train} | ({"reconstructed test": again} if again else {})
    targets = {"real test": test} | ({"reconstructed test": again} if again else {})
    distances = {
        f"{name}: {row} to {target}": {
            kind: with_interval(distance, rows[row][name], targets[target][name], seed=seed)
            for kind, distance in DISTANCES.items()
        }
        for name, target, row in itertools.product(extractors, targets, rows)
        if row != target
    }
    copies, share = find_copies(
        torch.cat([made["phantom"], rest["phantom"]]), train["phantom"], test["phantom"],
        generated_names=[g.folder for g in [*judged, *others]], train_names=[c["folder"] for c in volumes.train],
    )  # fmt: skip
    return distances, copies, {"all generated volumes": {"share nearer to a training case than real ones": share}}


def _paths(volumes: Iterable[Generated]) -> list[tuple[str, str]]:
    return [(volume.folder, volume.image) for volume in volumes]


# ---- classes and reports ---------------------------------------------------------------------------------------------


def _class_prediction(generated: Sequence[Generated], seed: int) -> dict[str, dict[str, Estimate]]:
    """The class head's figures on the test reports, absent ones left out; each report counts once."""
    by_report = {g.case["folder"]: g for g in generated if g.is_test and not g.case["text_isnull"]}
    judged = [g for g in by_report.values() if g.predicted is not None]
    if not judged:
        return {}
    labels = [int(is_positive(g.case)) for g in judged]
    return {"PIRADS_synth": class_metrics(labels, [g.predicted for g in judged], seed=seed)}


def _against_truth(
    truth: Mapping[str, Truth], volumes: Volumes
) -> tuple[dict[str, dict[str, Estimate]], dict[str, dict[str, Estimate]]]:
    """Shares of test volumes that show what their report says, and how large and dark they show it.

    Beside the generated ones stand real ones, the analyser's own figures, and reconstructed ones: shares are of all
    test cases, measures of those whose reports volumes were generated from. The analyser is given the sequences that
    all of them have, or its figures would not compare.
    """
    asked = [g for g in volumes.generated if g.is_test and not g.case["text_isnull"]]
    exams: dict[str, list[tuple[str, Mapping[str, Any]]]] = {
        "generated": [(g.case["folder"], g.sequences()) for g in asked],
        "real": [(case["folder"], case) for case in volumes.test],
        "reconstructed": [(g.folder, g.sequences()) for g in volumes.reconstructed],
    }
    common = [name for name in SEQUENCES if all(name in paths for files in exams.values() for _, paths in files)]
    named, shown, sizes = {g.case["folder"] for g in asked}, {}, {}
    for row, files in exams.items():
        if not files:
            continue
        looks = [
            (folder, look_at({name: paths[name] for name in common}))
            for folder, paths in tqdm(files, f"analyser, {row}", disable=None)
        ]
        shown[REAL if row == "real" else row] = shares(agreement(seen, truth[folder].lesion) for folder, seen in looks)
        sizes[row] = measures((seen, truth[folder]) for folder, seen in looks if folder in named)
    return shown, sizes
