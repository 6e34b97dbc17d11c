"""A public exam: whose it is, its images, and what was found, as far as its data set tells."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from scripts.wording.documents import write_report
from scripts.wording.findings import Exam, Lesion, Level, Place
from scripts.wording.writer import Style, institution

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Focus:
    """One lesion; what a data set does not tell is None or empty."""

    place: Place
    level: Level | None  # of `place.levels`, the one that most of it lies in
    size_mm: tuple[float, ...]  # longest axis on an axial slice, and the one across it
    centre_mm: Point  # RAS world
    pirads: int | None = None
    isup: int | None = None


@dataclass(frozen=True)
class PublicExam:
    """One exam of a data set."""

    folder: str
    patient: str
    centre: str  # that the exam is from
    images: Mapping[str, Sequence[Path]]  # what it is called in the exam's folder -> a file, or the files of a series
    foci: tuple[Focus, ...] = ()  # the index lesion first
    pirads: int | None = None  # of the exam: its class
    isup: int | None = None  # likewise, by histology
    gland_ml: float | None = None
    gland_mm: Point | None = None
    gland_centre: Point | None = None  # RAS world, mm
    psa: float | None = None
    age: int | None = None

    @property
    def psa_density(self) -> float | None:
        return round(self.psa / self.gland_ml, 3) if self.psa and self.gland_ml else None

    @property
    def positive(self) -> bool:
        """As `prepare` takes it: PI-RADS 3 or more; where there is none, ISUP 2 or more."""
        return self.pirads >= 3 if self.pirads is not None else (self.isup or 0) >= 2


def findings(exam: PublicExam) -> Exam:
    """What a report of the exam can say. A grade is histology, of which a radiologist's report knows nothing."""
    scores = [focus.pirads for focus in exam.foci if focus.pirads is not None]
    return Exam(
        lesions=tuple(Lesion(focus.place, focus.size_mm, focus.pirads) for focus in exam.foci),
        pirads=max(scores, default=None),
        gland_ml=exam.gland_ml,
        gland_mm=exam.gland_mm,
        psa=exam.psa,
        psa_density=exam.psa_density,
        age=exam.age,
    )


def reports(exam: PublicExam, wordings: int, seed: int) -> list[str]:
    """As many reports of one exam; the n-th of all exams of a centre is by the same writer, of its own style."""
    found = findings(exam)
    return [
        write_report(
            found, _style(exam.centre, n), np.random.default_rng([seed, zlib.crc32(exam.folder.encode()), n])
        ).text
        for n in range(wordings)
    ]


@cache
def _style(centre: str, writer: int) -> Style:
    return institution(zlib.crc32(f"{centre}/{writer}".encode()))
