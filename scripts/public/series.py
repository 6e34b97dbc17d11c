"""DICOM series as The Cancer Imaging Archive's tools lay them out, one folder a series, told by the headers."""

from __future__ import annotations

import os
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from scripts.common.problems import UserError
from scripts.dicom.headers import has_pydicom, pydicom, quietly
from scripts.public.tables import check_folder

TAGS = ("SeriesInstanceUID", "StudyInstanceUID", "PatientID", "Modality", "SeriesNumber", "SeriesDescription")


class Series(NamedTuple):
    """One series; of its files only the first is looked into."""

    uid: str
    study: str
    patient: str
    modality: str
    number: int
    description: str
    files: tuple[Path, ...]


def read_series(root: str | os.PathLike[str]) -> dict[str, Series]:
    """The series below a folder by their UID.

    Raises:
        UserError: it is no folder, pydicom is not installed, or there is no series.
    """
    if not has_pydicom:
        raise UserError('DICOM needs pydicom, which is not installed; run: pip install ".[readers]"')
    check_folder("images_dir", root)
    found: dict[str, Series] = {}
    for folder, _, names in tqdm(sorted(os.walk(root)), "series", disable=None):
        files = tuple(Path(folder) / name for name in sorted(names) if name.lower().endswith(".dcm"))
        if files and (one := _series(files)):
            found.setdefault(one.uid, one)
    if not found:
        raise UserError(f"--images_dir {root} holds no DICOM series (.dcm); give the folder of the download")
    return found


def _series(files: tuple[Path, ...]) -> Series | None:
    try:
        with quietly():
            header = pydicom.dcmread(files[0], stop_before_pixels=True, specific_tags=list(TAGS))
            uid, study, patient, modality, number, description = (str(header.get(tag, "")).strip() for tag in TAGS)
        return Series(uid, study, patient, modality, int(number or 0), description, files)
    except Exception:  # pydicom raises whatever the broken bytes lead it to; an exam that needs it will miss it
        return None


def latest(series: list[Series], pattern: str) -> Series | None:
    """Of the series whose description fits the pattern the last one: what was taken twice was not good at first."""
    fitting = [one for one in series if fnmatch(one.description.lower(), pattern.lower())]
    return max(fitting, key=lambda one: one.number, default=None)
