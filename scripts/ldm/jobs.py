"""What is to be generated: one job for each volume, and which of them each process still has to do."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
from monai.utils import ensure_tuple
from torch import Tensor

from scripts.common.identity import is_by_contents
from scripts.common.problems import Problems
from scripts.data.grid import Grid, grid_affine, read_grid
from scripts.data.images import refuse_overwriting
from scripts.data.outputs import MARK, Record, check_not_a_data_root, find_records, read_record
from scripts.data.plan import planned_tokens
from scripts.ldm.recipe import Recipe
from scripts.ldm.sampling import case_seed
from scripts.ldm.sources import Source, find_empty_path, listed_sources, typed_source
from scripts.reports.reader import Embedding, ReportReader

ELSEWHERE = "give another output_dir, or remove the folder"


@dataclass(frozen=True, eq=False)
class Job:
    """One volume to make.

    Attributes:
        folder: where it goes; `source` is the real case, "" for a typed report.
        replicate: number of the volume among those of one report.
        embedding: the report's; None for variants that read no report.
        pirads: one-hot [negative, positive], [0, 0] where the class is not known.
        affine: (4, 4) of the volume, in mm.
        settings: all that decides how the volume looks.
    """

    folder: str
    source: str
    split: str
    replicate: int
    seed: int
    embedding: Embedding | None
    pirads: list[int]
    label: str | None
    affine: np.ndarray
    entry: dict[str, Any]
    settings: dict[str, Any]

    @property
    def row(self) -> dict[str, Any]:
        """What its record takes from datalist and clinical sheet; it may change without making the volume another."""
        real = self.pirads.index(1) if 1 in self.pirads else None
        return {"split": self.split, "pirads_real": real, "label": self.label, "entry": self.entry}


@dataclass(frozen=True)
class Jobs:
    """This rank's share: all its jobs, those still to do, and the empty report's embedding where guidance needs it.

    `sheet` holds the folders of all ranks' jobs, and those that earlier runs made of other splits.
    """

    all: list[Job]
    todo: list[Job]
    null: Tensor | None
    output_dir: Path
    typed: bool
    sheet: frozenset[str]


def make_jobs(
    recipe: Recipe,
    *,
    dataset_dir: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    report: str | None = None,
    positive: bool | None,
    case_name: str,
    splits: Sequence[str],
    text_encoder: str | os.PathLike[str] | None,
    padded_reports: bool | None = None,
    max_tokens: int | None = None,
    truncation_side: str = "left",
    replicates: int,
) -> Jobs:
    """Find, check and embed the reports, and list this rank's volumes; arguments as in inference.yaml.

    Raises:
        UserError: everything that is wrong with the cases; volumes in `output_dir` that were made in another way.
    """
    root, output_dir = Path(dataset_dir), Path(output_dir)
    typed = report is not None
    if typed:
        sources = [typed_source(recipe, report, case_name, positive)]
    else:
        sources = listed_sources(recipe, root, splits, text_encoder)
    shares = [(source, replicate) for source in sources for replicate in range(replicates)]
    folders = [_folder(source, replicate) for source, replicate in shares]
    _check_names(folders)
    earlier = [] if typed else _of_other_splits(output_dir, sources, splits)
    # What is still to do is dealt out first, so that no rank has much more of it than another.
    shares.sort(key=lambda share: read_record(output_dir, _folder(*share)) is not None)
    shares = shares[idist.get_rank() :: idist.get_world_size()]
    problems = Problems("report embeddings")
    embeddings: list[Embedding | None] = [None] * len(shares)
    null = None
    if recipe.variant.adapter:
        reader = ReportReader(
            recipe.embedding_width,
            recipe.meta.get("encoder_fingerprint"),
            recipe.authors,
            text_encoder=text_encoder,
            padded=padded_reports,
            max_tokens=planned_tokens(root, max_tokens),
            truncation_side=truncation_side,
            folder=output_dir,
            problems=problems,
        )
        with closing(reader):
            embeddings = [reader.read(source.folder, source.text, source.path) for source, _ in shares]
            if recipe.needs_null:
                null = reader.read("empty report", None, None if typed else find_empty_path(root, sources))
    _raise_on_every_rank(problems)
    jobs = [_make_job(recipe, *share, embedding) for share, embedding in zip(shares, embeddings, strict=True)]
    problems = Problems(f"volumes in {output_dir}")
    todo = jobs if typed else unfinished(jobs, output_dir, problems)
    _check_overwriting(recipe, todo, output_dir, problems)
    for record in earlier:
        _check_settings(record, recipe.settings, problems)
    # No rank writes before all have looked, else they would see other records and share out otherwise.
    _raise_on_every_rank(problems)
    sheet = frozenset([*folders, *(record.folder for record in earlier)])
    return Jobs(jobs, todo, null and null.read(), output_dir, typed, sheet)


def _check_overwriting(recipe: Recipe, todo: Sequence[Job], output_dir: Path, problems: Problems) -> None:
    """Note real images and lists that the volumes to do would replace; volumes with a record are ours."""
    check_not_a_data_root(output_dir, problems)
    new = [job.folder for job in todo if read_record(output_dir, job.folder) is None]
    volumes = ((folder, output_dir / folder / f"{name}.nii.gz") for folder in new for name in recipe.sequences)
    refuse_overwriting(volumes, [MARK], problems)


def _raise_on_every_rank(problems: Problems) -> None:
    """Wait for all ranks, and raise on each what any of them noted.

    Raises:
        UserError: at least one problem was noted on a rank.
    """
    rows = [row for part in idist.all_gather(problems.rows) for row in part]
    Problems(problems.title, list(dict.fromkeys(rows))).raise_if_any()


def _folder(source: Source, replicate: int) -> str:
    return source.folder if replicate == 0 else f"{source.folder}_{replicate}"


def _check_names(folders: Sequence[str]) -> None:
    problems = Problems("folders of the volumes")
    for folder, count in Counter(folders).items():
        if count > 1:
            problems.add(folder, f"would be written {count} times", "rename the case whose name is that of a replicate")
    problems.raise_if_any()


def _make_job(recipe: Recipe, source: Source, replicate: int, embedding: Embedding | None) -> Job:
    like, like_shape = read_grid(source.image) if source.image else (None, None)
    settings = {**recipe.settings, "report": embedding and embedding.digest}
    if recipe.variant.class_vector == "own":
        settings["class"] = source.pirads
    return Job(
        folder=_folder(source, replicate),
        source=source.folder if source.split else "",
        split=source.split,
        replicate=replicate,
        seed=case_seed(recipe.seed, source.folder, replicate),
        embedding=embedding,
        pirads=source.pirads,
        label=source.label,
        affine=grid_affine(Grid(recipe.size, recipe.spacing), like, like_shape),
        entry={**source.entry, "spacing": list(recipe.spacing)},
        settings=settings,
    )


def unfinished(jobs: Sequence[Job], output_dir: Path, problems: Problems) -> list[Job]:
    """The jobs whose volume is not there yet; a volume that was made in another way is noted in `problems`."""
    todo = []
    for job in jobs:
        record = read_record(output_dir, job.folder)
        if record is None:
            todo.append(job)
        else:
            _check_settings(record, {**job.settings, "source": job.source}, problems)
    return todo


def _check_settings(record: Record, settings: dict[str, Any], problems: Problems) -> None:
    """Note which of the settings the record's volume was not made with."""
    if not is_by_contents(record.settings.get("model")):
        what = "was made by an earlier version, which told weights apart by the bytes of their files"
        problems.add(record.folder, what, f"finish with that version, {ELSEWHERE}")
        return
    made_with = {**record.settings, "source": record.source}
    names = [name for name in settings if made_with.get(name) != settings[name]]
    if names:
        problems.add(record.folder, f"was made with other {', '.join(names)}", ELSEWHERE)


def _of_other_splits(output_dir: Path, sources: Sequence[Source], splits: Sequence[str]) -> list[Record]:
    """What earlier runs made of splits that this one does not name, without cases that came over from there."""
    cases = {source.folder for source in sources}
    records = find_records(output_dir)
    return [record for record in records if record.split not in ensure_tuple(splits) and record.source not in cases]
