"""Does a volume show what it should, as large and as dark as it should? The phantom's analyser looks at it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from scripts.data.datalists import SEQUENCES
from scripts.evaluation.class_metrics import Estimate, mean, wilson
from scripts.phantom.analyser import Analysis, agrees, analyse
from scripts.phantom.anatomy import Lesion
from scripts.phantom.dataset import read_findings

PARTS = ("presence", "zone", "side", "level", "all")  # the middle three only of those that should show a lesion


@dataclass(frozen=True)
class Truth:
    """What a phantom has: its index lesion, None without one, and the volume of its gland, NaN where it is unknown."""

    lesion: Lesion | None
    gland_ml: float


def read_truth(dataset_dir: str | os.PathLike[str]) -> dict[str, Truth]:
    """The truth of each case of a data root, of phantoms or imported; empty where the root has none.

    Raises:
        UserError: the root holds lesions.csv but no cases.csv.
    """
    if not (Path(dataset_dir) / "lesions.csv").is_file():
        return {}
    lesions = read_findings(dataset_dir)
    volumes = pd.read_csv(Path(dataset_dir) / "cases.csv", dtype={"folder": str}).set_index("folder")["gland_ml"]
    return {folder: Truth(next(iter(found), None), float(volumes[folder])) for folder, found in lesions.items()}


def look(axt2: np.ndarray, affine: np.ndarray, **others: np.ndarray) -> Analysis | None:
    """What a T2w volume (X, Y, Z) shows, and what b1600 and adc beside it do; None where it cannot be analysed."""
    try:
        return analyse(axt2, affine, **others)
    except ValueError:  # constant or not finite: the output of a network that has not learnt yet
        return None


def look_at(paths: Mapping[str, str | os.PathLike[str]]) -> Analysis | None:
    """`look` at NIfTI files by sequence, on one grid."""
    images = {name: nib.load(path) for name, path in paths.items()}
    return look(
        **{name: image.get_fdata(dtype="float32") for name, image in images.items()}, affine=images["axt2"].affine
    )


def verdict(axt2: np.ndarray, affine: np.ndarray, lesion: Lesion | None) -> dict[str, bool]:
    """Which parts of what a T2w volume (X, Y, Z) shows agree with `lesion`; what cannot be analysed shows nothing."""
    return agreement(look(axt2, affine), lesion)


def agreement(seen: Analysis | None, lesion: Lesion | None) -> dict[str, bool]:
    """Which parts of what a volume shows agree with `lesion`; what cannot be analysed shows nothing."""
    if seen is None:
        return dict.fromkeys(PARTS if lesion else ("presence", "all"), False)
    return agrees(seen, lesion)


def shares(verdicts: Iterable[Mapping[str, bool]]) -> dict[str, Estimate]:
    """The share of right answers to each part, with its Wilson interval, over the volumes that were asked for it."""
    verdicts = list(verdicts)
    asked = {part: [given[part] for given in verdicts if part in given] for part in PARTS}
    return {part: wilson(sum(answers), len(answers)) for part, answers in asked.items()}


def measures(seen: Iterable[tuple[Analysis | None, Truth]]) -> dict[str, Estimate]:
    """How what volumes show differs in size from the truth, and how it looks: means with t-intervals.

    `diameter_error_mm` (seen less true) and `lesion_signal_<sequence>` (lesion over its zone) are of the volumes that
    should show a lesion and show one; `gland_error_ml`, `nodules` (their number) and `nodule_contrast` (their mean
    difference from the transition zone, as a part of it) of all that can be analysed.
    """
    pairs = [(analysis, truth) for analysis, truth in seen if analysis is not None]
    shown = [(analysis, truth.lesion) for analysis, truth in pairs if truth.lesion and analysis.lesion]
    contrasts = [analysis.nodule_contrast for analysis, _ in pairs if analysis.nodules]
    return {
        "diameter_error_mm": mean([a.diameter_mm - lesion.diameter_mm for a, lesion in shown if lesion.diameter_mm]),
        "gland_error_ml": mean(
            [e for analysis, truth in pairs if np.isfinite(e := analysis.gland_ml - truth.gland_ml)]
        ),
        **{
            f"lesion_signal_{name}": mean([s for a, _ in shown if np.isfinite(s := a.contrast[name])])
            for name in SEQUENCES
            if any(name in analysis.contrast for analysis, _ in shown)
        },
        "nodules": mean([analysis.nodules for analysis, _ in pairs]),
        "nodule_contrast": mean(contrasts),
    }
