"""Volumes of several generators side by side: rows of what `evaluate.yaml` found, and pictures of one patient."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from scripts.data.datalists import SEQUENCES, Case, read_datalist
from scripts.data.images import load_volume
from scripts.data.montage import montage
from scripts.evaluation.class_metrics import Figure, as_text
from scripts.evaluation.generated import REAL
from scripts.phantom.dataset import read_findings

Judged = dict[str, dict[str, dict[str, Figure]]]  # what evaluate.yaml writes
Cells = dict[str, str]  # of a row, by column


def read_judged(folder: Path) -> Judged:
    """Give the figures that `evaluate.yaml` left in its output folder."""
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def table(rows: Mapping[str, Cells]) -> pd.DataFrame:
    """Give a table of named rows; what a row does not have is a dash."""
    return pd.DataFrame(list(rows.values()), index=list(rows)).fillna("–").rename_axis("volumes")


def reference_rows(judged: Judged) -> dict[str, Cells]:
    """Give what a perfect generator would get, and what the VAE alone does to the test volumes.

    That is other real volumes' distance with the analyser's own accuracy, and the reconstructions of the test volumes.
    """
    return {
        "real training volumes": cells(judged, "real train", REAL, "real"),
        "reconstructions of the test volumes": cells(judged, "reconstructed test", "reconstructed", "reconstructed"),
    }


def cells(
    judged: Judged, distances: str = "generated", adherence: str = "generated", measures: str = "generated"
) -> Cells:
    """Give the cells that any row has, from rows of what `evaluate.yaml` writes."""
    columns = {}
    for kind, name in (("frechet", "Fréchet distance"), ("kernel", "kernel distance")):
        for target, suffix in (("real test", ""), ("reconstructed test", " to reconstructions")):
            figures = judged["distances"].get(f"phantom: {distances} to {target}")
            columns[name + suffix] = as_text(figures[kind]) if figures else "–"
    parts = {"presence": "lesion or none", "all": "everything"}
    shares, sizes = judged["adherence"][adherence], judged["measures"][measures]
    columns |= {parts.get(part, part): as_text(figure, percent=True) for part, figure in shares.items()}
    columns["diameter error (mm)"] = as_text(sizes["diameter_error_mm"])
    signals = {name: sizes.get(f"lesion_signal_{name}") for name in SEQUENCES}
    return columns | {f"lesion's signal, {name}": as_text(figure) for name, figure in signals.items() if figure}


def shown_case(data: Path) -> Case:
    """Give the first test case whose report names a lesion, or where none does the first that has a report."""
    truth = read_findings(data)
    told = [case for case in read_datalist(data / "test.json", data) if not case["text_isnull"]]
    return next((case for case in told if truth[case["folder"]]), told[0])


def draw(case: Case, data: Path, volumes: Mapping[str, Path], sequences: Sequence[str], path: Path) -> None:
    """Draw a phantom and what was made of it, one below the other, all cut through the middle of its index lesion.

    Args:
        case: the phantom's, of the data root `data`.
        volumes: folders that hold a folder of the case, under what the picture calls them.
        sequences: which of the case's images; each begins with the phantom's own.
        path: the PNG file.
    """
    rows = [(name, title, folder) for name in sequences for title, folder in {"the phantom": data, **volumes}.items()]
    loaded = [load_volume(folder / case["folder"] / f"{name}.nii.gz") for name, _, folder in rows]
    real, spacing, affine = loaded[0]
    focus = None
    if lesions := read_findings(data)[case["folder"]]:
        voxel = nib.affines.apply_affine(np.linalg.inv(affine), lesions[0].centre_mm).round().astype(int)
        focus = np.clip(voxel, 0, np.array(real.shape) - 1).tolist()
    montage([volume for volume, _, _ in loaded], [f"{name}, {title}" for name, title, _ in rows], spacing, path, focus)
