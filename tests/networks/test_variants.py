"""The overlays of the nine variants say what the table of variants says."""

import pytest
from monai.bundle import ConfigParser

from scripts.networks.variants import VARIANTS, class_weight


@pytest.mark.parametrize("name", VARIANTS)
def test_overlay_sets_the_variant_alone(repo_root, name):
    folder = repo_root / "bundles" / "ccella_ldm" / "configs" / "variants"
    overlay = ConfigParser.load_config_file(folder / f"{name.lower()}.yaml")
    assert overlay == {"variant": name}


@pytest.mark.parametrize("order", [("demo", "variants/radmaisi"), ("variants/radmaisi", "demo")])
def test_a_variant_may_be_listed_before_or_after_the_demo(repo_root, order):
    folder = repo_root / "bundles" / "ccella_ldm" / "configs"
    parser = ConfigParser()
    parser.read_config([str(folder / f"{name}.yaml") for name in ("train", *order)])
    assert parser["variant"] == "RADMAISI"


@pytest.mark.parametrize(("overlays", "channels"), [(("demo",), 12), (("demo", "t2w"), 4)])
@pytest.mark.parametrize("config", ["train", "inference"])
def test_the_demo_makes_three_sequences_and_t2w_after_it_one(repo_root, config, overlays, channels):
    folder = repo_root / "bundles" / "ccella_ldm" / "configs"
    parser = ConfigParser()
    parser.read_config([str(folder / f"{name}.yaml") for name in (config, *overlays)])
    sizes = parser.get_parsed_content("network_def").config
    assert [sizes[name] for name in ("in_channels", "out_channels", "input_dim")] == [channels, channels, 128]


def test_the_weight_of_the_class_loss_is_the_variants_unless_given():
    assert (class_weight("L1ONLY"), class_weight("CCELLA"), class_weight("CCELLA", 0.5)) == (0.0, 1e-4, 0.5)


def test_there_is_an_overlay_for_each_variant_and_no_other(repo_root):
    folder = repo_root / "bundles" / "ccella_ldm" / "configs" / "variants"
    assert {path.stem for path in folder.glob("*.yaml")} == {name.lower() for name in VARIANTS}
