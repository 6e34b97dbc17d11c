"""Short trainings: as many epochs as fit into their minutes, by commands that exist."""

from __future__ import annotations

import pytest
from torch.utils.tensorboard import SummaryWriter

from scripts.data.datalists import SEQUENCES
from scripts.data.grid import Grid
from scripts.phantom import tiny_t5
from scripts.phantom.dataset import write_dataset
from scripts.showcase import trainings
from scripts.showcase.stages import Stage
from scripts.showcase.subjects import demo_size
from scripts.vae.network import maisi_vae, save_vae


@pytest.mark.parametrize(
    ("seconds", "first", "epoch", "epochs"),
    [
        (120, 20, 5, 20),  # 90 s are left when the second run has started up: 18 more
        (120, 100, 45, 3),  # none fits, and one is run all the same
        (60, 10, 12, 6),  # the first epochs took less than the log says
    ],
)
def test_epochs_fill_the_minutes(seconds, first, epoch, epochs):
    assert trainings.fitting_epochs(seconds, first, epoch) == epochs


def test_every_stage_can_be_typed_and_makes_few_volumes(tmp_path, wrong_options):
    size = trainings.Size(cases=40)
    chain = [*trainings.generator_chain(tmp_path, size, tests=4), trainings.arm_stage(tmp_path, size)]
    typed = {stage.name: stage.command for stage in chain}
    assert [told for command in typed.values() if (told := wrong_options(command))] == []
    phantom, generate = typed["phantom"], typed["generate"]
    assert phantom.count("--test_fraction") == 1
    assert phantom[phantom.index("--test_fraction") + 1] == "0.1"
    assert generate[generate.index("--splits") + 1] == "['test']"


def test_the_networks_fit_each_other_and_make_all_sequences(tmp_path, values_of):
    chain = {stage.name: stage for stage in trainings.generator_chain(tmp_path, trainings.Size(cases=40), tests=4)}
    values = {name: values_of(stage.command) for name, stage in chain.items()}
    assert values["vae_train"]["sequences"] == values["vae_encode"]["sequences"] == list(SEQUENCES)
    assert values["ldm_train"]["channels"] == values["generate"]["channels"] == list(SEQUENCES)
    assert values["ldm_train"]["network_def"]["input_dim"] == tiny_t5.WIDTH
    assert "width" not in values["t5"]
    assert values["embed"]["encoder"] == values["t5"]["output_dir"]
    assert {"phantom", "t5"} <= set(chain["embed"].needs)


def test_pictures_show_what_the_networks_made(tmp_path):
    write_dataset(tmp_path / "data", 6, 0, Grid((16, 16, 8), (5.0, 5.0, 7.5)), 0.5, 1)
    (tmp_path / "volumes").symlink_to(tmp_path / "data")
    (tmp_path / "vae").mkdir()
    save_vae(maisi_vae(**demo_size().vae), tmp_path / "vae" / "model.safetensors")
    trainings.show_reconstructions(tmp_path, tmp_path / "reconstructions.png")
    trainings.show_generated(tmp_path, tmp_path / "generated.png")
    for name in ("reconstructions", "generated"):
        assert (tmp_path / f"{name}.png").read_bytes()[1:4] == b"PNG"


def test_a_training_is_measured_and_gone_on_with(tmp_path, monkeypatch):
    """Twenty images an epoch, ten a second, after three seconds: sixty seconds hold 2 + (60 - 7 - 3) / 2 epochs."""
    with SummaryWriter(str(tmp_path / "vae" / "logs")) as log:
        log.add_scalar("images_per_second", 10.0, 1)
        log.add_scalar("val_psnr", 20.0, 1)
        log.add_scalar("val_psnr", 22.0, 2)
        log.add_scalar("train/loss_of_step", 1.0, 1)
    asked = []

    def run(stages: list[Stage], folder) -> dict[str, float]:
        asked.append([stage.command for stage in stages])
        return {"vae_train": 7.0}

    monkeypatch.setattr(trainings, "run_stages", run)
    size, told = trainings._train(
        tmp_path,
        lambda size: [Stage("vae_train", (str(size.vae_epochs),)), Stage("later", ())],
        trainings.Size(cases=40), "vae", tmp_path / "vae", minutes=1, images=20,
    )  # fmt: skip
    assert size.vae_epochs == told["epochs"] == 27
    assert asked == [[("2",)], [("27",)]]
    assert told["val_psnr"] == 22
    assert told["seconds"] == 14
    assert not any("loss_of_step" in name for name in told)
