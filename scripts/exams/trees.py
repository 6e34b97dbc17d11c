"""Where exams lie below the folder of images: one folder an exam, or one folder a patient with one a study."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from scripts.common.problems import UserError

TREES = ("exam", "patient/study")


def check_tree(tree: str) -> None:
    """Make sure that a tree is known.

    Raises:
        UserError: it is not.
    """
    if tree not in TREES:
        raise UserError(f"--tree {tree} is unknown; choose {' or '.join(TREES)}")


def exam_folders(images_dir: Path, output: Path, tree: str) -> dict[str, Path]:
    """The exams' names and folders; a study's name is `<patient>_<study>`, since a data root has one folder an exam.

    Raises:
        UserError: two studies have one name, or a folder may not be read.
    """
    exams = {path.name: path for path in _folders(images_dir, output)}
    if tree == "exam":
        return exams
    studies = [
        (exam_name(f"{path.name}/{study.name}", tree), study) for path in exams.values() for study in _folders(path)
    ]
    names = [name for name, _ in studies]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"the folders of two studies make one name, {twice[0]}; name one of the patients otherwise")
    return dict(studies)


def exam_name(cell: Any, tree: str) -> Any:
    """The exam's name out of a table's cell: with studies, `<patient>/<study>` becomes `<patient>_<study>`."""
    if tree == "exam" or patient_folder(cell) is None:
        return cell
    return cell.strip().replace("/", "_")


def patient_folder(cell: Any) -> str | None:
    """The patient out of a cell `<patient>/<study>`; None where it is none."""
    parts = cell.strip().split("/") if isinstance(cell, str) else []
    return parts[0] if len(parts) == 2 and all(part.strip(". ") for part in parts) else None


def _folders(root: Path, output: Path | None = None) -> list[Path]:
    output = output and output.resolve()
    try:
        with os.scandir(root) as entries:
            folders = [Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(f"{root} cannot be read: {error.strerror}; give yourself the right") from None
    return sorted(path for path in folders if path.resolve() != output)
