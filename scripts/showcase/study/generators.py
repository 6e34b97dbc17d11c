"""The study's generators: which there are, what each learns from, and the stages from phantoms to judged volumes."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from scripts.data.grid import GRIDS
from scripts.showcase.stages import DEMO_LDM, DEMO_T5, DEMO_T5_FILES, DEMO_VAE, Stage, bundle, module
from scripts.showcase.study.sizes import DATASETS, GENERATED, Size, epochs_of

FIRST = "arms"  # the group of the arms that every other is held against
SHIPPED = "shipped"  # the start of a generator that goes on from the shipped weights


class Generator(NamedTuple):
    """A generator that is trained, and then judged on test reports.

    Attributes:
        group: that of the classifiers which see its volumes.
        told: what it learnt from, in words, as a part of an arm's name.
        steps: of its training.
        patients: of its data root's training list.
        root: suffix of that data root, whose training reports it gets, and whose test reports judge it.
        start: the group of the generator whose weights it begins from, or `shipped`; "" for none.
        makes: whether there are volumes of it; one that others begin from need not have any.
    """

    group: str
    told: str
    steps: int
    patients: int
    root: str = ""
    start: str = ""
    makes: bool = True

    @property
    def suffix(self) -> str:
        """Of its stages and folders."""
        return "" if self.group == FIRST else f"_{self.group}"


def planned_generators(size: Size) -> list[Generator]:
    """Every generator of the study, those that others begin from first."""
    patients, more, others = size.regime.patients, size.unlabelled, size.others
    planned = [Generator(FIRST, "from nothing", size.ldm_steps, patients)]
    if size.adapt_steps:
        planned.append(Generator("shared", "from shared weights", size.adapt_steps, patients, start=SHIPPED))
    if more:
        planned.append(Generator("start", f"{more} more patients", size.ldm_steps, more, "_more", makes=False))
        planned.append(Generator("more", f"from {more} more patients", size.ldm_steps, patients, start="start"))
    if others:
        told = f"{others} patients of the other institution"
        planned.append(Generator("elsewhere", told, size.ldm_steps, others, "_elsewhere"))
    return planned


def generator_stages(folder: Path, size: Size, seed: int) -> list[Stage]:
    """Give the stages from data to generated and judged volumes.

    Where there are several generators they are trained, and make their volumes, side by side: on one thread each they
    learn from more examples together than one after the other on all of them.
    """
    planned = planned_generators(size)
    roots = list(dict.fromkeys(generator.root for generator in planned))
    made = [generator for generator in planned if generator.makes]
    beside = len(planned) > 1
    stages = _phantoms(folder, size, seed)
    for root in roots:
        stages += _encoded(folder, size, root)
    stages += [_learnt(folder, size, seed, generator, beside) for generator in planned]
    for generator in made:
        replicates = size.replicates if generator.group == FIRST else 1
        stages.append(_generated("generate", folder, size, generator, "train", beside, replicates=replicates))
    if size.reports:
        first = made[0]
        stages.append(_generated("generate_reports", folder, size, first, "reports", beside, needs=("generate",)))
    # The first of the reports, also where the stage was stopped before it had made all of them.
    judged = f"$@jobs.todo[:{size.judged} + len(@jobs.todo) - len(@jobs.all)]"
    for generator in made:
        of_tests = _generated("generate_test", folder, size, generator, "test", beside, **{"dataset#data": judged})
        stages.append(of_tests)
    return stages + [_judged(folder, generator, beside) for generator in made]


def _phantoms(folder: Path, size: Size, seed: int) -> list[Stage]:
    """The patients; generators of the first institution are judged on those of the test, others on their own."""
    regime, first = size.regime, DATASETS + 10 * seed
    common: dict[str, object] = {"difficulty": regime.difficulty, "workers": size.workers}
    if size.coarser > 1:
        grid = GRIDS["demo"]
        common["size"] = ",".join(str(voxels // size.coarser) for voxels in grid.size)
        common["spacing"] = ",".join(str(step * size.coarser) for step in grid.spacing)

    def make(suffix: str, number: int, train: int, tests: int = 0, **options: object) -> Stage:
        options = {"institute": regime.institute} | options | common
        command = module(
            "phantom", "make", output_dir=folder / f"data{suffix}", cases=train + tests, seed=first + number,
            test_fraction=tests / (train + tests), **options,
        )  # fmt: skip
        return Stage(f"phantom{suffix}", command)

    stages = [make("", 0, regime.patients, size.tests, reports=size.reports)]
    if size.unlabelled:
        stages.append(make("_more", 1, size.unlabelled))
    if size.others:
        stages.append(make("_elsewhere", 2, size.others, size.judged, institute=regime.elsewhere))
    if size.ceiling:
        stages.append(make("_ceiling", 3, size.ceiling))
    return stages


def _encoded(folder: Path, size: Size, suffix: str) -> list[Stage]:
    """Embedded reports and latents of the training cases, with the shipped text encoder and the shipped VAE."""
    root, phantom = folder / f"data{suffix}", f"phantom{suffix}"
    embed = module("encode_reports", data_dir=root, encoder=DEMO_T5)
    encode = bundle(
        "vae", "inference", ("demo",),
        dataset_dir=root, weights=DEMO_VAE, datalists="['train.json']", sequences=list(GENERATED),
        latent_dir=root / "latents", mode="encode", amp=size.amp,
    )  # fmt: skip
    return [
        Stage(f"embed{suffix}", embed, (phantom,), reads=DEMO_T5_FILES),
        Stage(f"encode{suffix}", encode, (phantom,), reads=(DEMO_VAE,)),
    ]


def _learnt(folder: Path, size: Size, seed: int, generator: Generator, beside: bool) -> Stage:
    """A generator is trained: a new one, or one that goes on from weights, with their scale of latents."""
    regime, root = size.regime, folder / f"data{generator.root}"
    needs, reads, begins = (f"encode{generator.root}", f"embed{generator.root}"), (), {}
    if generator.start == SHIPPED:
        # The rise of `demo.yaml` would take half of so few steps.
        begins = {"initial_weights": DEMO_LDM, "lr": regime.adapt_rate, "lr_warmup": generator.steps // 10}
        reads = (DEMO_LDM,)
    elif generator.start:
        begins = {"initial_weights": folder / f"ldm_{generator.start}" / "model.safetensors"}
        needs = (f"ldm_{generator.start}", *needs)
    if begins:
        begins["latent_scale"] = begins["initial_weights"]
    ldm = folder / f"ldm{generator.suffix}"
    train = bundle(
        "ccella_ldm", "train", ("demo",),
        dataset_dir=root, latent_dir=root / "latents", ckpt_dir=ldm, channels=list(GENERATED), batch_size=regime.batch,
        seed=seed, amp=size.amp, epochs=epochs_of(generator.steps, generator.patients, regime.batch),
        focus_mask=regime.focus_mask, focus_weight=regime.focus_weight,
        val_fraction=min(0.5, 2 / generator.patients), **begins,
    )  # fmt: skip
    return Stage(ldm.name, train, needs, ldm, reads, beside)


def _generated(
    name: str,
    folder: Path,
    size: Size,
    generator: Generator,
    split: str,
    beside: bool,
    needs: tuple[str, ...] = (),
    **options: object,
) -> Stage:
    """Volumes of the reports of one list."""
    ldm, tests = f"ldm{generator.suffix}", "_test" * (split == "test")
    volumes = folder / f"volumes{tests}{generator.suffix}"
    infer = bundle(
        "ccella_ldm", "inference", ("demo",),
        dataset_dir=folder / f"data{generator.root}", output_dir=volumes, model_file=folder / ldm / "model.safetensors",
        vae_file=DEMO_VAE, channels=list(GENERATED), splits=f"['{split}']", batch_size=8, amp=size.amp,
        **options,
    )  # fmt: skip
    makes = volumes if split != "reports" else None
    return Stage(f"{name}{generator.suffix}", infer, needs or (ldm,), makes, (DEMO_VAE,), beside)


def _judged(folder: Path, generator: Generator, beside: bool) -> Stage:
    """Do volumes of test reports show what these say?"""
    suffix = generator.suffix
    command = bundle(
        "ccella_ldm", "evaluate",
        dataset_dir=folder / f"data{generator.root}", generated_dir=folder / f"volumes_test{suffix}",
        output_dir=folder / f"ldm_evaluation{suffix}",
    )  # fmt: skip
    return Stage(f"ldm_evaluate{suffix}", command, (f"generate_test{suffix}",), beside=beside)
