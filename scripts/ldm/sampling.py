"""From noise to latents: one loop for every schedule, with guidance, and with noise that belongs to the case.

A case's noise comes from its own generator on the CPU, so it is the same whatever the batch, the rank, the number of
processes or the device. The adapter sees only report and timestep: it is run once for a report and all timesteps, and
not again for the empty report of guidance in every batch, unless the schedule has more than ADAPTER_STEPS steps.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from scripts.common.problems import UserError
from scripts.engine.transfer import sent
from scripts.ldm.schedule import TRAIN_STEPS, Schedule
from scripts.networks.ccella import CCELLA, AdapterOutput
from scripts.networks.variants import Variant

# Timesteps that the adapter reads in one batch: any shorter schedule is one batch, and 1000 steps still fit in memory.
ADAPTER_STEPS = 64


@dataclass(frozen=True)
class Guidance:
    """How strongly report and class pull; weight 1 is the network as it is, 0 leaves the condition out.

    Attributes:
        report, class_: the weights w_r and w_c of `terms`.
        interval: timesteps [low, high] of 0..1000 between which guidance works (Kynkäänniemi et al., arXiv 2404.07724).
    """

    report: float = 1.0
    class_: float = 1.0
    interval: tuple[float, float] = (0.0, float(TRAIN_STEPS))

    def __post_init__(self) -> None:
        for weight in (self.report, self.class_):
            if not isinstance(weight, (int, float)) or not 0 <= weight < float("inf"):
                raise UserError(
                    f"a guidance weight is {weight!r}; give a number that is not negative, 1 is no guidance"
                )
        ends = self.interval
        if (
            len(ends) != 2
            or not all(isinstance(t, (int, float)) for t in ends)
            or not 0 <= ends[0] <= ends[1] <= TRAIN_STEPS
        ):
            raise UserError(f"guidance_interval is {list(ends)}; give [low, high] within 0..{TRAIN_STEPS}")

    def needs_null(self, variant: Variant) -> bool:
        """Whether the variant is asked without its report, and so reads the empty report's embedding."""
        return variant.adapter and any(not term.report for term in self.terms(variant, self.interval[0]))

    def terms(self, variant: Variant, timestep: float) -> list[Term]:
        """The networks' answers that are summed at a timestep, and their weights.

            e = e(0,0) + w_r·(e(r,0) - e(0,0)) + w_c·(e(r,c) - e(r,0))

        r is the report and c the class, 0 the empty report and the zeroed class (Brooks et al., arXiv 2211.09800,
        eq. 3). A condition that the variant does not have takes the other one's weight, which makes its terms vanish;
        so do equal weights, and then two answers are enough.
        """
        report, class_ = self.report, self.class_
        if not self.interval[0] <= timestep <= self.interval[1] or not (variant.adapter or variant.class_vector):
            report = class_ = 1.0
        elif not variant.adapter:
            report = class_
        elif variant.class_vector is None:
            class_ = report
        terms = [Term(1 - report, False, False), Term(report - class_, True, False), Term(class_, True, True)]
        return [term for term in terms if term.weight]


class Term(NamedTuple):
    """One answer of the network in the guided sum: its weight, and whether report and class are given."""

    weight: float
    report: bool
    class_: bool


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
        guidance: weights and interval; none is the network as it is.
        adapter: of this network and schedule, to share the adapter's outputs with the batch before.
        ask: `guided_prediction` of this network, as `Replayed` makes it; without it the network is asked as it is.
        on_step: called after every step with the number of steps done and of all steps.

    Raises:
        UserError: guidance on the report without the empty report's embedding.
    """
    guidance = guidance or Guidance()
    device = next(network.parameters()).device
    if guidance.needs_null(network.variant) and null is None:
        raise UserError("guidance on the report needs the empty report's embedding; encode the reports again")
    ask = ask or partial(guided_prediction, network)
    adapter = adapter or AdapterCache(network, schedule)
    reports = [*embeddings, *([] if null is None else [null])]
    x = draw_noise(generators, shape, device)
    timesteps = sent(schedule.timesteps, device)
    terms = [tuple(guidance.terms(network.variant, timestep)) for timestep in schedule.timesteps.tolist()]
    layouts = {asked: lay_out(asked, len(x), device) for asked in set(terms)}
    x0_before = None
    for i, given in enumerate(adapter.steps(reports)):
        prediction = ask(terms[i], x, timesteps[i], *given, *layouts[terms[i]], pirads, spacing)
        x0 = schedule.predict_clean(i, x, prediction)
        z = draw_noise(generators, shape, device) if schedule.noise[i] else None
        x, x0_before = schedule.step(i, x, x0, x0_before, z), x0
        if on_step is not None:
            on_step(i + 1, len(schedule))
    logits = given.class_logits
    return Sample(x, None if logits is None else logits[: len(x)].float())


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
    """The weighted sum of the network's answers for x (B, C, X, Y, Z), all terms in one batch.

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
    weighted = [term.weight * answer for term, answer in zip(terms, answers.float().split(count), strict=True)]
    return torch.stack(weighted).sum(dim=0)
