"""What inference is asked about: the test cases, a datalist, or any folder of volumes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scripts.classifier.cases import check_channels, read_test
from scripts.classifier.centre import add_centres
from scripts.classifier.predictions import UNLABELLED
from scripts.common.problems import Problems, UserError
from scripts.data.datalists import Case, check_headers, is_positive, patient_of, read_datalist

ENDINGS = (".nii.gz", ".nii")


def read_input(
    source: str | os.PathLike[str],
    dataset_dir: str | os.PathLike[str],
    *,
    channels: Sequence[str] = ("axt2",),
    centre: str = "foreground",
    skip_unlabelled: bool = False,
) -> list[Case]:
    """The cases to predict.

    Args:
        source: a folder of volumes; a datalist (.json) whose paths start from its folder; empty for the test cases of
            `dataset_dir`.
        dataset_dir: a data root; read where `source` is empty.
        channels: sequences that every case must have.
        centre: see `add_centres`.
        skip_unlabelled: leave out test cases without a label; elsewhere labels are not needed.

    Returns:
        Cases as of `read_real`; `label` is `UNLABELLED` where there is none.

    Raises:
        UserError: everything that is wrong; there is no case.
    """
    channels = check_channels(channels)
    if not str(source):
        return read_test(dataset_dir, channels=channels, centre=centre, skip_unlabelled=skip_unlabelled)
    path = Path(source)
    if path.is_dir():
        entries: list[dict[str, Any]] = [{}] * len(cases := folder_cases(path, channels))
        _check_images(cases)
    elif path.suffix == ".json":
        entries = read_datalist(path, path.parent, keys=channels)
        cases = [_listed(entry, channels) for entry in entries]
    else:
        raise UserError(f"input {str(path)!r} is no folder of volumes and no datalist (.json)")
    if not cases:
        raise UserError(f"{path}: holds no case")
    add_centres(cases, entries, centre)
    return cases


def folder_cases(root: Path, channels: Sequence[str]) -> list[Case]:
    """The cases of a folder of volumes at any depth, named after where they lie.

    Folders that hold `<channel>.nii.gz` (or .nii) are a case each, as a data root and the generator's output have them;
    in a folder without any of them every volume is a case, which one channel alone can be.

    Raises:
        UserError: channels are missing, or volumes do not say which they are.
    """
    volumes = sorted(path for path in root.rglob("*") if path.name.endswith(ENDINGS) and path.is_file())
    named = {path.parent for path in volumes if _without_ending(path.name) in channels}
    problems, cases = Problems(str(root)), []
    for folder in sorted(named):
        images = {channel: _find(folder, channel) for channel in channels}
        for channel in (channel for channel, image in images.items() if image is None):
            problems.add(
                str(folder.relative_to(root)), f"{channel}.nii.gz is missing", "add it, or give other channels"
            )
        name = root.name if folder == root else folder.relative_to(root).as_posix()
        cases.append(_unlabelled(name, {channel: str(image) for channel, image in images.items()}))
    problems.raise_if_any()
    if cases or not volumes:
        return cases
    if len(channels) > 1:
        names = ", ".join(f"{channel}.nii.gz" for channel in channels)
        raise UserError(f"{root}: volumes do not say which sequence they are; give a folder a case that holds {names}")
    cases = [
        _unlabelled(_without_ending(path.relative_to(root).as_posix()), {channels[0]: str(path)}) for path in volumes
    ]
    names = [case["folder"] for case in cases]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{root}: {', '.join(twice)} is there as .nii and as .nii.gz; keep one")
    return cases


def _check_images(cases: Sequence[Case]) -> None:
    """The sequences of a case lie on one grid; cases may differ, since all are resampled."""
    problems = Problems("volumes")
    for case in cases:
        check_headers([case | {"spacing": None}], problems)
    problems.raise_if_any()


def _listed(entry: Case, channels: Sequence[str]) -> Case:
    images = {channel: entry[channel] for channel in channels}
    return {
        "folder": entry["folder"], "patient": patient_of(entry), **images, "label": np.array([int(is_positive(entry))])
    }  # fmt: skip


def _unlabelled(name: str, images: dict[str, str]) -> Case:
    return {"folder": name, "patient": name, **images, "label": np.array([UNLABELLED])}


def _find(folder: Path, channel: str) -> Path | None:
    return next((path for ending in ENDINGS if (path := folder / f"{channel}{ending}").is_file()), None)


def _without_ending(name: str) -> str:
    return next(name.removesuffix(ending) for ending in ENDINGS if name.endswith(ending))
