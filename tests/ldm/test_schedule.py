"""Schedules: MONAI's own steps where those are right, closed forms, and orders of convergence."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from monai.networks.schedulers import DDIMScheduler

from scripts.common.problems import UserError
from scripts.ldm.schedule import (
    LAST_TIMESTEP,
    PREDICTIONS,
    SOLVERS,
    SPACINGS,
    Schedule,
    make_scheduler,
    noise_process,
    training_timesteps,
)

SHAPE = (8, 8, 4)
ANSWERS = [(name, path, answer) for path, names in SOLVERS.items() for name in names for answer in PREDICTIONS[path]]


def solve(schedule: Schedule, x: torch.Tensor, clean, generator: torch.Generator | None = None) -> torch.Tensor:
    """Run a schedule with a function (x, alpha, sigma) -> x0 in place of a network."""
    before = None
    for i in range(len(schedule)):
        x0 = clean(x, schedule.alpha[i], schedule.sigma[i])
        z = torch.randn(x.shape, generator=generator, dtype=x.dtype) if schedule.noise[i] else None
        x, before = schedule.step(i, x, x0, before, z), x0
    return x


def gaussian(mean: float, std: float):
    """The exact x0 that a perfect network knows for data from N(mean, std²)."""

    def clean(x: torch.Tensor, alpha: float, sigma: float) -> torch.Tensor:
        return mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x - alpha * mean)

    return clean


@pytest.mark.parametrize(("name", "objective", "prediction"), ANSWERS)
@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_an_oracle_gives_back_the_clean_latent(name, objective, prediction, steps, spacing):
    """A network that knows the noise (or the velocity) leads to x0 exactly, from every timestep of every schedule."""
    schedule = make_scheduler(name, objective, steps, SHAPE, prediction=prediction, spacing=spacing)
    generator = torch.Generator().manual_seed(1)
    x0 = torch.randn(2, 4, *SHAPE, generator=generator, dtype=torch.float64)
    x = schedule.alpha[0] * x0 + schedule.sigma[0] * torch.randn(x0.shape, generator=generator, dtype=torch.float64)
    for i in range(steps):
        noise = (x - schedule.alpha[i] * x0) / schedule.sigma[i]
        velocity = x0 - noise if objective == "rflow" else schedule.alpha[i] * noise - schedule.sigma[i] * x0
        answer = {"noise": noise, "velocity": velocity}[prediction]
        seen = schedule.predict_clean(i, x, answer)
        assert torch.allclose(seen, x0, atol=1e-9)
        z = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        x = schedule.step(i, x, seen, seen, z)
    assert torch.allclose(x, x0, atol=1e-9)


@pytest.mark.parametrize("i", [0, 1, 500, 998, 999])
@pytest.mark.parametrize(("prediction", "theirs"), [("noise", "epsilon"), ("velocity", "v_prediction")])
def test_ddpm_with_all_steps_is_monais(i, prediction, theirs):
    schedule, process = make_scheduler("ddpm", "ddpm", 1000, SHAPE, prediction=prediction), noise_process("ddpm")
    process.prediction_type = theirs
    x, answer = torch.randn(2, 1, 4, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    z = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    expected, expected_x0 = process.step(answer, int(schedule.timesteps[i]), x, torch.Generator().manual_seed(3))
    x0 = schedule.predict_clean(i, x, answer)
    assert torch.allclose(x0, expected_x0, rtol=1e-5)
    assert torch.allclose(schedule.step(i, x, x0, None, z), expected, atol=1e-4)


def test_ddim_with_all_steps_is_monais():
    schedule = make_scheduler("ddim", "ddpm", 1000, SHAPE)
    process = DDIMScheduler(1000, "scaled_linear_beta", beta_start=0.0015, beta_end=0.0195, clip_sample=False)
    x, answer = torch.randn(2, 1, 4, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    for i in (0, 500, 999):
        expected, _ = process.step(answer, int(schedule.timesteps[i]), x)
        assert torch.allclose(
            schedule.step(i, x, schedule.predict_clean(i, x, answer), None, None), expected, atol=1e-4
        )


def test_rflow_is_monais_euler_step():
    schedule, process = make_scheduler("rflow", "rflow", 10, SHAPE), noise_process("rflow")
    process.set_timesteps(10)
    x, answer = torch.randn(2, 1, 4, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    expected, _ = process.step(answer, 300, x, 200)
    assert schedule.timesteps.tolist() == pytest.approx([1000 - 100 * i for i in range(10)])
    assert torch.allclose(schedule.step(7, x, schedule.predict_clean(7, x, answer), None, None), expected, atol=1e-6)


def test_training_adds_noise_along_the_path_of_the_schedules():
    """What `add_noise` mixes for training is alpha·x0 + sigma·e of the table, for both objectives."""
    x0, noise = torch.randn(2, 3, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    for name, objective in (("ddim", "ddpm"), ("rflow", "rflow")):
        schedule = make_scheduler(name, objective, 20, SHAPE)
        for i in (0, 7, 19):
            t = schedule.timesteps[i].expand(3)
            mixed = noise_process(objective).add_noise(x0, noise, t.long() if objective == "ddpm" else t)
            assert torch.allclose(mixed, schedule.alpha[i] * x0 + schedule.sigma[i] * noise, atol=1e-5)


@pytest.mark.parametrize(("steps", "tolerance"), [(1000, 0.03), (200, 0.05)])
def test_ancestral_sampling_of_a_gaussian_has_its_mean_and_spread(steps, tolerance):
    """20,000 numbers: the standard errors of mean and spread are below 0.004."""
    schedule = make_scheduler("ddpm", "ddpm", steps, SHAPE)
    generator = torch.Generator().manual_seed(0)
    x = solve(schedule, torch.randn(20_000, generator=generator), gaussian(0.7, 0.4), generator)
    assert x.mean().item() == pytest.approx(0.7, abs=tolerance)
    assert x.std().item() == pytest.approx(0.4, abs=tolerance)


def error(name: str, objective: str, steps: int, spacing: str = "uniform") -> float:
    """Distance to the exact solution of the probability flow of N(1.3, 0.5²), which keeps the standard score."""
    schedule = make_scheduler(name, objective, steps, SHAPE, spacing=spacing)
    x = torch.randn(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    alpha, sigma = schedule.alpha[0], schedule.sigma[0]
    exact = 1.3 + 0.5 * (x - alpha * 1.3) / math.hypot(alpha * 0.5, sigma)
    return (solve(schedule, x, gaussian(1.3, 0.5)) - exact).abs().mean().item()


def test_euler_is_of_first_and_the_other_of_second_order():
    """Twice the steps: half the error for Euler, about a quarter for the second-order solver."""
    first = [error("rflow", "rflow", steps) for steps in (40, 80, 160)]
    second = [error("dpmpp_2m", "rflow", steps) for steps in (40, 80, 160)]
    assert all(1.8 < a / b < 2.2 for a, b in itertools.pairwise(first))
    assert all(a / b > 2.8 for a, b in itertools.pairwise(second))


@pytest.mark.parametrize("objective", ["ddpm", "rflow"])
@pytest.mark.parametrize("steps", [10, 20, 50])
def test_second_order_is_several_times_closer_at_few_steps(objective, steps):
    plain = {"ddpm": "ddim", "rflow": "rflow"}[objective]
    assert error("dpmpp_2m", objective, steps) < 0.25 * error(plain, objective, steps)


def test_straight_paths_are_exact_in_one_step():
    """Data in one point: every path is straight, so a single Euler step lands on it."""
    schedule = make_scheduler("rflow", "rflow", 1, SHAPE)
    x = torch.randn(100, dtype=torch.float64)
    assert torch.allclose(solve(schedule, x, lambda x, a, s: torch.full_like(x, 2.5)), torch.full_like(x, 2.5))


@pytest.mark.parametrize("steps", [1, 2, 19, 20, 333, 700, 1000])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", SOLVERS["ddpm"])
def test_ddpm_timesteps_fall_and_are_whole(name, spacing, steps):
    timesteps = make_scheduler(name, "ddpm", steps, SHAPE, spacing=spacing).timesteps
    assert len(timesteps) == steps
    assert timesteps[0] == 999
    assert timesteps[-1] >= 0
    assert (timesteps == timesteps.round()).all()
    assert (timesteps.diff() < 0).all()


def log_snr(schedule: Schedule) -> torch.Tensor:
    return 2 * (torch.tensor(schedule.alpha).log() - torch.tensor(schedule.sigma).log())


@pytest.mark.parametrize("name", SOLVERS["rflow"])
@pytest.mark.parametrize(("steps", "shift"), [(5, 1.0), (20, 3.0), (20, 5.0), (50, 8.0)])
def test_steps_of_rectified_flow_may_be_even_in_log_snr(name, steps, shift):
    """Between where the first step ends and LAST_TIMESTEP, in closed form; pure noise itself has none."""
    even = make_scheduler(name, "rflow", steps, SHAPE, shift)
    schedule = make_scheduler(name, "rflow", steps, SHAPE, shift, spacing="log_snr")
    assert schedule.timesteps[0] == 1000
    assert schedule.timesteps[1] == even.timesteps[1]
    assert schedule.timesteps[-1] == LAST_TIMESTEP < even.timesteps[-1]
    ratios = log_snr(schedule)[1:]
    first, last = (2 * math.log((1000 - t) / t) for t in (even.timesteps[1].item(), LAST_TIMESTEP))
    assert ratios.tolist() == pytest.approx(torch.linspace(first, last, steps - 1).tolist(), abs=1e-4)


def test_steps_even_in_log_snr_leave_the_last_one_less_noise():
    """20 steps and a shift of 5: a fifth of the noise, or a fiftieth."""
    sigma = {spacing: make_scheduler("rflow", "rflow", 20, SHAPE, 5.0, spacing=spacing).sigma for spacing in SPACINGS}
    assert sigma["uniform"][-1] == pytest.approx(5 / 24)
    assert sigma["log_snr"][-1] == pytest.approx(0.02)
    many = make_scheduler("rflow", "rflow", 1000, SHAPE, spacing="log_snr")  # whose even steps end later
    assert many.sigma[-1] == pytest.approx(0.001)


@pytest.mark.parametrize("name", SOLVERS["ddpm"])
@pytest.mark.parametrize("steps", [10, 20, 50])
def test_steps_of_ddpm_may_be_even_in_log_snr(name, steps):
    """From the noisiest timestep to the cleanest, as near as whole timesteps are, of which none is taken twice."""
    schedule = make_scheduler(name, "ddpm", steps, SHAPE, spacing="log_snr")
    assert schedule.timesteps[[0, -1]].tolist() == [999, 0]
    signal = noise_process("ddpm").alphas_cumprod.double()
    every = torch.logit(signal)
    wanted = torch.linspace(every[-1], every[0], steps, dtype=torch.float64)
    nearest = (every[:, None] - wanted).abs().argmin(dim=0)
    apart = nearest.diff() < 0
    free = torch.cat([apart, apart.new_ones(1)]) & torch.cat([apart.new_ones(1), apart])
    assert ((schedule.timesteps - nearest).abs()[free] <= 1).all()
    assert free.float().mean() > 0.7


@pytest.mark.parametrize(
    ("name", "objective"), [("dpmpp_2m", "ddpm"), ("dpmpp_2m", "rflow"), ("ddim", "ddpm"), ("rflow", "rflow")]
)
def test_steps_even_in_log_snr_come_closer_with_their_number(name, objective):
    errors = [error(name, objective, steps, "log_snr") for steps in (10, 20, 40)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.02


def test_large_latents_get_more_noisy_timesteps():
    """64×64×32 cells are 4 times 32³: shift 4^(1/3); up to 32³ there is none. Sampling and training shift alike."""
    shift, even = 4 ** (1 / 3), torch.arange(1, 10) / 10
    large = make_scheduler("rflow", "rflow", 10, (64, 64, 32)).timesteps
    expected = (1000 * shift * even / (1 + (shift - 1) * even)).flip(0)
    assert torch.allclose(large[1:], expected, rtol=1e-5)
    assert torch.allclose(training_timesteps("rflow", even.flip(0), (64, 64, 32)), expected, rtol=1e-5)
    assert torch.allclose(training_timesteps("rflow", even, (16, 16, 8)), 1000 * even)


def test_ddpm_trains_on_all_thousand_timesteps():
    uniform = torch.tensor([0.0, 0.0009, 0.001, 0.99999])
    assert training_timesteps("ddpm", uniform, SHAPE).tolist() == [0, 0, 1, 999]


def test_training_timesteps_may_be_logit_normal():
    """Their quantiles, in closed form: the median is where the shift puts it, the spread is that of the logit."""
    uniform = torch.tensor([0.0, 0.15865525, 0.5, 0.84134475, 1 - 2**-24])
    for std, shift in ((1.0, 1.0), (1.0, 3.0), (0.5, 5.0)):
        timesteps = training_timesteps("rflow", uniform, SHAPE, shift, std)
        logits = torch.logit(timesteps.double() / 1000)
        middle = math.log(shift)
        assert logits[1:4].tolist() == pytest.approx([middle - std, middle, middle + std], abs=1e-4)
        assert timesteps[0] == 0
        assert 900 < timesteps[-1] <= 1000
        assert (timesteps.diff() > 0).all()


def test_logit_normal_timesteps_have_their_density():
    """Esser et al., eq. 19, over a million even draws, in ten parts of the path."""
    draws = (torch.arange(1_000_000) + 0.5) / 1_000_000
    found = torch.histc(training_timesteps("rflow", draws, SHAPE, std=1.0), 10, 0, 1000) / 1_000_000
    t = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    density = (-torch.logit(t).square() / 2).exp() / (math.sqrt(2 * math.pi) * t * (1 - t))
    assert found.tolist() == pytest.approx(density.view(10, -1).mean(dim=1).div(10).tolist(), abs=1e-4)


@pytest.mark.parametrize("steps", [0, -3, 1001, 2.5, True, "20"])
def test_steps_out_of_range_are_refused(steps):
    with pytest.raises(UserError, match="steps"):
        make_scheduler("ddpm", "ddpm", steps, SHAPE)


def test_a_solver_must_fit_the_objective():
    with pytest.raises(UserError, match=r"rflow objective.*rflow, dpmpp_2m"):
        make_scheduler("ddim", "rflow", 10, SHAPE)
    with pytest.raises(UserError, match="objective is 'velocity'"):
        make_scheduler("ddim", "velocity", 10, SHAPE)


def test_what_the_network_answers_with_and_the_spacing_must_be_known():
    with pytest.raises(UserError, match="prediction is 'noise' with objective rflow; give velocity"):
        make_scheduler("rflow", "rflow", 10, SHAPE, prediction="noise")
    with pytest.raises(UserError, match="prediction is 'x0' with objective ddpm; give noise or velocity"):
        make_scheduler("ddim", "ddpm", 10, SHAPE, prediction="x0")
    with pytest.raises(UserError, match="step_spacing is 'karras'; it must be one of uniform, log_snr"):
        make_scheduler("ddim", "ddpm", 10, SHAPE, spacing="karras")
