"""A reader of reports that knows the terms and none of the grammar's sentences, and exams drawn at random."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from scripts.wording.findings import Benign, Earlier, Exam, Lesion, Place

ZONES = {
    "PZ": r"(?i:peripheral zone|\bpz(a|pl|pm)?\b)",
    "TZ": r"(?i:transition(al)? zone|\btz[ap]?\b|central gland)",
    "CZ": r"(?i:central zone|\bcz\b)",
    "AFS": r"(?i:anterior (fibromuscular )?stroma|\bafm?s\b)|\bAS\b",
}
SIDES = {
    "bilateral": r"(?i)\bboth\b|\bbilateral(ly)?\b|\bl\+r\b|\br/l\b",
    "midline": r"(?i)\bmidline\b",
    "left": r"(?i)\b(left|lt|l)\b",
    "right": r"(?i)\b(right|rt|r)\b",
}
LEVELS = {
    "base": r"(?i)\b(base|basal)\b|\ball levels\b",
    "mid": r"(?i)\b(mid|midgland|middle third)\b|\ball levels\b|\b(base|basal)\b[ -]+(to[ -]+)?(apex|apical)\b",
    "apex": r"(?i)\b(apex|apical)\b|\ball levels\b",
}
NUMBER = r"(\d+(?:[.,]\d+)?)"
AXIS = rf"{NUMBER}(?:[ -]?(mm|cm))?"
SIZE = re.compile(rf"(?i){AXIS}(?:(?: ?[x×*] ?| by ){AXIS})?(?:(?: ?[x×*] ?| by ){AXIS})?")
SCORE = re.compile(
    r"(?i)(?:\bPI[- ]?RADS|\bPR|\bP)(?: v2\.1)?(?: assessment)?(?: category| score)?(?: of)?:? ?([1-5])(?![\d.])"
)
PAST = re.compile(r"(?i)\b(previous(ly)?|prior|known|history of|biopsy|earlier|proven|comparison|compared)\b")
BENIGN = re.compile(
    r"(?i)\b(wedge|prostatitis|inflamm\w*|bph|hyperplasia|stromal|glandular|ha?emorrhage|cyst|median lobe"
    r"|diffuse(ly)?)\b"
)
NEGATED = re.compile(r"(?i)\b(no|none|nil|nothing|without|normal|unremarkable|neither)\b")
AROUND = re.compile(r"(?i)\b(psad?|volume|prostate dimensions|gland (size|has)|prostate measures)\b|\bprostate \d")
OVERALL = re.compile(r"(?i)^\W*(\w+: )?(overall|highest|pi-rads assessment of the exam)")
KEY = re.compile(r"(?i)^\W*(side|laterality|level|craniocaudal level|zone|location|site|position|region): ")
LABEL = re.compile(
    r"(?i)^\W*(\w+: )?((lesion|target|roi|finding) #?\d|L\d\b|(index|dominant|second|additional|further) lesion)"
)


@dataclass
class Reading:
    """What a passage tells of one lesion."""

    zones: set[str] = field(default_factory=set)
    sides: set[str] = field(default_factory=set)
    levels: set[str] = field(default_factory=set)
    size: tuple[int, ...] = ()
    pirads: int | None = None

    @property
    def has_place(self) -> bool:
        return bool(self.zones or self.sides or self.levels)

    def agrees(self, lesion: Lesion) -> bool:
        """Whether everything that was read is this lesion's."""
        where, size = lesion.place, tuple(int(axis) for axis in lesion.size_mm)
        return (
            self.zones <= {where.zone}
            and self.sides <= {where.side}
            and self.levels in (set(), set(where.levels))
            and self.size in ((), size)
            and self.pirads in (None, lesion.pirads)
        )


def parts(text: str) -> Reading:
    """The terms in a passage, whatever they are about."""
    sides = {side for side, pattern in SIDES.items() if re.search(pattern, text)}
    reading = Reading(
        {zone for zone, pattern in ZONES.items() if re.search(pattern, text)},
        {"bilateral"} if "bilateral" in sides else sides,
        {level for level, pattern in LEVELS.items() if re.search(pattern, text)},
    )
    for found in SIZE.finditer(text):
        numbers, units = found.groups()[::2], [unit for unit in found.groups()[1::2] if unit]
        if units and not text[found.end() :].startswith(("2", "²", "3", "³")):
            factor = 10 if units[0].lower() == "cm" else 1
            reading.size = tuple(round(float(one.replace(",", ".")) * factor) for one in numbers if one)
    if scores := SCORE.findall(text):
        reading.pirads = int(scores[-1])
    return reading


def read(text: str) -> list[Reading]:
    """What a report tells of today's lesions, passage by passage."""
    text = re.sub(r"(?is)\b(legend|pi-rads assessment categories):.*?\.(\s|$)", " ", text)
    text = re.sub(r"(?i)\b(approx|max|ca|no)\. ?(?!\n)", r"\1 ", text)
    found: list[Reading] = []
    columns: list[str] | None = None
    for line in text.split("\n"):
        cells = re.split(r" \| |\t|; |   ", line)
        if columns and len(cells) == len(columns) and cells[0].isdigit():
            row = dict(zip(columns, cells, strict=True))
            reading = parts(" , ".join(cell for name, cell in row.items() if name in ("Zone", "Side", "Level", "Size")))
            reading.pirads = int(row["PI-RADS"]) if row.get("PI-RADS", "-") != "-" else None
            found.append(reading)
            continue
        columns = cells if len({"Zone", "Side", "Level", "Size", "PI-RADS"} & set(cells)) > 1 else None
        if not columns:
            _read_passages(re.split(r"; |\. |\.$| full stop ", line), found)
    return [reading for reading in found if reading != Reading()]


def _read_passages(passages: list[str], found: list[Reading]) -> None:
    for passage in passages:
        if any(pattern.search(passage) for pattern in (PAST, BENIGN, NEGATED, AROUND, OVERALL)):
            continue
        reading, key = parts(passage), KEY.match(passage)
        new = LABEL.match(passage) or (reading.has_place and not key)
        if not found or new:
            found.append(Reading())
        last = found[-1]
        last.zones |= reading.zones
        last.sides |= reading.sides
        last.levels |= reading.levels
        last.size, last.pirads = reading.size or last.size, reading.pirads or last.pirads


def running(text: str) -> bool:
    """Whether a text has no stops, so that no passages can be told apart."""
    return not re.search(r"[.:]\s|[.:]$|\n| full stop |; ", text) and len(text.split()) > 3


def draw_exam(rng: np.random.Generator) -> Exam:
    """An exam of which about everything may be known, or not."""

    def maybe(value: object, share: float = 0.7) -> object:
        return value if rng.random() < share else None

    def place(known: float) -> Place:
        zone = str(rng.choice(["PZ", "TZ", "CZ", "AFS"], p=[0.55, 0.35, 0.05, 0.05]))
        first = int(rng.integers(3))
        levels = ("base", "mid", "apex")[first : first + int(rng.choice([1, 2, 3], p=[0.75, 0.2, 0.05]))]
        sectors = {"PZ": ["PZa", "PZpl", "PZpm"], "TZ": ["TZa", "TZp"]}.get(zone)
        side = str(rng.choice(["left", "right", "midline", "bilateral"], p=[0.44, 0.44, 0.06, 0.06]))
        sector = str(rng.choice(sectors)) if sectors and rng.random() < 0.5 else None
        zone, sector = (zone, sector) if rng.random() < known else (None, None)
        return Place(zone, maybe(side, known), levels if rng.random() < known else (), sector)

    def lesion() -> Lesion:
        size = tuple(float(axis) for axis in sorted(rng.uniform(4, 40, int(rng.integers(1, 4))), reverse=True))
        score = int(rng.choice([2, 3, 4, 5], p=[0.1, 0.3, 0.3, 0.3]))
        more = [maybe(int(rng.integers(2, 6)), 0.4) for _ in range(2)]
        details = maybe(bool(rng.integers(2)), 0.3), maybe(int(rng.integers(400, 999)), 0.3)
        return Lesion(place(1), size, score, *more, *details, maybe(int(rng.integers(5, 30)), 0.3))

    lesions = tuple(lesion() for _ in range(int(rng.choice([0, 1, 2, 3], p=[0.3, 0.4, 0.2, 0.1]))))
    kinds = ("wedge", "diffuse", "hyperplasia", "stromal", "glandular", "haemorrhage", "cyst", "median lobe")
    benign = tuple(Benign(kind, place(0.8), maybe(float(rng.uniform(5, 20)))) for kind in kinds if rng.random() < 0.2)
    past = ("negative biopsy", "cancer", "lesion", "exam")
    earlier = tuple(
        Earlier(kind, place(0.7), maybe(2019), maybe("3+4"), maybe(float(rng.uniform(4, 30))), maybe(3), gone)
        for kind, gone in ((kind, bool(rng.integers(2))) for kind in past)
        if rng.random() < 0.25
    )
    indications = ["elevated PSA", "rising PSA", "palpable", "negative biopsy", "surveillance", "staging", "screening"]
    organs = tuple(
        organ for organ in ("bladder", "rectum", "bowel", "muscles", "hips", "fluid", "urethra") if rng.random() < 0.5
    )
    return Exam(
        lesions,
        max(one.pirads for one in lesions) if lesions else maybe(int(rng.integers(1, 3)), 0.8),
        maybe(benign, 0.8),
        earlier,
        (),
        *(maybe(bool(rng.random() < 0.2)) for _ in range(4)),
        maybe(float(rng.uniform(20, 120))),
        maybe(tuple(float(axis) for axis in rng.uniform(30, 70, 3))),
        maybe(float(rng.uniform(1, 40))),
        maybe(float(rng.uniform(0.05, 0.6)), 0.5),
        maybe(int(rng.integers(45, 85))),
        maybe(str(rng.choice([*indications, "symptoms"]))),
        maybe(3.0),
        maybe(bool(rng.integers(2))),
        organs,
    )
