import numpy as np
import pytest
import torch
from monai.metrics import FIDMetric
from torch.utils._python_dispatch import TorchDispatchMode

from scripts.common.problems import UserError
from scripts.evaluation.copies import find_copies
from scripts.evaluation.distances import ALL, frechet_distance, kernel_distance, with_interval


def normal(n, d, seed, mean=0.0, scale=1.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale + mean


def exactly_normal(n, d, seed, mean, deviations):
    """Vectors whose sample mean and covariance are exactly `mean` and diag(deviations²)."""
    x = normal(n, d, seed)
    x = x - x.mean(0)
    whitened = torch.linalg.qr(x).Q * (n - 1) ** 0.5
    return whitened * deviations + mean


def test_frechet_of_two_gaussians_with_diagonal_covariances():
    a, b = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 2.0, 0.5])
    x, y = exactly_normal(50, 3, 0, torch.zeros(3), a), exactly_normal(40, 3, 1, torch.tensor([1.0, 0.0, -2.0]), b)
    assert frechet_distance(x, y)() == pytest.approx(float(1 + 4 + (a - b).square().sum()))


def test_frechet_agrees_with_the_matrix_root():
    x, y = normal(200, 6, 0) @ normal(6, 6, 2), normal(150, 6, 1, mean=0.5) @ normal(6, 6, 3)
    assert frechet_distance(x, y)() == pytest.approx(float(FIDMetric()(x, y)), rel=1e-6)


def test_frechet_is_exact_with_fewer_cases_than_features():
    x = normal(5, 40, 0)
    assert frechet_distance(x, x)() == pytest.approx(0, abs=1e-10)
    assert frechet_distance(x, x + 1)() == pytest.approx(40)
    # Padding with constant features, more features than cases, changes nothing.
    y = normal(30, 3, 1)
    padded = torch.cat([y, torch.zeros(30, 50)], 1)
    shifted = torch.cat([2 * y, torch.zeros(30, 50)], 1)
    assert frechet_distance(padded, shifted)() == pytest.approx(frechet_distance(y, 2 * y)())


def test_kernel_distance_by_hand():
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [2.0]])
    # k(a, b) = (ab + 1)³: k(0,1) = 1; k(1,2) = 27; cross: k(0,1), k(0,2), k(1,1), k(1,2) = 1, 1, 8, 27
    assert kernel_distance(x, y)() == pytest.approx(1 + 27 - 2 * (1 + 1 + 8 + 27) / 4)


def test_kernel_distance_of_one_distribution_is_zero_on_average():
    values = [kernel_distance(normal(20, 4, 2 * seed), normal(20, 4, 2 * seed + 1))() for seed in range(300)]
    assert abs(np.mean(values)) < 3 * np.std(values) / 300**0.5
    assert min(values) < 0 < max(values)


def frechet_by_definition(x, y):
    return float(FIDMetric()(x, y))


def kernel_by_definition(x, y):
    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    def of_different_vectors(x):
        return kernel(x, x)[~torch.eye(len(x), dtype=torch.bool)].mean()

    return float(of_different_vectors(x) + of_different_vectors(y) - 2 * kernel(x, y).mean())


@pytest.mark.parametrize("block", [1, 20, 10000])
@pytest.mark.parametrize("slices", [(), (7,)])
@pytest.mark.parametrize(
    ("distance", "definition"), [(frechet_distance, frechet_by_definition), (kernel_distance, kernel_by_definition)]
)
def test_distances_of_all_and_of_some_cases_follow_their_definition(monkeypatch, distance, definition, slices, block):
    monkeypatch.setattr("scripts.evaluation.distances.BLOCK", block)
    x, y = (normal(n, 7 * 5, n, mean).view(n, 7, 5)[:, : 7 if slices else 1] for n, mean in ((24, 0.0), (33, 0.3)))
    if not slices:
        x, y = x[:, 0], y[:, 0]
    between = distance(x, y)
    assert between() == pytest.approx(definition(x.reshape(-1, 5), y.reshape(-1, 5)), rel=1e-6)
    i, j = torch.randperm(24)[:12], torch.randperm(33)[:16]
    assert between(i, j) == pytest.approx(definition(x[i].reshape(-1, 5), y[j].reshape(-1, 5)), rel=1e-6)


class Largest(TorchDispatchMode):
    """Notes how many numbers the largest tensor holds that is made."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.numbers = max(self.numbers, made.numel())
        return made


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_memory_does_not_grow_with_the_square_of_the_slices(monkeypatch, distance):
    monkeypatch.setattr("scripts.evaluation.distances.BLOCK", 64, raising=False)
    x, y = torch.rand(30, 32, 2), torch.rand(20, 32, 2)
    with Largest() as largest:
        with_interval(distance, x, y, draws=3)
    assert largest.numbers <= 64 * 64


def test_interval_holds_a_true_distance_and_shrinks_with_more_cases():
    few, many = (with_interval(kernel_distance, normal(n, 4, 0, 1.0), normal(n, 4, 1)) for n in (20, 500))
    assert few.low < few.value < few.high
    assert many.high - many.low < (few.high - few.low) / 2
    assert many.low > 0
    assert (few.n, many.n) == (20, 500)


def test_interval_of_a_mean_difference_is_the_known_one():
    def mean_difference(x, y):
        return lambda i=ALL, j=ALL: float(x[i].mean() - y[j].mean())

    estimate = with_interval(mean_difference, normal(400, 1, 0), normal(400, 1, 1), draws=500)
    assert (estimate.high - estimate.low) / 2 == pytest.approx(1.96 * (2 / 400) ** 0.5, rel=0.1)


def test_slices_of_a_case_stay_together():
    # All slices of a case are the same, so the cases, not the slices, are what the interval rests on.
    x, y = normal(40, 2, 0), normal(40, 2, 1)
    single = with_interval(frechet_distance, x, y)
    repeated = with_interval(frechet_distance, x[:, None].repeat(1, 8, 1), y[:, None].repeat(1, 8, 1))
    assert repeated.n == 40
    assert repeated.high - repeated.low == pytest.approx(single.high - single.low, rel=0.1)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (torch.zeros(1, 3), torch.zeros(5, 3)),
        (torch.zeros(5, 3), torch.zeros(5, 4)),
        (torch.full((5, 3), torch.nan), torch.zeros(5, 3)),
    ],
)
def test_broken_features_are_refused(x, y):
    for distance in (frechet_distance, kernel_distance):
        with pytest.raises(UserError):
            distance(x, y)


def test_copies_are_flagged_and_others_are_not():
    train, test, fresh = normal(60, 8, 0), normal(100, 8, 1), normal(40, 8, 2)
    copied = train[:3] + 1e-3
    names = [f"g{i}" for i in range(43)]
    frame, share = find_copies(
        torch.cat([fresh, copied]), train, test, generated_names=names, train_names=[f"t{i}" for i in range(60)]
    )
    flagged = frame[frame["copy"]]
    assert {"g40", "g41", "g42"} <= set(flagged["folder"])
    assert dict(zip(flagged["folder"], flagged["nearest"], strict=True))["g41"] == "t1"
    assert len(flagged) <= 5
    assert share.value == len(flagged) / 43
    assert frame["distance"].is_monotonic_increasing


def test_a_feature_in_which_training_cases_are_alike_does_not_choose_the_nearest():
    train = torch.tensor([[0.0, 0.0], [1e-9, 5.0]])
    made = torch.tensor([[2e-9, 0.01]])
    frame, _ = find_copies(made, train, normal(20, 2, 0), generated_names=["g"], train_names=["near", "far"])
    assert frame["nearest"].tolist() == ["near"]


def test_copies_do_not_depend_on_a_features_unit():
    train, test, made = normal(30, 4, 0), normal(30, 4, 1), normal(30, 4, 2)
    unit = torch.tensor([1.0, 1000.0, 0.01, 5.0])
    names = {"generated_names": [str(i) for i in range(30)], "train_names": [str(i) for i in range(30)]}
    plain, _ = find_copies(made, train, test, **names)
    scaled, _ = find_copies(made * unit, train * unit, test * unit, **names)
    assert plain["nearest"].tolist() == scaled["nearest"].tolist()
    assert np.allclose(plain["distance"], scaled["distance"])
