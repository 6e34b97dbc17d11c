"""One exam onto the grid and into the data root, and the record by which a later run knows that it is finished.

The record, `<exam>/prepared.json`, is written last. It holds what the images tell, what they were made from, and when
each of them was written: it counts while all of that is still so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor

from scripts.common.files import atomic
from scripts.common.problems import ImageError, Problems, UserError
from scripts.data.grid import resample
from scripts.data.nifti import save_int16
from scripts.exams.check import Seen, Target, affine_of, check_images
from scripts.exams.exam import Exam
from scripts.exams.pictures import contact
from scripts.exams.plausible import ADC_UNIT, LIKE_DWI, correlation

RECORD = "prepared.json"
WAY = 1  # of making images out of sources; raised when the same sources give other images
PERCENTILES = (1, 50, 99)

Looked = tuple[Seen, list[tuple[str, str, str]], bool]  # what is seen, the problems, and whether the exam is finished


def look(exam: Exam, target: Target) -> Looked:
    """What an exam's images tell, all problems with them, and whether an earlier run has finished it."""
    seen = read_record(exam, target)
    if seen is not None:
        return seen, [], True
    problems = Problems(exam.folder)
    return check_images(exam, target, problems), problems.rows, False


def finish(job: tuple[Exam, Seen], target: Target) -> Seen:
    """Write an exam's images and its record; give what they tell, with what the grid shows of it.

    Raises:
        UserError: an image cannot be read any more, or not be written.
    """
    exam, seen = job
    folder = target.output / exam.folder
    made_from = _made_from(exam, target)
    try:
        volumes = dict(_resampled(exam, target, seen.adc_unit))
    except ImageError as error:
        raise UserError(f"{exam.folder}: an image {error.what}, and did not when it was checked") from None
    arrays = {key: volume[0].numpy() for key, volume in volumes.items()}
    for key, array in arrays.items():
        save_int16(folder / f"{key}.nii.gz", array, volumes[key].affine.numpy())
    seen = replace(
        seen,
        notes=[*seen.notes, *_like_dwi(volumes)],
        levels={key: _levels(array) for key, array in arrays.items()},
        picture=contact(arrays, target.grid.spacing),
    )
    record = {"made_from": made_from, "written": _written(folder, arrays), "seen": asdict(seen)}
    with atomic(folder / RECORD) as temporary:
        temporary.write_text(json.dumps(record) + "\n", encoding="utf-8")
    return seen


def read_record(exam: Exam, target: Target) -> Seen | None:
    """What a finished exam's images tell; None where it is not, or sources, settings or images have changed."""
    folder = target.output / exam.folder
    with suppress(OSError, ValueError, KeyError, TypeError):
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if record["made_from"] == _made_from(exam, target) and record["written"] == _written(folder, exam.images):
            return Seen(**record["seen"])
    return None


def _written(folder: Path, keys: Mapping[str, object]) -> dict[str, list[int]]:
    """Size and time of each image."""
    stats = {key: (folder / f"{key}.nii.gz").stat() for key in sorted(keys)}
    return {key: [stat.st_size, stat.st_mtime_ns] for key, stat in stats.items()}


def _made_from(exam: Exam, target: Target) -> str:
    """Changes with the exam's files, by name, size and time, with the choice among them, and with every setting."""
    files = []
    for path in sorted(exam.place.rglob("*")):
        if path.is_file():
            stat = path.stat()
            files.append([str(path.relative_to(exam.place)), stat.st_size, stat.st_mtime_ns])
    images = {key: [str(source.path.relative_to(exam.place)), source.options] for key, source in exam.images.items()}
    grid = [target.grid.size, target.grid.spacing]
    settings = [WAY, grid, exam.centre, target.any_plane, target.unit_of(exam)]
    told = [source.told for source in exam.images.values()]
    return sha256(json.dumps([files, images, told, settings], sort_keys=True).encode()).hexdigest()[:32]


def _resampled(exam: Exam, target: Target, adc_unit: float | None) -> Iterator[tuple[str, MetaTensor]]:
    """Every image of an exam on the grid, adc in 1e-6 mm²/s; the others keep their scanner's units."""
    axt2 = exam.read("axt2")
    affine = affine_of(exam, target.grid, axt2)
    for key in exam.images:
        volume = resample(axt2 if key == "axt2" else exam.read(key), target.grid, affine)
        if key == "adc":
            volume = torch.round(volume * (adc_unit / ADC_UNIT)).clamp(0, np.iinfo(np.int16).max)
        yield key, volume


def _levels(array: np.ndarray) -> list[float]:
    values = array[array != 0]
    return [float(f"{level:.4g}") for level in np.percentile(values if values.size else [0.0], PERCENTILES)]


def _like_dwi(volumes: Mapping[str, MetaTensor]) -> list[str]:
    """What to tell of an ADC map on the grid that is bright where the DWI is, as only another DWI is."""
    if not {"adc", "b1600"} <= volumes.keys():
        return []
    adc, dwi = (volumes[key].as_tensor() for key in ("adc", "b1600"))
    alike = correlation(adc, dwi, (adc > 0) & (dwi > 0))
    told = f"the ADC map is bright where the DWI is (correlation {alike:.2f}): is it a DWI?"
    return [told] if alike > LIKE_DWI else []
