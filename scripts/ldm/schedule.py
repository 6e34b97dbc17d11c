"""What is noise and how it is taken away again: the two training objectives and the solvers that sample from them.

Both objectives mix a clean latent x0 with noise e along a path, x_t = alpha(t)·x0 + sigma(t)·e, with t from
1000 (noise) to 0:

* `ddpm`: alpha² = prod(1 - beta) with scaled-linear betas; the network predicts the noise e (Ho et al. 2020, arXiv
  2006.11239), or the velocity alpha·e - sigma·x0 (Salimans & Ho 2022, arXiv 2202.00512, sec. 4);
* `rflow`: alpha = 1 - t/1000, sigma = t/1000; the network predicts the velocity x0 - e (Liu et al. 2022, arXiv
  2209.03003).

Every solver's step is then linear in what is known, so a schedule is a table of numbers and one line serves them all:

    x_next = keep·x + clean·D + noise·z,    D = x0_hat + extrapolate·(x0_hat - x0_hat of the step before)

MONAI's own `step` methods are right for one spacing each (DDPM for all 1000 steps, DDIM where the stride divides 1000),
so their noise schedules and timesteps are used here and their steps serve as the reference in the tests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from monai.networks.schedulers import DDPMScheduler, RFlowScheduler
from monai.networks.schedulers.rectified_flow import timestep_transform
from torch import Tensor

from scripts.common.problems import UserError

TRAIN_STEPS = 1000

# Which solver fits which objective; `rflow` is Euler's method, `dpmpp_2m` is of second order and fits both.
SOLVERS = {"ddpm": ("ddpm", "ddim", "dpmpp_2m"), "rflow": ("rflow", "dpmpp_2m")}

# What the network may answer with; the first is what weights answer with that do not say it.
PREDICTIONS = {"ddpm": ("noise", "velocity"), "rflow": ("velocity",)}

# How the timesteps of sampling are spread: evenly, or evenly in the logarithm of the signal-to-noise ratio.
SPACINGS = ("uniform", "log_snr")
# Where the last step of rectified flow, whose path has no end of its own, starts with the latter: at a noise of 0.02.
LAST_TIMESTEP = 20.0

# Latents up to this many cells are trained without a shift of the timesteps (MONAI's base of 32³).
SHIFT_BASE = 32**3


@dataclass(frozen=True)
class Schedule:
    """A solver's table for N steps: everything that sampling needs to know about the objective and the solver.

    Attributes:
        objective, prediction: what the network predicts, see the head of this file.
        timesteps: (N,) float32, what the network is given, falling from the noisiest.
        alpha, sigma: (N,) the path's coefficients at these timesteps.
        keep, clean, noise, extrapolate: (N,) the step's coefficients, see the head of this file.
    """

    objective: str
    prediction: str
    timesteps: Tensor
    alpha: list[float]
    sigma: list[float]
    keep: list[float]
    clean: list[float]
    noise: list[float]
    extrapolate: list[float]

    def __len__(self) -> int:
        return len(self.timesteps)

    def predict_clean(self, i: int, x: Tensor, prediction: Tensor) -> Tensor:
        """x0_hat (same shape as x) from the network's prediction at step i."""
        if self.objective == "rflow":
            return x + self.sigma[i] * prediction
        if self.prediction == "velocity":
            return self.alpha[i] * x - self.sigma[i] * prediction
        return (x - self.sigma[i] * prediction) / self.alpha[i]

    def step(self, i: int, x: Tensor, x0: Tensor, x0_before: Tensor | None, z: Tensor | None) -> Tensor:
        """From x at step i to x at step i + 1; `z` is fresh noise, only read where `noise[i]` is not 0."""
        if x0_before is not None and self.extrapolate[i]:
            x0 = x0 + self.extrapolate[i] * (x0 - x0_before)
        x = self.keep[i] * x + self.clean[i] * x0
        return x + self.noise[i] * z if self.noise[i] else x


def noise_process(objective: str) -> DDPMScheduler | RFlowScheduler:
    """MONAI's scheduler for the objective: its `add_noise` makes the training input, its tables make the schedules.

    Raises:
        UserError: an unknown objective.
    """
    if objective == "ddpm":
        return DDPMScheduler(
            TRAIN_STEPS, schedule="scaled_linear_beta", beta_start=0.0015, beta_end=0.0195, clip_sample=False
        )
    if objective == "rflow":
        return RFlowScheduler(TRAIN_STEPS, use_discrete_timesteps=False)
    raise UserError(f"objective is {objective!r}; it must be one of {sorted(SOLVERS)}")


def check_prediction(objective: str, prediction: str | None) -> str:
    """What the network answers with: `prediction`, or without it what the objective's older weights do.

    Raises:
        UserError: the objective has no such answer.
    """
    possible = PREDICTIONS[objective]
    if prediction not in (None, *possible):
        raise UserError(f"prediction is {prediction!r} with objective {objective}; give {' or '.join(possible)}")
    return prediction or possible[0]


def shift_timesteps(timesteps: Tensor, spatial_shape: Sequence[int], shift: float = 1.0) -> Tensor:
    """Rectified flow's timesteps moved towards the noise (Esser et al., arXiv 2403.03206, eq. 23): s·t / (1 + (s-1)·t).

    The more cells a latent has, the more noise hides its content, so the steps (in training and in sampling) are spent
    where something is still undecided. Latents of at most 32³ cells are left as they are, but for `shift`, which is
    the factor s of the training on top of that.
    """
    cells = math.prod(spatial_shape)
    base = min(cells, SHIFT_BASE)
    by_size = timestep_transform(
        timesteps, cells, base, num_train_timesteps=TRAIN_STEPS, spatial_dim=len(spatial_shape)
    )
    part = by_size / TRAIN_STEPS
    return TRAIN_STEPS * shift * part / (1 + (shift - 1) * part)


def training_timesteps(
    objective: str, uniform: Tensor, spatial_shape: Sequence[int], shift: float = 1.0, std: float | None = None
) -> Tensor:
    """Training timesteps (B,) from uniform numbers (B,) in [0, 1): whole ones for ddpm, shifted real ones for rflow.

    With `std` those of rflow are logit-normal (Esser et al., arXiv 2403.03206, eq. 19): the ends of the path, where
    little is left to learn, are seen less. The shift moves the mean: logit(t) grows by its logarithm.
    """
    if objective == "ddpm":
        return (uniform * TRAIN_STEPS).long()
    fraction = uniform if std is None else torch.sigmoid(std * torch.special.ndtri(uniform))
    return shift_timesteps(fraction * TRAIN_STEPS, spatial_shape, shift)


def make_scheduler(
    name: str,
    objective: str,
    steps: int,
    spatial_shape: Sequence[int],
    shift: float = 1.0,
    *,
    prediction: str | None = None,
    spacing: str = "uniform",
) -> Schedule:
    """The schedule of a solver.

    Args:
        name: `ddpm` (ancestral sampling, as the authors), `ddim`, `rflow` (Euler) or `dpmpp_2m` (second order).
        objective: what the network was trained for, `ddpm` or `rflow`.
        steps: how many times the network is asked, 1..1000.
        spatial_shape, shift: of the latent and of the training, for rectified flow's timestep shift.
        prediction: what the network answers with; None as in `check_prediction`.
        spacing: `uniform` takes even timesteps (`dpmpp_2m` on ddpm: even in their root), rectified flow's shifted;
            `log_snr` even ones of log(alpha²/sigma²), see `_even_log_snr`.

    Raises:
        UserError: unknown name, objective, prediction or spacing, a solver that does not fit the objective, steps or
            shift out of range.
    """
    process, prediction = noise_process(objective), check_prediction(objective, prediction)
    if name not in SOLVERS[objective]:
        raise UserError(
            f"scheduler {name!r} does not fit weights trained with the {objective} objective; "
            f"choose one of {', '.join(SOLVERS[objective])}"
        )
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= TRAIN_STEPS:
        raise UserError(f"steps is {steps!r}; it must be a whole number from 1 to {TRAIN_STEPS}")
    if not isinstance(shift, int | float) or shift <= 0:
        raise UserError(f"timestep_shift is {shift!r}; it must be a positive number")
    if spacing not in SPACINGS:
        raise UserError(f"step_spacing is {spacing!r}; it must be one of {', '.join(SPACINGS)}")

    if objective == "ddpm":
        process.set_timesteps(steps)
        timesteps = _quadratic(steps) if name == "dpmpp_2m" else process.timesteps
        if spacing == "log_snr":
            timesteps = _even_log_snr_of_table(process.alphas_cumprod, steps)
        signal = process.alphas_cumprod.double()[timesteps]
        alpha, sigma = signal.sqrt(), (1 - signal).sqrt()
    else:
        even = torch.linspace(TRAIN_STEPS, 0, steps + 1, dtype=torch.float64)[:-1]
        timesteps = shift_timesteps(even, spatial_shape, shift)
        if spacing == "log_snr":
            timesteps = _even_log_snr(timesteps)
        sigma = timesteps / TRAIN_STEPS
        alpha = 1 - sigma
    # The path ends in the clean latent.
    alpha, sigma = torch.cat([alpha, alpha.new_ones(1)]), torch.cat([sigma, sigma.new_zeros(1)])
    solve = _ancestral if name == "ddpm" else _deterministic
    keep, clean, noise = solve(alpha, sigma)
    extrapolate = _second_order(alpha, sigma) if name == "dpmpp_2m" else torch.zeros_like(keep)
    columns = (alpha[:-1], sigma[:-1], keep, clean, noise, extrapolate)
    return Schedule(objective, prediction, timesteps.float(), *(column.tolist() for column in columns))


def _quadratic(steps: int) -> Tensor:
    """(N,) whole timesteps 999..0 that lie closer the less noise there is (arXiv 2010.02502, D.3), none of them twice.

    Even timesteps leave log(alpha/sigma) to jump at the end, which costs the second-order solver its order.
    """
    return _whole((TRAIN_STEPS - 1) * torch.linspace(1, 0, steps) ** 2)


def _even_log_snr_of_table(signal: Tensor, steps: int) -> Tensor:
    """(N,) whole timesteps 999..0 of ddpm whose log signal-to-noise ratios are as even as whole timesteps can be."""
    log_snr = torch.logit(signal.double()).flip(0)  # alpha² and sigma² = 1 - alpha²; rises to the clean end
    wanted = torch.linspace(log_snr[0].item(), log_snr[-1].item(), steps, dtype=torch.float64)
    above = torch.searchsorted(log_snr, wanted).clamp(1, TRAIN_STEPS - 1)
    below = above - 1
    share = (wanted - log_snr[below]) / (log_snr[above] - log_snr[below])
    return _whole(TRAIN_STEPS - 1 - (below + share))


def _whole(timesteps: Tensor) -> Tensor:
    """Timesteps (N,) that fall from 999 as whole ones, none of them twice: where they lie too close they give way."""
    k = torch.arange(len(timesteps))
    wanted = timesteps.round().long().flip(0)
    apart = (wanted - k).cummax(0).values + k
    return apart.minimum(k + TRAIN_STEPS - len(timesteps)).flip(0)


def _even_log_snr(timesteps: Tensor) -> Tensor:
    """(N,) of rectified flow: pure noise, whose signal-to-noise ratio is 0, then even logarithms of it.

    They begin where the first step of `timesteps` ends and lead to LAST_TIMESTEP, or beyond it where `timesteps` do.
    A strong shift leaves the end to a few steps: 20 steps with a shift of 5 take away the last fifth of the noise at
    once, and fine detail with it.
    """
    if len(timesteps) < 3:
        return timesteps
    ends = torch.stack([timesteps[1], timesteps[-1].clamp(max=LAST_TIMESTEP)]) / TRAIN_STEPS
    first, last = torch.logit(ends).tolist()  # logit(t) is -log(alpha/sigma)
    inner = torch.linspace(first, last, len(timesteps) - 1, dtype=torch.float64)
    return torch.cat([timesteps[:1], TRAIN_STEPS * torch.sigmoid(inner)])


def _deterministic(alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """DDIM with eta 0 (Song et al. 2020, arXiv 2010.02502, eq. 12); on rectified flow's path that is Euler's method.

    x_next = alpha'·x0 + sigma'·e with e = (x - alpha·x0)/sigma.
    """
    ratio = sigma[1:] / sigma[:-1]
    return ratio, alpha[1:] - alpha[:-1] * ratio, torch.zeros_like(ratio)


def _ancestral(alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """DDPM (Ho et al. 2020, eq. 6 and 7, the smaller variance), with the betas of the strides that are really taken."""
    ratio = alpha[:-1] / alpha[1:]
    beta = 1 - ratio**2
    shrink = (sigma[1:] / sigma[:-1]) ** 2
    return ratio * shrink, alpha[1:] * beta / sigma[:-1] ** 2, (shrink * beta).sqrt()


def _second_order(alpha: Tensor, sigma: Tensor) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2): DDIM on an x0 extrapolated in log(alpha/sigma).

    1/(2r) = h_i / (2·h_(i-1)), h being the stride in log(alpha/sigma). The first step has nothing to extrapolate from
    and the last an infinite stride; both are of first order. Where rectified flow starts, at alpha = 0, the stride is
    infinite too, and the formula gives 0 by itself.
    """
    h = (alpha / sigma).log().diff()
    weights = torch.zeros_like(h)
    weights[1:-1] = h[1:-1] / (2 * h[:-2])
    return weights
