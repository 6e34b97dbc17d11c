"""A reader of reports that knows the terms and none of the grammar's sentences, and exams drawn at random."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace

import numpy as np

from scripts.wording.findings import ORGANS, Benign, Beside, Earlier, Exam, Lesion, Place

ZONES = {
    "PZ": r"(?i:peripheral (zone|gland)|\bpz(a|pl|pm)?\b)",
    "TZ": r"(?i:transition(al)? zone|\btz[ap]?\b|(central|inner) gland)",
    "CZ": r"(?i:central zone|\bcz\b)",
    "AFS": r"(?i:anterior (fibromuscular )?stroma|\bafm?s\b)|\bAS\b",
}
SIDES = {
    "bilateral": r"(?i)\bboth\b|\bbilat(eral(ly)?)?\b|\bl\+r\b|\br/l\b",
    "midline": r"(?i)\bmidline\b",
    "left": r"(?i)(?<!µg/)\b(left|lt|l)\b|\b[1-5]( to \d|-\d)? o'clock",
    "right": r"(?i)\b(right|rt|r)\b|\b(6( to |-)7|[7-9]|1[01]|([7-9]|10)( to |-)\d+) o'clock",
}
LEVELS = {
    "base": r"(?i)\b(base|basal)\b|\ball levels\b",
    "mid": r"(?i)\b(mid|midgland|midportion|middle third)\b|\ball levels\b"
    r"|\b(base|basal)\b[ -]+(to[ -]+)?(apex|apical)\b",
    "apex": r"(?i)\b(apex|apical)\b|\ball levels\b",
}
NUMBER = r"(\d+(?:[.,]\d+)?)"
AXIS = rf"{NUMBER}(?:[ -]?(mm|cm|millimet(?:re|er)|centimet(?:re|er)))?"
SIZE = re.compile(rf"(?i){AXIS}(?:(?: ?[x×*] ?| by ){AXIS})?(?:(?: ?[x×*] ?| by ){AXIS})?")
SCORE = re.compile(
    r"(?i)(?:\bPI[- ]?RADS|\bPR|\bP)(?: v2\.1)?(?: assessment)?(?: category| score| grade)?(?: of)?[:-]? ?([1-5])"
    r"(?![\d.])"
)
PAST = re.compile(
    r"(?i)\b(previous(ly)?|prior|known|history of|biopsy|earlier|proven|comparison|compared|dre|rectal|cryo\w*|hifu"
    r"|laser|treated)\b"
)
# A lesion of today against itself as it was: what it was is not what it is.
WAS = (
    r"(?:\d+(?:[.,]\d+)?[ -]?(?:mm|cm|millimet\w+|centimet\w+)"
    r"|PI[- ]?RADS(?: v2\.1)?(?: category| score| grade)?[ -]?[1-5](?:/5| out of 5)?)"
)
COURSE = re.compile(rf"(?i)\b(?:previously|from|was) {WAS}|{WAS} (?:before|then)\b|\bcompared with 20\d\d")
BESIDE = re.compile(
    r"(?i)\b(hernia|hip|coxarthrosis|bladder|diverticul\w+|hydrocele|iliac|lymphocele|ureter|hydroureter)\b"
)
IDIOM = re.compile(r"(?i)\b(all right|right away|questions left)\b")
BENIGN = re.compile(
    r"(?i)\b(wedge|prostatitis|inflamm\w*|bph|hyperplasia|stromal|glandular|ha?emorrhage|cyst|median lobe"
    r"|diffuse(ly)?)\b"
)
NEGATED = re.compile(
    r"(?i)\b(no|none|nil|nothing|without|normal|unremarkable|neither|clear|free|fine|w/o(?! contrast)"
    r"|(?<!dce[ =])(?<!dce: )(?<!dce equals )negative)\b"
)
AROUND = re.compile(
    r"(?i)\b(psad?|volume|vol|prostate.dimensions|size of the gland|prostate measures)\b"
    r"|(?<!peripheral )(?<!inner )(?<!central )\bgland (size|has a)\b|(?<!mid-)\bprostate \d"
)
OVERALL = re.compile(r"(?i)^\W*(\w+: )?(overall|highest|pi-rads assessment of the exam)")
KEY = re.compile(r"(?i)^\W*(side|laterality|level|craniocaudal level|zone|location|site|position|region): ")
JOINTS = (" | ", "\t", "; ", "   ", ";", ",")
KEYS = {"Zone", "Side", "Level", "Size", "PI-RADS"}
LABEL = re.compile(
    r"(?i)^\W*(\w+: )?((lesion|target|roi|finding) (#|number )?\d|L\d\b"
    r"|(index|dominant|second|additional|further) lesion)"
)
EXPORTED = re.compile(
    r"(?i)\b(?:lesion|L|target) ?(\d)[_. ](side|laterality|lat|level|height|third|zone|sector|size|diameter|max_size"
    r"|pirads|pi-rads|score) ?[=:] ?([^|;\n]*)"
)
WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
DIGIT = f"(?:{'|'.join(WORDS[:10])})"
SPOKEN = re.compile(
    rf"(?i)\b(?:({'|'.join(TENS)})(?: ({DIGIT}))?|({'|'.join(WORDS)}))\b(?: point ({DIGIT}(?: {DIGIT})*)\b)?"
)
MARKS = {
    "full stop": ".",
    "period": ".",
    "comma": ",",
    "semicolon": ";",
    "colon": ":",
    "new line": "\n",
    "open bracket": " (",
    "close bracket": ")",
}


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
            factor = 10 if units[0].lower().startswith("c") else 1
            reading.size = tuple(round(float(one.replace(",", ".")) * factor) for one in numbers if one)
    if scores := SCORE.findall(text):
        reading.pirads = int(scores[-1])
    return reading


def _figures(found: re.Match[str]) -> str:
    ten, unit, small, decimals = (part and part.lower() for part in found.groups())
    number = WORDS.index(small) if small else 10 * (TENS.index(ten) + 2) + (WORDS.index(unit) if unit else 0)
    return str(number) + ("." + "".join(str(WORDS.index(one)) for one in decimals.split()) if decimals else "")


def plain(text: str) -> str:
    """A text with its spoken punctuation as marks and its numbers in figures."""
    text = re.sub(rf"(?i) ?\b({'|'.join(MARKS)})\b ?", lambda found: f"{MARKS[found[1].lower()]} ", text)
    return re.sub(r" ?\n ?", "\n", SPOKEN.sub(_figures, text)).strip()


def _exported(text: str) -> list[Reading]:
    """The lesions of an export, by their keys."""
    lesions: dict[str, dict[str, str]] = {}
    if text.startswith("{"):
        rows = next((value for value in json.loads(text).values() if isinstance(value, list)), [])
        lesions = {str(number): {key: str(value) for key, value in row.items()} for number, row in enumerate(rows)}
    for number, key, value in EXPORTED.findall(text):
        lesions.setdefault(number, {})[key] = value
    readings = []
    for fields in lesions.values():
        scores = [int(value) for key, value in fields.items() if re.fullmatch("(?i)pi-?rads|score", key)]
        kept = [value for key, value in fields.items() if key not in ("T2", "T2W", "DWI", "DCE", "ADC", "image")]
        readings.append(replace(parts(" , ".join(kept)), pirads=scores[0] if scores else None))
    return readings


def read(text: str) -> list[Reading]:
    """What a report tells of today's lesions, passage by passage."""
    if text.startswith("{") or EXPORTED.search(text):
        return _exported(text)
    text = COURSE.sub(" ", IDIOM.sub(" ", plain(text)))
    text = re.sub(r"(?is)\b(legend|pi-rads assessment categories):.*?\.(\s|$)", " ", text)
    text = re.sub(r"(?i)\b(approx|max|ca)\. ?(?!\n)", r"\1 ", text)
    found: list[Reading] = []
    columns: list[str] | None = None
    joint = ""
    for line in text.split("\n"):
        if not columns:
            joint = next((one for one in JOINTS if len(KEYS & set(line.split(one))) > 1), "; ")
        cells = line.split(joint)
        if columns and len(cells) == len(columns) and cells[0].isdigit():
            row = dict(zip(columns, cells, strict=True))
            reading = parts(" , ".join(cell for name, cell in row.items() if name in ("Zone", "Side", "Level", "Size")))
            reading.pirads = int(row["PI-RADS"]) if row.get("PI-RADS", "-") != "-" else None
            found.append(reading)
            continue
        columns = cells if len(KEYS & set(cells)) > 1 else None
        if not columns:
            _read_passages(re.split(r"; |\. |\.$| full stop ", line), found)
    return [reading for reading in found if reading != Reading()]


def _read_passages(passages: list[str], found: list[Reading]) -> None:
    for passage in passages:
        if any(pattern.search(passage) for pattern in (PAST, BENIGN, NEGATED, AROUND, OVERALL, BESIDE)):
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
    text = plain(text)
    return not re.search(r"[.:]\s|[.:]$|\n|; |^\{", text) and not EXPORTED.search(text) and len(text.split()) > 3


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
        image = maybe(int(rng.integers(5, 30)), 0.3)
        course = maybe(str(rng.choice(["new", "grown", "unchanged", "smaller"])), 0.3)
        then = Earlier("lesion", year=2021, size_mm=float(rng.uniform(4, 30)), pirads=maybe(3))
        contact, before = maybe(bool(rng.integers(2)), 0.3), then if course not in (None, "new") else None
        return Lesion(place(1), size, score, *more, *details, image, contact, course, before)

    lesions = tuple(lesion() for _ in range(int(rng.choice([0, 1, 2, 3], p=[0.3, 0.4, 0.2, 0.1]))))
    kinds = ("wedge", "diffuse", "hyperplasia", "stromal", "glandular", "haemorrhage", "cyst", "median lobe")
    benign = tuple(Benign(kind, place(0.8), maybe(float(rng.uniform(5, 20)))) for kind in kinds if rng.random() < 0.2)
    past = ("negative biopsy", "cancer", "lesion", "exam", "rectal finding")
    past += ("focal therapy", "radiotherapy", "resection", "medication")
    earlier = tuple(
        Earlier(kind, place(0.7), maybe(2019), maybe("3+4"), maybe(float(rng.uniform(4, 30))), maybe(3), gone)
        for kind, gone in ((kind, bool(rng.integers(2))) for kind in past)
        if rng.random() < 0.15
    )
    sided = ("inguinal hernia", "hip prosthesis", "hip arthrosis", "bladder diverticulum", "hydrocele")
    sided += ("iliac aneurysm", "lymphocele", "ureter", "bladder wall", "diverticulosis")
    beside = tuple(Beside(kind, maybe(str(rng.choice(["left", "right"])))) for kind in sided if rng.random() < 0.1)
    ill = {ORGANS.get(finding.kind) for finding in beside}
    indications = ["elevated PSA", "rising PSA", "palpable", "negative biopsy", "surveillance", "staging", "screening"]
    organs = tuple(
        organ
        for organ in ("bladder", "rectum", "bowel", "muscles", "hips", "fluid", "urethra")
        if rng.random() < 0.5 and organ not in ill
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
        maybe(str(rng.choice([*indications, "symptoms", "family history"]))),
        maybe(3.0),
        maybe(bool(rng.integers(2))),
        organs,
        beside,
    )
