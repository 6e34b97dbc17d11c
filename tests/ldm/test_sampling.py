"""The sampling loop: whose noise it is, what guidance sums, and how often the adapter is asked."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

import tiny
from accelerator import watched
from scripts.common.problems import UserError
from scripts.ldm.guidance import Guidance
from scripts.ldm.sampling import (
    ADAPTER_STEPS,
    AdapterCache,
    Asked,
    case_generator,
    case_seed,
    guided_prediction,
    lay_out,
    sample,
)
from scripts.ldm.schedule import make_scheduler
from scripts.ldm.writing import finite_cases
from scripts.networks.ccella import CCELLA, AdapterOutput
from scripts.networks.variants import VARIANTS

SIZES = tiny.CCELLA | {"input_dim": 8}
SHAPE = (4, 8, 8, 4)
NULL = torch.zeros(1, 8)
CORRECTED = Guidance(30, 30, rescale=0.5, parallel=0.2, norm=0.01, momentum=-0.5)


def network(variant: str = "CCELLA", seed: int = 0, **sizes) -> CCELLA:
    """A network in which no layer is zero, as it would be at the start of training."""
    torch.manual_seed(seed)
    made = CCELLA(variant, **SIZES | sizes).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return made


def reports(*lengths: int) -> list[torch.Tensor]:
    return [torch.randn(n, 8, generator=torch.Generator().manual_seed(n)) for n in lengths]


def run(
    made: CCELLA,
    cases: list[int],
    guidance: Guidance | None = None,
    name="dpmpp_2m",
    objective="rflow",
    steps=4,
    worse: CCELLA | None = None,
):
    """Sample some of four cases, the second of which has the same report as the first."""
    embeddings, pirads = [*reports(5), *reports(5, 9, 3)], torch.eye(2)[torch.tensor([0, 1, 1, 0])]
    schedule = make_scheduler(name, objective, steps, SHAPE[1:])
    return sample(
        made,
        schedule,
        SHAPE,
        [embeddings[i] for i in cases],
        [case_generator(case_seed(0, f"case_{i}")) for i in cases],
        null=NULL,
        pirads=pirads[cases],
        spacing=torch.full((len(cases), 3), 1.25),
        guidance=guidance,
        worse=worse and Asked(AdapterCache(worse, schedule), partial(guided_prediction, worse)),
    )


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("name", "objective"), [("ddpm", "ddpm"), ("dpmpp_2m", "rflow")])
def test_a_case_is_the_same_in_any_batch(variant, name, objective):
    """Relative to the latent's spread, to rounding of sums whose order depends on the batch; also for DDPM's noise."""
    made, guidance = network(variant), Guidance(3, 2)
    together = run(made, [0, 1, 2, 3], guidance, name, objective)
    for cases in ([2], [3, 2], [1, 3]):
        alone = run(made, cases, guidance, name, objective)
        assert (alone.latents - together.latents[cases]).abs().max() < 2e-6 * together.latents.std()
        if alone.class_logits is not None:
            assert torch.allclose(alone.class_logits, together.class_logits[cases], atol=1e-6)


@pytest.mark.parametrize("by_worse", [False, True])
def test_corrected_guidance_gives_a_case_the_same_in_any_batch(by_worse):
    made, worse = network(), network(seed=1) if by_worse else None
    given = (CORRECTED if not by_worse else replace(CORRECTED, by_worse=True), "rflow", "rflow", 4, worse)
    together = run(made, [0, 1, 2, 3], *given).latents
    for cases in ([2], [3, 1]):
        alone = run(made, cases, *given).latents
        assert (alone - together[cases]).abs().max() < 1e-5 * together.std()  # weights of 30 multiply the rounding


def test_same_report_other_case_other_volume():
    latents = run(network(), [0, 1]).latents
    assert (latents[0] - latents[1]).abs().mean() > 0.1


def test_seeds_differ_by_run_case_and_replicate_and_stay_the_same():
    """The number is part of the format: a changed rule would change everyone's volumes."""
    seeds = {case_seed(s, f, r) for s in (0, 1) for f in ("a", "b", "1") for r in (0, 1)}
    assert len(seeds) == 12
    assert case_seed(0, "case_17") == 2985660178510742728


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_the_networks_at_the_last_timestep(variant):
    made = network(variant)
    schedule = make_scheduler("ddim", "ddpm", 3, SHAPE[1:])
    expected = made.condition(reports(9)[0][None], schedule.timesteps[-1:]).class_logits
    logits = run(made, [2], Guidance(2, 0), "ddim", "ddpm", 3).class_logits
    assert (logits is None) == (made.variant.heads is None)
    assert logits is None or torch.allclose(logits, expected, atol=1e-6)


# ---- guidance --------------------------------------------------------------------------------------------------------


def test_guided_sum_is_the_formula():
    """e(0,0) + w_r·(e(r,0) - e(0,0)) + w_c·(e(r,c) - e(r,0)), from four separate calls of the whole network."""
    made, x, t = network(), torch.randn(1, *SHAPE), torch.tensor(400.0)
    report, spacing = reports(5)[0], torch.ones(1, 3)

    def answer(text: torch.Tensor, keep: bool) -> torch.Tensor:
        return made(x, t[None], text[None], spacing, class_keep=torch.tensor([keep])).noise_pred

    own, empty = (made.condition(embedding[None], t[None]) for embedding in (report, NULL))
    given = AdapterOutput(torch.cat([own.context, empty.context]), torch.cat([own.class_logits, empty.class_logits]))
    terms = Guidance(3, 1.5).terms(made.variant, 400)
    got, own = guided_prediction(made, terms, x, t, *given, *lay_out(terms, 1, x.device), None, spacing)
    nothing, only_report, both = answer(NULL, False), answer(report, False), answer(report, True)
    expected = nothing + 3 * (only_report - nothing) + 1.5 * (both - only_report)
    assert torch.allclose(got, expected, atol=1e-5)
    assert torch.allclose(own, both, atol=1e-5)


@pytest.mark.parametrize(("name", "objective"), [("ddpm", "ddpm"), ("ddim", "ddpm"), ("rflow", "rflow")])
def test_every_solver_asks_for_guidance_within_its_interval_only(name, objective, monkeypatch):
    asked = []
    denoise = CCELLA.denoise

    def count(self, x, timestep, *conditions):
        asked.append((float(timestep[0]), len(x)))
        return denoise(self, x, timestep, *conditions)

    monkeypatch.setattr(CCELLA, "denoise", count)
    run(network(), [0, 2], Guidance(3, 3, (300, 700)), name, objective, steps=10)
    assert len(asked) == 10
    assert {entries for timestep, entries in asked if 300 <= timestep <= 700} == {4}
    assert {entries for timestep, entries in asked if not 300 <= timestep <= 700} == {2}


def test_weight_one_and_an_empty_interval_are_the_network_as_it_is():
    made = network()
    plain = run(made, [0, 2]).latents
    assert torch.equal(run(made, [0, 2], Guidance(1, 1)).latents, plain)
    # 1000 is rectified flow's first timestep: guidance there changes the result, in [0, 1] it is never reached.
    assert torch.equal(run(made, [0, 2], Guidance(5, 5, (0, 1))).latents, plain)
    assert not torch.allclose(run(made, [0, 2], Guidance(5, 5, (1000, 1000))).latents, plain, atol=1e-3)


@pytest.mark.parametrize(("name", "objective"), [("ddim", "ddpm"), ("rflow", "rflow")])
def test_corrections_that_change_nothing_are_plain_guidance(name, objective):
    weights = (30, 20)  # a network that has learnt nothing minds its conditions little
    made, plain = network(), run(network(), [0, 2], Guidance(*weights), name, objective).latents
    neutral = Guidance(*weights, norm=1e6)
    assert neutral.corrects
    got = run(made, [0, 2], neutral, name, objective).latents
    assert torch.allclose(got, plain, atol=1e-5 * float(plain.std()))
    strong = run(made, [0, 2], replace(neutral, norm=1e-4), name, objective).latents
    assert (strong - plain).std() > 1e-4 * plain.std()


@pytest.mark.parametrize(("name", "objective"), [("ddim", "ddpm"), ("rflow", "rflow")])
def test_momentum_adds_the_pull_of_the_step_before(name, objective):
    """In two steps; the second pulls with what its own answers say and beta times the first one's pull."""
    guidance, pulls, correct = Guidance(3, 3, momentum=-0.5), [], Guidance.correct

    def watch(self, own, guided, before):
        pulls.append((guided - own, before))
        return correct(self, own, guided, before)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Guidance, "correct", watch)
        for _ in range(2):
            run(network(), [0], guidance, name, objective, steps=3)
    (first, none), (second, before), (_, last), *again = pulls
    assert none is None
    assert torch.equal(before, first)
    assert torch.allclose(last, second - 0.5 * first)
    assert again[0][1] is None  # nothing is carried from one batch to the next


def test_momentum_begins_with_the_interval():
    given = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Guidance, "correct", lambda self, own, guided, before: given.append(before) or (guided, guided))
        run(network(), [0], Guidance(3, 3, (300, 700), momentum=-0.5), "rflow", "rflow", steps=10)
    assert [before is None for before in given] == [True, False, False, False, False]


# ---- a worse network -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["CCELLA", "RADMAISI", "MAISI"])
def test_a_worse_network_that_is_the_network_guides_nowhere(variant):
    made = network(variant)
    plain = run(made, [0, 2]).latents
    got = run(made, [0, 2], Guidance(3, 3, by_worse=True), worse=network(variant)).latents
    assert torch.allclose(got, plain, atol=1e-5 * float(plain.std()))


def test_the_pull_leads_away_from_the_worse_network_within_the_interval():
    """g + w·(e - g): weight 0 is the worse network alone, 1 the network; and halves are asked of both alike."""
    made, worse = network(), network(seed=1, num_channels=[8, 8])

    def by(weight: float, **changes) -> torch.Tensor:
        return run(made, [0, 2], Guidance(weight, weight, by_worse=True, **changes), steps=1, worse=worse).latents

    own, other = run(made, [0, 2], steps=1).latents, run(worse, [0, 2], steps=1).latents
    assert torch.allclose(by(0), other, atol=1e-5)
    assert torch.equal(by(1), own)
    assert torch.allclose(by(3), other + 3 * (own - other), atol=1e-4)
    assert torch.equal(by(3, interval=(0, 1)), own)


def test_guidance_by_a_worse_network_reads_no_empty_report_and_needs_the_network():
    schedule, guidance = make_scheduler("rflow", "rflow", 2, SHAPE[1:]), Guidance(2, 2, by_worse=True)
    made, worse = network(), network(seed=1)
    given = (made, schedule, SHAPE, reports(3), [case_generator(0)])
    asked = Asked(AdapterCache(worse, schedule), partial(guided_prediction, worse))
    sample(*given, guidance=guidance, worse=asked, spacing=torch.ones(1, 3))
    with pytest.raises(UserError, match="guidance_model"):
        sample(*given, guidance=guidance)


def test_guidance_without_the_empty_report_is_refused():
    schedule = make_scheduler("ddim", "ddpm", 2, SHAPE[1:])
    with pytest.raises(UserError, match="empty report"):
        sample(network(), schedule, SHAPE, reports(3), [case_generator(0)], guidance=Guidance(2, 2))


# ---- cost ------------------------------------------------------------------------------------------------------------


def count_calls(made: CCELLA, monkeypatch) -> dict[str, list[int]]:
    """Batch sizes of every call of the adapter and of the U-Net."""
    calls: dict[str, list[int]] = {"adapter": [], "unet": []}

    def count(name: str, module: torch.nn.Module, batch_of: int) -> None:
        forward = module.forward

        def counted(*args, **kwargs):
            calls[name].append(len(args[batch_of]))
            return forward(*args, **kwargs)

        monkeypatch.setattr(module, "forward", counted)

    count("adapter", made.ella, 1)
    count("unet", made.unet, 0)
    return calls


def test_the_adapter_runs_once_for_each_distinct_report(monkeypatch):
    """Four cases with three reports and guidance: four calls, each with all timesteps; guidance is one joint batch."""
    made = network()
    calls = count_calls(made, monkeypatch)
    run(made, [0, 1, 2, 3], Guidance(3, 3), steps=10)
    assert calls["adapter"] == [10] * 4
    assert calls["unet"] == [8] * 10


def test_the_next_batch_asks_for_new_reports_only(monkeypatch):
    """Neither the empty report nor a report of which another volume is made is read again; the volumes are the same."""
    made, embeddings = network(), reports(5, 9)
    schedule = make_scheduler("rflow", "rflow", 3, SHAPE[1:])

    def volume(report: int, adapter: AdapterCache | None) -> torch.Tensor:
        given = {"null": NULL, "spacing": torch.ones(1, 3), "guidance": Guidance(3, 3), "adapter": adapter}
        return sample(made, schedule, SHAPE, [embeddings[report]], [case_generator(1)], **given).latents

    alone = [volume(report, None) for report in (0, 0, 1)]
    calls = count_calls(made, monkeypatch)
    shared = AdapterCache(made, schedule)
    for report, expected, asked in ((0, alone[0], 2), (0, alone[1], 2), (1, alone[2], 3)):
        assert torch.equal(volume(report, shared), expected)
        assert calls["adapter"] == [3] * asked


def test_long_schedules_read_the_report_in_pieces(monkeypatch):
    made = network()
    calls = count_calls(made, monkeypatch)
    run(made, [2], steps=ADAPTER_STEPS + 6)
    assert calls["adapter"] == [ADAPTER_STEPS, ADAPTER_STEPS, 6, 6]


def test_long_schedules_keep_one_piece_and_give_the_next_batch_its_own(monkeypatch):
    """Two guided batches of other reports through one cache: the volumes are those without it."""
    made, embeddings = network(), reports(5, 9)
    schedule = make_scheduler("rflow", "rflow", ADAPTER_STEPS + 6, SHAPE[1:])
    given = {"null": NULL, "spacing": torch.ones(1, 3), "guidance": Guidance(3, 3)}
    shared = AdapterCache(made, schedule)
    for report in embeddings:
        alone, cached = (
            sample(made, schedule, SHAPE, [report], [case_generator(1)], adapter=adapter, **given).latents
            for adapter in (None, shared)
        )
        assert torch.equal(alone, cached)
        assert len(shared.known) == 2


def test_progress_is_told():
    told = []
    schedule = make_scheduler("ddim", "ddpm", 3, SHAPE[1:])
    sample(
        network(),
        schedule,
        SHAPE,
        reports(3),
        [case_generator(0)],
        spacing=torch.ones(1, 3),
        on_step=lambda *step: told.append(step),
    )
    assert told == [(1, 3), (2, 3), (3, 3)]


# ---- waiting ---------------------------------------------------------------------------------------------------------

ACCELERATOR = torch.device("meta")  # has no numbers, so that whatever waits for one raises


def sample_on_the_accelerator(on_step, name="dpmpp_2m", guidance=Guidance(3, 1, (200, 600)), **changes):  # noqa: B008
    made = network().to(ACCELERATOR)
    conditions = {"spacing": torch.full((2, 3), 1.25), "pirads": torch.eye(2)}
    given = {name: tensor.to(ACCELERATOR) for name, tensor in conditions.items()} | {"null": NULL} | changes
    objective = "rflow" if name in ("dpmpp_2m", "rflow") else "ddpm"
    schedule = make_scheduler(name, objective, 6, SHAPE[1:])
    generators = [case_generator(seed) for seed in range(2)]
    return sample(made, schedule, SHAPE, reports(5, 9), generators, guidance=guidance, on_step=on_step, **given)


def by_a_worse_network(guidance: Guidance, name: str) -> dict[str, Any]:
    worse, objective = network(seed=1).to(ACCELERATOR), "ddpm" if name == "ddim" else "rflow"
    cache = AdapterCache(worse, make_scheduler(name, objective, 6, SHAPE[1:]))
    asked = Asked(cache, partial(guided_prediction, worse))
    return {"guidance": replace(guidance, by_worse=True), "worse": asked}


@pytest.mark.parametrize(
    "changes", [lambda _: {}, lambda _: {"guidance": CORRECTED}, partial(by_a_worse_network, CORRECTED)]
)
@pytest.mark.parametrize("name", ["dpmpp_2m", "rflow", "ddim"])
def test_nothing_waits_for_the_accelerator_and_the_loop_sends_it_nothing(name, changes):
    counts, given = [], changes(name)
    with watched() as asked:
        sampled = sample_on_the_accelerator(lambda *step: counts.append(asked.count), name, **given)
        finite = finite_cases(sampled)
    assert asked.reads == 0
    assert sampled.latents.device == finite.device == ACCELERATOR
    assert counts[0] > 0
    assert len(counts) == 6
    assert set(counts) == {counts[0]}


def test_a_solver_that_adds_noise_sends_nothing_else():
    counts = []
    with watched() as asked:
        sample_on_the_accelerator(lambda *step: counts.append(asked.count), "ddpm")
    assert asked.reads == 0
    assert [after - before for before, after in itertools.pairwise(counts)] == [1, 1, 1, 1, 0]


@pytest.mark.parametrize(
    "fault",
    [
        lambda x: x + torch.tensor([1.0], device=x.device),
        lambda x: x + torch.ones(1).to(x.device),
        lambda x: x * x.mean().item(),
        lambda x: x if x.isfinite().all() else -x,
    ],
)
def test_a_loop_that_waits_or_sends_is_seen(fault):
    """What the tests above would not let pass."""
    counts = []
    made = partial(guided_prediction, network().to(ACCELERATOR))
    with watched() as asked, contextlib.suppress(NotImplementedError, RuntimeError):
        sample_on_the_accelerator(lambda *step: counts.append(asked.count), ask=lambda *args: fault(made(*args)))
    assert len(counts) < 6 or len(set(counts)) > 1
