"""The DICOM series that lie below a folder, however they are nested or mixed, and the files that are damaged."""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from scripts.common.problems import ImageError
from scripts.dicom.headers import Frame, Header, has_pydicom, read_header

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # and its kin, which begin alike
PLAIN = re.compile(r"[\w .,:;+/\\*()\[\]=#&-]{1,64}")  # what a description may hold to be quoted
PREAMBLE = 132  # bytes, the last four of which are DICM


@dataclass(frozen=True)
class Series:
    """One series: all its files, wherever below the folder they lie."""

    uid: str
    description: str
    headers: tuple[Header, ...]

    @property
    def frames(self) -> list[Frame]:
        """All frames of all files."""
        return [frame for header in self.headers for frame in header.frames]

    @property
    def folders(self) -> set[Path]:
        """Where its files lie."""
        return {header.file.parent for header in self.headers}

    @property
    def b_values(self) -> list[int]:
        """The b-values found, rising."""
        return sorted({frame.b_value for frame in self.frames if frame.b_value is not None})

    @property
    def is_aside(self) -> bool:
        """Whether it is a localizer, a screenshot or no MR image: nothing that a pattern for a sequence means."""
        return any(
            "LOCALIZER" in header.image_type
            or header.kind.startswith(SECONDARY_CAPTURE)
            or header.modality not in ("MR", "")
            for header in self.headers
        )

    def __str__(self) -> str:
        """As messages call it: description, number of images, b-values; never a name or a number of the patient."""
        name = f"'{self.description}'" if PLAIN.fullmatch(self.description) else "without a plain description"
        b_values = f", b {', '.join(map(str, self.b_values))}" if self.b_values else ""
        return f"{name} ({len(self.frames)} images{b_values})"


@dataclass(frozen=True)
class Export:
    """What lies below a folder: its series, and damaged files with what is wrong with them."""

    series: tuple[Series, ...]
    faults: tuple[tuple[Path, str], ...]

    def check(self, folders: set[Path]) -> None:
        """Make sure that no damaged file lies in these folders: it may be a slice of theirs.

        Raises:
            ImageError: there is one.
        """
        for file, what in self.faults:
            if file.parent in folders:
                todo = "copy or export it again; take it out if it is no slice"
                raise ImageError(f"has a slice that {what} ({file.name})", todo)


def scan(folder: Path) -> Export:
    """Read the header of every file below a folder.

    Raises:
        ImageError: pydicom is not installed, or there is neither a series nor a damaged file.
    """
    if not has_pydicom:
        raise ImageError("DICOM needs pydicom, which is not installed", 'run: pip install ".[readers]"')
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    stats = [path.stat() for path in files]
    export = _scan(tuple(zip(files, ((stat.st_size, stat.st_mtime_ns) for stat in stats), strict=True)))
    if not export.series:
        export.check({path.parent for path in files})
        kinds = sorted({path.suffix.lower() or "no suffix" for path in files})
        found = f"only files of other kinds ({', '.join(kinds[:4])})" if files else "no file"
        raise ImageError(
            f"is a folder with 0 DICOM series: {found}", "give DICOM files or a NIfTI, which tell where slices lie"
        )
    return export


@functools.lru_cache(maxsize=4)  # an exam's sequences are looked for in the same folder
def _scan(files: tuple[tuple[Path, tuple[int, int]], ...]) -> Export:
    headers, doubtful, faults = [], [], []
    for file, (size, _) in files:
        with file.open("rb") as opened:
            start = opened.read(PREAMBLE)
        if start[128:] != b"DICM":
            doubtful.append((file, size))
            continue
        try:
            header = read_header(file)
        except Exception:  # pydicom raises whatever the broken bytes lead it to
            faults.append((file, "cannot be read or is cut short"))
            continue
        if header is not None:
            headers.append(header)
    alike = {(header.file.parent, header.file.suffix.lower()) for header in headers}
    for file, size in doubtful:
        # A note beside the slices is none of them; what is named as they are, or as DICOM is, ought to be one.
        if file.suffix.lower() in (".dcm", ".ima") or (file.parent, file.suffix.lower()) in alike:
            faults.append((file, _without_preamble(file, size)))
    return Export(_series(headers), tuple(faults))


def _without_preamble(file: Path, size: int) -> str:
    if size == 0:
        return "is an empty file"
    if size <= PREAMBLE:
        return f"is cut short after {size} bytes"
    return "holds nothing but zeros" if not file.read_bytes().strip(b"\0") else "cannot be read or is cut short"


def _series(headers: list[Header]) -> tuple[Series, ...]:
    by_uid: dict[str, list[Header]] = defaultdict(list)
    for header in headers:
        by_uid[header.series].append(header)
    found = (Series(uid, group[0].description, tuple(group)) for uid, group in by_uid.items())
    return tuple(sorted(found, key=lambda series: (series.description, series.uid)))
