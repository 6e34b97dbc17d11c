"""Embed the reports of a data root: one file for each distinct report, and the datalists that point at them.

    python -m scripts.encode_reports --data_dir DATA --encoder models/flan-t5-xxl
    torchrun --nproc_per_node=2 -m scripts.encode_reports --data_dir DATA --encoder models/flan-t5-xxl

Reads `train.json`, `test.json` and, where there are reports without images, `reports.json`; writes for each a
`<name>_merged.json`, `embeddings/<id>.safetensors`, and `embeddings/empty.safetensors` (shared by all cases without a
report). Started again, it goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from tqdm import tqdm

from scripts.cli.run import run
from scripts.common.problems import Problems, UserError
from scripts.data.datalists import read_datalist, write_datalist
from scripts.data.plan import planned_tokens
from scripts.data.root import REPORTS, check_datalists
from scripts.engine.processes import join
from scripts.reports.coverage import tell_coverage
from scripts.reports.embeddings import EMPTY_REPORT, SUFFIXES, read_encoder_fingerprint, write_embedding
from scripts.reports.encoder import ReportEncoder
from scripts.reports.text import report_of, tell_absent

logger = logging.getLogger(__name__)

SPLITS = ("train", "test", REPORTS)
REPORTS_A_ROUND = 256  # between two looks at the progress bar; what a kill can lose


def encode_reports(
    data_dir: str,
    encoder: str = "google/flan-t5-xxl",
    padded: bool = False,
    max_tokens: int | None = None,
    truncation_side: str = "left",
    dtype: str | None = None,
    device: str | None = None,
) -> None:
    """Embed all reports of a data root and write the merged datalists.

    Args:
        data_dir: folder with `train.json`, `test.json` and `reports.json` (some of them may be missing).
        encoder: folder of a text encoder in the Hugging Face format, or a name in the cache of `hf download`.
        padded: store the states of the padded positions too, as the authors do: needed with their checkpoints.
        max_tokens: longer reports are cut; by default where `plan.json` says, and where that says nothing at as many
            tokens as the encoder says it is for, at most 4096.
        truncation_side: "left" where the impression stands last, or "right".
        dtype: "bf16" or "fp32"; by default bf16 on a GPU, fp32 on the CPU.
        device: by default a GPU if the encoder fits into it, else the CPU.

    Raises:
        UserError: datalists with mistakes, or no such encoder.
    """
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    root = Path(data_dir)
    lists = {split: _read(root, split) for split in SPLITS if (root / f"{split}.json").exists()}
    if not lists:
        raise UserError(f"{root}: has neither train.json nor test.json; python -m scripts.prepare makes them")
    problems = Problems(str(root))
    check_datalists(root, problems)
    problems.raise_if_any()
    reports = {split: [report_of(case) for case in cases] for split, cases in lists.items()}
    if rank == 0:
        tell_absent([case for cases in lists.values() for case in cases])
    if device in (None, "cuda") and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    model = ReportEncoder(str(encoder), planned_tokens(root, max_tokens), truncation_side, dtype, device)

    files = {text: _file_of(text, model, padded) for texts in reports.values() for text in texts} | {"": EMPTY_REPORT}
    if rank == 0:
        tell_coverage(model, [text for text in files if text])
    version = model.stamp(padded)
    missing = [text for text in sorted(files, key=len) if read_encoder_fingerprint(root / files[text]) != version]
    join(torch.device("cpu"), waits=True)
    idist.barrier()  # every rank has seen the same files before one writes
    # Neighbours in length go to different ranks, which evens out the work.
    _write(root, {text: files[text] for text in missing[rank::world]}, model, padded, version, quiet=rank > 0)
    idist.barrier()
    idist.finalize()
    if rank == 0:
        for split, cases in lists.items():
            merged = [
                case | {"text": files[text], "text_isnull": int(not text)}
                for case, text in zip(cases, reports[split], strict=True)
            ]
            write_datalist(root / f"{split}_merged.json", merged)
        logger.info(
            "%s: %d embeddings of width %d, which is network_def#input_dim of the network (%d new), and %s",
            root, len(files), model.width, len(missing), ", ".join(f"{split}_merged.json" for split in lists),
        )  # fmt: skip


def _read(root: Path, split: str) -> list[dict[str, Any]]:
    """A checked datalist with its entries as they stand, image paths included."""
    path = root / f"{split}.json"
    read_datalist(path, root, keys=(), check_files=False)
    cases = json.loads(path.read_text(encoding="utf-8-sig"))
    problems = Problems(str(path))
    for case in cases:
        if case["text"].startswith("embeddings/") and case["text"].endswith(SUFFIXES):
            problems.add(case["folder"], "text is the path of an embedding", "give the list that holds the reports")
    problems.raise_if_any()
    return cases


def _file_of(text: str, model: ReportEncoder, padded: bool) -> str:
    """Where an embedding goes: its name tells encoder, padding and report apart without showing any of them."""
    digest = hashlib.sha256(f"{model.fingerprint}{padded}{text}".encode()).hexdigest()
    return f"embeddings/{digest[:32]}.safetensors" if text else EMPTY_REPORT


def _write(root: Path, files: dict[str, str], model: ReportEncoder, padded: bool, version: str, *, quiet: bool) -> None:
    texts = list(files)
    with tqdm(total=len(texts), desc="reports", disable=quiet) as progress:
        for start in range(0, len(texts), REPORTS_A_ROUND):
            chunk = texts[start : start + REPORTS_A_ROUND]
            for text, embedding in zip(chunk, model.encode(chunk, padded), strict=True):
                write_embedding(root / files[text], embedding, version)
                progress.update()


if __name__ == "__main__":
    run(encode_reports)
