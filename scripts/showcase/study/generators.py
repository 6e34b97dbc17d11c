"""The study's stages from phantoms to volumes: what each generator learns from, and what it makes."""

from __future__ import annotations

from pathlib import Path

from scripts.data.grid import GRIDS
from scripts.showcase.stages import DEMO_T5, DEMO_T5_FILES, DEMO_VAE, Stage, bundle, module
from scripts.showcase.study.sizes import STUDIED, Size, epochs_of


def generator_stages(folder: Path, size: Size, seed: int) -> list[Stage]:
    """Give the stages from data to generated and judged volumes."""
    regime = size.regime
    data, volumes, ldm = folder / "data", folder / "volumes", folder / "ldm"
    cases = regime.patients + size.tests
    stages = [
        _phantoms("phantom", data, size, cases, 10 * seed, reports=size.reports, test_fraction=size.tests / cases),
        *_encoded("", data, "phantom"),
        _learnt("ldm", ldm, data, size, regime.patients, seed, ("encode", "embed")),
        _generated("generate", volumes, data, ldm, "train", ("ldm",), replicates=size.replicates),
    ]
    if size.reports:
        stages.append(_generated("generate_reports", volumes, data, ldm, "reports", ("generate",)))
    stages += [
        _generated("generate_test", folder / "volumes_test", data, ldm, "test", ("ldm",)),
        Stage(
            "ldm_evaluate",
            bundle(
                "ccella_ldm", "evaluate",
                dataset_dir=data, generated_dir=folder / "volumes_test", output_dir=folder / "ldm_evaluation",
            ),
            ("generate_test",),
        ),
    ]  # fmt: skip
    if size.unlabelled:
        more, start = folder / "data_more", folder / "ldm_start"
        stages += [
            _phantoms("phantom_more", more, size, size.unlabelled, 10 * seed + 1),
            *_encoded("_more", more, "phantom_more"),
            _learnt("ldm_start", start, more, size, size.unlabelled, seed, ("encode_more", "embed_more")),
            _learnt(
                "ldm_more", folder / "ldm_more", data, size, regime.patients, seed, ("ldm_start", "encode", "embed"),
                start=start / "model.safetensors",
            ),
            _generated("generate_more", folder / "volumes_more", data, folder / "ldm_more", "train", ("ldm_more",)),
        ]  # fmt: skip
    if size.others:
        other, learnt = folder / "data_elsewhere", folder / "ldm_elsewhere"
        stages += [
            _phantoms(
                "phantom_elsewhere",
                other,
                size,
                size.others,
                10 * seed + 2,
                test_fraction=0,
                institute=regime.elsewhere,
            ),
            *_encoded("_elsewhere", other, "phantom_elsewhere"),
            _learnt("ldm_elsewhere", learnt, other, size, size.others, seed, ("encode_elsewhere", "embed_elsewhere")),
            _generated("generate_elsewhere", folder / "volumes_elsewhere", other, learnt, "train", ("ldm_elsewhere",)),
        ]
    if size.ceiling:
        many = folder / "data_ceiling"
        stages.append(_phantoms("phantom_ceiling", many, size, size.ceiling, 10 * seed + 3))
    return stages


def _phantoms(name: str, root: Path, size: Size, cases: int, seed: int, **options: object) -> Stage:
    regime = size.regime
    options = {"institute": regime.institute, "test_fraction": 0} | options
    options |= {"difficulty": regime.difficulty, "workers": size.workers}
    if size.coarser > 1:
        grid = GRIDS["demo"]
        options["size"] = ",".join(str(voxels // size.coarser) for voxels in grid.size)
        options["spacing"] = ",".join(str(step * size.coarser) for step in grid.spacing)
    return Stage(name, module("phantom", "make", output_dir=root, cases=cases, seed=seed, **options))


def _encoded(suffix: str, root: Path, phantom: str) -> list[Stage]:
    """Embedded reports and latents of the training cases, with the shipped text encoder and the shipped VAE."""
    embed = module("encode_reports", data_dir=root, encoder=DEMO_T5)
    encode = bundle(
        "vae", "inference", ("demo",),
        dataset_dir=root, weights=DEMO_VAE, datalists="['train.json']", sequences=STUDIED,
        latent_dir=root / "latents", mode="encode",
    )  # fmt: skip
    return [
        Stage(f"embed{suffix}", embed, (phantom,), reads=DEMO_T5_FILES),
        Stage(f"encode{suffix}", encode, (phantom,), reads=(DEMO_VAE,)),
    ]


def _learnt(
    name: str,
    ldm: Path,
    root: Path,
    size: Size,
    patients: int,
    seed: int,
    needs: tuple[str, ...],
    start: Path | None = None,
) -> Stage:
    """A generator of a root's training patients, new or going on from another's weights, with its scale of latents."""
    batch = size.regime.batch
    begins = {} if start is None else {"initial_weights": start, "latent_scale": start}
    train = bundle(
        "ccella_ldm", "train", ("demo",),
        dataset_dir=root, latent_dir=root / "latents", ckpt_dir=ldm, channels=STUDIED, batch_size=batch, seed=seed,
        epochs=epochs_of(size.ldm_steps, patients, batch), val_fraction=min(0.5, 2 / patients), **begins,
    )  # fmt: skip
    return Stage(name, train, needs, ldm)


def _generated(
    name: str, volumes: Path, root: Path, ldm: Path, split: str, needs: tuple[str, ...], replicates: int = 1
) -> Stage:
    """Volumes of the reports of one list."""
    infer = bundle(
        "ccella_ldm", "inference", ("demo",),
        dataset_dir=root, output_dir=volumes, model_file=ldm / "model.safetensors", vae_file=DEMO_VAE,
        channels=STUDIED, splits=f"['{split}']", replicates=replicates, batch_size=8,
    )  # fmt: skip
    return Stage(name, infer, needs, volumes if split != "reports" else None, reads=(DEMO_VAE,))
