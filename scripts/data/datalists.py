"""Datalists: the cases of a data root, read with every problem told at once, and written."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from scripts.common.files import atomic, inside
from scripts.common.problems import Problems, collected
from scripts.data.grid import FACTOR, SPACING_TOLERANCE, by, read_grid
from scripts.data.names import alike, is_folder_name, is_word, shown

SEQUENCES = ("axt2", "b1600", "adc")
Case = dict[str, Any]


def one_hot(positive: bool) -> list[int]:
    """The class as `[negative, positive]`."""
    return [0, 1] if positive else [1, 0]


def is_positive(case: Mapping[str, Any]) -> bool:
    """Whether a case of a datalist is PI-RADS 3-5."""
    return case["pirads"] == [0, 1]


def patient_of(case: Mapping[str, Any]) -> str:
    """The patient whom a case belongs to."""
    return case.get("patient") or case["folder"]


def read_datalist(
    path: str | os.PathLike[str],
    root: str | os.PathLike[str],
    *,
    keys: Sequence[str] = ("axt2",),
    check_files: bool = True,
    problems: Problems | None = None,
) -> list[Case]:
    """Read and check a datalist; image paths come back absolute, inside `root`.

    Args:
        path: the JSON file; a relative path is taken as it is, not from `root`.
        root: the folder that image paths start from and must not leave.
        keys: the image keys that every case must have; other image keys are checked where they are present.
        check_files: look at every image's header (`check_headers`).
        problems: where to note problems instead of raising them.

    Returns:
        The cases that could be read; `folder` is text, `pirads` a list of two ints, `spacing` of three floats (mm),
        `text` is text and `text_isnull` 0 or 1.
        An empty datalist is allowed.

    Raises:
        UserError: every problem of every case, when `problems` is not given.
    """
    path = Path(path)
    with collected(problems, str(path)) as noted:
        cases = []
        for index, entry in enumerate(_json_list(path, noted)):
            case = _check_entry(entry, f"{path.name}[{index}]", Path(root), keys, noted)
            if case is not None:
                cases.append(case)
        if check_files:
            check_headers(cases, noted)
        for folder, count in Counter(case["folder"] for case in cases).items():
            if count > 1:
                noted.add(folder, f"is listed {count} times in {path.name}", "keep one entry")
    return cases


def _json_list(path: Path, problems: Problems) -> list[Any]:
    try:
        # The parser's own message may quote the file, which holds report text: only the position is told.
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        problems.add(path.name, f"cannot be read: {error.strerror}", f"put the datalist at {path}")
    except UnicodeDecodeError:
        problems.add(path.name, "is not UTF-8 text", "save it as UTF-8")
    except json.JSONDecodeError as error:
        problems.add(path.name, f"is not valid JSON at line {error.lineno}, column {error.colno}", "correct it there")
    except RecursionError:
        problems.add(path.name, "is nested too deeply for a list of cases", "write [{...}, {...}]")
    else:
        if isinstance(data, list):
            return data
        problems.add(path.name, "is not a list of cases", "write [{...}, {...}]")
    return []


def _check_entry(entry: Any, place: str, root: Path, keys: Sequence[str], problems: Problems) -> Case | None:
    """The checked case, or None where it is too broken to be looked at further."""
    if not isinstance(entry, dict):
        problems.add(place, "is not a case", 'write {"folder": ..., "axt2": ...}')
        return None
    folder = entry.get("folder")
    if not is_folder_name(folder):
        problems.add(place, f"folder {shown(folder)} is not a plain name", 'give it in quotes, without "/" or ".."')
        return None
    if not is_word(folder) and not (root / folder).is_dir():  # from here on messages and files carry the name
        problems.add(place, f"folder {shown(folder)} is not in {root}", "correct it, or give it a name of one word")
        return None
    case = dict(entry)
    for key in dict.fromkeys([*keys, *(key for key in SEQUENCES if key in entry)]):
        case[key] = _image_path(entry.get(key), key, folder, root, problems)
    case["pirads"] = _one_hot_of(entry.get("pirads"), folder, problems)
    case["spacing"] = _spacing_of(entry.get("spacing"), folder, problems)
    if not isinstance(entry.get("text"), str):
        problems.add(folder, "text is missing or not text", 'write "" for an absent report')
        case["text"] = ""
    if entry.get("text_isnull") not in (0, 1):
        problems.add(folder, "text_isnull is not 0 or 1", "write 1 for an absent report, else 0")
        case["text_isnull"] = 1
    if not isinstance(entry.get("patient", ""), str):
        problems.add(folder, "patient is not text", "give it in quotes")
        del case["patient"]
    return case


def _image_path(value: Any, key: str, folder: str, root: Path, problems: Problems) -> str:
    if not isinstance(value, str) or not value:
        problems.add(folder, f"has no image {key}", f'add "{key}": "./{folder}/{key}.nii.gz"')
        return ""
    if not value.endswith((".nii", ".nii.gz")):
        problems.add(folder, f"{key} is {shown(value)}, not the path of a NIfTI image", "write it with .nii.gz")
        return ""
    try:
        return str(inside(root, value))
    except ValueError as error:
        problems.add(folder, f"{key}: {error}")
        return ""


def _one_hot_of(value: Any, folder: str, problems: Problems) -> list[int]:
    if value not in ([0, 1], [1, 0]):
        problems.add(folder, f"pirads is {shown(value)}, not one-hot", "write [1, 0] for PI-RADS 1-2, [0, 1] for 3-5")
        return []
    return [int(number) for number in value]


def _spacing_of(value: Any, folder: str, problems: Problems) -> list[float]:
    if is_spacing(value):
        return [float(number) for number in value]
    problems.add(folder, f"spacing is {shown(value)}", "give three positive numbers in mm")
    return []


def is_size(value: Any) -> bool:
    """Whether `value` is three whole numbers of voxels that the VAE's factor divides."""
    return is_spacing(value) and all(n == int(n) and n % FACTOR == 0 for n in value)


def is_spacing(value: Any) -> bool:
    """Whether `value` is three positive, finite numbers."""
    return (
        isinstance(value, (list, tuple))
        and len(value) == 3
        and all(isinstance(n, (int, float)) and not isinstance(n, bool) and math.isfinite(n) and n > 0 for n in value)
    )


def check_headers(cases: Sequence[Case], problems: Problems, factor: int = 1) -> None:
    """Note what the headers of all images tell; the voxels are checked where they are read.

    Every image is there, readable, 3D, of the declared spacing and of a size that `factor` divides; the images of a
    case lie on one grid; all cases have one size.
    """
    sizes = {}
    for case in cases:
        grids = [grid for key in SEQUENCES if case.get(key) and (grid := _check_header(case, key, factor, problems))]
        if any(size != grids[0][1] or not np.allclose(affine, grids[0][0], atol=1e-3) for affine, size in grids):
            problems.add(case["folder"], "its sequences lie on different grids", "resample them onto one")
        elif grids:
            sizes[case["folder"]] = grids[0][1]
    usual = Counter(sizes.values()).most_common(1)
    for folder, size in sizes.items():
        if size != usual[0][0]:
            what = f"has size {by(size)}, the others {by(usual[0][0])}"
            problems.add(folder, what, "resample all exams onto one grid (python -m scripts.prepare)")


def _check_header(case: Case, key: str, factor: int, problems: Problems) -> tuple[np.ndarray, tuple[int, ...]] | None:
    """The grid of one image as `read_grid` gives it, or None where there is none."""
    path = Path(case[key])
    name = f"{key} ({path.name})"
    if not path.is_file():
        problems.add(case["folder"], f"{name} is missing", f"put it at {path}")
        return None
    try:
        affine, size = read_grid(path)
    except ValueError as error:
        problems.add(case["folder"], f"{name} {error}", "write or copy the file again")
        return None
    spacing = nib.affines.voxel_sizes(affine)
    if case["spacing"] and not np.allclose(spacing, case["spacing"], rtol=0, atol=SPACING_TOLERANCE):
        what = f"{name} has spacing {by(spacing.round(4))} mm, declared is {by(case['spacing'])}"
        problems.add(case["folder"], what, "resample the image or correct the datalist")
    if any(n % factor for n in size):
        what = f"{name} has size {by(size)}, not divisible by {factor}"
        problems.add(case["folder"], what, "crop or pad it to such a size")
    return affine, size


def write_datalist(path: str | os.PathLike[str], cases: Sequence[Mapping[str, Any]]) -> None:
    """Write a datalist, one case a line; the same cases give the same bytes."""
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    with atomic(path) as part:
        part.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def check_split(
    train: Sequence[Mapping[str, Any]], test: Sequence[Mapping[str, Any]], *, problems: Problems | None = None
) -> None:
    """Make sure that no patient and no folder is in both lists.

    Raises:
        UserError: some are, when `problems` is not given.
    """
    with collected(problems, "train and test") as noted:
        shared_folders = {case["folder"] for case in train} & {case["folder"] for case in test}
        for folder in sorted(shared_folders):
            noted.add(folder, "is in both train and test", "take it out of one of them")
        in_test = {alike(patient_of(case)): patient_of(case) for case in test}
        in_train = {alike(patient_of(case)): case for case in train}
        for key in sorted(in_test.keys() & in_train.keys()):
            case, other = in_train[key], in_test[key]
            patient = patient_of(case)
            if patient == other and patient in shared_folders:
                continue
            name = patient if is_word(patient) else f"of {case['folder']}"
            spelled = "" if other == patient else f", there written {shown(other)}"
            noted.add(f"patient {name}", f"has exams in both train and test{spelled}", "move all of them into one list")
