"""The study's page: what was asked, the arms with intervals and in words, the curve, and what fooled a classifier."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from scripts.classifier.arms import Arm, conclusions
from scripts.data.datalists import SEQUENCES
from scripts.data.images import load_volume
from scripts.data.montage import montage
from scripts.data.outputs import find_records
from scripts.data.page import Page, Section
from scripts.evaluation.adherence import PARTS
from scripts.evaluation.class_metrics import Figure, as_text
from scripts.evaluation.generated import REAL as ANALYSER
from scripts.evaluation.paired import Answers
from scripts.showcase.study.classifiers import REAL, Training
from scripts.showcase.study.generators import FIRST, Generator, planned_generators
from scripts.showcase.study.pictures import draw_curve, draw_fooled, draw_forest, draw_rocs
from scripts.showcase.study.results import (
    answers_of,
    areas,
    arms_table,
    best_arm,
    ceiling,
    curve,
    fooled,
    has_learnt,
    read_group,
)
from scripts.showcase.study.sizes import GENERATED, STUDIED, Size

SHOWN = 6  # generated test cases on the page
FOOLED = 3  # cases of either class that a classifier was surest and wrong about
READABLE = {
    "mae": "MAE", "psnr": "PSNR (dB)", "ssim": "SSIM", "ppv": "PPV", "npv": "NPV",
    "roc_auc": "ROC AUC", "average_precision": "average precision",
    "frechet": "Fréchet distance", "kernel": "kernel distance",
    "presence": "lesion or none", "all": "everything",
    "diameter_error_mm": "diameter error (mm)", "gland_error_ml": "gland error (mL)",
    "nodule_contrast": "nodule contrast",
    **{f"lesion_signal_{name}": f"lesion's signal, {name}" for name in SEQUENCES},
}  # fmt: skip
LESION_SIGNAL = f"lesion_signal_{STUDIED[0]}"  # whether lesions are drawn where classifiers look
FIGURES = ["trained on", "n", "seeds", "roc_auc", "average_precision", "accuracy", "sensitivity", "specificity"]
TESTS = [
    "trained on", "AUC difference", "AUC p (DeLong)", "AUC p corrected (Holm)",
    "accuracy difference", "accuracy p (McNemar)", "accuracy p corrected (Holm)",
]  # fmt: skip


def write_page(folder: Path, size: Size, left_out: Sequence[Training], seconds: Mapping[str, float]) -> None:
    """Write `index.html` from what the stages left, and the tables beside it as CSV.

    Args:
        folder: of the study.
        size: of the study.
        left_out: classifiers that were not trained, since all they would have seen was of one class.
        seconds: that each stage took.
    """
    regime = size.regime
    page = Page(
        "What synthetic volumes are worth: a study on the prostate phantom",
        f"{regime.patients} real training patients and {size.tests} test patients of one institution, phantoms of "
        f"difficulty {regime.difficulty:g}. Volumes are generated in {', '.join(GENERATED)}; classifiers see "
        f"{', '.join(STUDIED)} alone. VAE and text encoder are the shipped ones, which have seen other phantoms; "
        "generators and classifiers were trained here. Figures in brackets are 95 % intervals.",
    )
    answers = answers_of(folder, FIRST)
    _generators(folder, size, page)
    _arms(folder, size, page, answers, left_out)
    _curve(folder, size, page)
    _fooled(folder, page, answers)
    _volumes(folder, size, page)
    page.section("Minutes for each stage").table(
        pd.DataFrame({"stage": list(seconds), "minutes": [round(value / 60, 1) for value in seconds.values()]})
    )
    page.write(folder / "index.html")


def _generators(folder: Path, size: Size, page: Page) -> None:
    """What each generator learnt from, and whether its volumes show what test reports say."""
    regime, planned = size.regime, planned_generators(size)
    section = page.section("The generators: do their volumes show what test reports say?")
    told = (
        f"From nothing: trained for about {size.ldm_steps:,} steps of {regime.batch} cases on the {regime.patients} "
        f"training patients alone. The loss weighs {regime.focus_weight:g} times under {regime.focus_mask}, the masks "
        "of lesions: without that a generator of so few patients draws none. So it is told of these patients where "
        "their lesions are, which no classifier is told."
    )
    if size.adapt_steps:
        told += (
            " From shared weights: begun from the shipped ones, which have seen many other phantoms and their reports, "
            f"and adapted to these patients for about {size.adapt_steps:,} steps at a rate of at most "
            f"{regime.adapt_rate:g}."
        )
    if size.unlabelled:
        told += (
            f" From {size.unlabelled} more patients: of the same institution, images, reports and masks, first; then "
            "of these. No classifier sees them or their labels."
        )
    if size.others:
        told += " That of the other institution is judged on test reports from there."
    section.text(told)
    rows, shares = [], {}
    for generator in (one for one in planned if one.makes):
        judged = _judged(folder, generator)
        if generator.group == FIRST:
            rows.append(_obeyed("real volumes, by the same analyser", judged, ANALYSER, "real"))
            shares = judged["adherence"]["generated"]
        rows.append(_obeyed(generator.told, judged, "generated", "generated"))
    section.table(pd.DataFrame(rows).fillna("–").rename(columns=READABLE))
    lesions, everyone = shares["zone"]["n"], shares["all"]["n"]
    section.text(
        f"{lesions} of the {everyone} reports name a lesion, and zone, side and level are of those. A generator that "
        f"drew none would obey {100 * (1 - lesions / everyone):.0f} % in everything: of one whose interval holds that, "
        "no arm has learnt what a lesion looks like. The analyser looks at all sequences, so the lesions' signal (over "
        f"their zone's) shows whether they are seen on {', '.join(STUDIED)}, too."
    )


def _judged(folder: Path, generator: Generator) -> dict[str, Any]:
    """What evaluation found out about a generator's volumes."""
    return json.loads((folder / f"ldm_evaluation{generator.suffix}" / "metrics.json").read_text())


def _obeyed(name: str, judged: dict[str, Any], adherence: str, row: str) -> dict[str, str]:
    """A row of the generators' table: shares of reports obeyed, how dark lesions are, how far from real volumes."""
    found = judged["adherence"][adherence]
    others = judged["distances"][f"phantom: {'real train' if row == 'real' else row} to real test"]
    others = judged["measures"][row] | others
    columns = {"generator": name} | {part: as_text(found[part], percent=True) for part in reversed(PARTS)}
    return columns | {key: as_text(others[key]) for key in (LESION_SIGNAL, "frechet") if key in others}


def _arms(folder: Path, size: Size, page: Page, answers: Mapping[Arm, Answers], left_out: Sequence[Training]) -> None:
    """The first table, its forest plot and ROC curves, and what can be concluded."""
    section = page.section(f"Classifier arms, {size.seeds} seeds each, tested on real test cases")
    section.text(has_learnt(answers))
    section.text(
        f"Every arm was trained for about {size.arm_steps:,} steps of {size.regime.batch} volumes, whatever it was "
        "trained on: an arm with more volumes sees each of them less often, and gets no more steps."
    )
    judged = areas(folder, size)
    pictures, many = folder / "pictures", ceiling(folder)
    draw_forest(judged, pictures / "arms.png", many)
    draw_rocs({str(arm): (one, judged[str(arm)]) for arm, one in answers.items()}, pictures / "roc.png")
    note = "" if many is None else f" Dotted: {size.ceiling:,} real patients, {many}."
    section.figure(pictures / "arms.png", f"AUC of each arm, mean of its seeds; shaded: the arm of real volumes.{note}")
    table = arms_table(folder, size)
    table.to_csv(folder / "results" / "arms.csv")
    _table_of_arms(section, table)
    section.text(
        "Synthetic volumes are of the generator from nothing unless their row names another. The corrected p of a "
        "generator's arms allow for as many tests as it has arms."
    )
    section.figure(pictures / "roc.png", "ROC curves of real volumes and the generator from nothing, means of seeds.")
    for arm in dict.fromkeys(training.arm for training in left_out if training.group == FIRST):
        section.text(f"No classifier was trained on {arm}: all volumes were of one class by their labels.")
    section.text("All figures are in results/arms.csv.")


def _table_of_arms(section: Section, table: pd.DataFrame) -> None:
    """Figures; differences to real volumes with their tests; and words."""
    shown = table.astype(object).where(table.notna(), "–")
    section.table(shown[[name for name in FIGURES if name in shown]].rename(columns=READABLE))
    if "conclusion" not in table:
        return
    section.table(shown.loc[shown["conclusion"] != "–", TESTS].rename(columns=READABLE))
    for line in conclusions(table):
        section.text(f"{line}.")


def _curve(folder: Path, size: Size, page: Page) -> None:
    points, table = curve(folder, size)
    if not points or not size.fractions:
        return
    section = page.section("Fewer real patients, with and without pretraining on synthetic volumes")
    draw_curve(points, folder / "pictures" / "curve.png")
    section.figure(folder / "pictures" / "curve.png", "AUC over the share of the real training patients seen.")
    section.text(
        f"From nothing: about {size.arm_steps:,} steps. Pretrained: as many on synthetic volumes alone, then "
        f"about {size.tune_steps:,} on the real ones, at a rate of at most {size.regime.tune_rate:g} instead of "
        f"{size.regime.rate:g}. The validation patients, who choose the threshold, are the same for every share."
    )
    if table is not None:
        table.to_csv(folder / "results" / "curve.csv", index=False)
        section.table(table.drop(columns="conclusion"))
        for name, words in zip(table["fine-tuned on"], table["conclusion"], strict=True):
            section.text(f"{name}: {words}.")


def _fooled(folder: Path, page: Page, answers: Mapping[Arm, Answers]) -> None:
    """The surest wrong answers of the arm of real volumes, and of the best arm where it is another."""
    predictions = read_group(folder, FIRST)
    section = page.section("What fooled a classifier")
    for arm in dict.fromkeys([arm for arm in (REAL, best_arm(answers)) if arm in answers]):
        cases = fooled(predictions[arm], FOOLED)
        if not cases:
            section.text(f"{arm}: no test case was told wrongly.")
            continue
        picture = folder / "pictures" / f"fooled_{arm.name}.png"
        draw_fooled(cases, folder / "data", picture)
        section.figure(picture, f"Trained on {arm}: the test cases that it was surest and wrong about, T2w.")


def _volumes(folder: Path, size: Size, page: Page) -> None:
    """Generated test cases, and how they were judged."""
    section = page.section("Volumes that the generator from nothing makes of test reports")
    _pictures(folder, section)
    judged = _judged(folder, planned_generators(size)[0])
    titles = {
        "distances": ("Distance to real test volumes", _estimates),
        "measures": ("How large and how dark is what it shows?", _estimates),
        "class": ("Class that the adapter predicts from the report", _estimates),
        "copies": ("Copies of training cases", _shares),
    }
    for part, (title, tabulate) in titles.items():
        if judged.get(part):
            page.section(title).table(tabulate(judged[part]))


def _pictures(folder: Path, section: Section) -> None:
    """Show some generated test cases, each beside the real case whose report it was made from."""
    volumes = folder / "volumes_test"
    reports = {case["folder"]: case["text"] for case in json.loads((folder / "data" / "test.json").read_text())}
    for record in find_records(volumes)[:SHOWN]:
        paths = folder / "data" / record.source / "axt2.nii.gz", volumes / record.folder / "axt2.nii.gz"
        (real, spacing, _), (made, _, _) = map(load_volume, paths)
        picture = folder / "pictures" / f"{record.folder}.png"
        montage([real, made], ["the real case", "generated from its report"], spacing, picture)
        section.quote(reports[record.source] or "(no report)").figure(picture, record.folder)


def _estimates(rows: dict[str, dict[str, Figure]], percent: bool = False) -> pd.DataFrame:
    """Give a table with one row for each thing judged and `value (low to high)` in each column."""
    shown = {row: {name: as_text(figure, percent) for name, figure in figures.items()} for row, figures in rows.items()}
    table = pd.DataFrame.from_dict(shown, orient="index").fillna("–").rename_axis("").reset_index()
    return table.rename(columns=READABLE)


def _shares(rows: dict[str, dict[str, Figure]]) -> pd.DataFrame:
    """Give the same of shares, in percent."""
    return _estimates(rows, percent=True)
