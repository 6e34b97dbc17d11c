"""The study's classifiers: which there are, and the stages that train and test them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from scripts.classifier.arms import ARMS, Arm
from scripts.classifier.cases import OneClassError, read_training
from scripts.showcase.stages import Stage, bundle
from scripts.showcase.study.generators import FIRST, planned_generators
from scripts.showcase.study.sizes import STUDIED, Size

REAL, SYNTHETIC, BOTH = ARMS[0], ARMS[1], ARMS[3]
SCRATCH = "scratch"  # the start of a classifier that was not pretrained


class Training(NamedTuple):
    """A classifier that is trained, and tested on the real test cases.

    Attributes:
        group: what it is compared within, and the folder of its results.
        data, volumes: folders of real and of synthetic cases.
        start: the group whose classifier of synthetic volumes it starts from.
        one_in: it sees the real volumes of one training patient in so many.
        needs: stages that make what it learns from.
    """

    group: str
    arm: Arm
    seed: int
    steps: int
    needs: tuple[str, ...]
    data: str = "data"
    volumes: str = "volumes"
    start: str = SCRATCH
    one_in: int = 1

    @property
    def name(self) -> str:
        """Of its stages."""
        return f"{self.group}_{self.arm.name}_seed{self.seed}"

    @property
    def begins(self) -> str | None:
        """The name of the training whose weights it starts from."""
        return None if self.start == SCRATCH else f"{self.start}_{SYNTHETIC.name}_seed{self.seed}"

    def models(self, folder: Path) -> Path:
        """Where its arm's folder lies."""
        return folder / "classifier" / self.group / f"seed{self.seed}"

    def started_from(self, folder: Path) -> Path:
        """The weights that it starts from."""
        return self._replace(group=self.start).models(folder) / SYNTHETIC.name / "model.safetensors"


def planned_trainings(size: Size) -> list[Training]:
    """Every classifier of the study, those that others start from first."""
    arms = [replace(arm, replicates=1) if arm.synthetic else arm for arm in ARMS]
    if size.replicates > 1:
        arms.append(replace(BOTH, replicates=size.replicates))
    if size.reports:
        arms.append(replace(BOTH, replicates=1, reports=True))
    made = ("generate_reports" if size.reports else "generate",)
    seeds = range(size.seeds)
    planned = [Training(FIRST, arm, seed, size.arm_steps, made) for arm in arms for seed in seeds]
    for group in [one.group for one in planned_generators(size) if one.group in ("shared", "more")]:
        theirs = {"volumes": f"volumes_{group}", "needs": (f"generate_{group}",)}
        planned += [Training(group, arm, seed, size.arm_steps, **theirs) for arm in (SYNTHETIC, BOTH) for seed in seeds]
    if size.others:
        there = {"data": "data_elsewhere", "volumes": "volumes_elsewhere", "needs": ("generate_elsewhere",)}
        planned += [Training("elsewhere", SYNTHETIC, seed, size.arm_steps, **there) for seed in seeds]
    if size.ceiling:
        planned.append(
            Training("ceiling", REAL, 0, 3 * size.arm_steps, ("phantom", "phantom_ceiling"), data="data_ceiling")
        )
    return planned + [
        Training(f"curve_{start}_{one_in}", REAL, seed, steps, ("phantom",), start=start, one_in=one_in)
        for start, steps in curve_starts(size).items()
        for one_in in size.fractions
        for seed in seeds
        if (start, one_in) != (SCRATCH, 1)  # which is the arm of real volumes
    ]


def curve_starts(size: Size) -> dict[str, int]:
    """What the classifiers of the curve start from, and their steps: nothing, or synthetic volumes of either place."""
    pretrained = (FIRST, "elsewhere") if size.others else (FIRST,)
    return {SCRATCH: size.arm_steps} | dict.fromkeys(pretrained, size.tune_steps)


def count_cases(folder: Path, training: Training, size: Size, seed: int) -> int:
    """How many cases it is trained on; 0 where all are of one class, as where a poor generator predicts one for all."""
    try:
        cases = read_training(
            folder / training.data,
            folder / training.volumes,
            **training.arm.switches,
            validation_fraction=size.regime.validation,
            real_fraction=1 / training.one_in,
            seed=seed_of(seed, training),
        )
    except OneClassError:
        return 0
    return len(cases.train)


def seed_of(seed: int, training: Training) -> int:
    """The seed of a training: of two studies no two are alike."""
    return 100 * seed + training.seed


def classifier_stages(folder: Path, size: Size, seed: int, epochs: Mapping[Training, int]) -> list[Stage]:
    """Give the stages of classifiers: each is trained, then tested once on the real test cases.

    Args:
        epochs: of each training that there is; those that start from one that is not there are left out.
    """
    names = {training.name for training in epochs}
    trained = [training for training in epochs if training.begins is None or training.begins in names]
    tested = [training for training in trained if training.group != "elsewhere"]
    return [
        *(_train(folder, size, seed, training, epochs[training]) for training in trained),
        *(_test(folder, size, training) for training in tested),
    ]


def _train(folder: Path, size: Size, seed: int, training: Training, epochs: int) -> Stage:
    """The weights of the last epoch are kept: validation chooses the threshold alone, once for every classifier."""
    starts: dict[str, object] = {"lr": size.regime.rate}
    if training.begins is not None:
        starts = {"lr": size.regime.tune_rate, "initial_weights": training.started_from(folder)}
    command = bundle(
        "classifier", "train", ("demo",) if training.begins is None else ("demo", "finetune"),
        dataset_dir=folder / training.data, synthetic_dir=folder / training.volumes, **training.arm.switches,
        models_dir=training.models(folder), **_looked_at(size), validation_fraction=size.regime.validation,
        real_fraction=1 / training.one_in, batch_size=size.regime.batch, epochs=epochs, val_interval=epochs,
        keep="last", seed=seed_of(seed, training), **starts,
    )  # fmt: skip
    needs = training.needs if training.begins is None else (*training.needs, f"train_{training.begins}")
    return Stage(f"train_{training.name}", command, needs, training.models(folder) / training.arm.name, beside=True)


def _test(folder: Path, size: Size, training: Training) -> Stage:
    command = bundle(
        "classifier", "inference", ("demo",),
        dataset_dir=folder / "data", **training.arm.switches, **_looked_at(size),
        model_file=training.models(folder) / training.arm.name / "model.safetensors",
        output_dir=folder / "results" / training.group / f"seed{training.seed}", saliency=0,
    )  # fmt: skip
    return Stage(f"test_{training.name}", command, (f"train_{training.name}",), beside=True)


def _looked_at(size: Size) -> dict[str, object]:
    """Options that say what a classifier sees of a volume, and in which precision."""
    regime = size.regime
    grid = {"spacing": list(regime.spacing), "spatial_size": list(regime.spatial_size)}
    return {"channels": list(STUDIED), **grid, "amp": size.amp}
