"""Where each image of an exam is read from: found by a pattern, or as a table says that a person edited.

The table, `series.csv`, has one row for each image of each exam: `folder`, `image` (axt2, adc, b1600), `path` within
the exam's folder, `description` and `series` (SeriesInstanceUID) of a DICOM series, `b_value` and `volume`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from scripts.common.files import atomic
from scripts.common.problems import ImageError, Problems
from scripts.data.names import shown
from scripts.data.tables import read_table, some
from scripts.dicom.choice import choose, holding, named
from scripts.dicom.series import Series, scan

DWI = "b1600"
COLUMNS = ("folder", "image", "path", "description", "series", "b_value", "volume")
DICOM_SUFFIXES = ("", ".dcm", ".ima")
LEAVES = "give a pattern inside it, like *_t2w.mha"


@dataclass(frozen=True)
class Source:
    """One image of an exam: a file, or a series in a folder."""

    path: Path
    series: str | None = None  # SeriesInstanceUID
    b_value: int | None = None
    volume: int | None = None  # of a 4D file, from 1
    description: str = ""
    told: str = ""  # what a user should know of the choice
    label: str = ""

    @property
    def name(self) -> str:
        """As messages call it: the file or folder, or the series where its folder is the exam's."""
        return self.label or self.path.name

    @property
    def options(self) -> dict[str, Any]:
        """Of `read_volume`."""
        return {"series": self.series, "b_value": self.b_value, "volume": self.volume}


def find(folder: Path, image: str, pattern: str, b_value: int | None = None, volume: int | None = None) -> Source:
    """The one file or DICOM series that a pattern means.

    A pattern that fits files or folders of the exam's folder means what lies there; one that fits none means the series
    whose description or folder, anywhere below, it fits.

    Args:
        folder: of the exam.
        image: axt2, adc or b1600; only the last is chosen by b-value.
        b_value: s/mm²; None is the one there is.
        volume: of a 4D file, from 1.

    Raises:
        ImageError: nothing fits, several do, or the pattern leaves the folder.
    """
    try:
        os.scandir(folder).close()
    except OSError as error:
        raise ImageError(f"its folder cannot be read: {error.strerror}", "give yourself the right to") from None
    found = _fitting(folder, pattern)
    one = found[0] if len(found) == 1 else None
    if one is not None and one.is_file() and one.suffix.lower() not in DICOM_SUFFIXES:
        told = "is no DICOM: that it holds --b_value is not known" if image == DWI and b_value is not None else ""
        return Source(one, volume=volume, told=told)
    place = one if one is not None and one.is_dir() else folder
    candidates = _candidates(place, folder, pattern, found)
    if not candidates:
        raise _no_fit(folder, pattern, found)
    series, b_value, told = choose(candidates, pattern, image == DWI, b_value)
    label = str(series) if place == folder else place.name
    return Source(place, series.uid, b_value, description=series.description, told=told, label=label)


def _no_fit(folder: Path, pattern: str, found: Sequence[Path]) -> ImageError:
    todo = "correct the pattern or the folder"
    if found:
        return ImageError(f"{pattern} fits {len(found)}: {', '.join(path.name for path in found[:2])} ...", todo)
    if below := sorted({path.parent.name for path in _fitting(folder, f"*/{pattern}")}):
        todo = f"give {below[0]}/{pattern}; studies of one patient need folders of their own, or --tree patient/study"
        return ImageError(f"nothing fits {pattern} in the folder itself, but in {some(below)} below it", todo)
    return ImageError(f"nothing fits {pattern}", todo)


def _candidates(place: Path, folder: Path, pattern: str, found: Sequence[Path]) -> list[Series]:
    """The DICOM series that a pattern may mean: those in what it fits, or else those that it describes."""
    try:
        export = scan(place)
    except ImageError:
        if place != folder:  # a folder that was meant, and holds no series
            raise
        return []
    return holding(export, found) if found else named(export, pattern, folder)


def _fitting(folder: Path, pattern: str) -> list[Path]:
    """What the pattern fits in the exam's folder."""
    try:
        found = sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))
    except (ValueError, NotImplementedError):  # an absolute or otherwise unusable pattern
        found = None
    if found is None or ".." in Path(pattern).parts:
        raise ImageError(f"{pattern} leaves the exam's folder", LEAVES)
    for path in found:
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            what = f"{path.name} is a link that leads out of the exam's folder"
            raise ImageError(what, "put the file itself there")
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ImageError(f"{pattern} leaves the exam's folder", LEAVES)
    return found


@dataclass
class Finder:
    """Where the images of exams are: as a table says, or else by patterns."""

    folders: Mapping[str, Path]
    patterns: Mapping[str, str | None]
    b_value: int | None
    volume: int | None
    choices: Mapping[tuple[str, str], Mapping[str, Any]]

    def images(self, exam: str, problems: Problems) -> dict[str, Source]:
        """The source of each image that is wanted; what is not found is noted."""
        images = {}
        for key, pattern in self.patterns.items():
            row = self.choices.get((exam, key))
            if row is None and pattern is None:
                continue
            try:
                if row is not None:
                    images[key] = chosen(self.folders[exam], row)
                else:
                    images[key] = find(self.folders[exam], key, str(pattern), self.b_value, self.volume)
            except ImageError as error:
                problems.add(exam, f"{key}: {error.what}", error.todo)
        return images


# ---- the table -------------------------------------------------------------------------------------------------------


def write_choices(path: str | os.PathLike[str], exams: Iterable[tuple[str, Path, Mapping[str, Source]]]) -> None:
    """Write `series.csv`.

    Args:
        exams: name, folder and images of each.
    """
    rows = []
    for name, folder, images in exams:
        for image, source in images.items():
            place = source.path.relative_to(folder).as_posix()
            row = {"folder": name, "image": image, "path": place, "description": source.description}
            rows.append(row | source.options)
    frame = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"b_value": "Int64", "volume": "Int64"})
    with atomic(path) as temporary:
        frame.to_csv(temporary, index=False)


def read_choices(
    path: str | os.PathLike[str], images: Sequence[str], problems: Problems
) -> dict[tuple[str, str], dict[str, Any]]:
    """Read `series.csv` as it was written or edited.

    Returns:
        The row of each exam's folder and image.

    Raises:
        UserError: the table cannot be read.
    """
    table = read_table(path)
    lacking = [name for name in ("folder", "image", "path") if name not in table]
    if lacking:
        problems.add(Path(path).name, f"has no column {', '.join(lacking)}", f"give {', '.join(COLUMNS)}")
        return {}
    choices: dict[tuple[str, str], dict[str, Any]] = {}
    for place, row in table.reindex(columns=list(COLUMNS)).iterrows():
        row = {name: None if pd.isna(cell) else str(cell).strip() for name, cell in row.items()}
        case, key = f"{Path(path).name} row {place}", (row["folder"], row["image"])
        if row["image"] not in images:
            problems.add(case, f"image is {shown(row['image'])}", f"write {', '.join(images)}")
        if key in choices:
            problems.add(case, f"is a second row of {shown(row['folder'])} for {shown(row['image'])}", "keep one")
        for name in ("b_value", "volume"):
            if row[name] is not None and not row[name].removesuffix(".0").isdigit():
                problems.add(case, f"{name} is {shown(row[name])}", "write a whole number or leave it empty")
                row[name] = None
            row[name] = None if row[name] is None else int(row[name].removesuffix(".0"))
        choices[key] = row
    return choices


def chosen(folder: Path, row: Mapping[str, Any]) -> Source:
    """The image that a row of the table names.

    Raises:
        ImageError: it is not there, or not one.
    """
    path = (folder / (row["path"] or ".")).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.exists():
        raise ImageError("the table of series names a path that is not in the exam's folder", "correct its path")
    if path.is_file():
        return Source(folder / row["path"], volume=row["volume"])
    path = folder / (row["path"] or ".")
    series, described = row["series"], row["description"] or ""
    if series is None and described:
        fitting = named(scan(path), described, path)
        if not fitting:
            raise ImageError("the table of series describes a series that is not there", "correct its description")
        found, _, _ = choose(fitting, described, False, None)
        series, described = found.uid, found.description
    return Source(path, series, row["b_value"], description=described)
