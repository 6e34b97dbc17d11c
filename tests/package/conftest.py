"""The packages that tests of this room use: made once, of tiny weights."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from packages import OVERLAYS, make_sources
from scripts.package.__main__ import make


@pytest.fixture(scope="session")
def sources(tmp_path_factory) -> SimpleNamespace:
    """Weights of all three bundles that fit each other, overlays and a card."""
    return make_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="session")
def build(sources, repo_root) -> Callable[..., Path]:
    """Makes a package of a bundle: gives its folder."""

    def run(bundle: str, output: Path, **changes: object) -> Path:
        given = {"card": str(sources.card), **sources.paths[bundle]} | changes
        overlays = (str(sources.root / f"{bundle}.json"),)
        make(bundle=str(repo_root / "bundles" / bundle), output_dir=str(output), overlays=overlays, **given)
        return output / str(changes.get("name") or bundle)

    return run


@pytest.fixture(scope="session")
def packages(build, tmp_path_factory) -> Path:
    """The folder that holds a package of each bundle, unpacked from its zip."""
    made, unpacked = tmp_path_factory.mktemp("made"), tmp_path_factory.mktemp("unpacked")
    for bundle in OVERLAYS:
        build(bundle, made)
        with zipfile.ZipFile(made / f"{bundle}_v1.2.0.zip") as archive:
            archive.extractall(unpacked)
    return unpacked
