"""Every way to name a side, a zone, a level, a size or a score: the grammar's vocabulary.

A pool is a tuple of ways to say one thing; what is commoner may stand in it twice. An option may hold slots: `{name}`
is a fact that is handed in, or else another pool; `{name:form}` is the same fact in another form. What stands in
[brackets] is left out where one of its facts is unknown; `a(n)` becomes the right article. British spelling;
`writer.py` makes it American.
"""

from __future__ import annotations


def _lateral(word: str, short: str, letter: str) -> dict[str, tuple[str, ...]]:
    """Left or right before a noun, behind it, alone for half a gland, at the head of a line, in a table's cell."""
    return {
        f"{word}.before": (word, word, word, short, letter, f"{word}-sided"),
        f"{word}.behind": (f"on the {word}", f"on the {word} side", f"({letter})", f"({word})"),
        f"{word}.half": (f"{word} lobe", f"{word} half of the gland", f"{word} hemiprostate"),
        f"{word}.head": (f"{word} lobe", f"{word} side", f"{word} side", word, letter, short),
        f"{word}.cell": (word, letter, short),
    }


SIDES = {
    **_lateral("left", "Lt", "L"),
    **_lateral("right", "Rt", "R"),
    "midline.before": ("midline",),
    "midline.behind": ("in the midline", "(midline)"),
    "midline.half": ("midline",),
    "midline.cell": ("midline",),
    "bilateral.before": ("bilateral",),
    "bilateral.behind": ("on both sides", "bilaterally", "(bilateral)"),
    "bilateral.half": ("both lobes", "both halves"),
    "bilateral.cell": ("bilateral", "both", "L+R", "R/L"),
}
ZONES = {
    "PZ": ("peripheral zone", "PZ"),
    "TZ": ("transition zone", "transition zone", "transitional zone", "TZ", "TZ", "central gland"),
    "CZ": ("central zone", "CZ"),
    "AFS": ("anterior fibromuscular stroma", "AFMS", "AFS", "anterior stroma"),
    "PZa": ("anterior peripheral zone", "anterior PZ", "PZa", "anterior horn of the peripheral zone", "ventral PZ"),
    "PZpl": ("posterolateral peripheral zone", "posterolateral PZ", "PZpl", "dorsolateral PZ", "postero-lateral PZ"),
    "PZpm": ("posteromedial peripheral zone", "posteromedial PZ", "PZpm", "paramedian posterior PZ", "dorsomedial PZ"),
    "TZa": ("anterior transition zone", "anterior TZ", "TZa", "ventral TZ", "anterior transitional zone"),
    "TZp": ("posterior transition zone", "posterior TZ", "TZp", "dorsal TZ", "posterior transitional zone"),
    "AFS.code": ("AFS", "AS"),
}
LEVELS = {
    "base.before": ("basal", "base"),
    "base.alone": ("base", "base", "basal third"),
    "base.cell": ("base", "basal"),
    "mid.before": ("mid", "mid", "midgland", "mid-gland", "mid gland"),
    "mid.alone": ("mid-gland", "midgland", "mid gland", "mid third", "middle third"),
    "mid.cell": ("mid", "midgland", "mid-gland"),
    "apex.before": ("apical", "apex"),
    "apex.alone": ("apex", "apex", "apical third"),
    "apex.cell": ("apex", "apical"),
    "two.before": ("{first} to {last}", "{first}-to-{last}", "{first}/{last}"),
    "two.alone": ("{first} to {last}", "{first} and {last}", "{first}/{last}"),
    "two.at": ("from {first} to {last}", "at the {first} and {last}"),
    "two.cell": ("{first}-{last}", "{first} to {last}", "{first}+{last}", "{first}/{last}"),
    "three.before": ("base to apex", "base-to-apex"),
    "three.alone": ("base to apex", "base, mid-gland and apex"),
    "three.at": ("at all levels", "from base to apex"),
    "three.cell": ("base to apex", "all levels", "base-apex"),
    "one.at": ("at the {alone}",),
}
# How side, zone and level come together. s: side before a noun, on: behind it; z: zone; l: level before a noun,
# n: alone, at: with its preposition. The first pool of a set is for left and right only.
PLACES = {
    "place.szl.lateral": (
        "{z} of the {s} {n}",
        "{s} {n}, {z}",
        "{s} {n} ({z})",
        "{z}, {s} {n}",
        "{s} {l} {z}",
        "{s} {l} {z}",
        "{s} {z} {at}",
        "{l} {z} {on}",
    ),
    "place.szl": (
        "{s} {l} {z}",
        "{s} {l} {z}",
        "{s} {z} {at}",
        "{l} {s} {z}",
        "{s} {z} ({n})",
        "{s} {z}, {n}",
        "{l} {z} {on}",
        "{z} {on} {at}",
        "{z} {at} {on}",
    ),
    "place.sz": ("{s} {z}", "{s} {z}", "{z} {on}"),
    "place.zl": ("{l} {z}", "{z} {at}", "{z}, {n}", "{z} ({n})"),
    "place.sl.lateral": ("{s} {n}", "{s} {n}", "{n} {on}"),
    "place.sl": ("{n} {on}",),
    "place.s": ("{half}",),
    "place.z": ("{z}",),
    "place.l": ("{n}",),
    "code.order": ("slz", "lsz", "zsl", "zls", "szl"),
    "code.joint": ("-", " ", "-", "/", ", "),
}
SIZES = {
    "unit": ("mm", "mm", "cm"),
    "unit.gap": (" ", " ", ""),
    "by": (" x ", "x", " × ", "×", " by ", "*"),
    "axes": ("once", "once", "each"),  # the unit: behind the last number, or behind every one
    "extent.1": (
        "{size}",
        "{size}",
        "up to {size}",
        "approximately {size}",
        "approx. {size}",
        "about {size}",
        "~{size}",
        "{size} in maximum dimension",
        "max. {size}",
        "{size} in its longest axis",
    ),
    "extent.2": ("{size}", "approximately {size}", "approx. {size}", "about {size}", "ca. {size}"),
}
SCORES = {
    "score.form": (
        "PI-RADS {n}",
        "PI-RADS {n}",
        "PI-RADS {n}",
        "PIRADS {n}",
        "PIRADS {n}",
        "PI RADS {n}",
        "PI-RADS category {n}",
        "PI-RADS score {n}",
        "PI-RADS {n}/5",
        "PI-RADS v2.1 category {n}",
    ),
    "score.said": (
        "{score}",
        "{score}",
        "PI-RADS: {n}",
        "PI-RADS v2.1: {n}",
        "PI-RADS v2.1: {n}/5",
        "PI-RADS score of {n}",
        "PI-RADS {n} ({meaning})",
        "PI-RADS assessment category {n}",
        "assessed as {score}",
        "scored PI-RADS {n}",
    ),
    "score.short": ("PI-RADS {n}", "PIRADS {n}", "PR{n}", "PR {n}", "P{n}", "PI-RADS: {n}"),
    "overall": (
        "overall {score}",
        "overall {n}",
        "overall assessment: {score}",
        "overall PI-RADS category: {n}",
        "overall score: {n}",
        "PI-RADS assessment of the exam: {n}",
        "highest PI-RADS category: {n}",
    ),
    "meaning.1": ("very low", "significant cancer highly unlikely"),
    "meaning.2": ("low", "significant cancer unlikely"),
    "meaning.3": ("intermediate", "equivocal"),
    "meaning.4": ("high", "significant cancer likely"),
    "meaning.5": ("very high", "significant cancer highly likely"),
    "part": ("{k} {v}", "{k}: {v}", "{k} score {v}", "{k}={v}"),
    "part.dce": ("DCE {v}", "DCE: {v}", "DCE={v}"),
    "part.t2": ("T2", "T2", "T2W"),
    "parts.joint": (", ", "/", "; "),
    "dce.yes": ("positive", "+", "pos"),
    "dce.no": ("negative", "-", "neg"),
}
TERMS = {**SIDES, **ZONES, **LEVELS, **PLACES, **SIZES, **SCORES}
