"""From facts to statements: words without a capital at the beginning and a stop at the end."""

from __future__ import annotations

from collections.abc import Sequence

from scripts.wording.findings import Benign, Beside, Clear, Earlier, Exam, Lesion, Place
from scripts.wording.spoken import in_words
from scripts.wording.writer import POOLS, Writer

STAGING = ("extension", "vesicles", "nodes", "bones")


def place(w: Writer, where: Place) -> dict[str, str | None]:
    """`place`, `place:before` a noun and `place:inner` within brackets; None where nothing is known."""
    known = "".join(k for k, v in (("s", where.side), ("z", where.zone), ("l", where.levels)) if v)
    if not known:
        return {"place": None}
    facts = {"clock": _clock(w, where)}
    if where.side:
        facts |= {slot: w.say(f"{where.side}.{form}") for slot, form in _SIDE_FORMS}
    if where.zone:
        facts |= {"z": w.say(where.sector or where.zone), "zone": w.say(where.zone)}
    if where.levels:
        facts |= {"l": level(w, where, "before"), "n": level(w, where, "alone")}
        facts["at"] = _at(w, where)
    pool = f"place.{known}"
    lateral = f"{pool}.lateral"
    if where.side in ("left", "right") and known in ("szl", "sl") and w.chance(0.6):
        pool = lateral
    before = facts["half"] if known == "s" else " ".join(facts[slot] for slot in "slz" if slot in facts)
    inner = before if where.zone or not where.levels else " ".join(facts[slot] for slot in "sn" if slot in facts)
    return {"place": w.say(pool, **facts), "place:before": before, "place:inner": inner}


_SIDE_FORMS = (("s", "before"), ("on", "behind"), ("half", "half"))


def _clock(w: Writer, where: Place) -> str | None:
    """The place on a clock's face, for sectors that have one."""
    pool = f"clock.{where.side}.{where.sector}"
    return w.say(pool) if pool in POOLS else None


def level(w: Writer, where: Place, form: str) -> str:
    """The levels before a noun, alone, or in a cell."""
    if len(where.levels) == 1:
        return w.say(f"{where.levels[0]}.{form}")
    if len(where.levels) == 3:
        return w.say(f"three.{form}")
    first, last = (w.say(f"{one}.{form}") for one in where.levels)
    return w.say(f"two.{form}", first=first, last=last)


def _at(w: Writer, where: Place) -> str:
    names = [w.say(f"{one}.alone") for one in where.levels]
    number = ("one", "two", "three")[len(names) - 1]
    return w.say(f"{number}.at", alone=names[0], first=names[0], last=names[-1])


def code(w: Writer, where: Place) -> str:
    """Side, level and sector as codes: `L-mid-PZpl`."""
    cells = {"s": where.side and w.say(f"{where.side}.cell"), "l": where.levels and level(w, where, "cell")}
    cells["z"] = zone_code(w, where)
    return w.habit("code.joint").join(cells[slot] for slot in w.habit("code.order") if cells[slot])


def zone_code(w: Writer, where: Place) -> str | None:
    return where.sector or (w.say("AFS.code") if where.zone == "AFS" else where.zone)


def size(w: Writer, axes: Sequence[float]) -> dict[str, str | None]:
    """`size` as a number or product with its unit, and `size:extent` with a word around it; whole millimetres."""
    if not axes:
        return {"size": None}
    unit = w.habit("unit")
    numbers = [w.number(axis, 0) if unit == "mm" else w.number(axis / 10, 1) for axis in axes]
    unit, gap, by = w.habit(f"unit.{unit}"), w.habit("unit.gap"), w.habit("by")
    if len(unit) > 2:  # a word stands by itself
        gap, by = " ", f" {by.strip()} "
    text = by.join(f"{number}{gap}{unit}" for number in numbers) if w.habit("axes") == "each" else None
    text = text or by.join(numbers) + gap + unit
    return {"size": text, "size:extent": w.say("extent.1" if len(axes) == 1 else "extent.2", size=text)}


def score(w: Writer, category: int | None) -> dict[str, str | None]:
    """`score` before or behind a noun, `score:said` alone, `score:short`."""
    if category is None:
        return {"score": None}
    n = str(category)
    text = w.say("score.form", n=n)
    said = w.say("score.said", n=n, score=text, meaning=w.say(f"meaning.{n}"))
    return {"score": text, "score:said": said, "score:short": w.say("score.short", n=n)}


def parts(w: Writer, lesion: Lesion) -> str | None:
    """The scores of the sequences: `T2: 4, DWI: 5`."""
    values = ((w.habit("part.t2"), lesion.t2), ("DWI", lesion.dwi))
    texts = [w.say("part", k=k, v=str(v)) for k, v in values if v is not None]
    if lesion.dce is not None:
        texts.append(w.say("part.dce", v=w.say("dce.yes" if lesion.dce else "dce.no")))
    return w.habit("parts.joint").join(texts) or None


def signal(w: Writer, lesion: Lesion) -> str | None:
    """What the scores of the sequences look like; None for scores of 2 and less, which look like nothing focal."""
    zone = "PZ" if lesion.place.zone == "PZ" else "TZ"
    texts = [w.say(f"t2.{zone}.{min(lesion.t2, 4)}")] if (lesion.t2 or 0) >= 3 and lesion.place.zone else []
    texts += [w.say(f"dwi.{min(lesion.dwi, 4)}")] if (lesion.dwi or 0) >= 3 else []
    texts += [w.say("dce.signal")] if lesion.dce else []
    return (" and " if len(texts) < 3 else ", ").join(texts) or None


def course(w: Writer, lesion: Lesion) -> dict[str, str | None]:
    """How the lesion has changed, `course` behind a noun and `course:verb`, with what it was."""
    if lesion.course is None:
        return {"course": None}
    facts, was = size(w, lesion.size_mm), lesion.before
    if was:
        facts["was"] = size(w, (was.size_mm,) if was.size_mm else ())["size"]
        facts["scored"] = score(w, was.pirads)["score"]
        facts["year"] = None if was.year is None else str(was.year)
    pool = f"course.{lesion.course}"
    return {"course": w.say(pool, **facts), "course:verb": w.say(f"{pool}.verb", **facts)}


def ordered(w: Writer, lesions: Sequence[Lesion]) -> list[Lesion]:
    """The lesions in the order of the report; the index lesion is not always the first."""
    order = w.habit("lesions.order")
    if order == "right first":
        return sorted(lesions, key=lambda lesion: lesion.place.side != "right")
    return list(lesions) if order == "index first" else list(reversed(lesions))


def lesion_facts(w: Writer, lesion: Lesion) -> dict[str, str | None]:
    """Every fact of a lesion in every form."""
    facts = place(w, lesion.place) | size(w, lesion.size_mm) | score(w, lesion.pirads)
    facts |= {"what": w.say(f"what.{lesion.pirads or 0}"), "parts": parts(w, lesion)} | course(w, lesion)
    facts["contact"] = None if lesion.contact is None else w.say("contact.yes" if lesion.contact else "contact.no")
    numbers = {"adc": lesion.adc, "image": lesion.image}
    return facts | {name: None if number is None else str(number) for name, number in numbers.items()}


def lesion_statements(w: Writer, lesion: Lesion, pool: str) -> list[str]:
    """Everything about one lesion: a sentence or phrase that says where it is, and what that one leaves."""
    facts = lesion_facts(w, lesion)
    if w.chance(0.7 if pool == "lesion.sentence" else 0.2):
        facts["signal"] = signal(w, lesion)
    if w.habit("figures") == "words":
        facts |= {name: text and in_words(text) for name, text in facts.items() if name[:4] in ("size", "scor")}
    if lesion.course and w.chance(0.4):
        pool = "lesion.followed"
    head, told = w.fill(pool if facts["place"] else "lesion.placeless", facts)
    rest = {name: text for name, text in facts.items() if name.partition(":")[0] not in told}
    return [head, *w.tell("lesion.more", rest)]


def none(w: Writer, exam: Exam) -> str:
    """That there is no suspicious lesion, with the category where it is known."""
    if exam.pirads is None:
        return w.say("none")
    return w.say("none.scored", **score(w, exam.pirads))


def clear(w: Writer, part: Clear) -> str:
    return w.say("clear.normal" if part.normal and w.chance(0.7) else "clear", **place(w, part.place))


def benign(w: Writer, finding: Benign) -> str:
    axes = () if finding.size_mm is None else (finding.size_mm,)
    return w.say(finding.kind, **place(w, finding.place), **size(w, axes))


def past_pool(past: Earlier) -> str:
    """The pool that tells such a finding of the past."""
    return past.kind if past.kind != "lesion" else "lesion.gone" if past.gone else "lesion.before"


def earlier(w: Writer, past: Earlier, exam: Exam) -> str:
    """One finding of the past, in one sentence that says it is past."""
    axes = () if past.size_mm is None else (past.size_mm,)
    facts = place(w, past.place) | size(w, axes) | score(w, past.pirads)
    year = None if past.year is None else str(past.year)
    text = w.say(past_pool(past), year=year, gleason=past.gleason, **facts)
    if past.kind == "focal therapy" and not any(lesion.place.may_touch(past.place) for lesion in exam.lesions):
        text += w.say("therapy.now")
    return text + w.say("cancer.now") if past.kind == "cancer" and not exam.lesions else text


def staging(w: Writer, exam: Exam) -> list[str]:
    """What is known of extension, vesicles, nodes and bones: what is absent in one statement or in several."""
    known = {name: getattr(exam, name) for name in STAGING if getattr(exam, name) is not None}
    present = [w.say("present", this=w.say(name)) for name, there in known.items() if there]
    if w.chance(0.35):
        return present + [w.say(f"{name}.absent") for name, there in known.items() if not there]
    absent = [w.say(name) for name, there in known.items() if not there]
    if absent and w.chance(0.6):
        absent = [", ".join(absent[:-1]) + f" or {absent[-1]}" if len(absent) > 1 else absent[0]]
    return present + [w.say("absent", these=these) for these in absent]


def beside(w: Writer, finding: Beside) -> str:
    """Something outside the prostate."""
    facts = {slot: w.say(f"{finding.side}.{form}") for slot, form in _SIDE_FORMS if finding.side}
    return w.say(finding.kind, **facts)


def patient(w: Writer, exam: Exam) -> list[str]:
    """Age, PSA, its density and why the exam was asked for."""
    why = exam.indication and w.say("negative biopsy.why" if exam.indication == "negative biopsy" else exam.indication)
    facts = {"indication": why, "age": None if exam.age is None else str(exam.age)}
    facts["psa"] = None if exam.psa is None else w.number(exam.psa, 1)
    facts["density"] = None if exam.psa_density is None else w.number(exam.psa_density, 2)
    return w.tell("patient", facts)


def gland_facts(w: Writer, exam: Exam) -> tuple[str | None, str | None]:
    """Volume and dimensions with their units."""
    volume = None if exam.gland_ml is None else f"{exam.gland_ml:.0f} {w.habit('volume.unit')}"
    dimensions = None
    if exam.gland_mm is not None:
        axes = {slot: w.number(axis / 10, 1) for slot, axis in zip("xyz", exam.gland_mm, strict=True)}
        axes |= {f"m{slot}": w.number(axis, 0) for slot, axis in zip("xyz", exam.gland_mm, strict=True)}
        dimensions = w.say("dimensions.form", **axes)
    return volume, dimensions


def gland(w: Writer, exam: Exam) -> list[str]:
    """Volume and dimensions in statements."""
    volume, dimensions = gland_facts(w, exam)
    return w.tell("gland", {"volume": volume, "dimensions": dimensions})


def technique(w: Writer, exam: Exam) -> list[str]:
    """Field strength and kind of protocol."""
    field = [] if exam.field_t is None else [w.say("field strength", field=f"{exam.field_t:g}")]
    return field + ([] if exam.contrast is None else [w.say("contrast.yes" if exam.contrast else "contrast.no")])


def advice(w: Writer, exam: Exam) -> str | None:
    """What follows from the category; None where the report does not say it."""
    category = max([exam.pirads or 0, *(lesion.pirads or 0 for lesion in exam.lesions)])
    if not category:
        return None
    return w.say("advice.high" if category > 3 else "advice.middle" if category == 3 else "advice.low")
