"""The data of several institutions as one data root, which no hospital could have: to compare with, and to judge on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

import pandas as pd

from scripts.common.files import link
from scripts.data.clinical import write_clinical
from scripts.data.datalists import write_datalist

TABLES = ("cases.csv", "lesions.csv")


def pool(roots: Sequence[Path], folder: Path, tests: int | None = None) -> None:
    """Link the cases, and the latents where there are any, of several phantom data roots into one.

    Args:
        roots: whose cases have different names.
        folder: the new root.
        tests: so many of the test cases of each; None takes all.
    """
    taken: dict[str, Path] = {}
    for split in ("train", "test"):
        cases = []
        for root in roots:
            own = json.loads((root / f"{split}.json").read_text(encoding="utf-8"))
            own = own[:tests] if split == "test" else own
            taken |= {case["folder"]: root for case in own}
            cases += own
        folder.mkdir(parents=True, exist_ok=True)
        write_datalist(folder / f"{split}.json", cases)
    for name, root in taken.items():
        for place in ("", "latents"):
            if (root / place / name).is_dir():
                shutil.copytree(root / place / name, folder / place / name, copy_function=link, dirs_exist_ok=True)
    for name in TABLES:
        _rows([pd.read_csv(root / name, dtype=str) for root in roots], taken).to_csv(folder / name, index=False)
    sheets = [pd.read_excel(root / "clinical.xlsx", dtype={"folder": str}) for root in roots]
    write_clinical(folder / "clinical.xlsx", _rows(sheets, taken))


def _rows(tables: Sequence[pd.DataFrame], names: Collection[str]) -> pd.DataFrame:
    table = pd.concat(tables, ignore_index=True)
    return table[table["folder"].isin(list(names))]
