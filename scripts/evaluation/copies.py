"""Does the generator copy training cases? Each generated volume's nearest training case, against what is normal.

Normal is how far real test cases, which the generator has never seen, lie from their nearest training case. A
generated volume nearer than almost all of them is flagged. With a quantile of 1 %, about 1 % are flagged by chance: it
is the share well above it that speaks for copying, and every flagged pair is listed to be looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from scripts.common.problems import UserError
from scripts.evaluation.class_metrics import Estimate, wilson
from scripts.evaluation.features import standardised


def nearest(features: Tensor, train: Tensor) -> tuple[Tensor, Tensor]:
    """Distance to, and index of, the nearest training vector; (n,) each."""
    return torch.cdist(features, train).min(1)


def find_copies(
    generated: Tensor, train: Tensor, test: Tensor, *, generated_names: Sequence[str], train_names: Sequence[str],
    quantile: float = 0.01,
) -> tuple[pd.DataFrame, Estimate]:  # fmt: skip
    """Flag generated volumes that lie nearer to a training case than real test cases do.

    Features are taken in standard deviations of all real volumes, so that none counts by its unit.

    Args:
        generated, train, test: features (n, D) of generated, real training and real test volumes.
        generated_names, train_names: their folders.
        quantile: share of real test cases that lie nearer than the limit.

    Returns:
        One row a generated volume, nearest first (folder, nearest, distance, percentile among the test cases, copy),
        and the share that is flagged, with its interval.

    Raises:
        UserError: fewer than two training or no test cases.
    """
    if len(train) < 2 or len(test) < 1:
        raise UserError(f"copy detection needs real cases, got {len(train)} training and {len(test)} test cases")
    reference = torch.cat([train, test]).double()
    generated, train, test = (standardised(vectors.double(), reference) for vectors in (generated, train, test))
    usual, _ = nearest(test, train)
    distance, index = nearest(generated, train)
    limit = torch.quantile(usual, quantile, interpolation="lower")
    frame = pd.DataFrame(
        {
            "folder": list(generated_names),
            "nearest": [train_names[i] for i in index.tolist()],
            "distance": distance.tolist(),
            "percentile": [float((usual < d).double().mean()) for d in distance],
            "copy": (distance < limit).tolist(),
        }
    )
    flagged = int(frame["copy"].sum())
    return frame.sort_values("distance", ignore_index=True), wilson(flagged, len(frame))
