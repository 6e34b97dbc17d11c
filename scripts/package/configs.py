"""The configs of a package: a bundle's own with overlays folded in, so that no list of files need be given."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import monai
import yaml
from monai.bundle import ConfigParser

from scripts.common.problems import UserError

WORKFLOWS = ("train", "inference", "evaluate")
BLOCK = re.compile(r"(?m)^(?=[A-Za-z_]\w*:)")  # where a top-level value begins
PLAIN = re.compile(r"[^\n]*?((?:\s+# [^\n]*)+)\n(?!\s+[^\s#])")  # a value of one line, and its comment of one or more
RULE = re.compile(r"(?m)^# -{4}.*$")  # a section's line belongs to no value
REFERENCE = re.compile(r"@([A-Za-z_]\w*)")
# An entry of `initialize` that makes components: it reads data, which whoever asks for the network alone does not have.
MAKES = re.compile(r"\$\(?@")
# Told in words before anything else, as an older MONAI would fail somewhere inside.
NEEDS_MONAI = (
    f"$monai.utils.module.version_leq('{monai.__version__}', monai.__version__) or sys.exit('error: this bundle needs "
    f"MONAI {monai.__version__} or newer, not ' + monai.__version__ + ': pip install -U monai')"
)

Config = dict[str, Any]


def read(files: Sequence[str | os.PathLike[str]]) -> Config:
    """What MONAI makes of several configs.

    Raises:
        UserError: one of them is missing or cannot be read.
    """
    for file in files:
        if not Path(file).is_file():
            raise UserError(f"config {file} is missing")
    try:
        return ConfigParser.load_config_files([str(file) for file in files])
    except (yaml.YAMLError, json.JSONDecodeError) as error:
        raise UserError(f"{files[-1]} cannot be read: {error}") from None


def folded(base: Path, overlays: Sequence[str | os.PathLike[str]], values: Mapping[str, Any]) -> tuple[str, Config]:
    """A config with overlays and then values folded in, as YAML and as what that holds.

    Comments stay, but inside of parts that overlays replace. What overlays say for other workflows alone is left out:
    an id that the base does not have, and that nothing in the result refers to. So are values that the base lacks.
    """
    own, merged = read([base]), read([base, *overlays])
    merged |= {name: value for name, value in values.items() if name in own}
    merged |= _started(merged)
    kept = _kept(own, merged)
    text = base.read_text(encoding="utf-8")
    for name in [name for name in kept if name not in own or kept[name] != own[name]]:
        text = _with_block(text, name, kept[name])
    if yaml.safe_load(text) != kept:
        raise UserError(
            f"{base} with its overlays cannot be written as one YAML file: a value is nothing that YAML has"
        )
    return text, kept


def _started(config: Config) -> Config:
    """`initialize` and `run`: the first also asks for the MONAI that is needed, and what reads data goes to the second.

    MONAI's `load`, and whoever else asks a workflow for its network, initialises it without any data.
    """
    makes = [entry for entry in config["initialize"] if isinstance(entry, str) and MAKES.match(entry)]
    rest = [entry for entry in config["initialize"] if entry not in makes]
    return {"initialize": [NEEDS_MONAI, *rest], "run": [*makes, *config["run"]]}


def _kept(own: Config, merged: Config) -> Config:
    kept = {name: merged[name] for name in own}
    while True:
        asked = set(REFERENCE.findall(json.dumps(kept))) & merged.keys() - kept.keys()
        if not asked:
            return kept
        kept |= {name: merged[name] for name in sorted(asked)}


def _with_block(text: str, name: str, value: Any) -> str:
    """The YAML with a top-level value replaced, or added at its end; a comment behind a value of one line stays."""
    style = None if isinstance(value, (list, dict)) else False  # lists of numbers in one line
    written = yaml.safe_dump({name: value}, sort_keys=False, allow_unicode=True, width=110, default_flow_style=style)
    blocks = BLOCK.split(text)
    for number, block in enumerate(blocks):
        if block.startswith(f"{name}:"):
            plain = PLAIN.match(block)
            comment = plain[1] if plain and written.count("\n") == 1 else ""
            blocks[number] = written.rstrip("\n") + comment + _what_follows(block)
            return "".join(blocks)
    return text.rstrip("\n") + "\n" + written


def _what_follows(block: str) -> str:
    """What stands between a value and the next and belongs to neither: empty lines, and the line of a section."""
    rule = RULE.search(block)
    return f"\n\n{block[rule.start() :]}" if rule else "\n" * (len(block) - len(block.rstrip("\n")))
