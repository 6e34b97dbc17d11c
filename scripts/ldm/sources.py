"""What volumes are made from: a typed report, or the cases of datalists, all checked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from monai.utils import ensure_tuple

from scripts.common.problems import Problems, UserError
from scripts.data.clinical import read_clinical, sheet_labels
from scripts.data.datalists import one_hot, read_datalist
from scripts.data.grid import read_grid
from scripts.data.names import is_folder_name
from scripts.data.root import REPORTS, check_root
from scripts.ldm.recipe import Recipe
from scripts.reports.embeddings import EMPTY_REPORT, embedding_path
from scripts.reports.text import normalise_report, report_of, tell_absent


@dataclass(frozen=True, eq=False)
class Source:
    """What volumes are made from: a report, as text or as the file of its embedding, and what is known of the case."""

    folder: str
    split: str = ""
    text: str | None = field(default=None, repr=False)
    path: Path | None = None
    absent: bool = False
    pirads: list[int] = field(default_factory=lambda: [0, 0])
    label: str | None = None
    image: Path | None = None
    entry: dict[str, Any] = field(default_factory=dict)


def typed_source(recipe: Recipe, report: str, case_name: str, positive: bool | None) -> Source:
    """A report from the command line.

    Raises:
        UserError: the name cannot be a folder's, or the variant needs a class that is not given.
    """
    if not is_folder_name(case_name):
        raise UserError(f"case_name {case_name!r} is not a plain name of a folder")
    if recipe.variant.class_vector == "own" and positive is None:
        raise UserError("this variant takes the class instead of predicting it; give --positive true or false")
    text, _ = normalise_report(report)
    return Source(case_name, text=text, pirads=[0, 0] if positive is None else one_hot(positive))


def listed_sources(
    recipe: Recipe, root: Path, splits: Sequence[str], text_encoder: str | os.PathLike[str] | None
) -> list[Source]:
    """The cases of `<split>_merged.json`, or of `<split>.json` where there is a text encoder or no need of reports.

    Raises:
        UserError: every problem of every case.
    """
    problems = Problems(str(root))
    sources: list[Source] = []
    with_text: list[dict[str, Any]] = []
    for split in ensure_tuple(splits):
        merged, plain = root / f"{split}_merged.json", root / f"{split}.json"
        path = merged if merged.is_file() else plain
        if path is plain and recipe.variant.adapter and text_encoder is None:
            todo = f"embed the reports (python -m scripts.encode_reports --data_dir {root}), or give text_encoder"
            problems.add(merged.name, "is missing", todo)
            continue
        cases = read_datalist(path, root, keys=(), check_files=False, problems=problems)
        if path is plain and recipe.variant.adapter:
            with_text += cases
        for case in cases:
            embedded = path is merged and recipe.variant.adapter
            report = _embedding_path(root, case, problems) if embedded else None
            _check_image(case, recipe.sequences[0], problems)
            sources.append(_listed_source(case, split, report, recipe.sequences[0]))
    if (root / "clinical.xlsx").is_file():
        sources = _with_sheet(sources, root / "clinical.xlsx", problems)
    if not problems:
        check_root(root, problems)
    if not problems and not sources:
        problems.add(", ".join(ensure_tuple(splits)), "hold no case", "give --report, or a dataset_dir with cases")
    problems.raise_if_any()
    if with_text and idist.get_rank() == 0:
        tell_absent(with_text)
    return sources


def find_empty_path(root: Path, sources: Sequence[Source]) -> Path | None:
    """The empty report's embedding: ours, or the authors', who have it at each case without a report."""
    stored = [root / EMPTY_REPORT, *(source.path for source in sources if source.absent and source.path is not None)]
    return next((path for path in stored if path.is_file()), None)


def _embedding_path(root: Path, case: dict[str, Any], problems: Problems) -> Path | None:
    try:
        return embedding_path(root, case.get("text"))
    except UserError as error:
        problems.add(case["folder"], f"report embedding: {error}", "encode the reports again")
        return None


def _check_image(case: dict[str, Any], sequence: str, problems: Problems) -> None:
    """The real image, where there is one, must tell where it lies: the volume is put there."""
    if case.get(sequence) and Path(case[sequence]).is_file():
        try:
            read_grid(case[sequence])
        except ValueError as error:
            todo = "copy it again, or take it away: a volume can be made without it"
            problems.add(case["folder"], f"{Path(case[sequence]).name} {error}", todo)


def _listed_source(case: dict[str, Any], split: str, report: Path | None, sequence: str) -> Source:
    image = Path(case[sequence]) if case.get(sequence) else None
    return Source(
        folder=case["folder"],
        split=split,
        text=report_of(case) if report is None else None,
        path=report,
        absent=bool(case["text_isnull"]),
        pirads=case["pirads"],
        image=image if image is not None and image.is_file() else None,
        entry={key: case[key] for key in ("dataset", "patient") if key in case},
    )


def _with_sheet(sources: list[Source], path: Path, problems: Problems) -> list[Source]:
    """The sources with class and Label of the clinical sheet, which are what the authors call real.

    Reports without images have no row; their class is the datalist's.
    """
    frame = read_clinical(path, problems=problems)
    if problems:
        return sources
    labels = frame.set_index("folder")["Label"].astype(object)
    classes, labels = sheet_labels(frame).to_dict(), labels.where(labels.notna(), None).to_dict()
    for source in sources:
        if source.folder not in classes and source.split != REPORTS:
            problems.add(source.folder, f"has no row in {path.name}", "add one")
    return [
        replace(source, pirads=one_hot(bool(classes[source.folder])), label=labels[source.folder])
        if source.folder in classes
        else source
        for source in sources
    ]
