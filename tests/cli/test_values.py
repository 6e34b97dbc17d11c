"""Values are checked by the bundle's schema before anything is built, all of them at once."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import pytest
from jsonschema import Draft202012Validator
from monai.bundle import ConfigParser, create_workflow

from scripts.classifier.training import check_validated
from scripts.cli.values import as_meant, fits, in_words, read_schema, settle_values
from scripts.common.problems import Problems
from scripts.data.images import SCANNER_UNITS
from scripts.engine.precision import PRECISIONS
from scripts.ldm.loss import NOISE_LOSSES
from scripts.ldm.schedule import PREDICTIONS, SOLVERS, SPACINGS
from scripts.networks.variants import VARIANTS
from scripts.vae.inference import MODES

BUNDLES = ("vae", "ccella_ldm", "classifier")
CONFIGS = [f"{bundle}/configs/{name}.yaml" for bundle in BUNDLES for name in ("train", "inference", "evaluate")]


@pytest.fixture
def rules(repo_root):
    return {bundle: read_schema(repo_root / "bundles" / bundle) for bundle in BUNDLES}


def settled(rules, **values):
    """The values as a config's components get them, and what is wrong with them."""
    parser, problems = ConfigParser(values), Problems("options")
    settle_values(parser, rules, problems)
    return {name: parser.get_parsed_content(name) for name in values}, problems


@pytest.mark.parametrize(
    ("bundle", "name", "value", "wanted"),
    [
        ("vae", "epochs", 0, "a whole number of at least 1"),
        ("vae", "seed", "a", "a whole number of at least 0"),
        ("vae", "num_workers", True, "a whole number of at least 0, or null"),
        ("ccella_ldm", "batch_size", 2.5, "a whole number of at least 1"),
        ("ccella_ldm", "steps", 1001, "a whole number from 1 to 1000"),
        ("ccella_ldm", "lr", "1e-4", "a number of at least 0"),  # YAML reads 1e-4 as a word
        ("ccella_ldm", "lr", float("nan"), "a number of at least 0"),
        ("ccella_ldm", "lr", float("inf"), "a number of at least 0"),
        ("ccella_ldm", "ema_half_life", -1, "a number of at least 0"),
        ("ccella_ldm", "noise_loss", "huber", "one of l1, l2"),
        ("ccella_ldm", "variant", "FOO", "one of MAISI, "),
        ("ccella_ldm", "compile", "maybe", "true or false"),
        ("ccella_ldm", "padded_reports", "maybe", "true or false, or null"),
        ("ccella_ldm", "pretrained_unet", "no.pt", "a file that is there, or null"),
        ("ccella_ldm", "channels", "axt2", "a list of different ones of axt2, b1600, adc"),
        ("ccella_ldm", "channels", ["axt2", "axt2"], "a list of different ones of axt2, b1600, adc"),
        ("ccella_ldm", "channels", ["t2w"], "a list of different ones of axt2, b1600, adc"),
        ("ccella_ldm", "timestep_shift", 0, "a number above 0, or null"),
        ("ccella_ldm", "guidance_interval", [0, 2000], "two numbers from 0 to 1000"),
        ("ccella_ldm", "dataset_dir", 2024, "text"),
        ("vae", "sequences", ["t2"], "a list of different ones of axt2, b1600, adc"),
        ("vae", "patch", 64, "three positive numbers"),
        ("vae", "patch", [64, 64, float("nan")], "three positive numbers"),
        ("classifier", "spacing", "0.5", "three positive numbers"),
        ("classifier", "real", 2, "one of 0, 1"),
    ],
)
def test_a_wrong_value_says_what_is_wanted(rules, bundle, name, value, wanted):
    _, problems = settled(rules[bundle], **{name: value})
    assert re.search(rf"(?s){name} +is {re.escape(repr(value))} -> give {wanted}", str(problems))


def test_a_report_behind_the_wrong_option_is_not_quoted(rules):
    _, problems = settled(rules["ccella_ldm"], positive="Lesion in the left apex", pretrained_unet="no unet.pt")
    assert "positive         is text of 23 characters -> give true or false, or null" in str(problems)
    assert "pretrained_unet  is 'no unet.pt' -> give a file that is there" in str(problems)


def test_right_values_pass(rules, tmp_path):
    (tmp_path / "unet.pt").touch()
    right = {"epochs": 1, "lr": 1e-4, "ema_half_life": 0, "cache": True, "amp": "bf16", "initial_weights": None}
    right |= {"pretrained_unet": str(tmp_path / "unet.pt"), "class_weight": None, "channels": ["adc", "axt2"]}
    values, problems = settled(rules["ccella_ldm"], **right)
    assert not problems
    assert values == right


@pytest.mark.parametrize(
    ("name", "typed", "meant"),
    [
        ("resume", "true", True),
        ("resume", "false", False),
        ("resume", True, True),
        ("padded_reports", "False", False),
        ("padded_reports", "null", None),
        ("size", (64, 64, 32), [64, 64, 32]),
        ("batch_size", 2.0, 2),
        ("initial_weights", "", None),
        ("text_encoder", "None", None),
        ("focus_mask", "", ""),
        ("dataset_dir", "None", "None"),
        ("dataset_dir", "study #2", "study #2"),
        ("latent_dir", "$@dataset_dir + '/latents'", "study #2/latents"),
        ("splits", "test", ["test"]),
    ],
)
def test_what_fire_and_monai_have_made_of_a_value_is_undone(rules, name, typed, meant):
    values, problems = settled(rules["ccella_ldm"], **({"dataset_dir": "study #2"} | {name: typed}))
    assert not problems
    assert values[name] == meant
    assert type(values[name]) is type(meant)


@pytest.mark.parametrize("bundle", BUNDLES)
def test_schemas_are_schemas_and_describe_every_value(repo_root, rules, bundle):
    path = repo_root / "bundles" / bundle / "configs" / "values.schema.json"
    Draft202012Validator.check_schema(json.loads(path.read_text()))
    assert all(rule["description"] and in_words(rule) for rule in rules[bundle].values())


@pytest.mark.parametrize("file", CONFIGS)
def test_every_value_at_the_top_of_a_config_has_a_rule(repo_root, rules, file):
    path = repo_root / "bundles" / file
    top = path.read_text().partition("# ---- values")[2].partition("# ---- machinery")[0]
    names = set(re.findall(r"^(\w+):", top, re.MULTILINE))
    assert names - rules[path.parts[-3]].keys() <= {"report"}  # which is never resolved


@pytest.mark.parametrize("bundle", BUNDLES)
def test_every_rule_is_of_a_value_and_every_default_keeps_it(repo_root, rules, bundle):
    used = set()
    for path in (repo_root / "bundles" / bundle / "configs").glob("*.yaml"):
        config = ConfigParser.load_config_file(path)
        used |= rules[bundle].keys() & config.keys()
        for name, value in config.items():
            if name in rules[bundle] and not str(value).startswith(("$", "@")):
                assert fits(as_meant(value, rules[bundle][name]), rules[bundle][name]), (path.name, name)
    assert used == rules[bundle].keys()


def test_choices_are_those_of_the_code(rules):
    ldm, vae = rules["ccella_ldm"], rules["vae"]
    assert ldm["variant"]["enum"] == list(VARIANTS)
    assert ldm["objective"]["enum"] == list(SOLVERS)
    assert set(ldm["scheduler"]["enum"]) == {name for names in SOLVERS.values() for name in names}
    assert ldm["noise_loss"]["enum"] == list(NOISE_LOSSES)
    assert set(ldm["prediction"]["enum"]) == {name for names in PREDICTIONS.values() for name in names}
    assert ldm["step_spacing"]["enum"] == list(SPACINGS)
    assert ldm["channels"]["items"]["enum"] == ldm["sequence"]["enum"] == list(SCANNER_UNITS)
    assert vae["mode"]["enum"] == list(MODES)
    assert all(rules[bundle]["amp"]["enum"] == ["auto", *PRECISIONS] for bundle in BUNDLES)


@pytest.mark.parametrize("file", [file for file in CONFIGS if not file.endswith("evaluate.yaml") or "vae" in file])
def test_all_wrong_options_are_told_before_anything_is_read_or_built(repo_root, refused, file):
    path = repo_root / "bundles" / file
    wrong = {"batch_size": 0, "num_workers": "two", "seed": -1, "amp": "int8", "lr": "fast", "epochs": 0}
    wrong = {name: value for name, value in wrong.items() if name in ConfigParser.load_config_file(path)}
    with refused(f"options: {len(wrong) + 1} problem"):
        create_workflow(
            config_file=str(path), workflow_type="train" if path.stem == "train" else "infer", logging_file=False,
            dataset_dir="nowhere", **wrong, epohcs=1, network_def={"_target_": "scripts.nothing.CannotBeBuilt"},
        )  # fmt: skip


def test_a_training_without_any_validation_is_refused_where_validation_chooses_the_weights(repo_root, refused):
    bundle = repo_root / "bundles" / "classifier"
    with refused("val_interval 3 is more than epochs 2"):
        create_workflow(
            config_file=str(bundle / "configs" / "train.yaml"), workflow_type="train", logging_file=False,
            bundle_root=str(bundle), dataset_dir="nowhere", epochs=2, val_interval=3,
        )  # fmt: skip
    check_validated(epochs=2, val_interval=2)


OTHERS_FIRST = """
import sys
sys.path.insert(0, {others!r})
import scripts.cli.values
from monai.bundle import create_workflow
try:
    create_workflow(config_file={config!r}, workflow_type="infer", logging_file=False, dataset_dir="nowhere")
except Exception as error:
    print(type(error).__name__)
print("\\n".join(module.__file__ for name, module in sys.modules.items() if name.startswith("scripts.")))
"""


def test_a_bundle_finds_itself_and_its_own_code_wherever_it_is_run(repo_root, tmp_path):
    """From another folder, by no option, and after another bundle's package of the same name was imported."""
    bundle = tmp_path / "study #2" / "vae"
    ignored = shutil.ignore_patterns("models", "__pycache__")
    shutil.copytree(repo_root / "bundles" / "vae", bundle, ignore=ignored)  # the link becomes files
    code = OTHERS_FIRST.format(others=str(repo_root), config=str(bundle / "configs" / "inference.yaml"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    files = [line for line in done.stdout.splitlines() if line.endswith(".py")]
    assert files, done.stderr
    assert all(file.startswith(str(bundle)) for file in files)


def test_a_bundle_root_without_code_is_told_in_words(repo_root, tmp_path):
    config = str(repo_root / "bundles" / "vae" / "configs" / "inference.yaml")
    with pytest.raises(SystemExit, match=r"error: bundle_root .*nowhere holds no scripts: leave the option out"):
        create_workflow(config_file=config, workflow_type="infer", logging_file=False, bundle_root="nowhere")
