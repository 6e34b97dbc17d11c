"""What was decided for a data root, `plan.json`: `prepare` writes it, later steps read it, and a person may edit it.

A value that a later step is given itself goes before the plan's. A data root without a plan is as one of T2w alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from monai.utils import ensure_tuple

from scripts.common.files import atomic
from scripts.common.problems import Problems
from scripts.data.datalists import SEQUENCES, Case, is_size, is_spacing
from scripts.data.grid import FACTOR, SPACING_TOLERANCE, Grid, by, read_grid
from scripts.data.names import shown

PLAN = "plan.json"
ABOUT = (
    "Edit size, spacing, sequences and max_tokens: later steps do as they say, unless they are told otherwise. "
    "found is what was seen, for the reader alone. See docs/prepare.md."
)
AGAIN = "prepare the exams again, which without --grid takes the plan's, or correct the plan"


@dataclass(frozen=True)
class Plan:
    """Decisions for all cases of a data root.

    Attributes:
        size, spacing: of the grid that all images lie on, voxels and mm.
        sequences: of axt2, b1600, adc: what is encoded, and generated together.
        max_tokens: longer reports are cut; None is as many as the text encoder says.
        found: what the decisions follow from, as figures.
    """

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    sequences: tuple[str, ...]
    max_tokens: int | None = None
    found: Mapping[str, Any] = field(default_factory=dict)

    @property
    def grid(self) -> Grid:
        return Grid(self.size, self.spacing)


def write_plan(root: str | os.PathLike[str], plan: Plan) -> None:
    """Write `plan.json`, one value a line."""
    values = {"about": ABOUT} | asdict(plan)
    lines = [f" {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in values.items()]
    lines[-1] = f' "found": {json.dumps(plan.found, ensure_ascii=False, indent=1)}'.replace("\n", "\n ")
    with atomic(Path(root) / PLAN) as temporary:
        temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def read_plan(root: str | os.PathLike[str]) -> Plan | None:
    """The plan of a data root; None where there is none.

    Raises:
        UserError: all that is wrong with it.
    """
    path = Path(root) / PLAN
    if not path.exists():
        return None
    problems = Problems(str(path))
    values = _values(path, problems)
    problems.raise_if_any()
    known = [one.name for one in fields(Plan)]
    for name in values.keys() - {*known, "about"}:
        like = get_close_matches(name, known, n=1)
        todo = f"did you mean {like[0]}?" if like else f"a plan has {', '.join(known)}"
        problems.add(PLAN, f"{shown(name)} is no value of a plan", todo)
    for name in ("size", "spacing", "sequences"):
        if name not in values:
            problems.add(PLAN, f"{name} is missing", _WANTED[name])
    for name, is_right in _RULES.items():
        if name in values and not is_right(values[name]):
            problems.add(PLAN, f"{name} is {shown(values[name])}", _WANTED[name])
    problems.raise_if_any()
    return Plan(
        size=tuple(map(int, values["size"])),
        spacing=tuple(map(float, values["spacing"])),
        sequences=tuple(values["sequences"]),
        max_tokens=values.get("max_tokens"),
        found=values.get("found", {}),
    )


def check_plan(plan: Plan, cases: Sequence[Case], problems: Problems) -> None:
    """Note where a plan contradicts the cases of its data root, as `read_datalist` gives them.

    The size is held against the first image that is there: that all have one size is checked where they are read.
    """
    for name in plan.sequences:
        if lacking := [case["folder"] for case in cases if not case.get(name)]:
            what = f"sequences has {name}, which {len(lacking)} of {len(cases)} cases do not have ({lacking[0]})"
            problems.add(PLAN, what, "take it out there, or prepare the exams again with it")
    off = [case for case in cases if case["spacing"] and not _near(case["spacing"], plan.spacing)]
    if off:
        what = f"spacing is {by(plan.spacing)} mm, that of {off[0]['folder']} {by(off[0]['spacing'])} mm"
        problems.add(PLAN, what, AGAIN)
    image = next(
        (case[key] for case in cases for key in SEQUENCES if case.get(key) and Path(case[key]).is_file()), None
    )
    if image is None:
        return
    try:
        size = read_grid(image)[1]
    except ValueError:  # told where images are read
        return
    if size != plan.size:
        problems.add(PLAN, f"size is {by(plan.size)}, that of the images {by(size)}", AGAIN)


def planned_sequences(dataset_dir: str | os.PathLike[str], given: Sequence[str] | str | None) -> list[str]:
    """The sequences that are given, else those of the data root's plan, else the T2w.

    Raises:
        UserError: the plan has mistakes.
    """
    if given:
        return list(ensure_tuple(given))
    plan = read_plan(dataset_dir)
    return ["axt2"] if plan is None else list(plan.sequences)


def planned_tokens(dataset_dir: str | os.PathLike[str], given: int | None) -> int | None:
    """The tokens at which reports are cut: those that are given, else those of the data root's plan.

    Raises:
        UserError: the plan has mistakes.
    """
    if given is not None:
        return given
    plan = read_plan(dataset_dir)
    return None if plan is None else plan.max_tokens


def _values(path: Path, problems: Problems) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        problems.add(PLAN, f"cannot be read: {error.strerror}", "give yourself the right, or take it away")
    except (UnicodeDecodeError, RecursionError):
        problems.add(PLAN, "is no UTF-8 text of a plan", "prepare the exams again")
    except json.JSONDecodeError as error:
        problems.add(PLAN, f"is not valid JSON at line {error.lineno}, column {error.colno}", "correct it there")
    else:
        if isinstance(values, dict):
            return values
        problems.add(PLAN, "is no plan", 'write {"size": ..., "spacing": ..., "sequences": ...}')
    return {}


def _near(one: Sequence[float], other: Sequence[float]) -> bool:
    return np.allclose(one, other, rtol=0, atol=SPACING_TOLERANCE)


def _are_sequences(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(value.count(one) == 1 and one in SEQUENCES for one in value)


def _are_tokens(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0)


_RULES = {
    "size": is_size,
    "spacing": is_spacing,
    "sequences": _are_sequences,
    "max_tokens": _are_tokens,
    "found": lambda value: isinstance(value, dict),
}
_WANTED = {
    "size": f"give three whole numbers that {FACTOR} divides, e.g. [256, 256, 128]",
    "spacing": "give three positive numbers in mm, e.g. [0.5, 0.5, 0.5625]",
    "sequences": f"give a list of different ones of {', '.join(SEQUENCES)}",
    "max_tokens": "give a whole number of at least 1, or null",
    "found": "leave it as it was written, or take it out",
}
