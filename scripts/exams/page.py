"""`prepare.html`: what was decided for a set of exams and why, and a picture of each, by which wrong ones are found.

It holds names of exams, figures and slices, and no report text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from scripts.data.datalists import Case, is_positive
from scripts.data.grid import GRIDS, by
from scripts.data.page import Card, Page
from scripts.data.plan import PLAN, Plan
from scripts.exams import costs
from scripts.exams.check import LOW_COVERAGE, Seen
from scripts.exams.exam import NAMES
from scripts.exams.figures import grid_in_words, in_words, one_t2w

PAGE = "prepare.html"
SHOWN = (
    "The middle slice: the T2w; the DWI over it, from dark red to white; the ADC map over it, from blue to yellow (0 "
    "to 3000e-6 mm²/s). The patient's left is on the right."
)
UNITS = {"axt2": "the scanner's units", "b1600": "the scanner's units", "adc": "1e-6 mm²/s"}


def write_page(output: Path, plan: Plan, lists: Mapping[str, Sequence[Case]], seen: Mapping[str, Seen]) -> None:
    """Write the page of a data root."""
    page = Page(
        "Exams that were prepared",
        f"{sum(map(len, lists.values()))} exams with {_names(plan.sequences)}, all on one grid. Look through the "
        "pictures at the end: a wrong series, plane or place shows at once. Names of exams and slices stand here, and "
        "no report text.",
    )
    found = plan.found
    _decisions(page, plan)
    cards, usual = _cards(lists, seen)
    odd = [card for card in cards if card.told]
    if odd:
        page.section(f"Look at these first: {len(odd)} of which something is told").text(SHOWN).sheet(odd)
    _images(page, plan)
    section = page.section("Training and test list").text(found["split"])
    section.table(pd.DataFrame(found["lists"]).rename(columns=lambda name: name.replace("_", " ")))
    _reports(page, found["reports"])
    _costs(page, plan)
    section = page.section("All other exams" if odd else "All exams").text(SHOWN)
    for note in usual:
        section.text(f"Of most exams it is told: {note}.")
    section.sheet([card for card in cards if not card.told])
    page.write(output / PAGE)


def _names(sequences: Sequence[str]) -> str:
    return " and ".join([", ".join(NAMES[one] for one in sequences[:-1]), NAMES[sequences[-1]]]).removeprefix(" and ")


def _decisions(page: Page, plan: Plan) -> None:
    rows = {
        "grid": (
            grid_in_words(plan.grid),
            f"{plan.found['grid']}; along each T2w's own axes, around its centre or point",
        ),
        "sequences": (
            _names(plan.sequences),
            "the images that were given; each is encoded, and 4 channels of the latent",
        ),
        "longest report": (
            "as the text encoder says" if plan.max_tokens is None else f"{plan.max_tokens} tokens",
            "max_tokens of the plan; longer ones are cut",
        ),
        "batch": (
            f"{plan.found['suggested_batch_size']} cases a step",
            "suggested for the diffusion model; batch_size stays as you give it, 8 by default",
        ),
    }
    frame = pd.DataFrame([(name, *row) for name, row in rows.items()], columns=["", "decided", "why"])
    page.section("What was decided").table(frame).text(
        f"{PLAN} beside this page holds these values. Later steps read them; edit them there. For another grid edit "
        "size and spacing and give the prepare command again without --grid."
    )


def _images(page: Page, plan: Plan) -> None:
    """Spacing as acquired, share of the grid and grey levels, each with the exams at the two ends."""
    found, rows = plan.found, []
    for name in plan.found["coverage"]:
        rows += [
            _row(NAMES[name], f"spacing along {axis}, mm (grid: {step:g})", found["acquired_spacing_mm"][axis][name])
            for axis, step in zip("xyz", plan.spacing, strict=True)
        ]
        rows.append(_row(NAMES[name], "share of the grid that it covers", found["coverage"][name], "{:.0%}"))
        rows += [
            _row(NAMES[name], f"{percentile}th percentile, {UNITS[name]}".replace("1th", "1st"), spread[name])
            for percentile, spread in found["percentiles"].items()
        ]
    section = page.section("The images as they were acquired").text(
        "Of each figure the median over all exams, and the two exams at its ends: an odd one is likely there. Where a "
        "grid step is longer than a voxel, detail is lost. What an image does not cover is 0; below "
        f"{LOW_COVERAGE:.0%} of the grid it is told."
    )
    section.table(pd.DataFrame(rows))
    if len(found["adc_units"]) > 1:
        counts = ", ".join(f"{count} in {unit} mm²/s" for unit, count in found["adc_units"].items())
        section.text(f"The ADC maps came in different units: {counts} a grey level. All are stored in 1e-6 mm²/s.")


def _row(image: str, figure: str, spread: Mapping[str, Any], form: str = "{:g}") -> dict[str, str]:
    ends = {end: f"{form.format(spread[end])} ({spread[end + '_exam']})" for end in ("lowest", "highest")}
    return {"image": image, "": figure, "median": form.format(spread["median"])} | ends


def _reports(page: Page, found: Mapping[str, Any]) -> None:
    section = page.section("Reports")
    if not found["different"]:
        section.text("No exam has a report.")
        return
    languages = ", ".join(f"{count} {language}" for language, count in found["languages_as_guessed"].items())
    section.text(f"{found['different']} different reports; by language, as guessed: {languages}.")
    lengths = [{"length in": unit} | found[unit] for unit in ("words", "characters")]
    section.table(pd.DataFrame(lengths)).text(
        "encode_reports counts the tokens, and says how many reports are longer than the text encoder reads."
    )


def _costs(page: Page, plan: Plan) -> None:
    found, batch = plan.found, plan.found["suggested_batch_size"]
    disk = {
        "images, as written": found["bytes"]["images"],
        "latents, when encoded": found["bytes"]["latents"],
        "embeddings of the reports, at most (512 tokens of width 4096)": found["bytes"]["embeddings_at_most"],
    }
    section = page.section("What later steps take")
    section.table(pd.DataFrame([(name, in_words(size)) for name, size in disk.items()], columns=["on disk", "size"]))
    section.text(
        f"Of a GPU's memory, counted, not measured: the published networks in bf16, as docs/memory.md counts them at "
        f"{by(GRIDS['reference'].size)} voxels, brought to this grid. Plan with a tenth more, and 1 GiB."
    )
    memory = found["gpu_memory_gib"]
    section.table(pd.DataFrame([(name, f"{gib:.1f}") for name, gib in memory.items()], columns=["step", "GiB"]))
    options = [
        (f"{card} GB", costs.ldm_options(plan.grid, batch, card) or "does not fit: a smaller grid, or another GPU")
        for card in costs.CARDS
    ]
    section.table(pd.DataFrame(options, columns=["GPU", f"training the diffusion model on {batch} cases a step"]))


def _cards(lists: Mapping[str, Sequence[Case]], seen: Mapping[str, Seen]) -> tuple[list[Card], list[str]]:
    """A card for each exam, the training list first, and what is told of most exams in the same words."""
    told, usual = _told(seen)
    cards = []
    for name, cases in lists.items():
        for case in cases:
            folder, kind = case["folder"], "positive" if is_positive(case) else "negative"
            cards.append(Card(folder, f"{name}, {kind}", seen[folder].picture, told[folder]))
    return cards, usual


def _told(seen: Mapping[str, Seen]) -> tuple[dict[str, list[str]], list[str]]:
    """What is told of single exams; what is told of most in the same words marks none, and is given apart."""
    counts = Counter(note for one in seen.values() for note in one.notes)
    usual = [note for note, count in counts.items() if len(seen) > 2 and count > len(seen) / 2]
    told = {folder: [note for note in one.notes if note not in usual] for folder, one in seen.items()}
    for folders in one_t2w(seen):
        for folder in folders:
            others = [other for other in folders if other != folder]
            more = f" and {len(others) - 1} more" if len(others) > 1 else ""
            told[folder].append(f"its T2w is the very same image as that of {others[0]}{more}")
    return told, usual
