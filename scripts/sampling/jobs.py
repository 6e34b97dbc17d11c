"""What is to be generated: one job for each volume, from a typed report or from the cases of datalists."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
from monai.utils import ensure_tuple
from torch import Tensor

from scripts.data.cases import (
    cell_flag,
    check_root,
    is_folder_name,
    one_hot,
    read_clinical,
    read_datalist,
    sheet_labels,
)
from scripts.data.grid import Grid, grid_affine, read_grid
from scripts.data.images import refuse_overwriting
from scripts.data.outputs import MARK, Record, check_not_a_data_root, find_records, read_record
from scripts.data.report_text import normalise_report, report_of, tell_absent
from scripts.data.reports import (
    EMPTY_REPORT,
    MAX_TOKENS,
    PADDED,
    ReportEncoder,
    check_width,
    read_embedding,
    read_encoder_fingerprint,
)
from scripts.files import inside
from scripts.problems import Problems, UserError
from scripts.sampling.loop import case_seed
from scripts.sampling.recipe import Recipe

logger = logging.getLogger(__name__)

ELSEWHERE = "give another output_dir, or remove the folder"


@dataclass(frozen=True, eq=False)
class Embedding:
    """A report's embedding: the tensor (T, D) that was made, or the file that holds it, and a digest of its numbers.

    A file is read again when its volume is made: those of ten thousand cases do not fit into memory.
    """

    held: Tensor | Path
    digest: str

    def read(self) -> Tensor:
        """The embedding (T, D)."""
        return read_embedding(self.held) if isinstance(self.held, Path) else self.held


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


@dataclass(frozen=True, eq=False)
class Source:
    """What volumes are made from: a report, as text or as the file of its embedding, and what is known of the case."""

    folder: str
    split: str = ""
    text: str | None = field(default=None, repr=False)
    path: Path | None = None
    absent: bool = False
    embedding: Embedding | None = None
    pirads: list[int] = field(default_factory=lambda: [0, 0])
    label: str | None = None
    image: Path | None = None
    entry: dict[str, Any] = field(default_factory=dict)


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
    max_tokens: int,
    replicates: int,
) -> Jobs:
    """Find, check and embed the reports, and list this rank's volumes; arguments as in inference.yaml.

    Raises:
        UserError: everything that is wrong with the cases; volumes in `output_dir` that were made in another way.
    """
    if isinstance(replicates, bool) or not isinstance(replicates, int) or replicates < 1:
        raise UserError(f"replicates is {replicates!r}; give a whole number of volumes for each report, at least 1")
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
    null = None
    if recipe.variant.adapter:
        problems = Problems("report embeddings")
        reader = _ReportReader(recipe, text_encoder, padded_reports, max_tokens, problems)
        shares = [(replace(source, embedding=reader.read(source)), replicate) for source, replicate in shares]
        if recipe.needs_null:
            null = reader.read(Source("empty report", path=None if typed else _empty_path(root, sources)))
        _raise_on_every_rank(problems)
        null = null and null.read()
    jobs = [_make_job(recipe, source, replicate) for source, replicate in shares]
    problems = Problems(f"volumes in {output_dir}")
    todo = jobs if typed else unfinished(jobs, output_dir, problems)
    _check_overwriting(recipe, todo, output_dir, problems)
    for record in earlier:
        _check_settings(record, recipe.settings, problems)
    # No rank writes before all have looked, else they would see other records and share out otherwise.
    _raise_on_every_rank(problems)
    return Jobs(jobs, todo, null, output_dir, typed, frozenset([*folders, *(record.folder for record in earlier)]))


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


def typed_source(recipe: Recipe, report: str, case_name: str, positive: bool | None) -> Source:
    """A report from the command line.

    Raises:
        UserError: the name cannot be a folder's, or the variant needs a class that is not given.
    """
    if not is_folder_name(case_name):
        raise UserError(f"case_name {case_name!r} is not a plain name of a folder")
    # Fire reads `true` as a word and `True` as a bool.
    flag = None if positive is None else cell_flag(positive)
    if positive is not None and flag is None:
        raise UserError(f"positive is {positive!r}; give true or false")
    if recipe.variant.class_vector == "own" and flag is None:
        raise UserError("this variant takes the class instead of predicting it; give --positive true or false")
    text, _ = normalise_report(report)
    return Source(case_name, text=text, pirads=[0, 0] if flag is None else one_hot(bool(flag)))


# ---- datalists -------------------------------------------------------------------------------------------------------


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


def _empty_path(root: Path, sources: Sequence[Source]) -> Path | None:
    """The empty report's embedding: ours, or the authors', who have it at each case without a report."""
    stored = [root / EMPTY_REPORT, *(source.path for source in sources if source.absent and source.path is not None)]
    return next((path for path in stored if path.is_file()), None)


def _embedding_path(root: Path, case: dict[str, Any], problems: Problems) -> Path | None:
    # A report in place of a path must not be quoted.
    text = case.get("text")
    if not isinstance(text, str) or Path(text).suffix not in (".safetensors", ".npy") or len(text) > 500:
        problems.add(case["folder"], "text is not the path of an embedding", "encode the reports again")
        return None
    try:
        path = inside(root, text)
    except ValueError as error:
        problems.add(case["folder"], f"report embedding: {error}")
        return None
    if not path.is_file():
        problems.add(case["folder"], f"report embedding {path.name} is missing", "encode the reports again")
    return path


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
    """The sources with class and Label of the clinical sheet, which are what the authors call real."""
    frame = read_clinical(path, problems=problems)
    if problems:
        return sources
    labels = frame.set_index("folder")["Label"].astype(object)
    classes, labels = sheet_labels(frame).to_dict(), labels.where(labels.notna(), None).to_dict()
    for source in sources:
        if source.folder not in classes:
            problems.add(source.folder, f"has no row in {path.name}", "add one")
    return [
        replace(source, pirads=one_hot(bool(classes[source.folder])), label=labels[source.folder])
        for source in sources
        if source.folder in classes
    ]


# ---- reports ---------------------------------------------------------------------------------------------------------


class _ReportReader:
    """Reads embeddings, or makes them with the text encoder, which is loaded when the first report needs it."""

    def __init__(
        self,
        recipe: Recipe,
        text_encoder: str | os.PathLike[str] | None,
        padded: bool | None,
        max_tokens: int,
        problems: Problems,
    ) -> None:
        self.width, self.trained = recipe.embedding_width, recipe.meta.get("encoder_fingerprint")
        self.text_encoder, self.max_tokens, self.problems = text_encoder, max_tokens, problems
        as_trained = recipe.authors or (self.trained or "").endswith(PADDED)
        self.padded = as_trained if padded is None else padded
        self.all_positions = recipe.authors and self.padded
        if recipe.authors and not self.padded:
            logger.warning(
                "padded_reports is false, but the authors' weights attend to all %d positions of a report: where the "
                "padded ones are not there, their network answers otherwise than it was trained to",
                MAX_TOKENS,
            )
        self.encoder: ReportEncoder | None = None
        self.known: dict[str | Path, Embedding | None] = {}

    def read(self, source: Source) -> Embedding | None:
        """The embedding of a report, or None after noting a problem; equal reports share one.

        Raises:
            UserError: there is no encoder for a text, or it or its options are not those of the training run.
        """
        key = source.path or source.text or ""
        if key not in self.known:
            self.known[key] = None
            embedding = self._encode(source.text or "") if source.path is None else None
            try:
                embedding = read_embedding(source.path) if embedding is None else embedding
                check_width(embedding, self.width, source.path or self.text_encoder)
                self._check_length(source.folder, embedding)
                self.known[key] = Embedding(embedding if source.path is None else source.path, _digest(embedding))
            except UserError as error:
                self.problems.add(source.folder, str(error))
            if source.path is not None:
                self._check_stamp(source.folder, read_encoder_fingerprint(source.path))
        return self.known[key]

    def _check_length(self, folder: str, embedding: Tensor) -> None:
        """The authors' files do not say how reports were embedded, but the number of positions is known."""
        if self.all_positions and len(embedding) != MAX_TOKENS:
            what = f"its report was embedded at {len(embedding)} positions, the authors' weights need all {MAX_TOKENS}"
            todo = f"encode it with --padded and max_tokens {MAX_TOKENS}, or give --padded_reports false"
            self.problems.add(folder, what, todo)

    def _check_stamp(self, folder: str, stamp: str | None) -> None:
        if stamp is None or self.trained in (None, stamp):
            return
        what = f"its report was embedded by text encoder {stamp}"
        todo = "encode it with the text encoder and max_tokens"
        if stamp.removesuffix(PADDED) == self.trained.removesuffix(PADDED):
            what, todo = f"its report was embedded {_with_padding(stamp)}", f"encode it {_with_padding(self.trained)}"
        self.problems.add(folder, what, f"{todo}, as for training")

    def _encode(self, text: str) -> Tensor:
        if self.text_encoder is None:
            raise UserError(
                "a report must be embedded, but text_encoder is not set; give the folder or hub name of the encoder "
                "that the network was trained with (google/flan-t5-xxl for the reference)"
            )
        if self.encoder is None:
            # Before the encoder is loaded, which may be large.
            if self.trained and self.trained.endswith(PADDED) != self.padded:
                raise UserError(
                    f"the network was trained on reports that were embedded {_with_padding(self.trained)}; give "
                    f"--padded_reports {'false' if self.padded else 'true'}"
                )
            self.encoder = ReportEncoder(self.text_encoder, self.max_tokens)
            stamp = self.encoder.stamp(self.padded)
            if self.trained not in (None, stamp):
                raise UserError(
                    f"text_encoder {self.text_encoder} with max_tokens {self.max_tokens} is not the one that the "
                    f"network was trained with: its fingerprint is {stamp}, not {self.trained}; give the encoder and "
                    "the --max_tokens that encode_reports was given"
                )
        return self.encoder.encode([text], padded=self.padded)[0]


def _digest(embedding: Tensor) -> str:
    """Sixteen hexadecimal digits that tell embeddings apart, whatever precision they are stored in."""
    return hashlib.sha256(embedding.float().contiguous().numpy()).hexdigest()[:16]


def _with_padding(stamp: str) -> str:
    """How the reports of an encoder's stamp were embedded, in the words of encode_reports."""
    return "with --padded" if stamp.endswith(PADDED) else "without --padded"


# ---- jobs ------------------------------------------------------------------------------------------------------------


def _folder(source: Source, replicate: int) -> str:
    return source.folder if replicate == 0 else f"{source.folder}_{replicate}"


def _check_names(folders: Sequence[str]) -> None:
    problems = Problems("folders of the volumes")
    for folder, count in Counter(folders).items():
        if count > 1:
            problems.add(folder, f"would be written {count} times", "rename the case whose name is that of a replicate")
    problems.raise_if_any()


def _make_job(recipe: Recipe, source: Source, replicate: int) -> Job:
    like, like_shape = read_grid(source.image) if source.image else (None, None)
    settings = {**recipe.settings, "report": source.embedding and source.embedding.digest}
    if recipe.variant.class_vector == "own":
        settings["class"] = source.pirads
    return Job(
        folder=_folder(source, replicate),
        source=source.folder if source.split else "",
        split=source.split,
        replicate=replicate,
        seed=case_seed(recipe.seed, source.folder, replicate),
        embedding=source.embedding,
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
            same = (record.source, record.seed) == (job.source, job.seed)
            _check_settings(record, job.settings, problems, () if same else ("source",))
    return todo


def _check_settings(
    record: Record, settings: dict[str, Any], problems: Problems, otherwise: Sequence[str] = ()
) -> None:
    """Note what the record's volume was made with that is not in `settings`, or, where nothing is, `otherwise`."""
    names = [name for name in settings if record.settings.get(name) != settings[name]] or otherwise
    if names:
        problems.add(record.folder, f"was made with other {', '.join(names)}", ELSEWHERE)


def _of_other_splits(output_dir: Path, sources: Sequence[Source], splits: Sequence[str]) -> list[Record]:
    """What earlier runs made of splits that this one does not name, without cases that came over from there."""
    cases = {source.folder for source in sources}
    records = find_records(output_dir)
    return [record for record in records if record.split not in ensure_tuple(splits) and record.source not in cases]
