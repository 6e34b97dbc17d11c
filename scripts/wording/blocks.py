"""The ways to lay out the lesions of an exam: sentences, phrases, fields, a table, codes, by half or by zone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from scripts.wording import statements
from scripts.wording.choice import GROUPED_BY, UNKNOWN
from scripts.wording.findings import LEVELS, Exam, Lesion, Place
from scripts.wording.layout import paragraph, sentence
from scripts.wording.writer import Writer


def lesion_block(w: Writer, exam: Exam, block: str) -> list[str]:
    """All about every lesion, one text a lesion, or that there is none.

    Args:
        w: says it.
        exam: what is to be said; of its clear parts only those that the block `halves` or `zones` groups by.
        block: an option of the pool `block`.
    """
    if block in _GROUPS:
        return _grouped(w, exam, block)
    if not exam.lesions:
        more = [sentence(w.say("none.more"))] if block == "sentences" and w.chance(0.3) else []
        return [*more, sentence(statements.none(w, exam))]
    return _BLOCKS[block](w, replace(exam, lesions=tuple(statements.ordered(w, exam.lesions))))


def _running(w: Writer, exam: Exam, pool: str) -> list[str]:
    """Sentences or phrases; several lesions are numbered, labelled or strung together."""
    texts = [paragraph(statements.lesion_statements(w, lesion, pool)) for lesion in exam.lesions]
    if len(texts) == 1:
        return [f"{sentence(w.say('label.first'), '')}: {texts[0]}" if w.chance(0.15) else texts[0]]
    way = w.random()
    if way < 0.35:
        return [f"{number}. {text}" for number, text in enumerate(texts, start=1)]
    if way < 0.7:
        return [f"{label}: {text}" for label, text in zip(_labels(w, len(texts)), texts, strict=True)]
    return [texts[0], *(f"{sentence(w.say('also'), '')}: {text}" for text in texts[1:])]


def _labels(w: Writer, count: int) -> list[str]:
    """The lesions' names, all of one kind; an index lesion that stands last may be named as such."""
    pool = w.habit("label")
    labels = [sentence(pool.replace("{i}", str(number)), "") for number in range(1, count + 1)]
    if count > 1 and w.habit("lesions.order") == "index last" and w.chance(0.7):
        labels[-1] += w.say("index.mark")
    return labels


def _fields(w: Writer, exam: Exam) -> list[str]:
    """`Lesion 1 - location: left mid PZ; size: 14 mm; PI-RADS: 4`, on one line or line by line."""
    joint, head = w.habit("field.joint"), w.habit("label.joint")
    apart = w.habit("field.side") if w.chance(0.4) else None
    texts = []
    for label, lesion in zip(_labels(w, len(exam.lesions)), exam.lesions, strict=True):
        where = lesion.place
        if apart:
            fields = [(apart, where.side and w.say(f"{where.side}.cell"))]
            fields += [(w.habit("field.level"), statements.level(w, where, "cell") if where.levels else None)]
            fields += [(w.habit("field.zone"), statements.zone_code(w, where))]
        else:
            fields = [(w.habit("field.place"), statements.place(w, where)["place"])]
        fields += [(w.habit("field.size"), statements.size(w, lesion.size_mm)["size"])]
        fields += _scores(w, lesion)
        fields += [(w.habit("field.course"), statements.course(w, lesion)["course"])]
        fields += [("ADC", lesion.adc), (w.habit("field.image"), lesion.image), (w.habit("field.score"), lesion.pirads)]
        known = [f"{name}: {value}" for name, value in fields if value is not None]
        if "\n" in joint:
            texts.append("\n".join([f"{label}:", *(sentence(text, "") for text in known)]) + "\n")
        else:
            texts.append(f"{label}{head}{joint.join(known)}.")
    return texts


def _scores(w: Writer, lesion: Lesion) -> list[tuple[str, str | int | None]]:
    dce = None if lesion.dce is None else w.say("dce.yes" if lesion.dce else "dce.no")
    return [(w.habit("part.t2"), lesion.t2), ("DWI", lesion.dwi), ("DCE", dce)]


def _table(w: Writer, exam: Exam) -> list[str]:
    """A row of headings and a row a lesion; a column of which nothing is known is left out."""
    rows = []
    for number, lesion in enumerate(exam.lesions, start=1):
        where = lesion.place
        row = {"No.": str(number), "Zone": statements.zone_code(w, where)}
        row |= {"Side": where.side and w.say(f"{where.side}.cell")}
        row |= {"Level": statements.level(w, where, "cell") if where.levels else None}
        row |= {"Size": statements.size(w, lesion.size_mm)["size"], **dict(_scores(w, lesion))}
        row |= {"ADC": lesion.adc, "Image": lesion.image, "PI-RADS": lesion.pirads}
        rows.append(row)
    columns = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    if w.chance(0.5):  # the place in another order
        columns = sorted(columns, key=lambda name: {"No.": 0, "Side": 1, "Level": 2}.get(name, 3))
    joint = w.habit("table.joint")
    joint = ";" if joint == "," and w.comma else joint
    return [
        joint.join(columns),
        *(joint.join("-" if row[name] is None else str(row[name]) for name in columns) for row in rows),
    ]


def _codes(w: Writer, exam: Exam) -> list[str]:
    """`L1: L-mid-PZpl, 14 mm, T2 4/DWI 5, P5`."""
    labels = _labels(w, len(exam.lesions)) if len(exam.lesions) > 1 or w.chance(0.4) else [None]
    texts = []
    for label, lesion in zip(labels, exam.lesions, strict=True):
        parts = statements.parts(w, lesion)
        cells = [statements.size(w, lesion.size_mm)["size"], statements.course(w, lesion)["course"], parts]
        cells += [lesion.adc and f"ADC {lesion.adc}", lesion.image and f"image {lesion.image}"]
        cells += [statements.score(w, lesion.pirads).get("score:short")]
        rest = ", ".join(cell for cell in cells if cell)
        where = statements.code(w, lesion.place)
        head = w.habit("code.head") if where and rest else ""
        texts.append(f"{label}: " * bool(label) + f"{where}{head}{rest}.")
    return texts


def _grouped(w: Writer, exam: Exam, block: str) -> list[str]:
    """`Right lobe: normal. Left lobe: 14 mm lesion in the mid PZ.`"""
    groups = [(part.place, part.normal) for part in exam.clear]
    groups += [(_GROUPS[block](lesion.place), lesion) for lesion in exam.lesions]
    groups.sort(key=lambda group: _rank(group[0]))
    texts = []
    for group, content in groups:
        head = sentence(_heading(w, group), "")
        if isinstance(content, Lesion):
            place = content.place
            rest = replace(place, **UNKNOWN[GROUPED_BY[block]])
            text = paragraph(statements.lesion_statements(w, replace(content, place=rest), "lesion.phrase"))
        else:
            text = w.say("half.clear.normal" if content and w.chance(0.7) else "half.clear")
        texts.append(sentence(f"{head}: {text}"))
    if not exam.lesions and exam.pirads is not None:
        texts.append(sentence(statements.none(w, exam)))
    return texts


def _rank(group: Place) -> tuple[bool, bool, int]:
    """Right before left, the peripheral before the transition zone, base before apex."""
    return group.side != "right", group.zone == "TZ", LEVELS.index(group.levels[0]) if group.levels else 0


def _heading(w: Writer, group: Place) -> str:
    if group.levels:
        return w.say(f"{group.levels[0]}.alone")
    return w.say(f"{group.side}.head" if group.side else group.zone)


_GROUPS: dict[str, Callable[[Place], Place]] = {
    "halves": lambda place: Place(side=place.side),
    "zones": lambda place: Place(zone=place.zone),
    "levels": lambda place: Place(levels=place.levels),
}
_BLOCKS: dict[str, Callable[[Writer, Exam], list[str]]] = {
    "sentences": lambda w, exam: _running(w, exam, "lesion.sentence"),
    "phrases": lambda w, exam: _running(w, exam, "lesion.phrase"),
    "fields": _fields,
    "table": _table,
    "codes": _codes,
}
