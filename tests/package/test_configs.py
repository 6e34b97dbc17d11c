"""A config with its overlays in one file means what the list of files means."""

from __future__ import annotations

import pytest
import yaml
from monai.bundle import ConfigParser

from scripts.package.configs import NEEDS_MONAI, folded

BASE = """# What it is for.
imports: [$import sys]

# ---- values ------------------------------------------------------------------------------
width: 3                                # of a thing
depth: null                             # of another,
                                        # in two lines
names: [a, b]                           # who

# ---- machinery ---------------------------------------------------------------------------
network_def:                            # built
  _target_: torch.nn.Linear
  in_features: "@width"
  out_features: 2
data: "$1 / 0"

initialize:
  - "$sys.path"
  - "$(@data, @width)"
run:
  - "$@network_def"
"""


@pytest.fixture
def base(tmp_path):
    (tmp_path / "inference.yaml").write_text(BASE)
    return tmp_path / "inference.yaml"


def overlay(folder, name="overlay.yaml", **values):
    (folder / name).write_text(yaml.safe_dump(values))
    return folder / name


def test_what_overlays_leave_alone_keeps_its_comments_and_sections(base, tmp_path):
    text, config = folded(base, [overlay(tmp_path, depth=4)], {"width": 5})
    assert yaml.safe_load(text) == config
    assert (config["width"], config["depth"]) == (5, 4)
    for line in ("# What it is for.", "# of a thing", "# in two lines", "# ---- values", "# ---- machinery", "# built"):
        assert line in text
    assert "width: 5                                # of a thing\n" in text


def test_a_part_is_replaced_whole_as_monai_does_it(base, tmp_path):
    new = {"_target_": "torch.nn.Identity"}
    text, config = folded(base, [overlay(tmp_path, network_def=new)], {})
    merged = ConfigParser.load_config_files([str(base), str(tmp_path / "overlay.yaml")])
    assert config["network_def"] == merged["network_def"] == new
    assert yaml.safe_load(text)["network_def"] == new


def test_ids_of_other_workflows_are_left_out_but_what_is_referred_to_comes_along(base, tmp_path):
    given = {"epochs": 9, "names": "@others", "others": "@more", "more": ["c"]}
    _, config = folded(base, [overlay(tmp_path, **given)], {"model_file": "x"})
    assert "epochs" not in config
    assert "model_file" not in config
    assert (config["names"], config["others"], config["more"]) == ("@others", "@more", ["c"])


def test_later_overlays_count(base, tmp_path):
    one, two = overlay(tmp_path, "1.yaml", width=1), overlay(tmp_path, "2.yaml", width=2)
    assert folded(base, [one, two], {})[1]["width"] == 2


def test_initialising_reads_no_data_and_asks_for_the_monai_that_is_needed(base):
    _, config = folded(base, [], {})
    assert config["initialize"] == [NEEDS_MONAI, "$sys.path"]
    assert config["run"] == ["$(@data, @width)", "$@network_def"]


def test_an_older_monai_is_told_which_is_needed(monkeypatch):
    parser = ConfigParser({"imports": ["$import sys"], "initialize": NEEDS_MONAI})
    parser.get_parsed_content("initialize")
    monkeypatch.setattr("monai.__version__", "1.4.0")
    with pytest.raises(SystemExit, match=r"needs MONAI 1\.\d+\.\d+ or newer, not 1\.4\.0"):
        ConfigParser({"imports": ["$import sys"], "initialize": NEEDS_MONAI}).get_parsed_content("initialize")


def test_a_missing_overlay_is_told(base, tmp_path, refused):
    with refused("nothing.yaml is missing"):
        folded(base, [tmp_path / "nothing.yaml"], {})


@pytest.mark.parametrize("bundle", ["vae", "ccella_ldm", "classifier"])
@pytest.mark.parametrize("flow", ["train", "inference", "evaluate"])
def test_the_bundles_own_configs_fold(repo_root, bundle, flow):
    """`folded` itself holds the text against what MONAI makes of the files."""
    configs = repo_root / "bundles" / bundle / "configs"
    overlays = [path for path in (configs / "authors.yaml", configs / "demo.yaml") if path.is_file()]
    text, config = folded(configs / f"{flow}.yaml", overlays, {})
    assert yaml.safe_load(text) == config
    assert "# ---- machinery" in text
