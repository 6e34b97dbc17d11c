"""A report that was typed on the command line or given through the Python API, exactly as it was given.

MONAI and Fire change such a value on its way through a config: Fire turns `left, apex` into a tuple and `007` into a
number; MONAI evaluates `$…` as Python, follows `@…` as a reference, and writes `::` for `#`. So a config holds
`report: null`, never refers to `@report`, and asks `report_argument` for the text:

    report: null
    report_file: null
    initialize:
      - {_target_: scripts.reports.argument.hide_report}
    some_part:
      _target_: …
      report: {_target_: scripts.reports.argument.report_argument, report_file: "@report_file"}

A value that nothing refers to is held but never evaluated. Only what MONAI does before any part of a config runs cannot
be helped: it refuses values that begin with `%` or contain `@##` or `%##`; such reports go through `report_file`.
"""

from __future__ import annotations

import codecs
import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.cli.bundle import calling_parser
from scripts.common.problems import UserError
from scripts.reports.text import normalise_report

logger = logging.getLogger(__name__)

OPTION = re.compile(r"--?report(?:=(.*))?", re.DOTALL)
# What Fire takes for an option or a separator and so never for a value.
NO_VALUE = re.compile(r"--.*|-[a-zA-Z].*|-", re.DOTALL)
# The mark of UTF-32 begins with that of UTF-16.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# Where the low byte of each character lies, which is not NUL; of UTF-32 the high bytes are NUL in any script.
LOW_BYTES = {
    "utf-16-le": slice(0, None, 2),
    "utf-16-be": slice(1, None, 2),
    "utf-32-le": slice(0, None, 4),
    "utf-32-be": slice(3, None, 4),
}


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
    4. `report_file`: UTF-8, or UTF-16 or UTF-32 by its mark or by where its NULs lie, else Latin-1, which is said.

    Args:
        argv: the command line; by default that of a `python -m monai.bundle` process, and none in other processes.

    Returns:
        The text, "" where an empty one was given, None where none was given.

    Raises:
        UserError: a report and a file are given, the text after `--report` begins with a dash, or the file is missing
            or no text.
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
    """`report` as it stands in the config that is being run: resolving a text that begins with `$` would run it."""
    parser = calling_parser()
    value = None if parser is None else parser.get("report")
    return value.replace("::", "#") if isinstance(value, str) else value


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"report_file {path} cannot be read: {error.strerror}") from None
    # UTF-8 and Latin-1 take NULs for characters, so that the report would look read and say nothing.
    many_nuls = 0 < len(data) <= 3 * data.count(0)
    try:
        return data.decode(_encoding(data, many_nuls))
    except UnicodeError:
        if many_nuls:
            raise UserError(
                f"report_file {path} is no text in UTF-8, UTF-16 or UTF-32: a third or more of its bytes are NUL, and "
                "not where those have them; save it as UTF-8"
            ) from None
        logger.warning("report_file %s is not UTF-8; it is read as Latin-1", path)
        return data.decode("latin-1")


def _encoding(data: bytes, many_nuls: bool) -> str:
    """The encoding that a text's mark or, where they are many, the places of its NULs tell; else UTF-8.

    Raises:
        UnicodeError: many NULs lie where no encoding has them.
    """
    marked = next((encoding for mark, encoding in MARKS.items() if data.startswith(mark)), None)
    if marked or not many_nuls:
        return marked or "utf-8-sig"
    fitting = [encoding for encoding, low in LOW_BYTES.items() if 0 not in data[low]]
    if not fitting:
        raise UnicodeError
    return fitting[0]
