"""The cases that the latent diffusion model learns from, all checked before anything heavy starts."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scripts.common.problems import Problems, UserError
from scripts.data.datalists import patient_of, read_datalist
from scripts.data.grid import SPACING_TOLERANCE
from scripts.data.latents import find_latent, read_latent_header
from scripts.data.root import check_root
from scripts.engine.randomness import generator_for
from scripts.engine.share import for_all
from scripts.networks.variants import find_variant
from scripts.reports.embeddings import (
    EMPTY_REPORT,
    embedding_path,
    embedding_shape,
    find_empty_report,
    read_encoder_fingerprint,
)


@dataclass(frozen=True)
class TrainingCase:
    """One exam: where its latents and its report's embedding lie, and what conditions it.

    Attributes:
        latents: one file a channel, in the order of the channels.
        embedding: the report's embedding, None for networks that read no report.
        pirads: one-hot [negative, positive].
        spacing: voxel size of the image in mm.
        text_isnull: the case has no report; its embedding is the empty report's.
        empty: the empty report's embedding, for examples whose report is absent or dropped.
        fingerprint: of the VAE that made the latents, where the files tell it.
        encoder: fingerprint of the text encoder that made the embedding, where the file tells it.
    """

    folder: str
    patient: str
    latents: tuple[Path, ...]
    embedding: Path | None
    pirads: tuple[int, int]
    spacing: tuple[float, float, float]
    text_isnull: bool
    empty: Path | None
    fingerprint: str | None
    encoder: str | None


def read_training_cases(
    dataset_dir: str | os.PathLike[str],
    latent_dir: str | os.PathLike[str],
    *,
    channels: Sequence[str] = ("axt2",),
    variant: str = "CCELLA",
    embedding_width: int = 4096,
    factor: int = 8,
    datalist: str = "train_merged.json",
    needs_empty: bool = True,
) -> list[TrainingCase]:
    """Read a datalist of embedded reports and check everything that training will read, before anything heavy starts.

    Args:
        dataset_dir: the data root, which holds the datalist and the embeddings.
        latent_dir: the folder of the latents.
        channels: the sequences that are generated together.
        variant: of the network; some read no report, and then no embedding is looked for.
        embedding_width: of the report embeddings that the network reads.
        factor: the network halves the latent so often that every size must divide by this.
        datalist: the datalist's name inside the data root.
        needs_empty: the empty report's embedding must be there, as training replaces reports by it, or guides by it.

    Raises:
        UserError: every problem of every case.
    """
    root = Path(dataset_dir)
    problems = Problems(str(root / datalist))
    if not (root / datalist).is_file():
        problems.add(datalist, "is missing", f"embed the reports: python -m scripts.encode_reports --data_dir {root}")
        problems.raise_if_any()
    entries = read_datalist(root / datalist, root, keys=(), check_files=False, problems=problems)
    if not entries:
        problems.add(datalist, "holds no case", "prepare exams or make a phantom first")
    empty, width = None, embedding_width if find_variant(variant).adapter else None
    if width is not None:
        found = find_empty_report(root, entries)
        if found or needs_empty or any(entry.get("text_isnull") for entry in entries):
            empty = _find_embedding(root, "empty report", found or EMPTY_REPORT, width, problems)
    read = partial(
        _read_case, root=root, latent_dir=Path(latent_dir), channels=channels, factor=factor, width=width, empty=empty
    )
    cases, shapes = [], Counter[tuple[int, ...]]()
    for case, cells, rows in for_all(read, entries):
        cases.append(case)
        shapes.update(cells)
        problems.rows += rows
    if len(shapes) > 1:
        sizes = ", ".join(f"{shape} in {count} files" for shape, count in shapes.most_common())
        problems.add("latents", f"differ in size: {sizes}", "prepare all exams onto one grid and encode them again")
    _check_made_by("VAE", {case.folder: case.fingerprint for case in cases if case.latents}, problems)
    _check_made_by("text encoder", {case.folder: case.encoder for case in cases if case.embedding}, problems)
    check_root(root, problems)
    problems.raise_if_any()
    return cases


def _read_case(
    entry: dict[str, Any],
    *,
    root: Path,
    latent_dir: Path,
    channels: Sequence[str],
    factor: int,
    width: int | None,
    empty: Path | None,
) -> tuple[TrainingCase, list[tuple[int, ...]], list[tuple[str, str, str]]]:
    """A case, the shapes of its latents, and the rows of what is wrong with it; of our files headers are read alone."""
    folder, problems = entry["folder"], Problems("case")
    paths, headers = [], []
    for channel in channels:
        try:
            path = find_latent(latent_dir, folder, channel)
            header = read_latent_header(path)
        except UserError as error:
            problems.add(folder, str(error))
            continue
        paths.append(path)
        headers.append(header)
        if entry["spacing"] and not np.allclose(header.spacing, entry["spacing"], rtol=0, atol=SPACING_TOLERANCE):
            what = f"latent of {channel} was made from an image of spacing {[round(n, 4) for n in header.spacing]} mm"
            problems.add(folder, what, f"the datalist says {entry['spacing']}: correct one of them")
        if any(size % factor for size in header.cells[1:]):
            what = f"latent of {channel} has shape {header.cells}"
            problems.add(folder, what, f"every size must divide by {factor}")
    prints = {header.fingerprint for header in headers}
    if len(prints) > 1:
        problems.add(folder, "its latents come from different VAEs", "encode all channels with one VAE")
    embedding = None if width is None else _find_embedding(root, folder, entry.get("text"), width, problems)
    case = TrainingCase(
        folder=folder,
        patient=patient_of(entry),
        latents=tuple(paths),
        embedding=embedding,
        pirads=tuple(entry["pirads"]),
        spacing=tuple(entry["spacing"]),
        text_isnull=bool(entry.get("text_isnull")),
        empty=empty,
        fingerprint=next(iter(prints), None),
        encoder=read_encoder_fingerprint(embedding) if embedding else None,
    )
    return case, [header.cells for header in headers], problems.rows


def _find_embedding(root: Path, case: str, text: Any, width: int, problems: Problems) -> Path | None:
    """The embedding's path; a problem is noted where it is no readable embedding of the expected width."""
    todo = "embed the reports with the text encoder that the network was made for"
    try:
        path = embedding_path(root, text)
        found = embedding_shape(path)[-1]
    except UserError as error:
        problems.add(case, f"report embedding: {error}", todo)
        return None
    if found != width:
        what = f"report embedding has width {found}, the network reads {width}"
        problems.add(case, what, f"give --network_def#input_dim {found}, or {todo}")
    return path


def _check_made_by(maker: str, prints: dict[str, str | None], problems: Problems) -> None:
    """All cases must come from the same network, told by its fingerprint."""
    if len(set(prints.values())) < 2:
        return
    usual = Counter(prints.values()).most_common(1)[0][0]
    for folder, found in prints.items():
        if found != usual:
            what = f"was encoded by {maker} {found or '(unknown)'}, most cases by {usual or '(unknown)'}"
            problems.add(folder, what, f"encode all cases with one {maker}")


def split_cases(
    cases: Sequence[TrainingCase], fraction: float, seed: int
) -> tuple[list[TrainingCase], list[TrainingCase]]:
    """Hold back a share of the patients for validation: (training cases, held-out cases), none empty unless asked.

    Raises:
        UserError: the fraction is not in [0, 1), or it leaves a part empty.
    """
    if not 0 <= fraction < 1:
        raise UserError(f"val_fraction is {fraction}; it must be at least 0 and below 1")
    patients = sorted({case.patient for case in cases})
    order = torch.randperm(len(patients), generator=generator_for(seed, "validation")).tolist()
    held = {patients[i] for i in order[: round(fraction * len(patients))]}
    parts = [c for c in cases if c.patient not in held], [c for c in cases if c.patient in held]
    if not parts[0] or (fraction and not parts[1]):
        raise UserError(
            f"val_fraction {fraction} of {len(patients)} patients leaves {len(parts[0])} cases for training and "
            f"{len(parts[1])} for validation; add cases or change val_fraction"
        )
    return parts
