"""Which of the series of an exam is meant: by its description, its folder or its files, a DWI also by its b-value."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from scripts.common.problems import ImageError
from scripts.dicom.series import Export, Series


def named(export: Export, pattern: str, root: Path) -> list[Series]:
    """The series whose description, or a folder of theirs below `root`, fits a pattern, in capitals or not."""
    pattern = pattern.casefold()

    def fits(series: Series) -> bool:
        names = {series.description}
        for folder in series.folders:
            relative = folder.relative_to(root)
            names |= {*relative.parts, relative.as_posix()}
        return any(fnmatchcase(name.casefold(), pattern) for name in names)

    return [series for series in export.series if fits(series)]


def holding(export: Export, files: Sequence[Path]) -> list[Series]:
    """The series that one of these files belongs to, or that lie below one of these folders."""
    wanted = set(files)
    return [
        series
        for series in export.series
        if any(wanted & {header.file, *header.file.parents} for header in series.headers)
    ]


def choose(
    candidates: Sequence[Series], pattern: str, by_b_value: bool, b_value: int | None
) -> tuple[Series, int | None, str]:
    """The one series that is meant.

    Localizers, screenshots and other modalities are passed over where something else fits. Of several series of a DWI,
    each of one b-value, the one of the highest is meant unless `b_value` says otherwise.

    Args:
        candidates: what fits the pattern.
        by_b_value: whether it is a DWI.
        b_value: of the DWI, s/mm², where one was asked for.

    Returns:
        the series, the b-value to read of it (None where it tells none or is no DWI), and what to tell of the choice.

    Raises:
        ImageError: several fit, or none has the b-value, with what was found.
    """
    fitting = [series for series in candidates if not series.is_aside] or list(candidates)
    told = ""
    if by_b_value:
        found = sorted({b for series in fitting for b in series.b_values})
        told = f"b-values found: {', '.join(map(str, found))}" if found else ""
        if b_value is None and len(fitting) > 1 and all(len(series.b_values) == 1 for series in fitting):
            b_value = found[-1]
        if b_value is not None:
            fitting = [series for series in fitting if b_value in series.b_values]
            if not fitting:
                what = f"{pattern} has no image of b-value {b_value}; {told or 'no b-value stands in the headers'}"
                raise ImageError(what, "correct --b_value, or leave it out")
    if len(fitting) > 1:
        found_series = "; ".join(str(series) for series in fitting[:8])
        what = f"{pattern} fits {len(fitting)} DICOM series: {found_series}"
        raise ImageError(what, "name one by its description or folder in the pattern, or in a table (--series)")
    (series,) = fitting
    if not by_b_value:
        return series, None, ""
    if b_value is None and len(series.b_values) == 1:
        b_value = series.b_values[0]
    return series, b_value, f"{told}; {b_value} is taken" if told and b_value is not None else told
