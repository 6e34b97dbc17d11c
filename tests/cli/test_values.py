"""Options are checked by name before anything is built, all of them at once."""

from __future__ import annotations

import re

import pytest
from monai.bundle import ConfigParser, create_workflow

from scripts.cli.values import CHOICES, FILES, NUMBERS, SWITCHES, TRIPLES, WHOLE, check_validated, check_values
from scripts.common.problems import UserError

CONFIGS = [
    "ccella_ldm/configs/train.yaml", "ccella_ldm/configs/inference.yaml", "vae/configs/train.yaml",
    "vae/configs/inference.yaml", "vae/configs/evaluate.yaml", "classifier/configs/train.yaml",
    "classifier/configs/inference.yaml", "classifier/configs/evaluate.yaml",
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("epochs", 0, "a whole number of at least 1"),
        ("seed", "a", "a whole number of at least 0"),
        ("num_workers", True, "a whole number of at least 0"),
        ("batch_size", 2.5, "a whole number of at least 1"),
        ("lr", "1e-4", "a number of at least 0"),  # YAML reads 1e-4 as a word
        ("lr", float("nan"), "a number of at least 0"),
        ("ema_decay", 2, "a number from 0 to 1"),
        ("noise_loss", "huber", "one of l1, l2"),
        ("variant", "FOO", "one of MAISI, "),
        ("compile", "maybe", "true or false"),
        ("pretrained_unet", "no.pt", "a file that is there, or null"),
        ("channels", "axt2", "a list of different ones of axt2, b1600, adc"),
        ("channels", ["axt2", "axt2"], "a list of different ones of axt2, b1600, adc"),
        ("channels", ["t2w"], "a list of different ones of axt2, b1600, adc"),
        ("patch", 64, "three positive numbers"),
        ("spacing", "0.5", "three positive numbers"),
    ],
)
def test_a_wrong_value_says_what_is_wanted(name, value, wanted):
    with pytest.raises(UserError, match=rf"(?s){name} +is {re.escape(repr(value))} -> give {wanted}"):
        check_values(**{name: value})


def test_right_values_pass(tmp_path):
    (tmp_path / "unet.pt").touch()
    check_values(epochs=1, lr=1e-4, ema_decay=0, resume="false", cache=True, amp="bf16", initial_weights=None)
    check_values(
        pretrained_unet=str(tmp_path / "unet.pt"), class_weight=None, padded_reports=None, channels=["adc", "axt2"]
    )


@pytest.mark.parametrize("file", CONFIGS)
def test_every_option_that_has_a_rule_is_checked(repo_root, file):
    parser = ConfigParser.load_config_file(repo_root / "bundles" / file)
    checked = next(step for step in parser["initialize"] if "check_values" in str(step))
    ruled = {*WHOLE, *NUMBERS, *CHOICES, *SWITCHES, *FILES, *TRIPLES} & parser.keys()
    if file == "ccella_ldm/configs/train.yaml":
        ruled.add("channels")  # inference takes those of the weights
    assert {name: value for name, value in checked.items() if name != "_target_"} == {
        name: f"@{name}" for name in ruled
    }


@pytest.mark.parametrize("file", [file for file in CONFIGS if file != "classifier/configs/evaluate.yaml"])
def test_all_wrong_options_are_told_before_anything_is_read_or_built(repo_root, refused, file):
    path = repo_root / "bundles" / file
    wrong = {"batch_size": 0, "num_workers": "two", "seed": -1, "amp": "int8", "lr": "fast", "epochs": 0}
    wrong = {name: value for name, value in wrong.items() if name in ConfigParser.load_config_file(path)}
    with refused(f"options: {len(wrong)} problem"):
        create_workflow(
            config_file=str(path), workflow_type="train" if path.stem == "train" else "infer", logging_file=False,
            bundle_root=str(path.parent.parent), dataset_dir="nowhere", **wrong,
            network_def={"_target_": "scripts.nothing.CannotBeBuilt"},
        )  # fmt: skip


def test_a_training_without_any_validation_is_refused_where_validation_chooses_the_weights(repo_root, refused):
    bundle = repo_root / "bundles" / "classifier"
    with refused("val_interval 3 is more than epochs 2"):
        create_workflow(
            config_file=str(bundle / "configs" / "train.yaml"), workflow_type="train", logging_file=False,
            bundle_root=str(bundle), dataset_dir="nowhere", epochs=2, val_interval=3,
        )  # fmt: skip
    check_validated(epochs=2, val_interval=2)
