"""A report that was typed on the command line or given through the Python API, exactly as it was given.

MONAI and Fire change such a value on its way through a config: Fire turns `left, apex` into a tuple and `007` into a
number; MONAI evaluates `$…` as Python, follows `@…` as a reference, and writes `::` for `#`. So a config holds
`report: null`, never refers to `@report`, and asks `report_argument` for the text:

    report: null
    report_file: null
    initialize:
      - {_target_: scripts.data.reports.hide_report}
    some_part:
      _target_: …
      report: {_target_: scripts.data.reports.report_argument, report_file: "@report_file"}

A value that nothing refers to is held but never evaluated. Only what MONAI does before any part of a config runs cannot
be helped: it refuses values that begin with `%` or contain `@##` or `%##`; such reports go through `report_file`.
"""

from __future__ import annotations

import inspect
import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from monai.bundle import ConfigParser

from scripts.data.report_text import normalise_report
from scripts.problems import UserError

logger = logging.getLogger(__name__)

OPTION = re.compile(r"--?report(?:=(.*))?", re.DOTALL)
# What Fire takes for an option or a separator and so never for a value.
NO_VALUE = re.compile(r"--.*|-[a-zA-Z].*|-", re.DOTALL)


def report_argument(
    report: str | bytes | None = None,
    report_file: str | os.PathLike[str] | None = None,
    argv: Sequence[str] | None = None,
) -> str | None:
    """The report that the user gave, in the first of these places that holds one.

    1. `report`: given by a caller in Python.
    2. The command line: `--report TEXT` or `--report=TEXT`, byte for byte.
    3. The value of `report` in the config that is being run: `create_workflow(report=…)`, an overlay or an args file.
       MONAI has written `::` for `#` in it, which is undone; `report=text.encode()` passes MONAI untouched (a text with
       `::` or `@#` needs that).
    4. `report_file`: UTF-8 or UTF-16 with its mark, else Latin-1, which is said.

    Args:
        argv: the command line; by default that of a `python -m monai.bundle` process, and none in other processes.

    Returns:
        The text, "" where an empty one was given, None where none was given.

    Raises:
        UserError: a report and a file are given, the text after `--report` begins with a dash, or the file is missing.
    """
    if argv is None:
        argv = sys.argv if _is_bundle_command() else ()
    for given in (report, _typed(argv), _configured()):
        if given is not None:
            if report_file is not None:
                raise UserError("both report and report_file are given; give one of them")
            text = given.decode("utf-8", "replace") if isinstance(given, bytes) else given
            break
    else:
        if report_file is None:
            return None
        text = _read(Path(str(report_file)))
    if not isinstance(text, str):
        raise UserError(f"report is a {type(text).__name__}, not text; put it in quotes or give report_file")
    if normalise_report(text)[1]:
        logger.warning("the report is empty and is treated as absent")
    return text


def hide_report() -> None:
    """Keep the report out of the summary of inputs that MONAI logs; for the `initialize` list of a config."""
    logging.getLogger("monai.bundle.scripts").addFilter(_hide)


def _hide(record: logging.LogRecord) -> bool:
    if str(record.msg).startswith("> report:"):
        record.msg = "> report: (not shown)"
    return True


def _is_bundle_command() -> bool:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec is not None and spec.name == "monai.bundle.__main__"


def _typed(argv: Sequence[str]) -> str | None:
    """The last `--report` of a command line, as Fire would choose it but not as Fire would read it."""
    text = None
    for position, argument in enumerate(argv):
        option = OPTION.fullmatch(argument)
        if option is None:
            continue
        following = argv[position + 1] if position + 1 < len(argv) else "-"
        if option[1] is None and NO_VALUE.fullmatch(following):
            raise UserError("--report has no text; write --report='...' if it begins with a dash, or use --report_file")
        text = following if option[1] is None else option[1]
    return text


def _configured() -> object:
    """`report` as it stands in the config whose parser is calling.

    MONAI gives no way to a value that is not resolved, and resolving a text that begins with `$` runs it; so the parser
    is looked for among the callers.
    """
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, ConfigParser):
            value = caller.get("report")
            return value.replace("::", "#") if isinstance(value, str) else value
        frame = frame.f_back
    return None


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"report_file {path} cannot be read: {error.strerror}") from None
    try:
        return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        logger.warning("report_file %s is not UTF-8; it is read as Latin-1", path)
        return data.decode("latin-1")
