"""The model card of a package, `docs/README.md`, from its facts, its figures and what it holds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scripts.evaluation.class_metrics import Estimate
from scripts.package.card import APACHE, Card

NO_COPIES = "The evaluation has no copy check."


def make_page(card: Card, meta: Mapping[str, Any], commands: Sequence[tuple[str, str]], large: Iterable[str]) -> str:
    """The card as markdown: what it is, how to use it, data, licences, figures, limits, copies, how to cite it."""
    facts = card.facts
    sections = [
        (facts["title"], f"{meta['description']}.\n\n{facts['intended_use']}\n\n{_made_by(facts)}"),
        ("Use", _use(meta, commands, list(large))),
        ("Data", facts["data"]),
        ("Licences", _licences(facts)),
        ("Figures", _figures(card)),
        ("Limits", "\n".join(f"- {limit}" for limit in facts["limits"])),
        ("How to cite", facts["citation"]),
        ("References", "\n".join(f"- {reference}" for reference in meta["references"])),
        ("Changes", "\n".join(f"- {number}: {new}" for number, new in facts["changelog"].items())),
    ]  # fmt: skip
    if card.copies or "copies_explained" in facts:
        sections.insert(5, ("Are volumes copies of training cases?", _copies(card)))
    rest = "\n\n".join(f"## {title}\n\n{text.strip()}" for title, text in sections[1:])
    return f"# {sections[0][0]}\n\n{sections[0][1].strip()}\n\n{rest}\n"


def _made_by(facts: Mapping[str, Any]) -> str:
    return f"Version {facts['version']}, by {facts['authors']}."


def _use(meta: Mapping[str, Any], commands: Sequence[tuple[str, str]], large: Sequence[str]) -> str:
    versions = {"monai": meta["monai_version"], "torch": meta["pytorch_version"], "numpy": meta["numpy_version"]}
    pins = " ".join(f"{name}=={number}" for name, number in {**versions, **meta["required_packages_version"]}.items())
    lines = ["```bash", f"pip install {pins}"]
    if large:
        lines.append("python -m monai.bundle download_large_files --bundle_path .")
    for what, command in commands:
        lines += [f"# {what}", command]
    lines.append("```")
    told = f"In this folder, with Python 3.10 or newer and MONAI {meta['monai_version']} or newer:"
    code = meta["code"]
    after = (
        "Every value at the top of a config is an option of the same name. The code lies in "
        f"`{code['folder']}`, a name that no other bundle has; its fingerprint is {code['fingerprint']}."
    )
    if large:
        after += f" Large files are fetched by the second line: {', '.join(large)}."
    return "\n".join([told, "", *lines, "", after])


def _licences(facts: Mapping[str, Any]) -> str:
    where = "[LICENSE](../LICENSE)"
    code = f"{where}" if facts["weights_licence"] == APACHE else "[LICENSE_CODE](../LICENSE_CODE)"
    return (
        f"| what | licence |\n|---|---|\n| weights | {facts['weights_licence']}, {where} |\n"
        f"| code | {APACHE}, {code} |\n| data | {_line(facts['data_licence'])} ([data_license.txt](data_license.txt)) |"
    )


def _line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _figures(card: Card) -> str:
    rows = [f"| {_line(name)} | {_estimate(figure)} | {figure['n']} |" for name, figure in card.figures.items()]
    return "\n".join(["Each with its 95 % interval.", "", "| figure | value | n |", "|---|---|---|", *rows])


def _estimate(figure: Mapping[str, Any]) -> str:
    numbers = (math.nan if figure[name] is None else figure[name] for name in ("value", "low", "high"))
    return str(Estimate(*numbers, figure["n"]))


def _copies(card: Card) -> str:
    told = [
        f"{name.partition(' / ')[2]}: {_estimate(figure)}, n = {figure['n']}." for name, figure in card.copies.items()
    ]
    return "\n\n".join([*(told or [NO_COPIES]), card.facts.get("copies_explained", "")])
