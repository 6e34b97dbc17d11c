"""The arms of the downstream experiment, and the one table that sets their test results side by side.

`python -m scripts.classifier.arms --results_dir bundles/classifier/eval` reads `<arm>/predictions.csv` of every arm
there, or `seed<k>/<arm>/predictions.csv` where each was trained with several seeds, and writes `arms.csv` and `arms.md`
next to them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from scripts.classifier.predictions import read_predictions
from scripts.cli.run import run
from scripts.common.files import atomic
from scripts.common.problems import Problems, UserError
from scripts.evaluation.class_metrics import markdown, table
from scripts.evaluation.paired import Answers, compare_pairs, draw, judge


@dataclass(frozen=True)
class Arm:
    """What a classifier is trained on.

    Attributes:
        real: real volumes.
        synthetic: synthetic volumes made from the reports of real training cases.
        synthetic_labels: with the class that the generator predicted from the report, not that of the real case.
        reports: and those made from reports without images.
        replicates: the most volumes of each report; None for all.
    """

    real: bool
    synthetic: bool
    synthetic_labels: bool
    reports: bool = False
    replicates: int | None = None

    @property
    def name(self) -> str:
        """`ds_enb0_r{0|1}_s{0|1}_l{0|1}`, as published; `_t1` with further reports, `_n<k>` with k volumes a report."""
        name = f"ds_enb0_r{self.real:d}_s{self.synthetic:d}_l{self.synthetic_labels:d}"
        return name + "_t1" * self.reports + (f"_n{self.replicates}" if (self.replicates or 1) > 1 else "")

    @property
    def switches(self) -> dict[str, int]:
        """The options that choose it."""
        return {name: int(value) for name, value in asdict(self).items() if value is not None}

    def __str__(self) -> str:
        parts = ["real"] * self.real
        if self.synthetic:
            parts.append(f"synthetic with {'synthetic' if self.synthetic_labels else 'real'} labels")
        told = " + ".join(parts)
        if (self.replicates or 1) > 1:
            told += f", {self.replicates} a report"
        return told + ", further reports" * self.reports


ARMS = tuple(Arm(*flags) for flags in ((1, 0, 0), (0, 1, 0), (0, 1, 1), (1, 1, 0), (1, 1, 1)))


def make_arm(real: int, synthetic: int, synthetic_labels: int, reports: int = 0, replicates: int | None = None) -> Arm:
    """The arm with these switches, each 0 or 1, and so many synthetic volumes of each report.

    Raises:
        UserError: a switch is neither, or together they are no arm.
    """
    problems = Problems("arm")
    switches = {"real": real, "synthetic": synthetic, "synthetic_labels": synthetic_labels, "reports": reports}
    for name, value in switches.items():
        if value not in (0, 1):
            problems.add(name, f"is {value!r}", "write 0 or 1")
    if replicates is not None and (not isinstance(replicates, int) or replicates < 1):
        problems.add("replicates", f"is {replicates!r}", "give a whole number of at least 1, or null for all")
    problems.raise_if_any()
    if not real and not synthetic:
        problems.add("real, synthetic", "are both 0: nothing to train on", "set one of them to 1")
    if synthetic_labels and not synthetic:
        problems.add(
            "synthetic_labels", "is 1 without synthetic volumes", "set synthetic to 1 or synthetic_labels to 0"
        )
    if (reports or replicates is not None) and not synthetic:
        what = "are given without synthetic volumes"
        problems.add("reports, replicates", what, "set synthetic to 1, or reports to 0 and replicates to null")
    problems.raise_if_any()
    return Arm(bool(real), bool(synthetic), bool(synthetic_labels), bool(reports), replicates)


def arm_name(real: int, synthetic: int, synthetic_labels: int, reports: int = 0, replicates: int | None = None) -> str:
    """The name of the arm with these switches; for configs."""
    return make_arm(real, synthetic, synthetic_labels, reports, replicates).name


def arm_of(name: str) -> Arm | None:
    """The arm of a name; None where it is none's."""
    found = re.fullmatch(r"ds_enb0_r([01])_s([01])_l([01])(_t1)?(?:_n([1-9]\d*))?", name)
    if found is None:
        return None
    real, synthetic, labels, reports, replicates = found.groups()
    arm = Arm(real == "1", synthetic == "1", labels == "1", bool(reports), int(replicates) if replicates else None)
    return arm if arm.name == name else None


# ---- the table -------------------------------------------------------------------------------------------------------


def compare(predictions: Mapping[Arm, Sequence[pd.DataFrame]], *, seed: int = 0) -> pd.DataFrame:
    """One row an arm: figures with intervals, and paired tests against the arm trained on real volumes only.

    Args:
        predictions: of every arm on the same test cases, as `read_predictions` gives them, with each seed.
        seed: of the bootstrap intervals.

    Raises:
        UserError: no arm; arms that were not tested on the same cases with the same labels, or with as many seeds; test
            cases of one class.
    """
    answers = align(predictions)
    drawn = draw(next(iter(answers.values())), seed)
    result = table({arm.name: judge(one, drawn).estimates() for arm, one in answers.items()})
    result.insert(0, "trained on", [str(arm) for arm in answers])
    result.insert(1, "n", [len(one.labels) for one in answers.values()])
    result.insert(2, "seeds", [len(one.thresholds) for one in answers.values()])
    result.index.name = "arm"
    if ARMS[0] not in answers or len(answers) == 1:
        return result
    pairs = {arm.name: (answers[ARMS[0]], one) for arm, one in answers.items() if arm != ARMS[0]}
    return result.join(compare_pairs(pairs, "real volumes alone", drawn))


def align(predictions: Mapping[Arm, Sequence[pd.DataFrame]]) -> dict[Arm, Answers]:
    """What each arm says of the test cases, in one order of them.

    Raises:
        UserError: see `compare`.
    """
    if not any(predictions.values()):
        raise UserError("no arm to compare: run inference of at least one arm first")
    frames = {
        arm: [frame.sort_values("folder", ignore_index=True) for frame in own] for arm, own in predictions.items()
    }
    reference = frames.get(ARMS[0], next(iter(frames.values())))
    cases = reference[0][["folder", "label"]]
    problems = Problems("arms")
    for arm, own in frames.items():
        if any(not frame[["folder", "label"]].equals(cases) for frame in own):
            problems.add(arm.name, "was tested on other cases or labels than the rest", "run its inference again")
        if len(own) != len(reference):
            what = f"has the predictions of {len(own)} seeds, others of {len(reference)}"
            problems.add(arm.name, what, "train and test all arms with the same seeds")
    if cases["label"].nunique() < 2:
        problems.add("test cases", "are all of one class", "test on cases of both")
    problems.raise_if_any()
    return {arm: _answers(own) for arm, own in frames.items()}


def _answers(frames: Sequence[pd.DataFrame]) -> Answers:
    """At the thresholds that each seed's own validation cases have chosen."""
    return Answers(
        frames[0]["label"].to_numpy(),
        frames[0]["patient"].to_numpy(dtype=str),
        np.stack([frame["probability"].to_numpy() for frame in frames]),
        np.array([frame["threshold"].iloc[0] for frame in frames]),
    )


def read_arms(results_dir: str | os.PathLike[str]) -> dict[Arm, list[pd.DataFrame]]:
    """The predictions of all arms in a folder, with each seed.

    Args:
        results_dir: holds `<arm>/predictions.csv`, as the classifier bundle's inference writes them, or
            `seed<k>/<arm>/predictions.csv`.

    Raises:
        UserError: there is no arm; arms lie there with and without seeds, or not each with every seed.
    """
    root = Path(str(results_dir))
    seeds = sorted(path.name for path in root.glob("seed*") if re.fullmatch(r"seed\d+", path.name))
    found: dict[Arm, dict[str, Path]] = {}
    for seed in ("", *seeds):
        for path in sorted((root / seed).glob("*/predictions.csv")):
            if (arm := arm_of(path.parent.name)) is not None:
                found.setdefault(arm, {})[seed] = path
    if not found:
        raise UserError(
            f"{root}: holds no <arm>/predictions.csv; run the classifier bundle's inference for each arm first"
        )
    every = sorted({seed for paths in found.values() for seed in paths})
    problems = Problems(str(root))
    for arm, paths in found.items():
        missing = [seed or "those without a seed" for seed in every if seed not in paths]
        if missing:
            problems.add(arm.name, f"is not among {', '.join(missing)}", "test every arm with the same seeds")
    problems.raise_if_any()
    order = [*ARMS, *sorted(found.keys() - set(ARMS), key=lambda arm: arm.name)]
    return {arm: [read_predictions(found[arm][seed]) for seed in every] for arm in order if arm in found}


def merge(results_dir: str | os.PathLike[str], seed: int = 0) -> None:
    """Set the test results of all arms in `results_dir` side by side: `arms.csv`, `arms.md`, and printed.

    Args:
        results_dir: holds `<arm>/predictions.csv`, as the classifier bundle's inference writes them, or
            `seed<k>/<arm>/predictions.csv` where each arm was trained with several seeds.
        seed: of the bootstrap intervals.

    Raises:
        UserError: there is no arm, or arms do not belong together; a negative seed.
    """
    if seed < 0:
        raise UserError(f"seed is {seed}; give a whole number of at least 0")
    predictions = read_arms(results_dir)
    result = compare(predictions, seed=seed)
    told = markdown(result) + "\n" + "".join(f"\n- {line}" for line in conclusions(result)) + "\n"
    with atomic(Path(str(results_dir)) / "arms.csv") as part:
        result.to_csv(part)
    with atomic(Path(str(results_dir)) / "arms.md") as part:
        part.write_text(told, encoding="utf-8")
    missing = [arm.name for arm in ARMS if arm not in predictions]
    print(told + (f"\nnot there yet: {', '.join(missing)}" if missing else ""))


def conclusions(result: pd.DataFrame) -> list[str]:
    """What can and what cannot be concluded of each arm, in words."""
    if "conclusion" not in result:
        return []
    rows = result.dropna(subset="conclusion")
    return [f"{trained}: {words}" for trained, words in zip(rows["trained on"], rows["conclusion"], strict=True)]


if __name__ == "__main__":
    run(merge)
