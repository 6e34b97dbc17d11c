"""How volumes are generated: grid, schedule and guidance, checked against what the weights say, before any network."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from monai.utils import ensure_tuple

from scripts.common.identity import file_identity
from scripts.common.problems import Problems, UserError
from scripts.data.grid import by
from scripts.data.images import SCANNER_UNITS
from scripts.data.plan import Plan, read_plan
from scripts.ldm.guidance import Guidance
from scripts.ldm.latent_scale import per_channel
from scripts.ldm.schedule import Schedule, check_prediction, make_scheduler
from scripts.networks.ccella import REFERENCE_SPACING
from scripts.networks.variants import Variant, find_variant
from scripts.networks.weights import Header, read_header
from scripts.vae.network import FACTOR, LATENT_CHANNELS, WHERE

logger = logging.getLogger(__name__)

REFERENCE_SIZE = (256, 256, 128)
# A field of view that differs by less than this factor from the training data's is taken as the same.
VIEW_TOLERANCE = 1.15
# What the weights' file says that decides, beside its tensors, what the network answers and how its latents are scaled.
DECISIVE = ("config", "objective", "prediction", "scale_factor", "latent_mean")


@dataclass(frozen=True)
class Recipe:
    """How volumes are generated.

    Attributes:
        variant: what the network reads.
        meta: what the weights' file says beside the weights; little in the authors' files.
        authors: whether the weights are a checkpoint of the authors, who attend to all 512 positions of a report.
        shape: (C, X, Y, Z) of a latent, four channels for each sequence.
        size, spacing: voxels and mm of a volume.
        settings: what decides how a volume looks, for its record.
    """

    variant: Variant
    meta: dict[str, Any]
    authors: bool
    embedding_width: int | None
    schedule: Schedule
    guidance: Guidance
    sequences: tuple[str, ...]
    shape: tuple[int, ...]
    size: tuple[int, ...]
    spacing: tuple[float, ...]
    amp: str
    seed: int
    settings: dict[str, Any]

    @property
    def needs_null(self) -> bool:
        """Whether the empty report's embedding is asked for."""
        return self.guidance.needs_null(self.variant)


def trained_sequences(model_file: str | os.PathLike[str], channels: Sequence[str] | None) -> tuple[str, ...]:
    """The sequences that the network makes: `channels`, else those that the weights say they were trained on.

    The authors' files say none: CCELLA++ makes all three, whose latents are known by their size, CCELLA the first.

    Raises:
        UserError: there are no such weights.
    """
    if channels:
        return ensure_tuple(channels)
    header, known = read_header(model_file), tuple(SCANNER_UNITS)
    makes_all = header.config.get("in_channels") == LATENT_CHANNELS * len(known)
    return ensure_tuple(header.meta.get("channels") or (known if makes_all else known[0]))


def make_recipe(
    *,
    model_file: str | os.PathLike[str],
    vae_file: str | os.PathLike[str],
    network_config: dict[str, Any],
    channels: Sequence[str],
    size: Sequence[int] | None,
    spacing: Sequence[float] | None,
    dataset_dir: str | os.PathLike[str] | None = None,
    scheduler: str,
    steps: int,
    step_spacing: str = "uniform",
    timestep_shift: float | None = None,
    guidance_report: float,
    guidance_class: float | None = None,
    guidance_interval: Sequence[float],
    guidance_model: str | os.PathLike[str] | None = None,
    guidance_rescale: float = 0.0,
    guidance_parallel: float = 1.0,
    guidance_norm: float | None = None,
    guidance_momentum: float = 0.0,
    amp: str,
    seed: int,
) -> Recipe:
    """Check the options against each other and against what the weights say.

    Args:
        network_config: the arguments of `CCELLA` as the config gives them.
        channels: of `trained_sequences`.
        size, spacing, timestep_shift: None takes what the weights were trained on; the others as in inference.yaml.
        dataset_dir: whose plan tells size and spacing where the weights do not; the reference's without one.
        guidance_class: None is `guidance_report`.
        guidance_model: weights of the network that guidance pulls away from, instead of from answers without condition.

    Raises:
        UserError: everything that is wrong.
    """
    header = read_header(model_file)
    if not Path(vae_file).is_file():
        raise UserError(f"VAE weights {vae_file} are missing: {WHERE}")
    plan = read_plan(dataset_dir) if dataset_dir else None
    plan = plan or Plan(REFERENCE_SIZE, REFERENCE_SPACING, ())
    trained = header.meta.get("latent_shape")
    trained_size = [FACTOR * n for n in trained[-3:]] if trained else plan.size
    trained_spacing = header.meta.get("spacing") or plan.spacing
    shift = header.meta.get("timestep_shift", 1.0) if timestep_shift is None else timestep_shift
    size, spacing, sequences = size or trained_size, spacing or trained_spacing, ensure_tuple(channels)
    problems = Problems("inference")
    _check_network(network_config, header.config, problems)
    network_config = {**network_config, **header.config}
    _check(size, sequences, header.meta.get("channels"), network_config, problems)
    worse = read_header(guidance_model) if guidance_model else None
    if worse is not None:
        _check_worse(header, worse, problems)
    problems.raise_if_any()
    variant = find_variant(network_config.get("variant", "CCELLA"))
    class_ = guidance_report if guidance_class is None else guidance_class
    guidance = Guidance(
        guidance_report, class_, ensure_tuple(guidance_interval), worse is not None,
        guidance_rescale, guidance_parallel, guidance_norm, guidance_momentum,
    )  # fmt: skip
    told = guidance.settings | ({"model": file_identity(guidance_model, DECISIVE)} if worse is not None else {})
    shape = (LATENT_CHANNELS * len(sequences), *(n // FACTOR for n in size))
    per_channel(header.scale, shape[0])  # what does not fit is told before reports are embedded
    _warn_about_guidance(header.meta, variant, guidance, follows=guidance_class is None)
    _warn_about_view(size, spacing, trained_size, trained_spacing)
    return Recipe(
        variant=variant,
        meta=header.meta,
        authors=Path(model_file).suffix != ".safetensors",
        embedding_width=network_config.get("input_dim", 4096) if variant.adapter else None,
        schedule=make_scheduler(
            scheduler, header.objective, steps, shape[1:], shift, prediction=header.prediction, spacing=step_spacing
        ),
        guidance=guidance,
        sequences=sequences,
        shape=shape,
        size=tuple(size),
        spacing=tuple(spacing),
        amp=amp,
        seed=seed,
        settings={
            "model": file_identity(model_file, DECISIVE),
            "vae": file_identity(vae_file),
            "scheduler": scheduler,
            "steps": steps,
            "step_spacing": step_spacing,
            "timestep_shift": shift,
            "guidance": told,
            "size": list(size),
            "spacing": list(spacing),
            "sequences": list(sequences),
            "amp": amp,
            "seed": seed,
        },
    )


def _check_network(built: dict[str, Any], trained: dict[str, Any], problems: Problems) -> None:
    """The network of the config against that of the weights, before reports are embedded for nothing."""
    for name in sorted(built.keys() & trained.keys() - {"in_channels"}):
        if name == "variant":
            # L1ONLY and CCELLA differ in their loss alone.
            same = built[name] == trained[name] or {built[name], trained[name]} == {"CCELLA", "L1ONLY"}
            todo = f"list configs/variants/{trained[name].lower()}.yaml last"
        else:
            same = built[name] == trained[name]
            todo = "make network_def that of the training run; for the demo's weights list configs/demo.yaml"
        if not same:
            problems.add(
                "network_def", f"has {name} {built[name]}, but model_file was trained with {trained[name]}", todo
            )


def _check(
    size: Sequence[int],
    sequences: Sequence[str],
    trained: Sequence[str] | None,
    network: dict[str, Any],
    problems: Problems,
) -> None:
    # The U-Net halves the latent once less than it has levels.
    factor = FACTOR * 2 ** (len(network.get("num_channels", range(4))) - 1)
    if len(size) != 3 or not all(isinstance(n, int) and n > 0 and n % factor == 0 for n in size):
        problems.add("size", f"is {list(size)}", f"give three multiples of {factor}, by which this network divides")
    channels = network.get("in_channels", LATENT_CHANNELS)
    makes = list(trained) if trained else f"latents of {channels // LATENT_CHANNELS} sequences"
    if channels != LATENT_CHANNELS * len(sequences) or (trained and list(sequences) != list(trained)):
        what = f"are {list(sequences)}, but the network makes {makes}"
        problems.add("channels", what, "name those it was trained on, in that order, or leave the option out")


def _check_worse(header: Header, worse: Header, problems: Problems) -> None:
    """A network can pull on another's latents if it was trained on such, for the same answer, from the same inputs."""
    names = ("vae_fingerprint", "encoder_fingerprint", "variant", "in_channels", "input_dim")
    told, others = (
        {name: {**one.meta, **one.config}.get(name) for name in names}
        | {"objective": one.objective, "scale": one.scale}
        | {"prediction": check_prediction(one.objective, one.prediction)}  # what files say that do not name it
        for one in (header, worse)
    )
    for name, own in told.items():
        other = others[name]
        alike = name == "variant" and {own, other} == {"CCELLA", "L1ONLY"}  # which differ in their loss alone
        if None not in (own, other) and own != other and not alike:
            what = f"has {name} {other}, model_file {own}"
            problems.add("guidance_model", what, "give an earlier or smaller version of the same training")


def _warn_about_guidance(meta: dict[str, Any], variant: Variant, guidance: Guidance, follows: bool) -> None:
    """Guidance compares with the network's answer without a condition, which only condition dropout teaches.

    Guidance by a worse network does not.

    Args:
        follows: the class has the report's weight, so that it is enough that the variant reads one of them.
    """
    if guidance.by_worse:
        return
    weights = {"report": (guidance.report, variant.adapter), "class": (guidance.class_, variant.class_vector)}
    if follows:
        weights = {"report": (guidance.report, variant.adapter or variant.class_vector)}
    for name, (weight, is_read) in weights.items():
        if weight != 1 and not is_read:
            logger.warning("this variant reads no %s: guidance_%s has no effect", name, name)
    dropped = meta.get("trained_with_dropout", {})
    # What each answer lacks, and the share of training examples that lacked it; older weights also know `report` alone.
    shares = {"class": ("class",), "report and class": ("both",)}
    if not variant.adapter:
        shares = {"report and class": ("class", "both")}
    elif variant.class_vector is None:
        shares = {"report and class": ("report", "both")}
    lacks = {
        "report and class" if not term.report else "class"
        for term in guidance.terms(variant, guidance.interval[0])
        if not (term.report and term.class_)
    }
    never = [lack for lack in sorted(lacks) if not any(dropped.get(name) for name in shares[lack])]
    if never:
        logger.warning(
            "guidance is on, but these weights were not trained with the condition dropout that it needs: they have "
            "never seen a case without %s, so the direction that guidance amplifies is arbitrary and may do harm. "
            "Set guidance_report to 1, or train with drop_class and drop_both.",
            ", nor without ".join(never),
        )


def _warn_about_view(
    size: Sequence[int], spacing: Sequence[float], trained_size: Sequence[int], trained_spacing: Sequence[float]
) -> None:
    view, trained = (np.multiply(*pair) for pair in ((size, spacing), (trained_size, trained_spacing)))
    if np.any(np.maximum(view / trained, trained / view) > VIEW_TOLERANCE):
        logger.warning(
            "the field of view is %s mm, but the weights were trained on %s mm: expect anatomy of a wrong size",
            *(by(extent) for extent in (view, trained)),
        )
