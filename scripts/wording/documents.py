"""Reports: from one line to a page, in free text, under headings, as a table or as dictated.

report = write_report(Exam(lesions=(Lesion(Place("PZ", "left", ("mid",)), (14,), 4),)), institution(3), rng)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from scripts.wording import statements
from scripts.wording.blocks import lesion_block
from scripts.wording.choice import GROUPED, choose, possible
from scripts.wording.exports import export
from scripts.wording.findings import Exam, Lesion, Report
from scripts.wording.layout import lowered, paragraph, sentence
from scripts.wording.noise import roughen
from scripts.wording.spoken import dictated
from scripts.wording.writer import POOLS, Style, Writer

LETTERS = {"h": "history", "t": "technique", "c": "comparison", "f": "findings", "i": "impression"}


def write_report(exam: Exam, style: Style, rng: np.random.Generator) -> Report:
    """Write the report of one exam.

    Args:
        exam: what was found, what is known beside it.
        style: who writes.
        rng: decides everything else; the same state gives the same report.

    Returns:
        The text, of two words to a page, and what it says. Every lesion is told with its zone, side and level as far as
        they are known (less where the style is vague), other facts by chance. In a text of a page, which an encoder may
        have to cut on the left, the lesions stand at the end.
    """
    w = Writer(style, rng)
    form = w.habit("form")
    if form == "line" and not exam.lesions:
        form = w.habit("form.nothing")
    block = w.habit("block")
    if form in PLAIN:
        block = PLAIN[form] if block in ("table", "fields", *GROUPED) else block
    if not possible(exam, block):
        block = "sentences"
    said = choose(w, exam, form, block)
    return Report(roughen(w, w.spell(FORMS[form](w, said, block))), said)


def _words(w: Writer, said: Exam, block: str) -> str:
    """A normal report of a few words."""
    text = w.say("words" if said.benign is None else "words.normal")
    if said.pirads is not None:
        score = statements.score(w, said.pirads)
        if said.benign is None and w.chance(0.4):
            return score["score:short"]
        text = f"{text}, {score['score']}"
    return sentence(text, stop="" if w.chance(0.5) else ".")


def _line(w: Writer, said: Exam, block: str) -> str:
    """One line, with the exam's name in front now and then."""
    parts = [" ".join(_lesions(w, said, block)), paragraph([*_past(w, said), *_around(w, said, block)])]
    if w.chance(0.4):  # what is free of lesions first
        parts.reverse()
    text = " ".join([*parts, paragraph(statements.staging(w, said))]).strip()
    return f"{w.say('title')}: {text}" if w.chance(0.15) else text


def _telegram(w: Writer, said: Exam, block: str) -> str:
    """Everything in notes."""
    first = [*statements.patient(w, said), *statements.gland(w, said)]
    first += _past(w, said)
    joint = w.habit("telegram.joint")
    lesions = "\n".join(_lesions(w, said, block))
    notes = (
        joint.join(sentence(text, stop="") for text in first),
        joint.join(sentence(text, stop="") for text in [*_around(w, said, block), *statements.staging(w, said)]),
    )
    gap = "\n" if joint == "\n" or "\n" in lesions else " "
    return gap.join(text for text in (notes[0] and notes[0] + joint.strip(), lesions, notes[1]) if text)


def _prose(w: Writer, said: Exam, block: str) -> str:
    """Paragraphs without headings."""
    first = paragraph([*statements.technique(w, said), *statements.patient(w, said)])
    first = " ".join([first, paragraph(_past(w, said))]).strip()
    body = _findings(w, said, block)
    last = _advice(w, said, 0.2)
    gap = "\n\n" if w.chance(0.4) else "\n" if "\n" in body or w.chance(0.3) else " "
    return gap.join(text for text in (first, body, last) if text)


def _letter(w: Writer, said: Exam, block: str) -> str:
    """To the doctor who asked for the exam, or from one to another."""
    body = " ".join(
        [
            sentence(w.say("letter.opening")) if w.chance(0.6) else "",
            _prose(w, said, block),
            sentence(w.say("letter.end")) if w.chance(0.4) else "",
        ]
    ).strip()
    gap = "\n\n" if w.chance(0.7) else "\n" if "\n" in body or w.chance(0.5) else " "
    return gap.join([w.say("letter.greeting"), body, w.say("letter.closing")])


def _spoken(w: Writer, said: Exam, block: str) -> str:
    """Notes or paragraphs as they are dictated."""
    return dictated(w, (_telegram if w.chance(0.4) else _prose)(w, said, block))


def _sections(w: Writer, said: Exam, block: str) -> str:
    """Headed sections in an institution's order."""
    order = w.habit("sections.order")
    return _headed(w, said, block, order, {})


def _page(w: Writer, said: Exam, block: str) -> str:
    """Every section with a department's standing sentences; the impression is the last of them."""
    order = sorted(POOLS["technique.more"], key=lambda _: w.random())
    extra = {"t": [w.say("technique"), *order[: 4 + int(w.random() * 4)]], "f": [w.say("remark")]}
    text = _headed(w, said, block, "htcfi", extra)
    if w.chance(0.5):
        text = f"{text} {sentence(w.say('closing'))}"
    return f"{w.say('title').upper()}\n\n{text}" if w.chance(0.5) else text


def _headed(w: Writer, said: Exam, block: str, order: str, extra: dict[str, Sequence[str]]) -> str:
    """Sections by their letters; `extra` sentences are a department's own, and the legend goes with its technique."""
    texts = {
        "h": statements.patient(w, said),
        "t": statements.technique(w, said),
        "c": [],
        "f": [],
        "i": [],
    }
    home = next((letter for letter in "chf" if letter in order), "i")
    texts[home] = texts[home] + _past(w, said)
    bodies = {letter: paragraph([*texts[letter], *extra.get(letter, ())]) for letter in order}
    if "t" in extra and w.chance(0.5):
        bodies["t"] = f"{bodies['t']} {sentence(w.say('legend'))}"
    if "f" in order:
        bodies["f"] = " ".join(text for text in (bodies["f"], _findings(w, said, block)) if text)
    bodies["i"] = _impression(w, said, block, alone="f" not in order, whole=bool(extra))
    joint = w.habit("sections.joint")
    lines = joint != " " or any("\n" in body for body in bodies.values())
    gap = "\n\n" if lines or w.chance(0.5) else "\n" if w.chance(0.5) else " "
    told = [letter for letter in order if bodies[letter]]
    return gap.join(
        _section(w, number, LETTERS[letter], bodies[letter], joint) for number, letter in enumerate(told, start=1)
    )


def _section(w: Writer, number: int, name: str, body: str, joint: str) -> str:
    case, heading = w.habit("sections.case"), w.habit(f"heading.{name}")
    heading = heading.upper() if case == "capitals" else sentence(heading, stop="")
    heading = f"{number}. {heading}" if case == "numbered" else heading
    if "\n" in body:
        joint = "\n"
    elif joint == "\n- ":
        body = re.sub(r"(?<=[a-z)\d]{2})\. (?=[A-Z])", ".\n- ", body)
    return f"{heading}:{joint}{body}"


def _findings(w: Writer, said: Exam, block: str) -> str:
    """Gland, lesions, benign findings, clear parts, staging, in an institution's order."""
    lines = _joined(_lesions(w, said, block), block)
    around = {
        "g": paragraph(statements.gland(w, said)),
        "l": f"\n{lines}\n" if "\n" in lines else lines,
        "b": paragraph([statements.benign(w, finding) for finding in said.benign or ()]),
        "c": paragraph(_clear(w, said, block)),
        "s": paragraph([*statements.staging(w, said), *(w.say(organ) for organ in said.organs), *_beside(w, said)]),
    }
    text = " ".join(around[letter] for letter in w.habit("findings.order") if around[letter])
    return re.sub(r" ?\n ?", "\n", text).strip()


def _impression(w: Writer, said: Exam, block: str, alone: bool, whole: bool) -> str:
    """The lesions once more and shorter, or all about them where no findings stand above."""
    if alone:
        text = _joined(_lesions(w, said, block), block)
        around = paragraph(_around(w, said, block))
        return ("\n" if "\n" in text else " ").join(part for part in (text, around, _advice(w, said, 0.3)) if part)
    short = []
    for lesion in said.lesions:
        where = lesion.place
        if not whole and w.chance(0.2):
            where = replace(where, levels=()) if w.chance(0.5) else replace(where, zone=None, sector=None)
        size = () if w.chance(0.3) else lesion.size_mm
        short.append(Lesion(where, size, lesion.pirads))
    return " ".join([*_lesions(w, replace(said, lesions=tuple(short)), "phrases"), _advice(w, said, 0.3)]).strip()


def _dictated(w: Writer, said: Exam, block: str) -> str:
    """As speech recognition leaves it: no punctuation but in numbers."""
    texts = [*statements.patient(w, said), *statements.gland(w, said), *_lesions(w, said, block)]
    texts += statements.staging(w, said)
    bare = [re.sub(r"(?<!\d)[.,;:()]|[.,;:()](?!\d)", "", text).strip() for text in texts]
    text = w.habit("dictated.joint").join(" ".join(one.split()) for one in bare)
    return lowered(text) if w.chance(0.6) else text


def _lesions(w: Writer, said: Exam, block: str) -> list[str]:
    """The lesions, or that there is none, and the category of the whole exam."""
    texts = lesion_block(w, said, block)
    if said.lesions and block not in GROUPED and w.chance(0.12):
        texts.append(sentence(w.say("none.else")))
    if said.lesions and said.pirads is not None:
        score = statements.score(w, said.pirads)["score"]
        texts.append(sentence(w.say("overall", n=str(said.pirads), score=score)))
    return texts


def _joined(lesions: Sequence[str], block: str) -> str:
    """The texts of the lesions one below the other, where they have lines of their own, or one behind the other."""
    return ("\n" if block == "table" or any("\n" in text for text in lesions) else " ").join(lesions)


def _clear(w: Writer, said: Exam, block: str) -> list[str]:
    """The parts that are free of lesions, where the lesions' block does not tell them itself."""
    return [] if block in GROUPED else [statements.clear(w, part) for part in said.clear]


def _around(w: Writer, said: Exam, block: str) -> list[str]:
    """Benign findings, clear parts and what lies beside the prostate."""
    benign = [statements.benign(w, finding) for finding in said.benign or ()]
    return [*benign, *_clear(w, said, block), *_beside(w, said)]


def _past(w: Writer, said: Exam) -> list[str]:
    return [statements.earlier(w, past, said) for past in said.earlier]


def _beside(w: Writer, said: Exam) -> list[str]:
    return [statements.beside(w, finding) for finding in said.beside]


def _advice(w: Writer, said: Exam, share: float) -> str:
    text = statements.advice(w, said) if w.chance(share) else None
    return sentence(text) if text else ""


# Forms without lines of their own, and what stands for lesions laid out in lines.
PLAIN = dict.fromkeys(("words", "line", "dictated", "export"), "phrases") | dict.fromkeys(
    ("spoken", "letter"), "sentences"
)
FORMS: dict[str, Callable[[Writer, Exam, str], str]] = {
    "words": _words,
    "line": _line,
    "telegram": _telegram,
    "prose": _prose,
    "sections": _sections,
    "page": _page,
    "dictated": _dictated,
    "spoken": _spoken,
    "letter": _letter,
    "export": lambda w, said, block: export(w, said),
}
