"""Imports run one way through the house, from the commands down to what knows of nothing else, and in no circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

# From the roof down. A folder may import what stands below it, and its own files.
FLOORS = (
    ("commands", "showcase"),
    ("package",),
    ("classifier",),
    ("ldm",),
    ("vae",),
    ("evaluation", "public"),
    ("exams", "phantom", "engine"),
    ("reports", "wording", "networks", "data"),
    ("dicom",),
    ("cli",),
    ("common",),
)
FLOOR = {room: height for height, rooms in enumerate(reversed(FLOORS)) for room in rooms}


def room_of(module: str) -> str:
    """The folder that a module lies in; what a folder is run as stands above all of them."""
    parts = module.split(".")
    return "commands" if len(parts) == 2 or parts[2:] == ["__main__"] else parts[1]


def imports_of(path: Path, package: Path) -> Iterator[str]:
    """The modules of the package that a file imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            parts = node.module.split(".")
            inner = [package.parent.joinpath(*parts, f"{alias.name}.py").is_file() for alias in node.names]
            names = [
                f"{node.module}.{alias.name}" if is_module else node.module
                for alias, is_module in zip(node.names, inner, strict=True)
            ]
        yield from {name for name in names if name.startswith("scripts.")}


@pytest.fixture(scope="module")
def arrows(repo_root) -> dict[str, set[str]]:
    """Which modules of the package each of them imports."""
    package = repo_root / "scripts"
    files = [path for path in sorted(package.rglob("*.py")) if path.name != "__init__.py"]
    return {
        ".".join(path.relative_to(repo_root).with_suffix("").parts): set(imports_of(path, package)) for path in files
    }


def test_no_import_runs_up(arrows):
    up = [
        f"{one} imports {other}"
        for one, others in arrows.items()
        for other in others
        if room_of(one) != room_of(other) and FLOOR[room_of(one)] <= FLOOR[room_of(other)]
    ]
    assert not up, "\n".join(up)


def test_there_is_no_circle(arrows):
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_only_commands_lie_in_the_hall(repo_root):
    files = sorted((repo_root / "scripts").glob("*.py"))
    helpers = [path.name for path in files if path.name != "__init__.py" and "__main__" not in path.read_text()]
    assert not helpers


def test_tests_mirror_the_rooms(repo_root):
    rooms = {path.name for path in (repo_root / "scripts").iterdir() if (path / "__init__.py").is_file()}
    tests = {path.name for path in (repo_root / "tests").iterdir() if path.is_dir() and any(path.glob("test_*.py"))}
    tests -= {"gpu", "examples"}  # all rooms on a GPU; what uses the package from outside
    assert tests <= rooms, f"no room of the package is called {', '.join(sorted(tests - rooms))}"
    assert rooms <= tests, f"nothing in tests/ is called {', '.join(sorted(rooms - tests))}"
