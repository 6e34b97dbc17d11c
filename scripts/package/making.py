"""A bundle and its weights into a folder that stands alone."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

import scripts
from scripts.cli.bundle import CODE, read_metadata
from scripts.common.problems import UserError
from scripts.package.card import Card, read_card
from scripts.package.code import own_name, reached, renamed
from scripts.package.configs import WORKFLOWS, Config, folded
from scripts.package.contents import KINDS, TEXT_ENCODER, Contents, Kind, write_contents
from scripts.package.large_files import write_large_files
from scripts.package.metadata import make_metadata
from scripts.package.page import make_page

PACKAGE = Path(scripts.__file__).parent  # all of our modules
BESIDE = ("values.schema.json", "logging.conf", "evaluate_properties.json")  # what configs need in their folder
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")  # begins the name of a Python package


def make_package(
    bundle: Path,
    card_file: Path,
    output_dir: Path,
    overlays: Sequence[str],
    name: str | None,
    sources: Mapping[str, str | None],
) -> Path:
    """Make the folder; what is there of an earlier version is replaced. Arguments as in `scripts.package.make`.

    Everything is checked before anything is written, and the folder appears when it is complete.

    Raises:
        UserError: see `scripts.package.make`; another folder lies where the package goes.
    """
    kind = _kind_of(bundle)
    name = name or bundle.resolve().name
    folder = output_dir / name
    _check_name(name, folder)
    card = read_card(card_file, kind.generates)
    given = _given(kind, sources)
    parser = _parser(bundle, folded(bundle / "configs" / "inference.yaml", overlays, given)[1])
    contents = kind.collect(parser)
    values = {value: path for value, path in kind.values.items() if _is_brought(path, contents)}
    configs = {flow: folded(bundle / "configs" / f"{flow}.yaml", overlays, values) for flow in WORKFLOWS}

    part = output_dir / f".part-{name}"
    shutil.rmtree(part, ignore_errors=True)
    try:
        write_contents(contents, part)
        files = _write_code(part / own_name(name), [text for text, _ in configs.values()])
        _write_configs(part / "configs", bundle / "configs", configs, files, own_name(name))
        meta = make_metadata(read_metadata(bundle), card, contents, files.values(), part / own_name(name))
        _write_json(part / "configs" / "metadata.json", meta)
        large = write_large_files(part, card.facts.get("large_files", {}))
        _write_words(part, bundle, card, make_page(card, meta, kind.commands, large))
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


# ---- what it is made of ----------------------------------------------------------------------------------------------


def _kind_of(bundle: Path) -> Kind:
    name = bundle.resolve().name
    if name not in KINDS or not (bundle / "configs" / "inference.yaml").is_file():
        raise UserError(
            f"{bundle} is no bundle of this repository; they are {', '.join(f'bundles/{one}' for one in KINDS)}"
        )
    return KINDS[name]


def _check_name(name: str, folder: Path) -> None:
    if not NAME.fullmatch(name):
        raise UserError(
            f"name is {name!r}: give letters, digits and underscores, a letter first; code is named after it"
        )
    if folder.exists() and not is_package(folder):
        raise UserError(f"{folder} is there and is no package: move it away, or give another output_dir or name")


def is_package(folder: Path) -> bool:
    """Whether a folder was made here."""
    return CODE in read_metadata(folder)


def _given(kind: Kind, sources: Mapping[str, str | None]) -> dict[str, str]:
    """The values of the configs that options replace.

    Raises:
        UserError: an option that this bundle has no use for.
    """
    given = {kind.weights if name == "weights" else name: path for name, path in sources.items() if path is not None}
    for name in given.keys() - kind.values.keys():
        raise UserError(f"--{name}: packages of this bundle hold none; leave it out")
    return given


def _parser(bundle: Path, config: Config) -> ConfigParser:
    """A parser of a config that knows its bundle, as when it is run."""
    return ConfigParser({**config, "bundle_root": str(bundle)})


def _is_brought(path: str, contents: Contents) -> bool:
    """Whether what a value points to is in the package: variants without an adapter read no reports."""
    return TEXT_ENCODER not in path or any(place.startswith(TEXT_ENCODER) for place in contents.write)


# ---- writing ---------------------------------------------------------------------------------------------------------


def _write_code(folder: Path, configs: Sequence[str]) -> dict[str, Path]:
    files = reached(PACKAGE, configs)
    for path in files.values():
        target = folder / path.relative_to(PACKAGE)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(renamed(path.read_text(encoding="utf-8"), files, folder.name), encoding="utf-8")
    return files


def _write_configs(
    target: Path, source: Path, configs: Mapping[str, tuple[str, Config]], modules: Mapping[str, Path], name: str
) -> None:
    """Each as YAML for readers and as JSON, which MONAI's `load` and others look for."""
    target.mkdir(parents=True)
    for flow, (text, config) in configs.items():
        (target / f"{flow}.yaml").write_text(renamed(text, modules, name), encoding="utf-8")
        _write_json(target / f"{flow}.json", json.loads(renamed(json.dumps(config), modules, name)))
    for file in BESIDE:
        if (source / file).is_file():
            shutil.copyfile(source / file, target / file)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_words(folder: Path, bundle: Path, card: Card, page: str) -> None:
    """Card and licences. MONAI tells the hub the licence by the words of LICENSE, so that holds the weights' own."""
    docs = folder / "docs"
    docs.mkdir()
    (docs / "README.md").write_text(page, encoding="utf-8")
    (docs / "data_license.txt").write_text(card.facts["data_licence"].strip() + "\n", encoding="utf-8")
    code_licence = (bundle / "LICENSE").read_text(encoding="utf-8")
    (folder / "LICENSE").write_text(card.licence or code_licence, encoding="utf-8")
    if card.licence is not None:
        (folder / "LICENSE_CODE").write_text(code_licence, encoding="utf-8")
