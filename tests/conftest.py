"""What several test files share: where the repository is, what a refusal is, and quiet, offline libraries."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from scripts.problems import UserError

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The repository's root folder."""
    return ROOT


@contextmanager
def _refused(match: str) -> Iterator[None]:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        yield
    error = caught.value
    while not isinstance(error, UserError):
        error = error.__cause__
        assert error is not None, caught.value
    assert re.search(match, str(error)), error


@pytest.fixture(scope="session")
def refused() -> Callable[[str], AbstractContextManager[None]]:
    """`with refused(pattern):` - a `UserError` is told in it; MONAI's config parser chains its own errors to it."""
    return _refused
