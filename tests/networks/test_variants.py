"""The overlays of the nine variants say what the table of variants says."""

import pytest
from monai.bundle import ConfigParser

from scripts.networks.variants import VARIANTS


@pytest.mark.parametrize("name", VARIANTS)
def test_overlay_sets_the_variant_and_its_class_weight(repo_root, name):
    folder = repo_root / "bundles" / "ccella_ldm" / "configs" / "variants"
    overlay = ConfigParser.load_config_file(folder / f"{name.lower()}.yaml")
    assert overlay == {"variant": name, "class_weight": VARIANTS[name].class_weight}


def test_there_is_an_overlay_for_each_variant_and_no_other(repo_root):
    folder = repo_root / "bundles" / "ccella_ldm" / "configs" / "variants"
    assert {path.stem for path in folder.glob("*.yaml")} == {name.lower() for name in VARIANTS}
