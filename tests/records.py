"""The generator's records of synthetic volumes, as tests of what reads them write them."""

from __future__ import annotations

from pathlib import Path

from scripts.data.outputs import Record


def write_record(root: Path, folder: str, source: str, split: str = "train", **changes: object) -> None:
    """A generator's record of a volume that is there."""
    known = {"replicate": 0, "seed": 1, "pirads_real": 0, "pirads_synth": 0, "probability": 0.1, "label": None}
    Record(folder=folder, source=source, split=split, sequences=["axt2"], **(known | changes)).write(root)
