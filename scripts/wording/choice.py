"""What a report says of what is known: an exam in which everything that is left unsaid is unknown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from scripts.wording.findings import LEVELS, Benign, Clear, Earlier, Exam, Lesion, Place
from scripts.wording.statements import STAGING, past_pool
from scripts.wording.writer import Writer, compiled

GROUPS = {
    "patient": ("psa", "psa_density", "age", "indication"),
    "gland": ("gland_ml", "gland_mm"),
    "benign": ("benign",),
    "earlier": ("earlier",),
    "staging": STAGING,
    "technique": ("field_t", "contrast"),
    "organs": ("organs",),
    "beside": ("beside",),
}
# How often a form has room for a group of facts, in the order of GROUPS.
ROOM = {
    "words": (0, 0, 0, 0, 0, 0, 0, 0),
    "line": (0, 0, 0.1, 0.1, 0.1, 0, 0, 0.2),
    "telegram": (0.4, 0.5, 0.5, 0.5, 0.6, 0, 0, 0.6),
    "dictated": (0.4, 0.5, 0, 0, 0.6, 0, 0, 0),  # without stops an older finding could be taken for today's
    "spoken": (0.4, 0.6, 0.5, 0.5, 0.6, 0.1, 0.1, 0.5),
    "letter": (0.6, 0.3, 0.4, 0.7, 0.5, 0, 0, 0.5),
    "export": (0.8, 0.8, 0, 0, 0.8, 0, 0, 0),
    "prose": (0.5, 0.7, 0.7, 0.7, 0.8, 0.1, 0.1, 0.6),
    "sections": (0.8, 0.8, 0.8, 0.8, 0.8, 0.6, 0.3, 0.7),
    "page": (1, 1, 1, 1, 1, 1, 1, 1),
}
UNKNOWN = {"side": {"side": None}, "zone": {"zone": None, "sector": None}, "levels": {"levels": ()}}
# The sections in which a group of facts can stand.
SECTION = {
    "patient": "h",
    "technique": "t",
    "earlier": "chf",
    "gland": "f",
    "benign": "fi",
    "staging": "f",
    "organs": "f",
    "beside": "fi",
}
GROUPED_BY = {"halves": "side", "zones": "zone", "levels": "levels"}


def choose(w: Writer, exam: Exam, form: str, block: str) -> Exam:
    """The part of an exam that a report of this form says, its numbers rounded as they are written."""
    lesions = tuple(_lesion(w, lesion, form, block) for lesion in exam.lesions)
    if w.chance(w.style.vague):
        lesions = tuple(replace(lesion, place=_vaguer(w, lesion.place, block)) for lesion in lesions)
    if block == "zones":
        lesions = tuple(replace(lesion, place=replace(lesion.place, sector=None)) for lesion in lesions)
    said = Exam(lesions=lesions, pirads=_overall(w, exam, form))
    facts = {}
    for (group, names), share in zip(GROUPS.items(), ROOM[form], strict=True):
        room = form != "sections" or set(SECTION[group]) & set(w.habit("sections.order"))
        if room and w.chance(share):
            facts |= {name: getattr(exam, name) for name in names if form == "page" or w.chance(0.75)}
    facts = {name: _written(name, value) for name, value in facts.items() if value is not None}
    if "benign" in facts:
        facts["benign"] = tuple(_benign(finding) for finding in exam.benign if w.chance(0.8)) or None
    if "earlier" in facts:
        facts["earlier"] = tuple(_earlier(past) for past in exam.earlier)
    if form == "words" and exam.benign == () and exam.pirads != 2 and w.chance(0.5):
        facts["benign"] = ()  # "normal"
    return replace(said, clear=_clear(w, said, exam, form, block), **facts)


def _lesion(w: Writer, lesion: Lesion, form: str, block: str) -> Lesion:
    """A lesion without some of its details; where it lies is kept."""
    size = tuple(float(f"{max(axis, 1):.0f}") for axis in lesion.size_mm)
    if len(size) > 1 and w.chance(0.3):
        size = (max(size),)
    where = lesion.place if w.chance(0.8) else replace(lesion.place, sector=None)
    kept = replace(
        lesion, place=where, size_mm=() if w.chance(0.04) else size, pirads=None if w.chance(0.04) else lesion.pirads
    )
    if form == "line" or w.chance(0.4):
        kept = replace(kept, t2=None, dwi=None, dce=None)
    if form == "line" or w.chance(0.4):
        kept = replace(kept, adc=None, image=None)
    if form == "line" or block not in ("sentences", "phrases", *GROUPED) or w.chance(0.5):
        kept = replace(kept, contact=None)
    if form == "export" or block == "table" or w.chance(0.15):
        return replace(kept, course=None, before=None)
    return replace(kept, before=lesion.before and _before(w, lesion.before, bool(kept.size_mm)))


def _before(w: Writer, before: Earlier, sized: bool) -> Earlier:
    """What is told of a lesion as it was: its size beside that of today, and what else its sentences can say."""
    size = float(f"{before.size_mm:.0f}") if sized and before.size_mm and w.chance(0.7) else None
    year = before.year if w.chance(0.6) else None
    return Earlier("lesion", year=year, size_mm=size, pirads=before.pirads if w.chance(0.5) else None)


def _vaguer(w: Writer, where: Place, block: str) -> Place:
    """A place of which side, zone or level is left out, or two of them, but not that by which the block groups."""
    parts = [part for part in ("side", "zone", "levels") if part != GROUPED_BY.get(block)]
    for _ in range(1 + w.chance(0.4)):
        part = parts.pop(int(w.random() * len(parts)))
        where = replace(where, **UNKNOWN[part])
    return where


def _overall(w: Writer, exam: Exam, form: str) -> int | None:
    """The category of the whole exam, often written without a lesion and seldom beside those of the lesions."""
    scores = [lesion.pirads for lesion in exam.lesions]
    overall = max(scores) if exam.pirads is None and scores and None not in scores else exam.pirads
    share = 0.25 if exam.lesions else 0.5 if form == "words" else 0.85
    return overall if w.chance(share) else None


def _written(name: str, value: object) -> object:
    """A number as the report has it."""
    if name == "gland_ml":
        return float(f"{value:.0f}")
    if name == "gland_mm":
        return tuple(float(f"{axis / 10:.1f}") * 10 for axis in value)
    if name in ("psa", "psa_density"):
        return float(f"{value:.{1 if name == 'psa' else 2}f}")
    return value


def _benign(finding: Benign) -> Benign:
    """A benign finding with what its sentences can say."""
    sayable = compiled(finding.kind)[0].facts
    return Benign(
        finding.kind,
        finding.place if "place" in sayable else Place(),
        float(f"{finding.size_mm:.0f}") if finding.size_mm and "size" in sayable else None,
    )


def _earlier(past: Earlier) -> Earlier:
    """An older finding with what its sentences can say."""
    sayable = compiled(past_pool(past))[0].facts
    return Earlier(
        past.kind,
        past.place if "place" in sayable else Place(),
        past.year if "year" in sayable else None,
        past.gleason if "gleason" in sayable else None,
        float(f"{past.size_mm:.0f}") if past.size_mm and "size" in sayable else None,
        past.pirads if "score" in sayable else None,
        past.gone,
    )


def possible(exam: Exam, block: str) -> bool:
    """Whether every lesion has what a block groups lesions by."""
    if block == "halves":
        return all(lesion.place.side in ("left", "right") for lesion in exam.lesions)
    if block == "levels":
        return all(len(lesion.place.levels) == 1 for lesion in exam.lesions)
    return block != "zones" or all(lesion.place.zone in ("PZ", "TZ") for lesion in exam.lesions)


def _clear(w: Writer, said: Exam, exam: Exam, form: str, block: str) -> tuple[Clear, ...]:
    """Parts of the prostate that are free of lesions, as far as that follows from what is said."""
    if block in GROUPED:
        return tuple(_free(GROUPED[block], said, exam))
    if form in ("words", "dictated", "export") or (form == "sections" and "f" not in w.habit("sections.order")):
        return ()
    count = sum(w.chance(0.1 if form == "line" else 0.35) for _ in range(2))
    free = [*exam.clear, *_free(PARTS, said, exam)]
    order = sorted(range(len(free)), key=lambda _: w.random())
    return tuple(free[index] for index in order[:count])


def _free(parts: Iterable[Place], said: Exam, exam: Exam) -> list[Clear]:
    free = [part for part in parts if not any(lesion.place.may_touch(part) for lesion in said.lesions)]
    treated = [past for past in exam.earlier if past.kind == "focal therapy"]
    return [
        Clear(part, exam.benign is not None and not any(one.place.may_touch(part) for one in (*exam.benign, *treated)))
        for part in free
    ]


GROUPED = {
    "halves": (Place(side="right"), Place(side="left")),
    "zones": (Place(zone="PZ"), Place(zone="TZ")),
    "levels": tuple(Place(levels=(level,)) for level in LEVELS),
}
PARTS = (
    *GROUPED["halves"],
    *GROUPED["zones"],
    *(Place(zone=zone, side=side) for zone in ("PZ", "TZ") for side in ("left", "right")),
    *GROUPED["levels"],
    *(Place(side=side, levels=(level,)) for side in ("left", "right") for level in LEVELS),
)
