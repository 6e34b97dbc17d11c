"""Whose report a synthetic volume was made from: nothing is learnt from what a test or validation report has made.

The generator's record beside a volume says it. A folder of volumes may hold those of test reports, too, and they are
passed over; but a volume that is not what its name says has been put there by mistake, and is refused.
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from scripts.common.problems import Problems, UserError
from scripts.data.datalists import Case, read_datalist
from scripts.data.outputs import RECORD, Record, read_record
from scripts.data.root import MERGED
from scripts.reports.embeddings import digest_of, embedding_path, read_embedding
from scripts.reports.text import report_of

AGAIN = "take it and its row out, and generate it again"


class Origin(NamedTuple):
    """The real case, or the report without images, that a volume was made from, and its number among those of one."""

    source: str
    replicate: int


class Origins:
    """Finds the origin of each volume of a generator's output.

    Args:
        root: the generator's output.
        dataset_dir: the data root that it was made from.
        listed: folders of the training list, which a volume without a record may be named after.
        cases: everything that volumes may have been made from, by folder, as datalists have it.
        held_out: folders of the test and validation cases.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        dataset_dir: str | os.PathLike[str],
        *,
        listed: Collection[str],
        cases: Mapping[str, Case],
        held_out: Collection[str],
    ) -> None:
        self.root, self.listed, self.cases, self.held_out = Path(root), listed, cases, set(held_out)
        self.digests: dict[str, list[str]] = {}  # of held-out reports, with the cases that have them
        records = {folder: read_record(self.root, folder) for folder in sorted(self.held_out)}
        told = {folder: record.settings.get("report") for folder, record in records.items() if record is not None}
        missing = [folder for folder in self.held_out if not told.get(folder)]
        for folder, digest in (told | _digests(Path(dataset_dir), missing)).items():
            self.digests.setdefault(digest, []).append(folder)

    def find(self, folder: str, name: str, problems: Problems) -> Origin | None:
        """The origin of a volume, or None after noting what is wrong, under `name`."""
        record = read_record(self.root, folder)
        if record is None and (self.root / folder / RECORD).is_file():
            problems.add(name, *self._broken(folder))
        elif record is None and folder not in self.cases:
            what = "was made from no report of dataset_dir, maybe from a test case"
            problems.add(name, what, "give its dataset_dir")
        elif record is None and folder not in self.listed:
            what = f"has the name of no training case and no {RECORD}, which would say whose report it was made from"
            problems.add(name, what, AGAIN)
        elif record is None:
            return Origin(folder, 0)
        elif record.source not in self.cases:
            what = "was made from no report of dataset_dir, maybe from a test case"
            problems.add(name, what, "give its dataset_dir")
        elif folder in self.cases and record.source != folder:
            problems.add(name, f"is named after one case and was made from the report of {record.source}", AGAIN)
        elif twin := self._held_out_twin(record):
            what = f"was made from the report of {twin}, a test or validation case, though its record says otherwise"
            problems.add(name, what, AGAIN)
        else:
            return Origin(record.source, record.replicate)
        return None

    def _broken(self, folder: str) -> tuple[str, str]:
        """What is wrong with a volume whose record does not count, and what to do."""
        try:
            told = Record(**json.loads((self.root / folder / RECORD).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return f"has a {RECORD} that cannot be read", AGAIN
        if told.folder != folder:
            return f"is a copy of volume {told.folder}, or was renamed, by its {RECORD}", AGAIN
        images = (self.root / folder / f"{sequence}.nii.gz" for sequence in told.sequences)
        missing = ", ".join(path.name for path in images if not path.is_file())
        return f"{missing} is missing, which its {RECORD} names", "generate it again"

    def _held_out_twin(self, record: Record) -> str | None:
        """The held-out case whose report it was made from, where the case that it names has another report."""
        if record.source in self.held_out:
            return None  # it says so, and is passed over
        own = _words(self.cases[record.source])
        twins = self.digests.get(record.settings.get("report") or "", [])
        return None if any(_words(self.cases[twin]) == own for twin in twins) else next(iter(twins), None)


def check_report_texts(reports: Sequence[Case], tested: Sequence[Case]) -> None:
    """Make sure that no report without images is, word for word, that of a test case.

    Raises:
        UserError: some are.
    """
    problems = Problems("reports.json")
    texts = {_words(case): case["folder"] for case in tested}
    for case in reports:
        if (twin := texts.get(_words(case))) is not None:
            problems.add(case["folder"], f"has the very report of test case {twin}", "take it out of reports.json")
    problems.raise_if_any()


def _words(case: Case) -> str:
    """A report as tokenizers take it: reports that differ in white space or in a character's form are one to them."""
    return " ".join(unicodedata.normalize("NFKC", report_of(case)).split())


def _digests(root: Path, folders: Collection[str]) -> dict[str, str]:
    """Digests of the embedded reports of some cases, as records have them, as far as they are embedded."""
    found: dict[str, str] = {}
    for path in (root / name for name in MERGED):
        if folders and path.is_file():
            merged = read_datalist(path, root, keys=(), check_files=False, problems=Problems("entries"))
            found |= {case["folder"]: case["text"] for case in merged if case["folder"] in folders}
    digests: dict[str, str] = {}
    for text in sorted(set(found.values())):
        try:
            digests[text] = digest_of(read_embedding(embedding_path(root, text)))
        except UserError:
            continue  # told by the commands that need it
    return {folder: digests[text] for folder, text in found.items() if text in digests}
