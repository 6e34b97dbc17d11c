"""Distances between two sets of feature vectors: Fréchet distance and kernel distance, with intervals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scripts.evaluation.class_metrics import Estimate
from scripts.problems import UserError

Distance = Callable[[Tensor, Tensor], float]
HALF_SAMPLES = 100


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Fréchet distance of the Gaussians fitted to two feature sets (Heusel et al., arXiv 1706.08500, eq. 6).

    |mu_x - mu_y|² + tr(S_x) + tr(S_y) - 2 tr((S_x S_y)^½). The last trace is the sum of the singular values of
    X Yᵀ / sqrt((n-1)(m-1)) for the centred features X (n, D), Y (m, D): no matrix root is taken, so it is exact also
    where covariances are singular, as they are with fewer cases than features.

    Args:
        x, y: (n, D) and (m, D), at least two vectors each.
    """
    x, y = _checked(x, y)
    centred_x, centred_y = x - x.mean(0), y - y.mean(0)
    root_x = _square(centred_x) / (len(x) - 1) ** 0.5
    root_y = _square(centred_y) / (len(y) - 1) ** 0.5
    cross = torch.linalg.svdvals(root_x @ root_y.T).sum()
    distance = (x.mean(0) - y.mean(0)).square().sum() + root_x.square().sum() + root_y.square().sum() - 2 * cross
    return float(distance)


def _square(rows: Tensor) -> Tensor:
    """A matrix with the same RᵀR, with no more rows than columns."""
    return torch.linalg.qr(rows, mode="r").R if len(rows) > rows.shape[1] else rows


def kernel_distance(x: Tensor, y: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (x·y / D + 1)³ (Binkowski et al., arXiv 1801.01401).

    Its expectation is 0 for two samples of one distribution, whatever their size; it may be negative.
    """
    x, y = _checked(x, y)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def without_diagonal(matrix: Tensor) -> Tensor:
        return (matrix.sum() - matrix.trace()) / (len(matrix) * (len(matrix) - 1))

    return float(without_diagonal(kernel(x, x)) + without_diagonal(kernel(y, y)) - 2 * kernel(x, y).mean())


def with_interval(distance: Distance, x: Tensor, y: Tensor, *, seed: int = 0, draws: int = HALF_SAMPLES) -> Estimate:
    """A distance with a 95 % interval from random halves of both sets.

    Drawing with repetition would put equal vectors into one sample, which biases both distances. The spread over halves
    drawn without repetition equals the sampling spread of the whole (delete-half jackknife, Shao & Wu 1989).

    Args:
        x, y: (n, D), or (n, S, D) where a case has S vectors, e.g. slices; cases are drawn, with all their vectors.
        seed: of the halves.
        draws: number of halves.

    Returns:
        The distance of the whole sets ± 1.96 standard deviations over the halves; n is the smaller number of cases.
    """
    smaller = min(len(x), len(y))
    value = distance(x.flatten(0, -2), y.flatten(0, -2))
    if smaller < 4:
        return Estimate(value, np.nan, np.nan, smaller)
    rng = np.random.default_rng(seed)

    def half(features: Tensor) -> Tensor:
        chosen: NDArray = rng.permutation(len(features))[: len(features) // 2]
        return features[torch.from_numpy(chosen)].flatten(0, -2)

    spread = 1.96 * float(np.std([distance(half(x), half(y)) for _ in range(draws)], ddof=1))
    return Estimate(value, value - spread, value + spread, smaller)


def _checked(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise UserError(f"feature sets must be (n, D) and (m, D), got {tuple(x.shape)} and {tuple(y.shape)}")
    if len(x) < 2 or len(y) < 2:
        raise UserError(f"a distance needs at least two cases on each side, got {len(x)} and {len(y)}")
    if not (torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise UserError("features hold NaN or infinity; look for broken volumes")
    return x.double(), y.double()
