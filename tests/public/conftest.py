"""Phantoms as the public data sets would hold them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from scripts.data.grid import Grid
from scripts.phantom.anatomy import sample_findings
from scripts.phantom.imaging import Phantom, make_case

GRID = Grid((80, 80, 24), (1.0, 1.0, 3.0))  # thick slices, as they are acquired


def _seeds(lesions: int) -> Iterator[int]:
    """Seeds of phantoms with so many lesions."""
    return (seed for seed in range(910_000, 920_000) if len(sample_findings(seed, 0.0).lesions) == lesions)


@pytest.fixture(scope="session")
def phantoms() -> list[Phantom]:
    """Six with a lesion, two with two, two without."""
    seeds = [next(chosen) for chosen, n in ((_seeds(1), 6), (_seeds(2), 2), (_seeds(0), 2)) for _ in range(n)]
    return [make_case(seed, GRID, 0.0) for seed in seeds]
