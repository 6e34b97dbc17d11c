"""Guidance: what a network is asked so that report and class pull harder, and what keeps the pull from overdrawing.

The pull is what guidance adds to the network's own answer. It is looked at on the clean prediction, where both
objectives mean the same, and always for each case alone. With every correction off it is left as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from torch import Tensor

from scripts.common.problems import UserError
from scripts.ldm.schedule import TRAIN_STEPS
from scripts.networks.variants import Variant


class Term(NamedTuple):
    """One answer of the network in the guided sum: its weight, and whether report and class are given."""

    weight: float
    report: bool
    class_: bool


@dataclass(frozen=True)
class Guidance:
    """How strongly report and class pull; weight 1 is the network as it is, 0 leaves the condition out.

    Attributes:
        report, class_: the weights w_r and w_c of `terms`.
        interval: timesteps [low, high] of 0..1000 between which guidance works (Kynkäänniemi et al., arXiv 2404.07724).
        by_worse: pull away from a worse network's answer to the same condition instead of from answers without it
            (autoguidance, Karras et al., arXiv 2406.02507); report and class have one weight then.
        rescale: phi of Lin et al. (arXiv 2305.08891, eq. 15 and 16), 0..1: how far the guided prediction is given back
            the deviation of the one that is not guided.
        parallel: eta of projected guidance (APG, Sadat et al., arXiv 2410.02416), 0..1: how much is left of the pull
            along the prediction itself, which makes dark darker and bright brighter.
        norm: its threshold r, as a root mean square of the whole pull, weights included: latents' own is about 1. The
            paper's is the norm of the pull at weight 2, and so depends on the size of the latents.
        momentum: its beta, -1..1: how much of the pull of the steps before is added; negative takes away from it.
    """

    report: float = 1.0
    class_: float = 1.0
    interval: tuple[float, float] = (0.0, float(TRAIN_STEPS))
    by_worse: bool = False
    rescale: float = 0.0
    parallel: float = 1.0
    norm: float | None = None
    momentum: float = 0.0

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
        if self.by_worse and self.report != self.class_:
            raise UserError("guidance_model takes one weight for report and class: leave guidance_class out")

    @property
    def corrects(self) -> bool:
        """Whether the pull is changed at all."""
        return bool(self.rescale or self.parallel != 1 or self.norm is not None or self.momentum)

    @property
    def settings(self) -> dict[str, Any]:
        """For a record: weights and interval, and of the rest what is on."""
        told = {"report": self.report, "class": self.class_, "interval": list(self.interval)}
        others = [field for field in fields(self) if field.name in ("rescale", "parallel", "norm", "momentum")]
        return told | {one.name: value for one in others if (value := getattr(self, one.name)) != one.default}

    def needs_null(self, variant: Variant) -> bool:
        """Whether the variant is asked without its report, and so reads the empty report's embedding."""
        return variant.adapter and any(not term.report for term in self.terms(variant, self.interval[0]))

    def terms(self, variant: Variant, timestep: float) -> list[Term]:
        """The network's answers that are summed at a timestep, and their weights; the last is to all that count.

            e = e(0,0) + w_r·(e(r,0) - e(0,0)) + w_c·(e(r,c) - e(r,0))

        r is the report and c the class, 0 the empty report and the zeroed class (Brooks et al., arXiv 2211.09800,
        eq. 3). A condition that the variant does not have takes the other one's weight, which makes its terms vanish;
        so do equal weights, and then two answers are enough. With a worse network its answer g, of `worse_terms`, is
        what the pull leads away from: e = g + w·(e(r,c) - g).
        """
        report, class_ = self.report, self.class_
        if not self._is_on(timestep):
            report = class_ = 1.0
        elif self.by_worse:
            return [Term(report, True, True)]
        elif not (variant.adapter or variant.class_vector):
            report = class_ = 1.0
        elif not variant.adapter:
            report = class_
        elif variant.class_vector is None:
            class_ = report
        terms = [Term(1 - report, False, False), Term(report - class_, True, False), Term(class_, True, True)]
        return [term for term in terms if term.weight]

    def worse_terms(self, timestep: float) -> list[Term]:
        """The worse network's answer in the sum, where there is one and guidance works."""
        if not self.by_worse or not self._is_on(timestep) or self.report == 1:
            return []
        return [Term(1 - self.report, True, True)]

    def _is_on(self, timestep: float) -> bool:
        return self.interval[0] <= timestep <= self.interval[1]

    def correct(self, own: Tensor, guided: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """The guided prediction without what overdraws it, and the pull, which the next step's momentum reads.

        Args:
            own: (B, C, X, Y, Z), the clean latents that the network predicts from all conditions.
            guided: what the guided sum predicts.
            before: the pull that the step before gave, if it was guided.
        """
        pull = guided - own if before is None else guided - own + self.momentum * before
        kept, each = pull, tuple(range(1, own.ndim))
        if self.norm is not None:
            size = kept.square().mean(each, keepdim=True).sqrt()
            kept = kept * (self.norm / size).clamp(max=1)
        if self.parallel != 1:
            along = (kept * own).sum(each, keepdim=True) / own.square().sum(each, keepdim=True) * own
            kept = kept - (1 - self.parallel) * along
        guided = own + kept
        if self.rescale:
            ratio = own.std(each, keepdim=True) / guided.std(each, keepdim=True)
            guided = guided * (1 - self.rescale + self.rescale * ratio)
        return guided, pull
