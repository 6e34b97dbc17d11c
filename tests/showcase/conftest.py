"""What the commands of a chain come to."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from monai.bundle import ConfigParser


@pytest.fixture
def values_of() -> Callable[[Sequence[str]], dict[str, Any]]:
    """Gives the values that a command runs with: those of a bundle's configs, then its options as they are typed."""

    def values(command: Sequence[str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        typed = {name[2:]: value for name, value in itertools.pairwise(command) if name.startswith("--")}
        for file in ast.literal_eval(typed.get("config_file", "[]")):
            found |= ConfigParser.load_config_file(file)
        return found | typed

    return values
