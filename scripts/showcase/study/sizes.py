"""What the study asks, of whom, and how much of everything there is: its regime and its sizes.

Written down before any of it was run, after a look at other phantoms; docs/study.md says why.
"""

from __future__ import annotations

from dataclasses import dataclass

GENERATED = ("axt2", "b1600", "adc")  # sequences that are encoded and generated together, as the shipped weights do
STUDIED = ("axt2",)  # sequences that classifiers see
DATASETS = 1000  # dataset seeds of the phantoms, from here: neither shipped weights nor pilots have seen these patients


@dataclass(frozen=True)
class Regime:
    """What is asked, and of whom; the same in every size but `smoke`, and written down before any of them was run.

    Attributes:
        focus_mask, focus_weight: under this mask beside the images a generator's loss weighs so much more.
        adapt_rate: highest learning rate of a generator that begins from the shipped weights.
        rate, tune_rate: of a classifier, and of one that is fine-tuned.
        spacing, spatial_size: voxels of the classifiers (mm, number); their field is that of `demo.yaml`.
    """

    patients: int = 160  # real training patients, few enough that there is something to win
    difficulty: float = 1.0  # of the phantoms: the hard kind, with what looks like lesions and scanners that differ
    institute: str = "Home"  # where all of them went, and the test patients
    elsewhere: str = "Elsewhere"  # another institution, whose scanner and wording differ
    validation: float = 0.2  # share of the training patients that chooses an arm's threshold, and nothing else
    batch: int = 8
    focus_mask: str = "lesions.nii.gz"
    focus_weight: float = 20.0
    adapt_rate: float = 3e-4
    rate: float = 4e-4
    tune_rate: float = 3e-4
    spacing: tuple[float, float, float] = (1.875, 1.875, 1.875)
    spatial_size: tuple[int, int, int] = (38, 38, 28)


@dataclass(frozen=True)
class Size:
    """How much of everything; the networks are those of the `demo` overlays in every size."""

    tests: int  # real test patients
    judged: int  # of their reports, those that each generator is judged on
    ldm_steps: int  # of a generator that begins from nothing, or from such a one
    arm_steps: int  # of every classifier but the fine-tuned, whatever it is trained on
    seeds: int  # of every classifier
    replicates: int = 1  # volumes of each training report; above 1 there is an arm with all of them
    adapt_steps: int = 0  # of a generator that begins from the shipped weights; 0: there is none
    reports: int = 0  # reports without images, and an arm with volumes of them
    unlabelled: int = 0  # more patients that a second generator learns from, whose labels no classifier sees
    others: int = 0  # patients of the other institution, on whose synthetic volumes classifiers are pretrained
    fractions: tuple[int, ...] = ()  # of the real training patients, 1/n each, for the curve
    tune_steps: int = 0  # of fine-tuning a pretrained classifier
    ceiling: int = 0  # real training patients of a classifier that shows what is left to win
    together: int = 2  # classifiers, or generators where there are several, at a time
    workers: int = 2  # processes that make phantoms
    coarser: int = 1  # phantoms' voxels are so many times as large as those of the demo's grid, along each axis
    amp: str = "auto"  # precision of whatever a network does, as the bundles' option
    regime: Regime = Regime()


SIZES = {
    "smoke": Size(
        tests=10, judged=8, ldm_steps=4, arm_steps=4, seeds=2, replicates=2, adapt_steps=2, reports=2, unlabelled=6,
        others=20, fractions=(2, 1), tune_steps=2, ceiling=12, coarser=2, regime=Regime(patients=20),
    ),
    "short": Size(tests=240, judged=96, ldm_steps=1100, arm_steps=960, seeds=3),
    "long": Size(
        tests=400, judged=400, ldm_steps=4000, arm_steps=960, seeds=3, replicates=4, adapt_steps=1000, reports=640,
        unlabelled=640, others=640, fractions=(16, 8, 4, 2, 1), tune_steps=480, ceiling=3000,
    ),
    "gpu": Size(
        tests=240, judged=240, ldm_steps=1000, arm_steps=960, seeds=3, adapt_steps=400, reports=160, together=8,
        workers=16,
    ),
}  # fmt: skip


def epochs_of(steps: int, cases: int, batch: int) -> int:
    """As many epochs as come next to so many steps, whatever the number of cases; a short last batch is no step."""
    return max(1, round(steps / max(1, cases // batch)))
