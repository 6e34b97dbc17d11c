"""The data root that tests of what is judged share."""

from __future__ import annotations

from pathlib import Path

import pytest

from judged_root import make_judged


@pytest.fixture
def root(tmp_path) -> Path:
    """Real cases a to d, c and d to test on, and a volume generated for each."""
    return make_judged(tmp_path)
