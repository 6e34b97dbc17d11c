"""From noise to latents: one loop for every schedule, with guidance, and with noise that belongs to the case.

A case's noise comes from its own generator on the CPU, so it is the same whatever the batch, the rank, the number of
processes or the device. The adapter sees only report and timestep: it is run once for a report and all timesteps, and
not again for the empty report of guidance in every batch, unless the schedule has more than ADAPTER_STEPS steps.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from scripts.common.problems import UserError
from scripts.engine.transfer import sent
from scripts.ldm.guidance import Guidance, Term
from scripts.ldm.schedule import Schedule
from scripts.networks.ccella import CCELLA, AdapterOutput

# Timesteps that the adapter reads in one batch: any shorter schedule is one batch, and 1000 steps still fit in memory.
ADAPTER_STEPS = 64


class Sample(NamedTuple):
    """Latents (B, C, X, Y, Z), still normalised, and the last step's class logits (B, 2) or None."""

    latents: Tensor
    class_logits: Tensor | None


def case_seed(seed: int, folder: str, replicate: int = 0) -> int:
    """A case's own seed: 63 bits of SHA-256 over the run's seed, the folder's name and the number of the replicate."""
    text = f"{seed}/{folder}/{replicate}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def case_generator(seed: int) -> torch.Generator:
    """A case's own source of noise, on the CPU."""
    return torch.Generator().manual_seed(seed)


def draw_noise(generators: Sequence[torch.Generator], shape: Sequence[int], device: torch.device) -> Tensor:
    """Standard normal noise (B, *shape), each case's from its own generator."""
    return sent(torch.stack([torch.randn(tuple(shape), generator=generator) for generator in generators]), device)


@torch.inference_mode()
def sample(
    network: CCELLA,
    schedule: Schedule,
    shape: Sequence[int],
    embeddings: Sequence[Tensor],
    generators: Sequence[torch.Generator],
    *,
    null: Tensor | None = None,
    pirads: Tensor | None = None,
    spacing: Tensor | None = None,
    guidance: Guidance | None = None,
    adapter: AdapterCache | None = None,
    ask: Callable[..., Tensor] | None = None,
    worse: Asked | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Sample:
    """Make one latent for each report.

    On a GPU nothing inside the loop waits for it, nor is anything sent there but the noise of solvers that add some.

    Args:
        network: in eval mode, on its device.
        schedule: from `make_scheduler`.
        shape: (C, X, Y, Z) of a latent.
        embeddings: B report embeddings (T_i, D), every position of which is attended; variants without an adapter do
            not look at them.
        generators: B of them, from `case_generator`; each is read for its own case only.
        null: (T, D), the empty report's embedding; guidance on the report needs it.
        pirads: (B, 2) one-hot, for variants that take the case's own class.
        spacing: (B, 3) voxel spacing of the image in mm.
        guidance: weights, interval and corrections; none is the network as it is.
        adapter: of this network and schedule, to share the adapter's outputs with the batch before.
        ask: `guided_prediction` of this network, as `Replayed` makes it; without it the network is asked as it is.
        worse: the network that guidance pulls away from, where it is to pull away from one.
        on_step: called after every step with the number of steps done and of all steps.

    Raises:
        UserError: guidance on the report without the empty report's embedding, or by a worse network without one.
    """
    guidance = guidance or Guidance()
    device = next(network.parameters()).device
    if guidance.needs_null(network.variant) and null is None:
        raise UserError("guidance on the report needs the empty report's embedding; encode the reports again")
    if guidance.by_worse and worse is None:
        raise UserError("guidance by a worse network needs that network; give its weights as guidance_model")
    ask = ask or partial(guided_prediction, network)
    adapter = adapter or AdapterCache(network, schedule)
    reports = [*embeddings, *([] if null is None else [null])]
    x = draw_noise(generators, shape, device)
    timesteps, times = sent(schedule.timesteps, device), schedule.timesteps.tolist()
    terms = [tuple(guidance.terms(network.variant, time)) for time in times]
    worse_terms = [tuple(guidance.worse_terms(time)) for time in times]
    layouts = {asked: lay_out(asked, len(x), device) for asked in {*terms, *worse_terms}}
    worse_steps = worse.adapter.steps(embeddings) if any(worse_terms) else itertools.repeat(None)
    x0_before = pull = None
    for i, (given, worse_given) in enumerate(zip(adapter.steps(reports), worse_steps, strict=False)):
        guided, own = ask(terms[i], x, timesteps[i], *given, *layouts[terms[i]], pirads, spacing)
        if worse_terms[i]:
            other = (worse_terms[i], x, timesteps[i], *worse_given, *layouts[worse_terms[i]], pirads, spacing)
            guided = guided + worse.ask(*other)[0]
        x0 = schedule.predict_clean(i, x, guided)
        if guidance.corrects and len(terms[i]) + len(worse_terms[i]) > 1:
            x0, pull = guidance.correct(schedule.predict_clean(i, x, own), x0, pull)
        else:
            pull = None
        z = draw_noise(generators, shape, device) if schedule.noise[i] else None
        x, x0_before = schedule.step(i, x, x0, x0_before, z), x0
        if on_step is not None:
            on_step(i + 1, len(schedule))
    logits = given.class_logits
    return Sample(x, None if logits is None else logits[: len(x)].float())


class Asked(NamedTuple):
    """How a network is asked: the adapter's outputs that are kept, and its `guided_prediction`."""

    adapter: AdapterCache
    ask: Callable[..., Tensor]


class AdapterCache:
    """The adapter's outputs for reports: many timesteps of a schedule in one batch, and each report once.

    Those of one batch of volumes are kept for the next, in which the empty report of guidance, and a report of which
    several volumes are made, come again. Of a schedule longer than ADAPTER_STEPS only the piece at hand is kept: its
    reports are read again for every batch.
    """

    def __init__(self, network: CCELLA, schedule: Schedule) -> None:
        self.network = network
        self.pieces = sent(schedule.timesteps, next(network.parameters()).device).split(ADAPTER_STEPS)
        self.known: dict[tuple[int, bytes], AdapterOutput] = {}

    def steps(self, reports: Sequence[Tensor]) -> Iterator[AdapterOutput]:
        """For each step of the schedule the outputs for reports (T_i, D), as a batch in their order."""
        if not self.network.variant.adapter:
            yield from itertools.repeat(AdapterOutput(None, None), sum(map(len, self.pieces)))
            return
        names = [report.numpy().tobytes() for report in reports]
        texts = {}  # of the reports that are not known, on the device before the first step
        for piece, timesteps in enumerate(self.pieces):
            for name, report in zip(names, reports, strict=True):
                if (piece, name) not in self.known and name not in texts:
                    texts[name] = sent(report, timesteps.device).float()[None]
            keys = [(piece, name) for name in names]
            self.known = {
                key: self.known.get(key) or self.network.condition(texts[key[1]], timesteps)
                for key in dict.fromkeys(keys)
            }
            outputs = [self.known[key] for key in keys]
            for step in range(len(timesteps)):
                yield select_step(outputs, step)


def select_step(outputs: Sequence[AdapterOutput], step: int) -> AdapterOutput:
    """One step's outputs for R reports, as a batch: context (R, L, W) and logits (R, 2) or None."""
    context, logits = (
        None if part[0] is None else torch.stack([report[step] for report in part])
        for part in zip(*outputs, strict=True)
    )
    return AdapterOutput(context, logits)


class Layout(NamedTuple):
    """Where the N answers of a guided sum for B cases, all in one batch, take their conditions from.

    Attributes:
        rows: (N,) of the adapter's outputs for the B reports and, behind them, the empty one.
        keep: (N,) whether the class is given.
    """

    rows: Tensor
    keep: Tensor


def lay_out(terms: Sequence[Term], count: int, device: torch.device) -> Layout:
    """The layout of these terms for `count` cases, on the device."""
    rows = [row if term.report else count for term in terms for row in range(count)]
    keep = [term.class_ for term in terms for _ in range(count)]
    return Layout(sent(torch.tensor(rows), device), sent(torch.tensor(keep), device))


def guided_prediction(
    network: CCELLA,
    terms: Sequence[Term],
    x: Tensor,
    timestep: Tensor,
    context: Tensor | None,
    logits: Tensor | None,
    rows: Tensor,
    keep: Tensor,
    pirads: Tensor | None,
    spacing: Tensor | None,
) -> Tensor:
    """The weighted sum of the network's answers for x (B, C, X, Y, Z), and the last of them alone: (2, B, C, X, Y, Z).

    All terms are asked in one batch.

    Args:
        terms: of `Guidance.terms`; `rows` and `keep` are their `Layout`.
        timestep: (), on the device.
        context, logits: the adapter's outputs at the step for the B reports and, behind them, the empty one.
        pirads, spacing: of the B cases.
    """
    count, repeats = len(x), len(terms)
    context = None if context is None else context.index_select(0, rows)
    logits = None if logits is None else logits.index_select(0, rows)
    classes = network.class_vector(logits, None if pirads is None else pirads.repeat(repeats, 1), keep)
    answers = network.denoise(
        x.repeat(repeats, 1, 1, 1, 1),
        timestep.expand(count * repeats),
        context,
        classes,
        None if spacing is None else spacing.repeat(repeats, 1),
    )
    # Not as a matrix product, which autocast would do in half precision.
    parts = answers.float().split(count)
    weighted = [term.weight * answer for term, answer in zip(terms, parts, strict=True)]
    return torch.stack([torch.stack(weighted).sum(dim=0), parts[-1]])
