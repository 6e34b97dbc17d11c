from __future__ import annotations

import pytest
import torch
from torch import nn

from scripts.common.problems import UserError
from scripts.ldm.batches import StepSampler
from scripts.ldm.cases import read_training_cases
from scripts.ldm.dataset import Dropout, LatentDataset, collate
from scripts.ldm.loss import JointLoss
from scripts.ldm.objective import NoisyBatch, WeightedLoss
from scripts.networks.ccella import Prediction
from scripts.networks.weights import LatentScale


@pytest.fixture
def dataset(data_root) -> LatentDataset:
    cases = read_training_cases(data_root, data_root / "latents", embedding_width=6, factor=2)
    return LatentDataset(cases, data_root, seed=5, dropout=Dropout(both=0.3))


@pytest.fixture
def batch(dataset) -> dict:
    return collate([dataset[index] for index in range(4)])


def test_ddpm_mixes_by_the_cumulated_alphas_and_asks_for_the_noise(batch):
    prepare = NoisyBatch("ddpm", LatentScale((2.0,)))
    noisy, targets, _, conditions = prepare(batch)
    timesteps = (batch["uniform"] * 1000).long()
    signal = prepare.process.alphas_cumprod[timesteps][:, None, None, None, None]
    expected = signal.sqrt() * 2 * batch["latent"] + (1 - signal).sqrt() * batch["noise"]
    assert torch.allclose(noisy, expected, atol=1e-6)
    assert torch.equal(targets["answer"], batch["noise"])
    assert torch.equal(conditions["timesteps"], timesteps)


def test_rectified_flow_mixes_linearly_and_asks_for_the_velocity(batch):
    noisy, targets, _, conditions = NoisyBatch("rflow", LatentScale((2.0,)))(batch)
    latent, share = 2 * batch["latent"], (conditions["timesteps"] / 1000)[:, None, None, None, None]
    assert torch.allclose(noisy, (1 - share) * latent + share * batch["noise"], atol=1e-5)
    assert torch.allclose(noisy + share * targets["answer"], latent, atol=1e-5)


def test_each_sequence_is_multiplied_by_its_own_factor(batch):
    batch["latent"], batch["noise"] = (batch[key].repeat(1, 3, 1, 1, 1) for key in ("latent", "noise"))
    prepare = NoisyBatch("rflow", LatentScale((1.0, 2.0, 3.0)))
    _, targets, _, _ = prepare(batch)
    for number, part in enumerate((targets["answer"] + batch["noise"]).split(4, dim=1), start=1):
        torch.testing.assert_close(part, number * batch["latent"][:, :4])


def test_each_channel_is_taken_to_mean_0_and_deviation_1(batch):
    mean, deviation = torch.tensor([[0.2, 2.9, -0.7, 1.5], [1.5, 4.2, 2.6, 3.5]])
    prepare = NoisyBatch("rflow", LatentScale(tuple((1 / deviation).tolist()), tuple(mean.tolist())))
    _, targets, _, _ = prepare(batch)
    expected = (batch["latent"] - mean.view(-1, 1, 1, 1)) / deviation.view(-1, 1, 1, 1)
    torch.testing.assert_close(targets["answer"] + batch["noise"], expected)


def test_ddpm_may_ask_for_the_velocity(batch):
    """Salimans & Ho: v = alpha·e - sigma·x0, from which both follow with the noisy latent."""
    prepare = NoisyBatch("ddpm", LatentScale((2.0,)), prediction="velocity")
    noisy, targets, _, conditions = prepare(batch)
    signal = prepare.process.alphas_cumprod[conditions["timesteps"]].view(-1, 1, 1, 1, 1)
    alpha, sigma = signal.sqrt(), (1 - signal).sqrt()
    torch.testing.assert_close(alpha * noisy - sigma * targets["answer"], 2 * batch["latent"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sigma * noisy + alpha * targets["answer"], batch["noise"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prediction", ["noise", "velocity"])
def test_min_snr_weighs_the_error_of_the_clean_latent_up_to_gamma(batch, prediction):
    """Whatever the network answers with: the weighed loss is min(SNR, gamma) times that of x0."""
    gamma, one = 5.0, LatentScale((1.0,))
    batch["uniform"] = torch.tensor([0.0, 0.05, 0.3, 0.9])  # ratios from 666 to 0.0006
    prepare = NoisyBatch("ddpm", one, prediction=prediction, min_snr_gamma=gamma)
    noisy, targets, _, conditions = prepare(batch)
    signal = prepare.process.alphas_cumprod.double()[conditions["timesteps"]].view(-1, 1, 1, 1, 1)
    alpha, sigma = signal.sqrt(), (1 - signal).sqrt()
    wrong = targets["answer"] + 0.1

    def clean(answer):
        return (noisy - sigma * answer) / alpha if prediction == "noise" else alpha * noisy - sigma * answer

    expected = (signal / (1 - signal)).clamp(max=gamma) * (clean(wrong) - clean(targets["answer"])).square()
    found = targets["weight"] * (wrong - targets["answer"]).square()
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-6)
    loss, _ = JointLoss(0.0, "l2")(wrong, targets["answer"], weight=targets["weight"])
    assert loss.item() == pytest.approx(expected.mean().item(), rel=1e-3)


def test_the_authors_process_is_theirs(batch):
    """By their formulas: noise along DDPM's path, mean absolute error, focal loss times 100 where there is a report."""
    factor, class_weight = 0.8, 1e-4
    batch["text_isnull"] = torch.tensor([0, 1, 0, 0])
    prepare = NoisyBatch("ddpm", LatentScale((factor,)), prediction="noise")
    noisy, targets, _, conditions = prepare(batch)
    betas = torch.linspace(0.0015**0.5, 0.0195**0.5, 1000, dtype=torch.float64) ** 2
    signal = (1 - betas).cumprod(0)[conditions["timesteps"]].view(-1, 1, 1, 1, 1)
    expected = signal.sqrt() * factor * batch["latent"] + (1 - signal).sqrt() * batch["noise"]
    torch.testing.assert_close(noisy.double(), expected, atol=1e-5, rtol=1e-5)
    assert conditions["timesteps"].tolist() == (batch["uniform"] * 1000).long().tolist()
    answer, logits = 0.9 * batch["noise"], torch.tensor([[1.0, -1.0], [0.3, 0.4], [-0.5, 2.0], [0.0, 0.0]])
    with_report = targets["text_isnull"] == 0
    targets |= {"case_weight": torch.full((4,), 1 / 4), "report_weight": torch.full((4,), 1 / 3)}
    loss = WeightedLoss(class_weight, "l1")(Prediction(answer, logits), targets)
    likely = logits.softmax(dim=1)
    focal = (1 - likely) ** 2 * -likely.log() * 100 * batch["pirads"] * torch.tensor([0.25, 0.75])
    expected = (0.1 * batch["noise"]).abs().mean() + class_weight * focal[with_report].sum() / 3
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_conditions_reach_the_network_under_its_arguments_names(batch):
    conditions = NoisyBatch("ddpm", LatentScale((1.0,)))(batch)[3]
    assert conditions["text_encoding"].shape[:2] == conditions["text_mask"].shape
    assert conditions["spacing_tensor"].tolist() == [[0.5, 0.5, 0.5]] * 4
    assert conditions["pirads"].tolist() == [[1, 0], [0, 1]] * 2
    assert conditions["class_keep"].all()


def test_reports_padded_to_a_multiple_of_tokens_say_the_same(batch):
    plain, padded = (NoisyBatch("rflow", LatentScale((1.0,)), tokens_of=tokens)(batch)[3] for tokens in (1, 16))
    longest = plain["text_encoding"].shape[1]
    assert longest % 16
    assert padded["text_encoding"].shape[1] == padded["text_mask"].shape[1] == -(-longest // 16) * 16
    assert torch.equal(padded["text_encoding"][:, :longest], plain["text_encoding"])
    assert torch.equal(padded["text_mask"][:, :longest], plain["text_mask"])
    assert not padded["text_mask"][:, longest:].any()


def test_an_unknown_objective_is_refused():
    with pytest.raises(UserError, match="objective"):
        NoisyBatch("flow", LatentScale((1.0,)))
    with pytest.raises(UserError, match="prediction is 'noise' with objective rflow; give velocity"):
        NoisyBatch("rflow", LatentScale((1.0,)), prediction="noise")


def gradients(dataset, batch_size, accumulate):
    """Gradient of the first epoch's only step, for a network of two parameters."""
    scale = nn.Parameter(torch.tensor(0.5))
    loss, prepare = WeightedLoss(class_weight=0.1), NoisyBatch("ddpm", LatentScale((1.0,)))
    for slots in StepSampler(dataset, batch_size, accumulate).epoch(1):
        noisy, targets, _, conditions = prepare(collate([dataset[slot] for slot in slots]))
        logits = scale * conditions["timesteps"][:, None].float() / 1000 * torch.tensor([1.0, -1.0])
        (loss(Prediction(scale * noisy, logits), targets) / accumulate).backward()
    return scale.grad


def test_passes_of_unequal_size_sum_to_the_whole_step(dataset):
    whole = gradients(dataset, 7, 1)
    assert whole.abs() > 0
    for accumulate in (2, 3, 7):
        assert gradients(dataset, 7, accumulate) == pytest.approx(whole.item(), rel=1e-5)


@pytest.mark.parametrize("processes", [4, 6])
def test_processes_without_a_case_of_their_own_add_nothing(dataset, monkeypatch, processes):
    """Steps of three and four cases: data parallelism averages the processes' gradients to that of the whole step."""
    batch_size = processes
    whole = gradients(dataset, batch_size, 1)
    monkeypatch.setattr("ignite.distributed.get_world_size", lambda: processes)
    shares = []
    for rank in range(processes):
        monkeypatch.setattr("ignite.distributed.get_rank", lambda rank=rank: rank)
        shares.append(gradients(dataset, batch_size, 1))
    assert torch.stack(shares).mean().item() == pytest.approx(whole.item(), rel=1e-5)
    assert (torch.stack(shares) == 0).any() == (processes == 6)


def test_a_pass_without_any_report_has_no_class_loss(dataset):
    dataset.dropout = Dropout(both=1.0)
    batch = collate([dataset[slot] for slot in next(StepSampler(dataset, 7).epoch(1))])
    _, targets, _, _ = NoisyBatch("ddpm", LatentScale((1.0,)))(batch)
    logits = torch.zeros(7, 2, requires_grad=True)
    loss = WeightedLoss(class_weight=1.0)(Prediction(torch.zeros_like(batch["noise"]), logits), targets)
    loss.backward()
    assert loss.item() == pytest.approx(batch["noise"].abs().mean().item(), rel=1e-5)
    assert not logits.grad.any()
