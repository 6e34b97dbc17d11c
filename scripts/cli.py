"""The command line of the package's own commands (`python -m scripts.<command> --option value`)."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import fire

from scripts.problems import UserError


def run(commands: Callable[..., Any] | Mapping[str, Callable[..., Any]], argv: list[str] | None = None) -> None:
    """Run one function, or one of several by name, with Fire; a `UserError` is printed without a traceback.

    Raises:
        SystemExit: with status 1 after a `UserError`, with Fire's own status after wrong options.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        fire.Fire(commands, command=argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def switch(**option: Any) -> bool:
    """The value of an option that is on or off: Fire hands `--resume False` over as a bool, `--resume false` as a word.

    Raises:
        UserError: it is neither true nor false.
    """
    ((name, value),) = option.items()
    words = {"true": True, "false": False}
    if str(value).lower() not in words:
        raise UserError(f"{name} is {value!r}; give true or false")
    return words[str(value).lower()]


def tell_user_errors() -> None:
    """Let this process end with the words of a `UserError` alone, however deep in a traceback it lies.

    The bundles' configs call it: MONAI wraps what a component raises, and buries what the user should read.
    """
    sys.excepthook = _hook


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, UserError):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        sys.__excepthook__(kind, error, trace)
    else:
        print(f"error: {cause}", file=sys.stderr)
