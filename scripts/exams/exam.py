"""An exam as its row of the table describes it, with the images that belong to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.data import MetaTensor

from scripts.common.problems import Problems
from scripts.data.datalists import SEQUENCES, Case, one_hot
from scripts.data.grid import Grid
from scripts.data.names import shown
from scripts.data.readers import read_volume
from scripts.data.tables import cell_name
from scripts.exams.plausible import UNITS_IN_WORDS, read_unit
from scripts.exams.roster import grade
from scripts.exams.sources import Finder, Source

LISTED = ("train", "test")
NAMES = {"axt2": "T2w", "adc": "ADC map", "b1600": "DWI"}


@dataclass
class Exam:
    """One row of the table with the images that belong to it."""

    folder: str
    place: Path | None  # the folder that its images lie in
    patient: str | None
    report: str
    pirads: int | None  # 1 to 5
    isup: int | None  # 0 to 5
    centre: tuple[float, ...] | None  # RAS world, mm
    adc_unit: float | None  # mm²/s of a grey level, as the table says
    images: dict[str, Source]
    institute: str
    listed: str | None  # train or test, where the table says it

    def read(self, key: str) -> MetaTensor:
        """One of its images, (1, X, Y, Z)."""
        source = self.images[key]
        return read_volume(source.path, **source.options)

    @property
    def positive(self) -> bool:
        """PI-RADS 3 or more; without PI-RADS, ISUP 2 or more."""
        return self.pirads >= 3 if self.pirads is not None else self.isup >= 2

    @property
    def whose(self) -> dict[str, str]:
        """Folder and patient, as a datalist's case has them."""
        return {"folder": self.folder, **({"patient": self.patient} if self.patient else {})}

    def case(self, grid: Grid) -> Case:
        """The exam as a datalist has it."""
        absent = not self.report.strip()
        return {
            **{key: f"./{self.folder}/{key}.nii.gz" for key in SEQUENCES if key in self.images},
            "dataset": self.institute,
            **self.whose,
            "pirads": one_hot(self.positive),
            "spacing": list(grid.spacing),
            "text": "" if absent else self.report,
            "text_isnull": int(absent),
        }


def read_exam(row: Mapping[str, Any], finder: Finder, world: str, institute: str, problems: Problems) -> Exam:
    """The exam of a row; what is wrong with it is noted.

    Args:
        row: of `roster.match`.
        finder: of its images.
        world: of the centre's coordinates, ras or lps.
        institute: where the table has no column of them.
        problems: where to note what is wrong.
    """
    case = row["case"]
    images = finder.images(case, problems) if row["found"] else {}
    pirads, isup = (grade(row, name, low, problems) for name, low in (("pirads", 1), ("isup", 0)))
    if row["pirads"] is None and row["isup"] is None:
        problems.add(case, "has neither PI-RADS nor ISUP", "fill one of them or take the row out")
    if row["has_split"] and row["split"] not in LISTED:
        problems.add(case, f"the split is {shown(row['split'])}", "write train or test")
    if row["has_institute"]:
        institute = cell_name(row["institute"])
        if not institute:
            problems.add(case, f"the institute is {shown(row['institute'])}", "write its name as text")
    unit = None if row["adc_unit"] is None else read_unit(row["adc_unit"])
    if row["adc_unit"] is not None and unit is None:
        problems.add(case, f"the unit of the ADC map is {shown(row['adc_unit'])}", f"write {UNITS_IN_WORDS}")
    return Exam(
        folder=case,
        place=finder.folders.get(case),
        patient=cell_name(row["patient"]),
        report="" if row["report"] is None else str(row["report"]),
        pirads=pirads,
        isup=isup,
        centre=_centre(row, case, world, problems),
        adc_unit=unit,
        images=images,
        institute=str(institute),
        listed=row["split"],
    )


def _centre(row: Mapping[str, Any], case: str, world: str, problems: Problems) -> tuple[float, ...] | None:
    if not row["has_centre"]:
        return None
    try:
        x, y, z = (float(row[axis]) for axis in "xyz")
    except (TypeError, ValueError):
        problems.add(case, "the centre is not three numbers", "write x, y and z in mm")
        return None
    return (-x, -y, z) if world == "lps" else (x, y, z)
