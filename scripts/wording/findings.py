"""What a prostate MRI found, as a table would hold it: the interface of the grammar.

Whatever is unknown is None (or an empty tuple) and is not written. Only `lesions` has no unknown: an exam without
lesions is an exam that found none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

Zone = Literal["PZ", "TZ", "CZ", "AFS"]
Side = Literal["left", "right", "midline", "bilateral"]
Level = Literal["base", "mid", "apex"]
Sector = Literal["PZa", "PZpl", "PZpm", "TZa", "TZp"]
LEVELS: tuple[Level, ...] = get_args(Level)
Kind = Literal["wedge", "diffuse", "hyperplasia", "stromal", "glandular", "haemorrhage", "cyst", "median lobe"]
Past = Literal[
    "negative biopsy",
    "cancer",
    "lesion",
    "exam",
    "rectal finding",
    "focal therapy",
    "radiotherapy",
    "resection",
    "medication",
]
Course = Literal["new", "grown", "unchanged", "smaller"]
Neighbour = Literal[
    "inguinal hernia",
    "hip prosthesis",
    "hip arthrosis",
    "bladder wall",
    "bladder diverticulum",
    "diverticulosis",
    "hydrocele",
    "iliac aneurysm",
    "lymphocele",
    "ureter",
]
Indication = Literal[
    "elevated PSA",
    "rising PSA",
    "palpable",
    "negative biopsy",
    "surveillance",
    "staging",
    "screening",
    "symptoms",
    "family history",
]
Organ = Literal["bladder", "rectum", "bowel", "muscles", "hips", "fluid", "urethra"]


# The organs that are not normal where something is told of them.
ORGANS: dict[Neighbour, Organ] = {
    "hip prosthesis": "hips",
    "hip arthrosis": "hips",
    "bladder wall": "bladder",
    "bladder diverticulum": "bladder",
    "diverticulosis": "bowel",
    "lymphocele": "fluid",
}


def _check(name: str, value: str | None, choices: Any) -> None:
    if value is not None and value not in get_args(choices):
        raise ValueError(f"{name} is {value!r}; give one of {', '.join(get_args(choices))}")


@dataclass(frozen=True)
class Place:
    """Where in the prostate, as far as is known.

    Raises:
        ValueError: a word that is none of the interface's, levels that do not adjoin, a sector of another zone.
    """

    zone: Zone | None = None
    side: Side | None = None  # the patient's
    levels: tuple[Level, ...] = ()  # from base to apex, one to three that adjoin
    sector: Sector | None = None  # the part of the zone, after the sector map of PI-RADS v2.1

    def __post_init__(self) -> None:
        _check("zone", self.zone, Zone)
        _check("side", self.side, Side)
        _check("sector", self.sector, Sector)
        for level in self.levels:
            _check("level", level, Level)
        if "-".join(self.levels) not in "-".join(LEVELS):
            raise ValueError(f"levels are {self.levels}; give one or several that adjoin, in the order {LEVELS}")
        if self.sector and self.zone != self.sector[:2]:
            raise ValueError(f"sector {self.sector} does not lie in zone {self.zone}")

    def may_touch(self, other: Place) -> bool:
        """Whether the two could overlap: an unknown zone, side or level could be any."""
        zones = self.zone is None or other.zone is None or self.zone == other.zone
        sides = {self.side, other.side} != {"left", "right"}
        levels = not self.levels or not other.levels or bool(set(self.levels) & set(other.levels))
        return zones and sides and levels


@dataclass(frozen=True)
class Lesion:
    """A focal finding of today's exam with its scores.

    Raises:
        ValueError: what it was before is something else than a lesion, or it is new and was there before.
    """

    place: Place = Place()
    size_mm: tuple[float, ...] = ()  # one to three axes, the longest first
    pirads: int | None = None  # 1..5
    t2: int | None = None  # 1..5
    dwi: int | None = None  # 1..5
    dce: bool | None = None  # positive or negative
    adc: int | None = None  # lowest or mean value, 1e-6 mm²/s
    image: int | None = None  # number of the slice that shows it best
    contact: bool | None = None  # with the capsule
    course: Course | None = None  # against an earlier exam
    before: Earlier | None = None  # the same lesion as it was then: size, category, year

    def __post_init__(self) -> None:
        _check("course", self.course, Course)
        if self.before and (self.before.kind != "lesion" or self.course in (None, "new")):
            raise ValueError(f"a lesion that is {self.course or 'of unknown course'} was {self.before} before")


@dataclass(frozen=True)
class Benign:
    """Something that is no cancer: prostatitis (wedge, diffuse), hyperplasia as a whole or one nodule, and others."""

    kind: Kind
    place: Place = Place()
    size_mm: float | None = None

    def __post_init__(self) -> None:
        _check("kind", self.kind, Kind)


@dataclass(frozen=True)
class Earlier:
    """Something known from before, which is not today's finding."""

    kind: Past
    place: Place = Place()
    year: int | None = None
    gleason: str | None = None  # of a cancer: "3+4"
    size_mm: float | None = None  # of a lesion, as it was
    pirads: int | None = None  # of a lesion, as it was
    gone: bool | None = None  # a lesion that is no longer seen

    def __post_init__(self) -> None:
        _check("kind", self.kind, Past)


@dataclass(frozen=True)
class Beside:
    """Something outside the prostate, whose side says nothing about the prostate."""

    kind: Neighbour
    side: Side | None = None

    def __post_init__(self) -> None:
        _check("kind", self.kind, Neighbour)
        _check("side", self.side, Side)


@dataclass(frozen=True)
class Clear:
    """A part of the prostate (of zone, side and level one or two are given) in which there is no lesion."""

    place: Place
    normal: bool = False  # nothing benign is there either


@dataclass(frozen=True)
class Exam:
    """One exam.

    Raises:
        ValueError: the PI-RADS category is lower than a lesion's, or not 1 or 2 without a lesion; an organ is normal
            and has something.
    """

    lesions: tuple[Lesion, ...] = ()  # the index lesion first
    pirads: int | None = None  # of the whole exam
    benign: tuple[Benign, ...] | None = None  # () where there is nothing benign either
    earlier: tuple[Earlier, ...] = ()
    clear: tuple[Clear, ...] = ()  # the grammar adds such as follow from `lesions`
    extension: bool | None = None  # extraprostatic
    vesicles: bool | None = None  # invaded
    nodes: bool | None = None  # suspicious
    bones: bool | None = None  # suspicious
    gland_ml: float | None = None
    gland_mm: tuple[float, float, float] | None = None  # left-right, anterior-posterior, cranio-caudal
    psa: float | None = None  # ng/mL
    psa_density: float | None = None  # ng/mL²
    age: int | None = None
    indication: Indication | None = None
    field_t: float | None = None  # of the scanner, tesla
    contrast: bool | None = None  # multiparametric or biparametric
    organs: tuple[Organ, ...] = ()  # those that are normal
    beside: tuple[Beside, ...] = ()

    def __post_init__(self) -> None:
        _check("indication", self.indication, Indication)
        for organ in self.organs:
            _check("organ", organ, Organ)
        if ill := {ORGANS.get(finding.kind) for finding in self.beside} & set(self.organs):
            raise ValueError(f"{', '.join(sorted(ill))} cannot be normal beside {self.beside}")
        scores = [lesion.pirads for lesion in self.lesions if lesion.pirads is not None]
        if self.pirads is not None and (max(scores, default=0) > self.pirads or (not self.lesions and self.pirads > 2)):
            raise ValueError(f"the exam is PI-RADS {self.pirads} and its lesions are {scores}")


@dataclass(frozen=True)
class Report:
    """A report and what it says: `says` is the exam as someone knows it who has read the text and nothing else."""

    text: str
    says: Exam
