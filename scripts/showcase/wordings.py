"""Are reports obeyed that no grammar wrote? Volumes from reports typed by hand, judged by the phantom's analyser.

    python -m scripts.showcase.wordings --reports tests/data/typed_reports.json --part choose

A file of such reports is a JSON list of objects with `id`, `text`, `lesion` (zone, side, level, pirads, size_mm of the
index lesion, or null), `pirads` and `set`. Settings are chosen on one set and judged, once, on the other.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from scripts.cli.run import run
from scripts.common.files import atomic
from scripts.common.problems import UserError
from scripts.data.datalists import one_hot, write_datalist
from scripts.data.grid import GRIDS
from scripts.data.outputs import images_of
from scripts.evaluation.adherence import agreement, look_at, shares
from scripts.phantom.anatomy import Lesion
from scripts.showcase.stages import DEMO_LDM, DEMO_T5_FILES, DEMO_VAE, Stage, bundle, run_stages


def wordings(reports: str, part: str = "choose", output_dir: str = "out/wordings", seed: int = 0) -> None:
    """Make one volume from each report with the shipped weights; print how many show what they should.

    Args:
        reports: the JSON file.
        part: which `set` of it.
        output_dir: gets the volumes, `<part>.csv` with one row a report (its id and which parts are right, not its
            text) and logs.
        seed: of the volumes.

    Raises:
        UserError: the file is none, holds no report of that set, or a stage failed; its log says why.
    """
    chosen = read_typed(reports, part)
    folder = Path(output_dir).resolve() / part
    entries = [entry(report) for report in chosen]
    write_datalist(folder / "data" / "test.json", entries)
    volumes = folder / "volumes"
    generate = bundle(
        "ccella_ldm", "inference", ("demo",),
        dataset_dir=folder / "data", splits="['test']", output_dir=volumes, batch_size=8, seed=seed,
    )  # fmt: skip
    reads = (folder / "data" / "test.json", DEMO_LDM, DEMO_VAE, *DEMO_T5_FILES)
    run_stages([Stage("generate", generate, makes=volumes, reads=reads)], folder)
    right = [agreement(look_at(images_of(volumes / report["id"])), index_lesion(report)) for report in chosen]
    table = pd.DataFrame.from_dict({name: share._asdict() for name, share in shares(right).items()}, orient="index")
    print(table.to_string(float_format=lambda value: f"{value:.3f}"))
    with atomic(folder.with_suffix(".csv")) as temporary:
        rows = [{"id": report["id"], **verdict} for report, verdict in zip(chosen, right, strict=True)]
        pd.DataFrame(rows).to_csv(temporary, index=False)


def read_typed(path: str, part: str) -> list[dict[str, Any]]:
    """The reports of one set.

    Raises:
        UserError: there is no such file, it holds something else, or nothing of that set.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        chosen = [report for report in found if report["set"] == part]
    except (OSError, ValueError, TypeError, KeyError):
        raise UserError(f"reports {path} cannot be read as a list of typed reports") from None
    if not chosen:
        raise UserError(f"reports {path} holds none of the set {part!r}")
    return chosen


def entry(report: dict[str, Any]) -> dict[str, Any]:
    """A report as a datalist holds it, without images."""
    return {
        "dataset": "typed",
        "folder": report["id"],
        "pirads": one_hot(report["pirads"] >= 3),
        "spacing": list(GRIDS["demo"].spacing),
        "text": report["text"],
        "text_isnull": 0,
    }


def index_lesion(report: dict[str, Any]) -> Lesion | None:
    """The lesion that a volume should show; where it lies in mm is not said."""
    told = report["lesion"]
    if told is None:
        return None
    return Lesion(told["zone"], told["side"], told["level"], told["size_mm"], told["pirads"], 0, (0.0, 0.0, 0.0))


if __name__ == "__main__":
    run(wordings)
