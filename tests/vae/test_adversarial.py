"""The discriminator beside the VAE: what each learns from, when it joins, and what happens when it wins."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

import ignite.distributed as idist
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from monai.engines import SupervisedTrainer
from monai.losses import PatchAdversarialLoss
from monai.networks.nets import PatchDiscriminator
from safetensors.torch import load_file
from torch import multiprocessing

import tiny
from scripts.common.problems import UserError
from scripts.engine.parallel import parallel
from scripts.engine.steps import OptimizerStep
from scripts.vae.adversarial import STEPS_WON, WON, Adversary, parameter_groups, prepare_discriminator
from scripts.vae.losses import VAELoss
from scripts.vae.network import maisi_vae
from scripts.vae.training import ImageBatch

CPU = torch.device("cpu")


def volume(number: int) -> dict:
    """A batch of two patches."""
    generator = torch.Generator().manual_seed(number)
    return {"image": torch.rand(2, 1, 8, 8, 8, generator=generator), "folder": [f"case{number}", f"other{number}"]}


class Training:
    """A tiny VAE against a tiny discriminator, without latent noise."""

    def __init__(
        self,
        batches: list[dict],
        *,
        accumulate: int = 1,
        epochs: int = 1,
        lr: float = 1e-3,
        norm: str | None = None,
        **options,
    ) -> None:
        torch.manual_seed(0)
        self.network = maisi_vae(**tiny.VAE)
        self.network.sampling = lambda mu, sigma: mu
        self.discriminator = prepare_discriminator(discriminator(norm), 1.0, seed=0, device=CPU)
        self.adversary = Adversary(self.network, self.discriminator, **{"weight": 0.5, "after": -1} | options)
        self.step = OptimizerStep(self.network)
        optimizer = torch.optim.Adam(parameter_groups(self.network, self.discriminator, lr), lr=lr)
        self.trainer = SupervisedTrainer(
            device=CPU,
            max_epochs=epochs,
            train_data_loader=batches,
            network=parallel(self.network),
            optimizer=optimizer,
            loss_function=VAELoss(),
            prepare_batch=ImageBatch(),
            train_handlers=[self.adversary, self.step],
            accumulation_steps=accumulate,
            decollate=False,
        )

    def run(self) -> Training:
        self.trainer.run()
        return self


def discriminator(norm: str | None = None) -> PatchDiscriminator:
    options = {name: value for name, value in tiny.DISCRIMINATOR_DEF.items() if name[0] != "_"}
    return PatchDiscriminator(**options | ({"norm": norm} if norm else {}))


def gradients(network: torch.nn.Module) -> list[torch.Tensor]:
    return [parameter.grad.clone() for parameter in network.parameters()]


def by_hand(weight: float, adaptive: bool) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor], float]:
    """The loss and both networks' gradients of one batch, through one graph; and the adversarial term's share."""
    training, image = Training([]), volume(0)["image"]
    network, judge, least_squares = training.network, training.discriminator, PatchAdversarialLoss(
        criterion="least_squares", no_activation_leastsq=True
    )  # fmt: skip
    made, *latent = network(image)
    on_made, on_image = judge(torch.cat([made.detach(), image]))[-1].chunk(2)
    loss_of_judge = (least_squares(on_made, False, True) + least_squares(on_image, True, True)) / 2
    taught = torch.autograd.grad(loss_of_judge, list(judge.parameters()))
    loss = VAELoss()((made, *latent), image)
    adversarial = least_squares(judge(torch.cat([made, image]))[-1].chunk(2)[0], True, False)
    share = 1.0
    if adaptive:
        last = network.decoder.blocks[-1].conv.conv.weight
        of_loss, of_adversarial = (torch.autograd.grad(x, last, retain_graph=True)[0] for x in (loss, adversarial))
        share = (of_loss.norm() / of_adversarial.norm()).item()
    total = loss + weight * share * adversarial
    return total.detach(), list(torch.autograd.grad(total, list(network.parameters()))), list(taught), share


@pytest.mark.parametrize("adaptive", [False, True])
def test_both_networks_learn_from_their_own_loss(adaptive):
    training = Training([volume(0)], lr=0.0, adaptive=adaptive).run()
    loss, of_network, of_discriminator, share = by_hand(0.5, adaptive)
    torch.testing.assert_close(training.trainer.state.output["loss"].detach(), loss)
    torch.testing.assert_close(gradients(training.network), of_network, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradients(training.discriminator), of_discriminator, rtol=1e-4, atol=1e-6)
    assert training.trainer.state.metrics["adversarial_share"] == pytest.approx(0.5 * share, rel=1e-4)


def test_the_discriminator_learns_to_tell_and_the_network_to_pass():
    told = {}
    for rate in (0.0, 5e-3):
        training = Training([volume(n) for n in range(4)], epochs=12, lr=5e-3, weight=0.0)
        training.trainer.optimizer.param_groups[0]["lr"] = 0.0
        training.trainer.optimizer.param_groups[1]["lr"] = rate
        told[rate] = training.run().trainer.state.metrics["discriminator_loss"]
    assert told[5e-3] < 0.8 * told[0.0]


def test_the_discriminator_joins_after_its_epochs_and_learns_alone_in_the_first():
    training = Training([volume(0)], epochs=4, after=2, lr=0.0)
    training.trainer.optimizer.param_groups[1]["lr"] = 1e-3  # the VAE does not learn: its loss tells who is heard
    learnt, losses = [], []
    last = copy.deepcopy(training.discriminator.state_dict())

    @training.trainer.on(Events.EPOCH_COMPLETED)
    def look() -> None:
        now = copy.deepcopy(training.discriminator.state_dict())
        learnt.append(any(not torch.equal(now[name], tensor) for name, tensor in last.items()))
        last.update(now)
        losses.append(training.trainer.state.output["loss"].item())

    training.run()
    assert learnt == [False, False, True, True]
    assert losses[0] == losses[1] == losses[2] < losses[3]


def test_passes_of_a_step_add_up_to_the_discriminators_gradient():
    """Of two passes of two patches as of one of four; with a norm and a weight that do not depend on the pass."""
    both = {"image": torch.cat([volume(n)["image"] for n in (0, 1)]), "folder": ["a", "b", "c", "d"]}
    alike = {"lr": 0.0, "adaptive": False, "norm": "INSTANCE"}
    whole = Training([both], **alike).run()
    parts = Training([volume(0), volume(1)], accumulate=2, **alike).run()
    for one, other in zip((whole.network, whole.discriminator), (parts.network, parts.discriminator), strict=True):
        torch.testing.assert_close(gradients(one), gradients(other), rtol=1e-4, atol=1e-6)


def test_a_step_is_left_out_for_both_where_the_discriminator_breaks():
    training = Training([volume(0), volume(1)])

    @training.trainer.on(Events.ITERATION_STARTED(once=2))
    def break_it() -> None:
        training.before = [copy.deepcopy(part.state_dict()) for part in (training.network, training.discriminator)]
        training.adversary.loss = lambda verdict, *_: verdict.mean() * torch.nan

    training.run()
    assert training.step.left_out == 1
    for part, before in zip((training.network, training.discriminator), training.before, strict=True):
        assert all(torch.equal(before[name], tensor) for name, tensor in part.state_dict().items())


def test_no_weight_makes_no_discriminator():
    assert prepare_discriminator(discriminator(), 0.0, seed=0, device=CPU) is None
    network = torch.nn.Linear(1, 1)
    assert len(parameter_groups(network, None, 1e-3)) == 1


def _train_one_of_two(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    idist.initialize("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    training = Training([volume(2 * number + rank) for number in range(4)], accumulate=2).run()
    torch.save([training.network.state_dict(), training.discriminator.state_dict()], folder / f"{rank}.pt")
    idist.finalize()


def test_processes_train_the_same_two_networks(tmp_path):
    multiprocessing.start_processes(_train_one_of_two, (tmp_path,), nprocs=2, start_method="fork")
    one, two = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    start = Training([])
    for part, trained in zip((start.network, start.discriminator), one, strict=True):
        assert any(not torch.equal(tensor, trained[name]) for name, tensor in part.state_dict().items())


# ---- a whole run -----------------------------------------------------------------------------------------------------

TRAIN = {
    "epochs": 3, "batch_size": 1, "patch": [8, 8, 8], "larger_patches": [[3, 12, 12, 8]], "lr": 1e-3, "val_cases": 1,
    "val_interval": 2, "checkpoint_minutes": 0, "sequences": ["axt2", "adc"], "accumulate": 2, "ema_half_life": 100,
    "adversarial_weight": 0.5, "adversarial_after": 0, "discriminator_lr": 1e-3, "augment_intensity": 0.3,
    "network_def": tiny.VAE_DEF, "discriminator_def": tiny.DISCRIMINATOR_DEF,
}  # fmt: skip


@pytest.fixture
def training(repo_root, data_root):
    """Makes the training's workflow on the tiny data and networks, ready to run."""
    bundle = repo_root / "bundles" / "vae"

    def make(folder: Path, **options) -> ConfigWorkflow:
        values = {"bundle_root": str(bundle), "dataset_dir": str(data_root), "model_dir": str(folder)}
        made = ConfigWorkflow(
            config_file=str(bundle / "configs" / "train.yaml"), meta_file=str(bundle / "configs" / "metadata.json"),
            logging_file=False, workflow_type="train", **values | TRAIN | options,
        )  # fmt: skip
        made.initialize()
        return made

    return make


def checkpoint(folder: Path) -> dict:
    return torch.load(folder / "checkpoint.pt", weights_only=True)


@pytest.mark.parametrize("iteration", [9, 15])  # in the second epoch, when the discriminator is heard, and the third
def test_a_killed_run_ends_as_an_uninterrupted_one(training, tmp_path, iteration):
    training(tmp_path / "whole").run()
    killed = training(tmp_path / "parts")

    def die() -> None:
        raise KeyboardInterrupt

    killed.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=iteration), die)
    with pytest.raises(KeyboardInterrupt):
        killed.run()
    assert checkpoint(tmp_path / "parts")["epoch"] == (iteration - 1) // 6
    torch.manual_seed(99)
    training(tmp_path / "parts").run()
    whole, parts = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts")
    assert whole.keys() == parts.keys() >= {"network", "discriminator", "average", "optimizer"}
    assert whole.pop("settings") == parts.pop("settings")
    torch.testing.assert_close(whole, parts, rtol=0, atol=0)
    exported = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts")]
    torch.testing.assert_close(*exported, rtol=0, atol=0)


def test_the_moving_average_is_exported(training, tmp_path):
    training(tmp_path).run()
    exported, state = load_file(tmp_path / "model.safetensors"), checkpoint(tmp_path)
    assert state["average"]["n_averaged"] == 9  # steps of two passes
    for name, tensor in exported.items():
        assert torch.equal(tensor, state["average"][f"module.{name}"])
    assert any(not torch.equal(tensor, state["network"][name]) for name, tensor in exported.items())


def test_without_weight_no_discriminator_is_trained(training, tmp_path):
    made = training(tmp_path, adversarial_weight=0, ema_half_life=0)
    made.run()
    assert checkpoint(tmp_path).keys().isdisjoint({"discriminator", "average"})
    assert "discriminator_loss" not in made.trainer.state.metrics


def test_weights_of_before_stay_while_the_discriminator_wins(training, tmp_path, monkeypatch, caplog):
    """It learns alone in the first epoch, wins in the second and the third, and no longer in the fourth."""
    found = iter([WON / 2, WON / 2, WON / 2, 0.2])
    monkeypatch.setattr(Adversary, "_epoch_means", lambda self: [next(found), 1.0, 1.0])
    made, saved = training(tmp_path, epochs=4), []
    made.trainer.add_event_handler(Events.EPOCH_STARTED, lambda: saved.append(_epoch(tmp_path)))
    caplog.set_level(logging.WARNING)
    made.run()
    assert saved[-1] <= 1
    assert checkpoint(tmp_path)["epoch"] == 4
    assert "the discriminator wins: in epoch 2 its loss was 0.0050" in caplog.text
    assert "epoch 4 its loss" not in caplog.text


def _epoch(folder: Path) -> int:
    return checkpoint(folder)["epoch"] if (folder / "checkpoint.pt").is_file() else 0


def test_a_discriminator_that_goes_on_winning_ends_the_run_with_the_last_good_weights(training, tmp_path, monkeypatch):
    monkeypatch.setattr(Adversary, "_epoch_means", lambda self: [WON / 2, 1.0, 1.0])
    monkeypatch.setattr("scripts.vae.adversarial.STEPS_WON", 5)  # two epochs of three steps
    with pytest.raises(Exception) as caught:  # noqa: PT011 - MONAI wraps what a component raises
        training(tmp_path, epochs=6).run()
    error = caught.value
    while not isinstance(error, UserError):
        error = error.__cause__
    assert "in epoch 3 its loss was 0.0050" in str(error)
    assert "--initial_weights" in str(error)
    state = checkpoint(tmp_path)
    assert state["epoch"] == 1
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        assert torch.equal(tensor, state["average"][f"module.{name}"])
    assert STEPS_WON > 1000  # a discriminator that has just joined may be ahead for a while
