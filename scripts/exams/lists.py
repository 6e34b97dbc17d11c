"""What a data root says of its exams: the datalists and the clinical sheet, and what an earlier run has left there."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from scripts.data.clinical import write_clinical
from scripts.data.datalists import SEQUENCES, Case, write_datalist
from scripts.data.tables import some
from scripts.exams.exam import Exam
from scripts.exams.finished import RECORD

logger = logging.getLogger(__name__)


def withdraw(output: Path, exams: Sequence[Exam], remove: bool) -> None:
    """Tell of images of an earlier run that this one does not write, or remove them."""
    kept = {output / exam.folder / f"{key}.nii.gz" for exam in exams for key in exam.images}
    left = [path for key in SEQUENCES for path in output.glob(f"*/{key}.nii.gz") if path not in kept]
    if not left:
        return
    names = some(sorted({path.parent.name for path in left}))
    if not remove:
        what = "images of an earlier run that the table does not have any more are still in"
        logger.warning("%s %s: %s; --remove_withdrawn removes them", what, output, names)
        return
    names_kept = {exam.folder for exam in exams}
    for path in left:
        path.unlink()
        if path.parent.name not in names_kept:
            (path.parent / RECORD).unlink(missing_ok=True)
        if not any(path.parent.iterdir()):
            path.parent.rmdir()
    what = "removed the images that the table does not have any more"
    logger.warning("%s: %s; latents, embeddings and weights made of them are not here and stay", what, names)


def write_lists(output: Path, lists: Mapping[str, Sequence[Case]], exams: Mapping[str, Exam]) -> None:
    """Write the clinical sheet, then `test.json`, and `train.json` last."""
    rows = []
    for name, cases in lists.items():
        for exam in (exams[case["folder"]] for case in cases):
            pirads = None if exam.pirads is None else int(exam.pirads >= 3)
            isup = None if exam.isup is None else int(exam.isup >= 2)
            rows.append({"folder": exam.folder, "PosPIRADS": pirads, "PosISUP": isup, "Label": name})
            if exam.patient:
                rows[-1]["patient"] = exam.patient
    write_clinical(output / "clinical.xlsx", pd.DataFrame(rows))
    for name in reversed(lists):
        write_datalist(output / f"{name}.json", lists[name])
