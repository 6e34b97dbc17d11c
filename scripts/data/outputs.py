"""What inference leaves behind of each generated case: its record, and the sheets and datalists of all.

Nothing here holds report text. A case's record is written last, so that a record means a complete case.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from scripts.common.files import atomic
from scripts.common.problems import Problems
from scripts.data.datalists import SEQUENCES, one_hot, write_datalist
from scripts.data.root import LISTS, REPORTS

RECORD = "generated.json"
SHEET = "synthsheet_all.xlsx"  # one row a generated case
MARK = "generated"  # how a generated volume's header describes it
SHEET_COLUMNS = ("folder", "PIRADS_real", "PIRADS_synth", "Label")


@dataclass(frozen=True)
class Record:
    """What is known about one generated case.

    Attributes:
        folder: the generated case; `source` is the real case whose report it was made from, "" for a typed report.
        split: the datalist that it belongs to, "" for a typed report.
        pirads_real: the real case's class, 0 or 1; None where there is none.
        pirads_synth: the class that the network predicted from the report; None for variants without a head.
        probability: of the positive class.
        label: the clinical sheet's column Label.
        entry: what else the datalist says: spacing, dataset, patient.
        settings: all that decides how the volume looks; two runs are the same when these are.
        seconds: that sampling (a batch's, shared out), decoding and writing (of a processor) took; a run may take less
            than their sum, since writing goes on while the next volumes are made.
    """

    folder: str
    source: str
    split: str
    replicate: int
    seed: int
    pirads_real: int | None
    pirads_synth: int | None
    probability: float | None
    label: str | None
    sequences: list[str]
    entry: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None

    def write(self, output_dir: Path) -> None:
        """Write it into the case's folder; the volumes must be there already."""
        with atomic(output_dir / self.folder / RECORD) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def read_record(output_dir: Path, folder: str) -> Record | None:
    """The record of a complete case; None where the case is not there, not wholly, or its folder was renamed."""
    place = output_dir / folder
    try:
        record = Record(**json.loads((place / RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    if record.folder != folder:
        return None
    return record if all((place / f"{sequence}.nii.gz").is_file() for sequence in record.sequences) else None


def images_of(folder: Path) -> dict[str, Path]:
    """The images of a case's folder by sequence, as many as are there."""
    paths = {name: folder / f"{name}.nii.gz" for name in SEQUENCES}
    return {name: path for name, path in paths.items() if path.is_file()}


def find_records(output_dir: Path) -> list[Record]:
    """All complete cases of datalists in the folder, in order of split and folder."""
    names = sorted(path.parent.name for path in output_dir.glob(f"*/{RECORD}"))
    records = [record for name in names if (record := read_record(output_dir, name)) is not None and record.split]
    return sorted(records, key=lambda record: (record.split != "train", record.split))


def check_not_a_data_root(output_dir: Path, problems: Problems) -> None:
    """Note lists of real cases, which those of generated cases would replace; ours have the sheet beside them."""
    found = [name for name in (*LISTS, f"{REPORTS}.json") if (output_dir / name).exists()]
    if found and not (output_dir / SHEET).is_file():
        what = f"{output_dir} holds {found[0]} of other cases, which would be replaced"
        problems.add("output_dir", what, "give another folder")


def write_sheet(path: str | os.PathLike[str], records: Sequence[Record]) -> None:
    """The synthetic sheet: folder, PIRADS_real, PIRADS_synth (empty without a head), Label; one row a case."""
    rows = [(record.folder, record.pirads_real, record.pirads_synth, record.label) for record in records]
    frame = pd.DataFrame(rows, columns=SHEET_COLUMNS).astype({"PIRADS_real": "Int64", "PIRADS_synth": "Int64"})
    with atomic(path) as temporary, pd.ExcelWriter(temporary, engine="openpyxl") as writer:
        frame.to_excel(writer, index=False)
        for row in range(2, len(frame) + 2):
            # As text, or Excel drops the leading zeros of folder names as soon as someone edits the sheet.
            writer.sheets["Sheet1"].cell(row, 1).number_format = "@"


def write_rank_sheets(output_dir: Path, rank: int, records: Sequence[Record]) -> list[tuple[int, str]]:
    """A sheet for each split of a rank's own cases, `synthsheet_<rank>_<split>.xlsx`; gives rank and split of each."""
    splits = sorted({record.split for record in records})
    for split in splits:
        write_sheet(output_dir / f"synthsheet_{rank}_{split}.xlsx", [r for r in records if r.split == split])
    return [(rank, split) for split in splits]


def remove_other_rank_sheets(output_dir: Path, written: Sequence[tuple[int, str]]) -> None:
    """Remove sheets of these splits that no rank has written: they are of an earlier run, which had more ranks."""
    for split in {split for _, split in written}:
        for path in output_dir.glob(f"synthsheet_*_{glob.escape(split)}.xlsx"):
            rank = path.name.removeprefix("synthsheet_").removesuffix(f"_{split}.xlsx")
            if rank.isdecimal() and (int(rank), split) not in written:
                path.unlink(missing_ok=True)  # another run may be faster


def write_merged(output_dir: Path, records: Sequence[Record]) -> None:
    """`synthsheet_all.xlsx` and a datalist for each split."""
    write_sheet(output_dir / SHEET, records)
    for split in sorted({record.split for record in records}):
        write_datalist(output_dir / f"{split}.json", [datalist_entry(r) for r in records if r.split == split])


def datalist_entry(record: Record) -> Mapping[str, Any]:
    """A generated case as a datalist's case: no report, and the real class where there is one, else the predicted."""
    label = record.pirads_real if record.pirads_real is not None else record.pirads_synth
    return {
        **{sequence: f"./{record.folder}/{sequence}.nii.gz" for sequence in record.sequences},
        **record.entry,
        "folder": record.folder,
        "pirads": one_hot(bool(label)),
        "text": "",
        "text_isnull": 1,
    }
