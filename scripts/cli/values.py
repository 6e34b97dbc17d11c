"""The values at the top of a bundle's configs, held against its JSON Schema before anything is read or built.

The schema, `configs/values.schema.json`, is where the rule of a value stands: its type, range or choices, and a line
that describes it. Only what two values say together, or what the data must say, is checked where they are used.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker
from monai.bundle import ConfigParser
from monai.utils import ensure_tuple

from scripts.common.problems import Problems

Rule = Mapping[str, Any]

KINDS = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "text"}
COUNTS = {2: "two", 3: "three"}
WORDS = {"true": True, "false": False, "none": None, "null": None}  # as Fire hands them over
FORMATS = FormatChecker(formats=())
FORMATS.checks("existing-file")(lambda path: not isinstance(path, str) or Path(path).is_file())


def read_schema(bundle_root: str | os.PathLike[str]) -> dict[str, Rule]:
    """The rules of a bundle's values, by name."""
    path = Path(bundle_root) / "configs" / "values.schema.json"
    return json.loads(path.read_text(encoding="utf-8"))["properties"]


def settle_values(parser: ConfigParser, rules: Mapping[str, Rule], problems: Problems) -> None:
    """Check every value of a config that there is a rule for, and put it into the type that the rule asks for.

    Words of a command line become what they mean: Fire hands `--resume false` over as text, `--patch 8,8,8` as a tuple
    and `--splits test`, where a list of names is asked for, as one word. What MONAI has made of a `#` in a path is
    undone: it reads one as a separator of ids and writes `::`.

    Args:
        parser: of the config, before what refers to the values is resolved: all of it gets the settled values.
        rules: by the names of the values.
        problems: gets everything that is wrong.
    """
    for name in (name for name in parser.get() if name in rules):
        value = as_meant(parser.get_parsed_content(name), rules[name])
        if fits(value, rules[name]):
            parser.ref_resolver.resolved_content[name] = value
        else:
            # Of several words may be a report that was typed behind the wrong option.
            is_prose = isinstance(value, str) and " " in value and "format" not in rules[name]
            what = f"text of {len(value)} characters" if is_prose else repr(value)
            problems.add(name, f"is {what}", f"give {in_words(rules[name])}")


def as_meant(value: Any, rule: Rule) -> Any:
    """A value as its rule reads it; one that does not fit comes back as it is."""
    kinds = ensure_tuple(rule.get("type", ()))
    if isinstance(value, str):
        word = WORDS.get(value.lower(), value)
        if (word is None and "null" in kinds) or (isinstance(word, bool) and "boolean" in kinds):
            return word
        text = None if value == "" and "null" in kinds else value.replace("::", "#")
        return [text] if {"array", "string"} <= set(kinds) else text
    if isinstance(value, tuple):
        return list(value)
    whole = isinstance(value, float) and value.is_integer() and "integer" in kinds and "number" not in kinds
    return int(value) if whole else value


def fits(value: Any, rule: Rule) -> bool:
    """Whether a value keeps its rule; numbers that are not finite fit none."""
    if any(isinstance(number, float) and not math.isfinite(number) for number in ensure_tuple(value)):
        return False
    return Draft202012Validator(rule, format_checker=FORMATS).is_valid(value)


def in_words(rule: Rule) -> str:
    """What a rule asks for, as a message says it."""
    kinds = ensure_tuple(rule.get("type", ()))
    if "enum" in rule:
        wanted = "one of " + ", ".join(map(str, rule["enum"]))
    elif rule.get("format") == "existing-file":
        wanted = "a file that is there"
    else:
        wanted = _kind_in_words(kinds[0], rule)
    return wanted + (", or null" if "null" in kinds else "")


def _kind_in_words(kind: str, rule: Rule) -> str:
    if kind != "array":
        return KINDS[kind] + _range_in_words(rule)
    items, example = rule["items"], "".join(f", such as {json.dumps(one)}" for one in rule.get("examples", ()))
    if "enum" in items:
        return f"a list of different ones of {', '.join(items['enum'])}{example}"
    if "minItems" in rule and rule["minItems"] == rule.get("maxItems"):
        numbers = "positive numbers" if "exclusiveMinimum" in items else f"numbers{_range_in_words(items)}"
        return f"{COUNTS[rule['minItems']]} {numbers}{example}"
    return f"a list{example}"


def _range_in_words(rule: Rule) -> str:
    if "minimum" not in rule:
        return " above 0" if rule.get("exclusiveMinimum") == 0 else ""
    return f" from {rule['minimum']} to {rule['maximum']}" if "maximum" in rule else f" of at least {rule['minimum']}"
