"""The exam as a structured reporting system exports it: keys with their values, or JSON."""

from __future__ import annotations

import json

from scripts.wording import statements
from scripts.wording.findings import Exam, Lesion
from scripts.wording.writer import Writer

Fields = dict[str, str | int]


def export(w: Writer, said: Exam) -> str:
    """All that is said as fields; the lesions under numbers, or in a list."""
    exam = {w.habit("key.exam"): w.say("title"), **_exam(w, said)}
    lesions = [_lesion(w, lesion) for lesion in statements.ordered(w, said.lesions)]
    overall = {} if said.pirads is None else {w.habit("key.overall"): said.pirads}
    if w.habit("export.layout") == "JSON":
        fields = {**exam, w.habit("key.lesions"): lesions, **overall}
        return json.dumps(fields, ensure_ascii=False, indent=2 if w.chance(0.4) else None)
    prefix = w.habit("export.lesion")
    numbered = {
        f"{prefix.replace('{i}', str(number))}{name}": value
        for number, lesion in enumerate(lesions, start=1)
        for name, value in lesion.items()
    }
    fields = {**exam, **(numbered or {w.habit("key.lesions"): w.say("export.none")}), **overall}
    equals, joint = w.habit("export.equals"), w.habit("export.joint")
    return joint.join(f"{name}{equals}{value}" for name, value in fields.items())


def _exam(w: Writer, said: Exam) -> Fields:
    """Patient, gland and staging, as far as they are known."""
    why = said.indication and w.say("negative biopsy.why" if said.indication == "negative biopsy" else said.indication)
    volume, dimensions = statements.gland_facts(w, said)
    known = {"age": said.age, "indication": why}
    known["psa"] = None if said.psa is None else w.number(said.psa, 1)
    known["density"] = None if said.psa_density is None else w.number(said.psa_density, 2)
    known |= {"volume": volume, "dimensions": dimensions}
    for name in statements.STAGING:
        there = getattr(said, name)
        known[name] = None if there is None else w.habit("export.yes" if there else "export.no")
    return {w.habit(f"key.{name}"): value for name, value in known.items() if value is not None}


def _lesion(w: Writer, lesion: Lesion) -> Fields:
    """One lesion; its sector where that is known, and no field for what is not."""
    where = lesion.place
    known = {
        w.habit("key.side"): where.side and w.say(f"{where.side}.cell"),
        w.habit("key.level"): statements.level(w, where, "cell") if where.levels else None,
        w.habit("key.zone"): statements.zone_code(w, where),
        w.habit("key.size"): statements.size(w, lesion.size_mm)["size"],
        w.habit("part.t2"): lesion.t2,
        "DWI": lesion.dwi,
        "DCE": None if lesion.dce is None else w.say("dce.yes" if lesion.dce else "dce.no"),
        "ADC": lesion.adc,
        "image": lesion.image,
        w.habit("key.score"): lesion.pirads,
    }
    return {name: value for name, value in known.items() if value is not None}
