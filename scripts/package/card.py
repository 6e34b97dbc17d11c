"""The facts that a package's card needs and nobody but its maker knows, and the figures that evaluations have written.

The file of facts is YAML or JSON; what it may hold is `FACTS`, a JSON Schema, in words in docs/sharing.md.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from scripts.common.problems import Problems, UserError

TEXT = {"type": "string", "minLength": 1}
TEXTS = {"type": "array", "items": TEXT, "minItems": 1}
FACTS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "title": TEXT | {"description": "what the model is, in a line"},
        "version": TEXT | {"pattern": r"^\d+\.\d+\.\d+$", "description": "three numbers, such as 1.0.0, in quotes"},
        "changelog": {
            "type": "object",
            "additionalProperties": TEXT,
            "minProperties": 1,
            "description": "of each version, what is new in it",
        },
        "authors": TEXT | {"description": "who made the weights"},
        "intended_use": TEXT | {"description": "what the model is for, and what not"},
        "data": TEXT | {"description": "what the weights were trained on: patients, scanners, years, where from"},
        "data_licence": TEXT | {"description": "licence and terms of these data; becomes docs/data_license.txt"},
        "weights_licence": TEXT | {"description": "licence of the weights, by its SPDX name where it has one"},
        "licence_file": TEXT | {"description": "the text of that licence, where it is another than Apache-2.0"},
        "limits": TEXTS | {"description": "where the model fails, or was not tried"},
        "citation": TEXT | {"description": "how to cite it"},
        "references": TEXTS | {"description": "papers that it builds on; else those of the bundle"},
        "evaluation": TEXTS | {"description": "JSON files that evaluate has written"},
        "copies_explained": TEXT | {"description": "why to share weights though copies were found, or none looked for"},
        "large_files": {
            "type": "object",
            "additionalProperties": TEXT | {"pattern": "^https?://"},
            "description": "of files or folders in the package, where those above 25 MB can be fetched from",
        },
    },
    "required": [
        "title", "version", "changelog", "authors", "intended_use", "data", "data_licence", "weights_licence", "limits",
        "citation", "evaluation",
    ],
    "additionalProperties": False,
}  # fmt: skip
APACHE = "Apache-2.0"

Figures = dict[str, dict[str, Any]]  # an estimate (value, low, high, n) by its name, with " / " between its parts


@dataclass(frozen=True)
class Card:
    """What a package says of itself.

    Attributes:
        facts: of the file, see `FACTS`.
        figures: of all evaluations.
        copies: those of the copy check among them.
        licence: the text of the weights' licence; None where it is the code's.
    """

    facts: Mapping[str, Any]
    figures: Figures
    copies: Figures
    licence: str | None


def read_card(path: str | os.PathLike[str], generates: bool) -> Card:
    """Read the facts and the figures of the evaluations that they name; paths are relative to the file's folder.

    Args:
        generates: whether the bundle makes volumes, which may be copies of what it was trained on.

    Raises:
        UserError: everything that is missing or wrong; copies were found, or not looked for, and nothing explains it.
    """
    path = Path(path)
    facts = _read_facts(path)
    problems = Problems(f"facts of {path}")
    _check_facts(facts, problems)
    problems.raise_if_any()
    figures: Figures = {}
    for name in facts["evaluation"]:
        figures |= read_figures(path.parent / name)
    copies = {name: figure for name, figure in figures.items() if name.startswith("copies / ")}
    if generates:
        _check_copies(copies, "copies_explained" in facts, problems)
    licence = None
    if facts["weights_licence"] != APACHE:
        licence = _read_licence(path.parent, facts, problems)
    problems.raise_if_any()
    return Card(facts, figures, copies, licence)


def _read_facts(path: Path) -> Any:
    if not path.is_file():
        wanted = "".join(f"\n  {name}: {FACTS['properties'][name]['description']}" for name in FACTS["required"])
        raise UserError(f"{path} is missing: a package needs facts that only you know. Write a YAML file with{wanted}")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeError) as error:
        raise UserError(f"{path} cannot be read as YAML: {error}") from None


def _check_facts(facts: Any, problems: Problems) -> None:
    for error in Draft202012Validator(FACTS).iter_errors(facts):
        name = str(error.path[0]) if error.path else ""
        if error.validator == "required":
            name = next(one for one in FACTS["required"] if f"'{one}'" in error.message)
            problems.add(name, "is missing", FACTS["properties"][name]["description"])
        elif error.validator == "additionalProperties" and not name:
            problems.add("facts", error.message, "see docs/sharing.md for what there is")
        else:
            problems.add(name or "facts", error.message, FACTS["properties"].get(name, {}).get("description", ""))
    if not problems and facts["version"] not in facts["changelog"]:
        problems.add("changelog", f"does not have {facts['version']}", "say what is new in this version")


def _check_copies(copies: Figures, is_explained: bool, problems: Problems) -> None:
    if is_explained:
        return
    if not copies:
        problems.add(
            "evaluation", "holds no copy check: nobody knows whether volumes are copies of training cases",
            "evaluate volumes generated from training reports, or say under copies_explained why there are none",
        )  # fmt: skip
    for name, figure in copies.items():
        if figure["value"]:
            what = f"{100 * figure['value']:.1f} % of {figure['n']} volumes: {name.partition(' / ')[2]}"
            todo = "look at copies.csv; where they are none, say so under copies_explained"
            problems.add("copies", what, todo)


def _read_licence(folder: Path, facts: Mapping[str, Any], problems: Problems) -> str | None:
    file = folder / facts["licence_file"] if "licence_file" in facts else None
    if file is None or not file.is_file():
        what = "is missing" if file is None else f"{file} is missing"
        problems.add("licence_file", what, f"give the text of {facts['weights_licence']}: it becomes LICENSE")
        return None
    return file.read_text(encoding="utf-8")


def read_figures(path: Path) -> Figures:
    """Every estimate of a JSON file that an evaluation has written, whatever its tables.

    Raises:
        UserError: the file is missing or holds no estimate.
    """
    try:
        found = dict(_estimates(json.loads(path.read_text(encoding="utf-8")), ()))
    except (OSError, ValueError):
        raise UserError(
            f"evaluation {path} is missing, or no JSON: give what the bundle's evaluate has written"
        ) from None
    if not found:
        raise UserError(
            f"evaluation {path} holds no figure with value, low, high and n; give what evaluate has written"
        )
    return found


def _estimates(node: Any, names: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    if not isinstance(node, dict):
        return
    if {"value", "low", "high", "n"} <= node.keys():
        yield " / ".join(names), node
        return
    for name, inner in node.items():
        yield from _estimates(inner, (*names, name))
