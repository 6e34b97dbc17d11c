"""What the tests of data roots share."""

from __future__ import annotations

from pathlib import Path

import pytest

import data_root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A sound data root: 0017 and b train, c tests."""
    return data_root.make_root(tmp_path)
