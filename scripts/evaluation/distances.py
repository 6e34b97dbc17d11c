"""Distances between two sets of feature vectors: Fréchet distance and kernel distance, with intervals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from scripts.common.problems import UserError
from scripts.evaluation.class_metrics import Estimate

HALF_SAMPLES = 100
# Vectors that are worked on at a time: a case of RadImageNet features has hundreds, and all of them together have a
# kernel matrix that no memory holds.
BLOCK = 8192
ALL = slice(None)


class Between(Protocol):
    """A distance between two sets of cases, or between some cases of each, which are given by their indices (k,)."""

    def __call__(self, x_cases: Tensor | slice = ALL, y_cases: Tensor | slice = ALL) -> float: ...


# From features (n, D), or (n, S, D) where a case has S vectors, e.g. slices; every vector counts alike.
Distance = Callable[[Tensor, Tensor], Between]


def frechet_distance(x: Tensor, y: Tensor) -> Between:
    """Fréchet distance of the Gaussians fitted to two feature sets (Heusel et al., arXiv 1706.08500, eq. 6).

    |mu_x - mu_y|² + tr(S_x) + tr(S_y) - 2 tr((S_x S_y)^½). The last trace is the sum of the singular values of
    R_x R_yᵀ for any R with RᵀR = S, such as the centred features over sqrt(n-1): no matrix root is taken, so it is
    exact also where covariances are singular, as they are with fewer cases than features.

    Args:
        x, y: (n, D) and (m, D), or (n, S, D) and (m, T, D), at least two cases each.

    Raises:
        UserError: the features are too few, not finite, or do not fit each other.
    """
    x, y = _checked(x, y)

    def between(x_cases: Tensor | slice = ALL, y_cases: Tensor | slice = ALL) -> float:
        (mean_x, root_x), (mean_y, root_y) = _gaussian(x[x_cases]), _gaussian(y[y_cases])
        cross = torch.linalg.svdvals(root_x @ root_y.T).sum()
        return float((mean_x - mean_y).square().sum() + root_x.square().sum() + root_y.square().sum() - 2 * cross)

    return between


def _gaussian(cases: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) of the vectors of cases (n, S, D), and an R of at most D rows, or n·S, with RᵀR their covariance.

    The vectors are gone through again for each half: covariances of single cases (n, D, D) would be larger still.
    """
    blocks = cases.flatten(0, 1).split(BLOCK)
    count = sum(len(block) for block in blocks)
    mean = torch.stack([block.double().sum(0) for block in blocks]).sum(0) / count
    root = mean.new_empty(0, len(mean))
    for block in blocks:
        root = torch.cat([root, block.double() - mean])
        if len(root) > root.shape[1]:
            root = torch.linalg.qr(root, mode="r").R
    return mean, root / (count - 1) ** 0.5


def kernel_distance(x: Tensor, y: Tensor) -> Between:
    """Unbiased squared maximum mean discrepancy with the kernel (x·y / D + 1)³ (Binkowski et al., arXiv 1801.01401).

    Its expectation is 0 for two samples of one distribution, whatever their size; it may be negative. It needs nothing
    but the kernel's sums over the vectors of any two cases, which are computed once, for all choices of cases.

    Args:
        x, y: (n, D) and (m, D), or (n, S, D) and (m, T, D), at least two cases each.

    Raises:
        UserError: the features are too few, not finite, or do not fit each other.
    """
    x, y = _checked(x, y)
    within_x, within_y, across = _sums_within(x), _sums_within(y), _sums(x, y)

    def unbiased(within: Tensor, vectors: int) -> Tensor:
        count = len(within) * vectors
        return within.sum() / (count * (count - 1))

    def between(x_cases: Tensor | slice = ALL, y_cases: Tensor | slice = ALL) -> float:
        mean_x = unbiased(within_x[x_cases][:, x_cases], x.shape[1])
        mean_y = unbiased(within_y[y_cases][:, y_cases], y.shape[1])
        mean_across = across[x_cases][:, y_cases].mean() / (x.shape[1] * y.shape[1])
        return float(mean_x + mean_y - 2 * mean_across)

    return between


def _sums(x: Tensor, y: Tensor) -> Tensor:
    """The kernel between any case of x (n, S, D) and any of y (m, T, D), summed over their vectors: (n, m)."""
    return torch.cat([torch.cat([_block_sums(a, b) for b in _blocks(y)], dim=1) for a in _blocks(x)])


def _sums_within(x: Tensor) -> Tensor:
    """The kernel between any two cases of x (n, S, D), summed over the pairs of different vectors: (n, n)."""
    blocks = _blocks(x)
    rows = []
    for i, a in enumerate(blocks):
        # The kernel is symmetric: what lies left of the diagonal was computed in the rows above.
        left = [row[:, i * len(blocks[0]) :][:, : len(a)].T for row in rows]
        rows.append(torch.cat([*left, *(_block_sums(a, b) for b in blocks[i:])], dim=1))
    itself = torch.cat([((block.double().square().sum(2) / x.shape[2] + 1) ** 3).sum(1) for block in blocks])
    return torch.cat(rows) - itself.diag()


def _blocks(x: Tensor) -> tuple[Tensor, ...]:
    """Cases (n, S, D) in parts of at most `BLOCK` vectors, but of one case at least."""
    return x.split(max(1, BLOCK // x.shape[1]))


def _block_sums(a: Tensor, b: Tensor) -> Tensor:
    kernel = (a.flatten(0, 1).double() @ b.flatten(0, 1).double().T).div_(a.shape[2]).add_(1).pow_(3)
    return kernel.view(*a.shape[:2], *b.shape[:2]).sum((1, 3))


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
    between = distance(x, y)
    value = between()
    if smaller < 4:
        return Estimate(value, np.nan, np.nan, smaller)
    rng = np.random.default_rng(seed)

    def half(cases: int) -> Tensor:
        return torch.from_numpy(rng.permutation(cases)[: cases // 2])

    spread = 1.96 * float(np.std([between(half(len(x)), half(len(y))) for _ in range(draws)], ddof=1))
    return Estimate(value, value - spread, value + spread, smaller)


def _checked(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both as (cases, vectors, D)."""
    if x.ndim not in (2, 3) or y.ndim not in (2, 3) or x.shape[-1] != y.shape[-1]:
        raise UserError(f"feature sets must be (n, D) or (n, S, D), got {tuple(x.shape)} and {tuple(y.shape)}")
    if len(x) < 2 or len(y) < 2:
        raise UserError(f"a distance needs at least two cases on each side, got {len(x)} and {len(y)}")
    if not (torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise UserError("features hold NaN or infinity; look for broken volumes")
    return x.reshape(len(x), -1, x.shape[-1]), y.reshape(len(y), -1, y.shape[-1])
