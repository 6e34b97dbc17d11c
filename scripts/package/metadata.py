"""The metadata of a package: the bundle's own, with what its card, its weights and its code say."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from scripts.cli.bundle import CODE
from scripts.common.identity import code_fingerprint
from scripts.package.card import Card
from scripts.package.code import needed_packages, pip_name
from scripts.package.contents import Contents

# These three have places of their own in the metadata.
NAMED = {"monai": "monai_version", "torch": "pytorch_version", "numpy": "numpy_version"}


def make_metadata(bundle: Mapping[str, Any], card: Card, contents: Contents, files: Iterable[Path], code: Path) -> dict:
    """What `configs/metadata.json` holds.

    Args:
        bundle: the metadata of the bundle in the repository.
        files: the modules that are brought along.
        code: the folder that they lie in, in the package.
    """
    facts, meta = card.facts, copy.deepcopy(dict(bundle))
    told = {"version": "version", "changelog": "changelog", "name": "title", "authors": "authors"}
    meta |= {name: facts[fact] for name, fact in told.items()}
    meta |= {"intended_use": facts["intended_use"], "data_source": facts["data"], "task": bundle["task"]}
    meta["copyright"] = f"weights: {facts['weights_licence']}; code: Apache-2.0"
    meta["references"] = facts.get("references", bundle.get("references", []))
    meta["eval_metrics"] = {name: figure["value"] for name, figure in card.figures.items()}
    meta |= versions(bundle["required_packages_version"], files)
    for place, value in contents.changes.items():
        _set(meta["network_data_format"], place.split("#"), value)
    for name in contents.absent:
        meta["network_data_format"]["inputs"].pop(name, None)
    meta[CODE] = {"folder": code.name, "fingerprint": code_fingerprint(code)}
    return meta


def _set(node: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value


def versions(listed: Iterable[str], files: Iterable[Path]) -> dict[str, Any]:
    """The versions that are installed: of what the code imports, and of what the bundle lists, which MONAI imports."""
    needed = needed_packages(files)
    for name in listed:
        try:
            needed[pip_name(name)] = version(name)
        except PackageNotFoundError:
            continue  # an extra that is not installed
    needed = {name: number.partition("+")[0] for name, number in needed.items()}  # +cpu names a build
    own = {NAMED[name]: needed.pop(name) if name in needed else version(name).partition("+")[0] for name in NAMED}
    return own | {"required_packages_version": dict(sorted(needed.items()))}
