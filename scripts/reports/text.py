"""Report text: what of it every tokenizer takes, and when a report counts as absent.

Report text is health data: nothing here writes it anywhere, only how many reports there are.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

logger = logging.getLogger(__name__)


def normalise_report(text: str) -> tuple[str, bool]:
    """A report that every tokenizer takes, and whether it is absent.

    Lone surrogates, which are no characters, become U+FFFD and NUL becomes a space; a report of nothing but white
    space is absent.

    Returns:
        (text, False), or ("", True) for an absent report.
    """
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", " ")
    return (text, False) if text.strip() else ("", True)


def report_of(case: Mapping[str, Any]) -> str:
    """The report of a datalist's case, "" where it is absent, which `text_isnull` says too."""
    return "" if case["text_isnull"] else normalise_report(case["text"])[0]


def tell_absent(cases: Sequence[Mapping[str, Any]]) -> None:
    """Log how many cases have no report, and where that is not plain from the datalist."""
    blank = sum(not case["text_isnull"] and not report_of(case) for case in cases)
    flagged = sum(bool(case["text_isnull"]) and not normalise_report(case["text"])[1] for case in cases)
    logger.info("%d cases, %d without a report", len(cases), sum(not report_of(case) for case in cases))
    if blank:
        logger.warning("%d reports are empty or white space and are treated as absent", blank)
    if flagged:
        logger.warning("%d reports are marked as absent (text_isnull 1) though they have text; it is not used", flagged)
