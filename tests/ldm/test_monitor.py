"""The figures of validation: what they are averages of, and under which names they stand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from scripts.ldm.batches import ValidationSampler
from scripts.ldm.cases import read_training_cases
from scripts.ldm.dataset import LatentDataset, TimestepGrid, collate
from scripts.ldm.monitor import Figures, validation_sums
from scripts.ldm.objective import NoisyBatch, WeightedLoss
from scripts.networks.ccella import Prediction
from scripts.networks.weights import LatentScale


@pytest.fixture
def validated(data_root):
    """Validates a network whose answer is wrong by the timestep, in parts as large as four cases."""
    cases = read_training_cases(data_root, data_root / "latents", embedding_width=6, factor=2)

    def run(objective, shift=1.0, noise_loss="l1", cases=cases, buckets=4, indices=None):
        grid = TimestepGrid(LatentDataset(cases, data_root, seed=0), buckets)
        figures = Figures(validation_sums(buckets, WeightedLoss(0.0, noise_loss)))
        engine = SimpleNamespace(state=SimpleNamespace(metrics={}))
        figures.start(engine)
        seen = []
        indices = indices or range(len(grid))
        for first in range(0, len(indices), 4):
            batch = collate([grid[i] for i in indices[first : first + 4]])
            _, targets, _, conditions = NoisyBatch(objective, LatentScale((1.0,)), timestep_shift=shift)(batch)
            error = conditions["timesteps"].float()
            seen += error.tolist()
            answer = targets["answer"] + error[:, None, None, None, None]
            engine.state.output = {"label": targets, "pred": Prediction(answer, None)}
            figures.add(engine)
        figures.finish(engine)
        return engine.state.metrics, seen

    return run


@pytest.mark.parametrize(("objective", "shift"), [("ddpm", 1.0), ("rflow", 1.0), ("rflow", 3.0)])
def test_a_loss_stands_under_the_timesteps_that_the_network_saw(validated, objective, shift):
    metrics, seen = validated(objective, shift)
    for low in (0, 250, 500, 750):
        inside = [t for t in seen if low <= t < low + 250]
        assert metrics[f"val_loss_t{low:03d}-{low + 250}"] == pytest.approx(sum(inside) / len(inside), rel=1e-4)
    assert metrics["val_loss"] == pytest.approx(sum(seen) / len(seen), rel=1e-4)


def test_a_part_of_the_timesteps_that_nothing_was_seen_of_has_no_loss(validated, data_root):
    case = read_training_cases(data_root, data_root / "latents", embedding_width=6, factor=2)[:1]
    metrics, seen = validated("rflow", 100.0, cases=case)
    assert min(seen) > 250
    assert "val_loss_t000-250" not in metrics
    assert "val_loss_t750-1000" in metrics


def test_the_noise_loss_is_that_of_training(validated):
    metrics, seen = validated("ddpm", noise_loss="l2")
    assert metrics["val_loss"] == pytest.approx(sum(t**2 for t in seen) / len(seen), rel=1e-4)


@pytest.mark.parametrize("processes", [3, 8])
def test_an_example_counts_once_however_many_processes_validate(validated, data_root, monkeypatch, processes):
    """28 examples: as many on each process, and all figures those of one."""
    alone, seen = validated("rflow")
    monkeypatch.setattr("ignite.distributed.get_world_size", lambda: processes)
    shares = []
    for rank in range(processes):
        monkeypatch.setattr("ignite.distributed.get_rank", lambda rank=rank: rank)
        shares.append(list(ValidationSampler(range(len(seen)))))
    assert {len(share) for share in shares} == {len(ValidationSampler(range(28)))}
    monkeypatch.undo()
    together, _ = validated("rflow", indices=[index for share in shares for index in share])
    assert together == pytest.approx(alone, rel=1e-5)
