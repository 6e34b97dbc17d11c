"""The command line of the package's own commands (`python -m scripts.<command> --option value`)."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

import fire
from fire.decorators import SetParseFns

from scripts.cli.options import check_names, read_value, typed_options
from scripts.common.problems import Problems, UserError

Command = Callable[..., Any]


def run(commands: Command | Mapping[str, Command], argv: list[str] | None = None) -> None:
    """Run one function, or one of several by name, with Fire; a `UserError` is printed without a traceback.

    Options are checked against the function's parameters and their type hints before it is called.

    Raises:
        SystemExit: with status 1 after a `UserError`, with Fire's own status where a required option is missing.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    argv = sys.argv[1:] if argv is None else argv
    try:
        fire.Fire(_with_checks(commands, argv), command=argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def _with_checks(commands: Command | Mapping[str, Command], argv: list[str]) -> Command | dict[str, Command]:
    """The commands as Fire shall call them; the names of the options of the one that `argv` means are checked now."""
    problems = Problems("options")
    chosen = commands if callable(commands) else commands.get(argv[0] if argv else "")
    if chosen is not None:
        check_names(chosen, typed_options(argv), problems)
        problems.raise_if_any()
    if callable(commands):
        return _with_types(commands)
    return {name: _with_types(command) for name, command in commands.items()}


def _with_types(command: Command) -> Command:
    """The command with its options read as their type hints say; all that are wrong are told at once."""
    problems = Problems("options")

    def read(name: str, kind: Any, text: str) -> Any:
        try:
            return read_value(text, kind)
        except ValueError as error:
            problems.add(f"--{name}", f"is {text!r}", str(error))

    @functools.wraps(command)
    def checked(*args: Any, **kwargs: Any) -> Any:
        problems.raise_if_any()
        return command(*args, **kwargs)

    kinds = {name: kind for name, kind in get_type_hints(command).items() if name != "return"}
    return SetParseFns(**{name: functools.partial(read, name, kind) for name, kind in kinds.items()})(checked)
