"""Options of a command line, looked at before any work: each names something, and holds a value of its kind."""

from __future__ import annotations

import difflib
import inspect
import itertools
import re
import types
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Union, get_args, get_origin

from fire.parser import DefaultParseValue

from scripts.common.problems import Problems

# As Fire tells an option from a value; single letters stand for the one parameter that begins so.
OPTION = re.compile(r"--?([a-zA-Z][\w#:-]+)(=.*)?", re.DOTALL)
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def typed_options(words: Iterable[str]) -> list[str]:
    """The names of the options among the words of a command line, as Fire reads them; behind `--` are Fire's own."""
    before = itertools.takewhile(lambda word: word != "--", words)
    return [found[1].replace("-", "_") for word in before if (found := OPTION.fullmatch(word))]


def nearest(name: str, known: Collection[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, known, n=1)), None)


def check_names(function: Callable[..., Any], names: Iterable[str], problems: Problems) -> None:
    """Note the options that are no parameter of a command; Fire would find them only after the command has run."""
    known = list(inspect.signature(function).parameters)
    switched_off = {f"no{name}" for name in known}
    for name in names:
        if name not in {*known, *switched_off, "help"}:
            like = nearest(name, known)
            todo = f"did you mean --{like}?" if like else f"its options are {', '.join(known)}"
            problems.add(f"--{name}", "is no option of this command", todo)


def read_value(text: str, kind: Any) -> Any:
    """A value as typed, in the kind that a type hint asks for.

    Raises:
        ValueError: it is not of that kind; the message says what to give.
    """
    if get_origin(kind) in (types.UnionType, Union):
        kinds = get_args(kind)
        if text == "None" and type(None) in kinds:
            return None
        kind = str if str in kinds else kinds[0]
    if get_origin(kind) is not None:
        return _read_values(text, get_args(kind))
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        return kind(text)
    except (KeyError, ValueError):
        raise ValueError(f"give {KINDS[kind]}") from None


def _read_values(text: str, kinds: Sequence[Any]) -> tuple[Any, ...]:
    """Values with commas between them, in brackets or not: any number of one kind, or one of each of `kinds`."""
    values = DefaultParseValue(text)
    values = values if isinstance(values, (tuple, list)) else (values,)
    count = None if len(kinds) == 1 or kinds[-1] is Ellipsis else len(kinds)
    try:
        if count not in (None, len(values)):
            raise ValueError
        return tuple(read_value(str(value), kinds[0]) for value in values)
    except ValueError:
        number = "values" if count is None else f"{count} values"
        raise ValueError(f"give {number} with commas between them, each {KINDS[kinds[0]]}") from None
