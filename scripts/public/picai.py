"""PI-CAI's public training data: images of Zenodo, marksheet and masks of github.com/DIAGNijmegen/picai_labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from scripts.common.problems import Problems, UserError
from scripts.data.tables import cell_name
from scripts.public.exams import Focus, PublicExam
from scripts.public.masks import Prostate, foci, read_labels
from scripts.public.tables import check_folder, check_options, gather, number, read_columns, write_exams

SEQUENCES = ("t2w", "adc", "hbv")
COLUMNS = ("patient_id", "study_id", "patient_age", "psa", "prostate_volume", "case_ISUP", "case_csPCa", "center")
# Where masks lie below labels_dir; the first place that has an exam's counts.
LESIONS = tuple(f"csPCa_lesion_delineations/human_expert/{name}" for name in ("resampled", "Pooch25"))
GLANDS = tuple(f"anatomical_delineations/whole_gland/AI/{name}" for name in ("Bosma22b", "Guerbet23", ""))
ZONES = tuple(f"anatomical_delineations/zonal_pz_tz/AI/{name}" for name in ("HeviAI23", "Yuan23", "BDay23"))
NOT_SHOWN, NOT_KNOWN = "of which no mask shows the cancer", "of which a mask shows a cancer that the marksheet denies"


def picai(
    images_dir: str,
    labels_dir: str,
    output_dir: str,
    *,
    marksheet: str | None = None,
    test_centres: Sequence[str] | None = None,
    wordings: int = 3,
    seed: int = 0,
) -> None:
    """PI-CAI: findings from the lesions' and zones' masks, reports of them, and the table that `prepare` takes.

    A lesion is what is delineated there: cancer of ISUP 2 or more. Exams of which no mask shows the cancer that the
    marksheet knows are left out.

    Args:
        images_dir: the folder with the unpacked folds: <patient>_<study>_t2w.mha, _adc.mha and _hbv.mha, at any depth.
        labels_dir: picai_labels.
        output_dir: the folder to write exams.csv, images/, cases.csv and lesions.csv into.
        marksheet: by default clinical_information/marksheet.csv of picai_labels.
        test_centres: centres that test, e.g. ZGT, while all others train; without it `prepare` splits by patient.
        wordings: reports of each exam.
        seed: of their wording.

    Raises:
        UserError: everything that is wrong with options, tables and masks.
    """
    check_options(wordings, seed)
    check_folder("images_dir", images_dir)
    check_folder("labels_dir", labels_dir)
    labels = Path(labels_dir)
    table = read_columns(marksheet or labels / "clinical_information" / "marksheet.csv", COLUMNS)
    images = {path.name.removesuffix("_t2w.mha"): path for path in sorted(Path(images_dir).rglob("*_t2w.mha"))}
    rows = [(f"{cell_name(row['patient_id'])}_{cell_name(row['study_id'])}", row) for row in table.to_dict("records")]
    exams, left_out = gather("picai", rows, partial(_exam, images=images, labels=labels))
    left_out["that the marksheet does not know"] += images.keys() - {folder for folder, _ in rows}
    write_exams(exams, output_dir, test_centres=test_centres, wordings=wordings, seed=seed, left_out=left_out)


def _exam(
    folder: str, row: Mapping[str, Any], problems: Problems, *, images: Mapping[str, Path], labels: Path
) -> PublicExam | str:
    """One exam, or why it is left out."""
    if (t2w := images.get(folder)) is None:
        return "whose images are not there"
    files = {f"{name}.mha": [t2w.with_name(f"{folder}_{name}.mha")] for name in SEQUENCES}
    for (file,) in files.values():
        if not file.is_file():
            problems.add(folder, f"{file.name} is missing", f"put it beside {t2w.name}")
    age, psa, volume, grade = (number(row[name], name, folder, problems) for name in COLUMNS[2:6])
    significant = {"YES": True, "NO": False}.get(str(row["case_csPCa"]).strip().upper())
    if significant is None:
        raise UserError("case_csPCa is neither YES nor NO; give the marksheet as it was downloaded")
    grade = int(grade) if grade is not None else 2 if significant else 0
    prostate, lesions = _masks(labels, folder, grade)
    if bool(lesions) != significant:
        return NOT_SHOWN if significant else NOT_KNOWN
    return PublicExam(
        folder=folder,
        patient=cell_name(row["patient_id"]),
        centre=str(row["center"] or "unknown"),
        images=files,
        foci=lesions,
        isup=grade,
        gland_ml=round(prostate.millilitres, 1) if prostate else volume,
        gland_mm=prostate and prostate.size_mm,
        gland_centre=prostate and prostate.centre_mm,
        psa=psa,
        age=None if age is None else int(age),
    )


def _masks(labels: Path, folder: str, grade: int) -> tuple[Prostate | None, tuple[Focus, ...]]:
    """The prostate, None where there is no mask of it, and the lesions with the grades that the mask gives them.

    A mask of 1 tells no grade: the only lesion of an exam has that of the exam.
    """

    def find(places: Sequence[str]) -> Path | None:
        return next((path for place in places if (path := labels / place / f"{folder}.nii.gz").is_file()), None)

    zones_file, gland_file, lesions_file = find(ZONES), find(GLANDS), find(LESIONS)
    gland_file = gland_file or zones_file
    gland = read_labels(gland_file) if gland_file else None
    zones = read_labels(zones_file, like=gland) if zones_file else None
    prostate = Prostate(gland, zones) if gland and gland.voxels.any() else None
    found = foci(read_labels(lesions_file, like=gland), prostate) if lesions_file else []
    alone = grade if len(found) == 1 and grade >= 2 else None
    return prostate, tuple(replace(one, isup=one.isup if one.isup in range(2, 6) else alone) for one in found)
