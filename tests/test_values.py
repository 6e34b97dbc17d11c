"""Options are checked by name before anything is built, all of them at once."""

from __future__ import annotations

import re

import pytest
from monai.bundle import ConfigParser, create_workflow

from scripts.problems import UserError
from scripts.values import CHOICES, FILES, NUMBERS, SWITCHES, WHOLE, check_values


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
    ],
)
def test_a_wrong_value_says_what_is_wanted(name, value, wanted):
    with pytest.raises(UserError, match=rf"(?s){name} +is {re.escape(repr(value))} -> give {wanted}"):
        check_values(**{name: value})


def test_right_values_pass(tmp_path):
    (tmp_path / "unet.pt").touch()
    check_values(epochs=1, lr=1e-4, ema_decay=0, resume="false", cache=True, amp="bf16", initial_weights=None)
    check_values(pretrained_unet=str(tmp_path / "unet.pt"), class_weight=None, channels=["adc", "axt2"])


@pytest.mark.parametrize("config", ["train", "inference"])
def test_every_option_that_has_a_rule_is_checked(repo_root, config):
    parser = ConfigParser.load_config_file(repo_root / "bundles" / "ccella_ldm" / "configs" / f"{config}.yaml")
    checked = next(step for step in parser["initialize"] if "check_values" in str(step))
    ruled = {
        *WHOLE,
        *NUMBERS,
        *CHOICES,
        *SWITCHES,
        *FILES,
        *({"channels"} if config == "train" else ()),
    } & parser.keys()
    assert {name: value for name, value in checked.items() if name != "_target_"} == {
        name: f"@{name}" for name in ruled
    }


@pytest.mark.parametrize(("config", "kind"), [("train", "train"), ("inference", "infer")])
def test_all_wrong_options_are_told_before_anything_is_read_or_built(repo_root, config, kind):
    bundle = repo_root / "bundles" / "ccella_ldm"
    with pytest.raises(RuntimeError) as caught:
        create_workflow(
            config_file=str(bundle / "configs" / f"{config}.yaml"), workflow_type=kind, logging_file=False,
            bundle_root=str(bundle), dataset_dir="nowhere", batch_size=0, seed=-1, amp="int8",
            network_def={"_target_": "scripts.nothing.CannotBeBuilt"},
        )  # fmt: skip
    error = caught.value
    while error.__cause__ is not None:
        error = error.__cause__
    assert isinstance(error, UserError)
    assert "3 problems" in str(error)
