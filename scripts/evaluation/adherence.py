"""Does a volume show the lesion that it should? The phantom's analyser looks at it, and shares have 95 % intervals."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from scripts.evaluation.class_metrics import Estimate, wilson
from scripts.phantom.analyser import agrees, analyse
from scripts.phantom.anatomy import Lesion
from scripts.phantom.dataset import read_findings

PARTS = ("presence", "zone", "side", "level", "all")  # the middle three only of those that should show a lesion


def index_lesions(dataset_dir: str | os.PathLike[str]) -> dict[str, Lesion | None]:
    """The index lesion of each phantom of a data root, None where it has no lesion; empty where the root has no truth.

    Raises:
        UserError: the root holds lesions.csv but no cases.csv.
    """
    if not (Path(dataset_dir) / "lesions.csv").is_file():
        return {}
    return {folder: next(iter(lesions), None) for folder, lesions in read_findings(dataset_dir).items()}


def verdict(axt2: np.ndarray, affine: np.ndarray, lesion: Lesion | None) -> dict[str, bool]:
    """Which parts of what a T2w volume (X, Y, Z) shows agree with `lesion`; what cannot be analysed shows nothing."""
    try:
        return agrees(analyse(axt2, affine), lesion)
    except ValueError:  # constant or not finite: the output of a network that has not learnt yet
        return dict.fromkeys(PARTS if lesion else ("presence", "all"), False)


def shares(verdicts: Iterable[Mapping[str, bool]]) -> dict[str, Estimate]:
    """The share of right answers to each part, with its Wilson interval, over the volumes that were asked for it."""
    verdicts = list(verdicts)
    asked = {part: [given[part] for given in verdicts if part in given] for part in PARTS}
    return {part: wilson(sum(answers), len(answers)) for part, answers in asked.items()}
