"""Schedules: MONAI's own steps where those are right, closed forms, and orders of convergence."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from monai.networks.schedulers import DDIMScheduler

from scripts.common.problems import UserError
from scripts.ldm.schedule import SOLVERS, Schedule, make_scheduler, noise_process, training_timesteps

SHAPE = (8, 8, 4)
PAIRS = [(name, objective) for objective, names in SOLVERS.items() for name in names]


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


@pytest.mark.parametrize(("name", "objective"), PAIRS)
@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
def test_an_oracle_gives_back_the_clean_latent(name, objective, steps):
    """A network that knows the noise (or the velocity) leads to x0 exactly, from every timestep of every schedule."""
    schedule = make_scheduler(name, objective, steps, SHAPE)
    generator = torch.Generator().manual_seed(1)
    x0 = torch.randn(2, 4, *SHAPE, generator=generator, dtype=torch.float64)
    x = schedule.alpha[0] * x0 + schedule.sigma[0] * torch.randn(x0.shape, generator=generator, dtype=torch.float64)
    for i in range(steps):
        noise = (x - schedule.alpha[i] * x0) / schedule.sigma[i]
        answer = noise if objective == "ddpm" else x0 - noise
        seen = schedule.predict_clean(i, x, answer)
        assert torch.allclose(seen, x0, atol=1e-9)
        z = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        x = schedule.step(i, x, seen, seen, z)
    assert torch.allclose(x, x0, atol=1e-9)


@pytest.mark.parametrize("i", [0, 1, 500, 998, 999])
def test_ddpm_with_all_steps_is_monais(i):
    schedule, process = make_scheduler("ddpm", "ddpm", 1000, SHAPE), noise_process("ddpm")
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


def error(name: str, objective: str, steps: int) -> float:
    """Distance to the exact solution of the probability flow of N(1.3, 0.5²), which keeps the standard score."""
    schedule = make_scheduler(name, objective, steps, SHAPE)
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


@pytest.mark.parametrize("steps", [1, 2, 19, 20, 333, 1000])
@pytest.mark.parametrize("name", SOLVERS["ddpm"])
def test_ddpm_timesteps_fall_and_are_whole(name, steps):
    timesteps = make_scheduler(name, "ddpm", steps, SHAPE).timesteps
    assert len(timesteps) == steps
    assert timesteps[0] == 999
    assert (timesteps == timesteps.round()).all()
    assert (timesteps.diff() < 0).all()


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


@pytest.mark.parametrize("steps", [0, -3, 1001, 2.5, True, "20"])
def test_steps_out_of_range_are_refused(steps):
    with pytest.raises(UserError, match="steps"):
        make_scheduler("ddpm", "ddpm", steps, SHAPE)


def test_a_solver_must_fit_the_objective():
    with pytest.raises(UserError, match=r"rflow objective.*rflow, dpmpp_2m"):
        make_scheduler("ddim", "rflow", 10, SHAPE)
    with pytest.raises(UserError, match="objective is 'velocity'"):
        make_scheduler("ddim", "velocity", 10, SHAPE)
