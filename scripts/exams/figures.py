"""What a set of exams looks like in figures, for the summary, the plan and the page; none of them holds report text."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scripts.data.datalists import SEQUENCES, Case, is_positive, patient_of
from scripts.data.grid import Grid, by
from scripts.data.tables import some
from scripts.exams import costs
from scripts.exams.check import Seen
from scripts.exams.finished import PERCENTILES
from scripts.reports.language import guess_language

logger = logging.getLogger(__name__)


def figures(output: Path, grid: Grid, lists: Mapping[str, Sequence[Case]], seen: Mapping[str, Seen]) -> dict[str, Any]:
    """All that is counted, as `plan.json` has it under `found`.

    Args:
        output: the data root, whose images are written.
        lists: the cases of train and test.
        seen: what each exam's images tell.
    """
    cases = [case for part in lists.values() for case in part]
    # An edited series.csv may give an image to some exams alone.
    having = {name: [folder for folder, one in seen.items() if name in one.coverage] for name in SEQUENCES}
    having = {name: folders for name, folders in having.items() if folders}

    def spread(value: Callable[[Seen, str], float]) -> dict[str, dict[str, Any]]:
        return {name: _spread({one: value(seen[one], name) for one in folders}) for name, folders in having.items()}

    reports = {case["text"] for case in cases if not case["text_isnull"]}
    batch = min(costs.BATCH, max(1, len(lists["train"])))
    images = sum(path.stat().st_size for case in cases for path in (output / case["folder"]).glob("*.nii.gz"))
    return {
        "field_of_view_mm": list(grid.extent),
        "lists": [{"list": name} | balance(part) for name, part in lists.items()],
        "institutes": dict(Counter(case["dataset"] for case in cases).most_common()),
        "coverage": spread(lambda one, name: one.coverage[name]),
        "acquired_spacing_mm": {
            axis: spread(lambda one, name, i=i: one.spacing[name][i]) for i, axis in enumerate("xyz")
        },
        "percentiles": {
            str(percentile): spread(lambda one, name, i=i: one.levels[name][i])
            for i, percentile in enumerate(PERCENTILES)
        },
        "adc_units": {f"{unit:g}": len(folders) for unit, folders in adc_units(seen).items()},
        "reports": {
            "different": len(reports),
            "words": _quantiles([len(text.split()) for text in reports]),
            "characters": _quantiles([len(text) for text in reports]),
            "languages_as_guessed": dict(Counter(map(guess_language, sorted(reports))).most_common()),
        },
        "bytes": {
            "images": images,
            "latents": costs.latent_bytes(grid, sum(map(len, having.values()))),
            "embeddings_at_most": costs.embedding_bytes(len(reports) + 1),
        },
        "suggested_batch_size": batch,
        "gpu_memory_gib": costs.memory(grid, batch),
        "exams_with_notes": sorted(folder for folder, one in seen.items() if one.notes),
    }


def balance(cases: Sequence[Case]) -> dict[str, int]:
    """How many exams a list has, of how many patients, and what of."""
    positive = sum(map(is_positive, cases))
    return {
        "exams": len(cases),
        "patients": len({patient_of(case) for case in cases}),
        "positive": positive,
        "negative": len(cases) - positive,
        "without_report": sum(case["text_isnull"] for case in cases),
    }


def adc_units(seen: Mapping[str, Seen]) -> dict[float, list[str]]:
    """The exams by the unit of their ADC map, mm²/s of a grey level."""
    units = defaultdict(list)
    for folder, one in sorted(seen.items()):
        if "adc" in one.coverage:
            units[one.adc_unit].append(folder)
    return dict(sorted(units.items()))


def summarise(output: Path, grid: Grid, lists: Mapping[str, Sequence[Case]], seen: Mapping[str, Seen]) -> None:
    """Log what there is, and everything that was noted of an exam."""
    logger.info("%s: grid %s at %s mm", output, "x".join(map(str, grid.size)), "x".join(map(str, grid.spacing)))
    for name, cases in lists.items():
        found = balance(cases)
        logger.info(
            "%-5s %d exams of %d patients: %d positive, %d negative; %d without a report",
            name, *found.values(),
        )  # fmt: skip
    texts = [case["text"] for cases in lists.values() for case in cases if not case["text_isnull"]]
    languages = Counter(map(guess_language, texts))
    if languages:
        counts = ", ".join(f"{count} {language}" for language, count in languages.most_common())
        asked = "" if set(languages) == {"English"} else "; does the text encoder know them all?"
        logger.info("reports by language, as guessed: %s%s", counts, asked)
    for folder, one in sorted(seen.items()):
        for note in one.notes:
            logger.warning("%s: %s", folder, note)
    units = adc_units(seen)
    if len(units) > 1:
        for unit, folders in units.items():
            logger.warning("ADC maps in %g mm²/s, %d: %s", unit, len(folders), some(folders))
    for folders in one_t2w(seen):
        logger.warning("the T2w of these exams is one and the same image, are they one exam? %s", some(folders))


def one_t2w(seen: Mapping[str, Seen]) -> list[list[str]]:
    """Exams that share the very same T2w."""
    digests = defaultdict(list)
    for folder, one in sorted(seen.items()):
        digests[one.digest].append(folder)
    return [folders for folders in digests.values() if len(folders) > 1]


def in_words(size: int) -> str:
    """Bytes for a person."""
    unit, name = next(((n, name) for n, name in ((2**30, "GiB"), (2**20, "MiB")) if size >= n), (2**10, "KiB"))
    return f"{size / unit:.3g} {name}"


def grid_in_words(grid: Grid) -> str:
    """A grid for a person: voxels, spacing and field of view."""
    return f"{by(grid.size)} voxels of {by(grid.spacing)} mm: a field of view of {by(grid.extent)} mm"


def _spread(values: Mapping[str, float]) -> dict[str, Any]:
    """Median, lowest and highest of the exams' values, and whose these are."""
    low, high = min(values, key=values.get), max(values, key=values.get)
    return {
        "median": float(f"{np.median(list(values.values())):.4g}"),
        "lowest": float(f"{values[low]:.4g}"),
        "lowest_exam": low,
        "highest": float(f"{values[high]:.4g}"),
        "highest_exam": high,
    }


def _quantiles(numbers: Sequence[int]) -> dict[str, int]:
    """Median, 95th percentile and the largest."""
    if not numbers:
        return {}
    return {"median": int(np.median(numbers)), "95th": int(np.percentile(numbers, 95)), "longest": max(numbers)}
