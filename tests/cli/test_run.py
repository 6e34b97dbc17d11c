"""What users see of a mistake: its words, before any work, and no traceback; a mistake of ours keeps its traceback."""

import inspect
import subprocess
import sys
from typing import get_type_hints

import pytest
from torch._utils import ExceptionWrapper

from scripts.cli import bundle
from scripts.cli.bundle import check_ids
from scripts.cli.options import read_value
from scripts.cli.run import run
from scripts.common.problems import Problems, UserError

WRAPPED = """
import sys
from scripts.cli import bundle
from scripts.common.problems import UserError
sys.excepthook = bundle._hook
try:
    raise {kind}("case_7: axt2.nii.gz is missing")
except Exception as error:
    raise RuntimeError("Failed to instantiate component") from error
"""


@pytest.mark.parametrize(("kind", "traceback"), [("UserError", False), ("KeyError", True)])
def test_bundles_end_with_the_words_of_a_user_error_alone(repo_root, kind, traceback):
    code = WRAPPED.format(kind=kind)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=repo_root)
    assert ended.returncode == 1
    assert "case_7: axt2.nii.gz is missing" in ended.stderr
    assert ("Traceback" in ended.stderr) == traceback


def test_commands_print_user_errors_and_fail(capsys):
    def fails(path: str) -> None:
        raise UserError(f"{path} is missing")

    with pytest.raises(SystemExit, match="1"):
        run(fails, ["--path", "x.nii"])
    assert capsys.readouterr().err == "error: x.nii is missing\n"


def command(path: str, count: int = 1, share: float = 0.5, size: tuple[int, int, int] | None = None, on: bool = False):
    """A command that prints what it was given."""
    print((path, count, share, size, on))


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (["--path", "007", "--count", "3", "--share", "1"], ("007", 3, 1.0, None, False)),
        (["a,b", "--size", "4,5,6", "--on"], ("a,b", 1, 0.5, (4, 5, 6), True)),
        (["--path=$x", "--size", "[4, 5, 6]", "--on", "false"], ("$x", 1, 0.5, (4, 5, 6), False)),
        (["None", "--size", "None", "--noon"], ("None", 1, 0.5, None, False)),
    ],
)
def test_values_arrive_in_the_kind_that_the_command_asks_for(capsys, words, given):
    run({"make": command}, ["make", *words])
    assert capsys.readouterr().out == f"{given}\n"


@pytest.mark.parametrize(
    "module",
    [
        "phantom",
        "prepare",
        "encode_reports",
        "phantom.tiny_t5",
        "showcase.timing",
        "showcase.demo",
        "showcase.study",
        "showcase.bench",
        "classifier.arms",
    ],
)
def test_the_default_of_every_option_can_be_typed(commands_of, module):
    given = commands_of(f"scripts.{module}")
    for function in [given] if callable(given) else given.values():
        kinds = get_type_hints(function)
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.default is not parameter.empty:
                assert read_value(str(parameter.default), kinds[name]) == parameter.default


def test_all_values_of_a_wrong_kind_are_told_and_nothing_is_run(capsys):
    with pytest.raises(SystemExit, match="1"):
        run(command, ["x", "--count", "ten", "--share", "half", "--size", "4,5", "--on", "maybe"])
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [
        "error: options: 4 problems",
        "  --count  is 'ten' -> give a whole number",
        "  --share  is 'half' -> give a number",
        "  --size   is '4,5' -> give 3 values with commas between them, each a whole number",
        "  --on     is 'maybe' -> give true or false",
    ]


@pytest.mark.parametrize("commands", [command, {"make": command}])
def test_a_mistyped_option_is_told_with_the_nearest_and_nothing_is_run(capsys, commands):
    with pytest.raises(SystemExit, match="1"):
        run(commands, ["make", "--path", "x", "--cuont=3"])
    told = capsys.readouterr()
    assert told.out == ""
    assert "--cuont  is no option of this command -> did you mean --count?" in told.err


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("epochs", None),
        ("only_in_overlay", None),
        ("train#trainer#max_epochs", None),
        ("train#trainer#key_train_metric", None),  # an argument that the config leaves at its default
        ("train#trainer#_disabled_", None),
        ("network_def#any_argument", None),  # it takes any
        ("only_in_overlay#any_argument", None),  # Python does not find it, MONAI does
        ("_meta_#version", None),
        ("run_id", None),
        ("epohcs", "epochs"),
        ("train#trianer#max_epochs", "train#trainer#max_epochs"),
        ("train#trainer#max_epohcs", "train#trainer#max_epochs"),
        ("train#trainer#key_trian_metric", "train#trainer#key_train_metric"),
        ("train#qqq", ""),
        ("epochs#x", ""),
    ],
)
def test_an_id_of_a_bundle_is_known_from_all_its_files(repo_root, tmp_path, name, meant):
    overlay = tmp_path / "overlay.json"
    overlay.write_text('{"only_in_overlay": {"_target_": "Compose"}}')
    problems = Problems("options")
    check_ids([str(repo_root / "bundles/vae/configs/train.yaml"), str(overlay)], [name], problems)
    assert bool(problems) == (meant is not None)
    assert not meant or f"--{name}  names nothing in the configs -> did you mean --{meant}?" in str(problems)


@pytest.mark.parametrize("tracking", ["mlflow", {"configs": {"run_name": None}}])
def test_settings_of_a_tracker_are_options_only_with_it(repo_root, tracking):
    config, problems = str(repo_root / "bundles/vae/configs/train.yaml"), Problems("options")
    check_ids(config, ["run_name"], problems, tracking=tracking)
    assert not problems
    check_ids(config, ["run_name"], problems)
    assert problems


def test_problems_are_told_all_at_once_or_not_at_all():
    problems = Problems("train.json")
    problems.raise_if_any()
    problems.add("case_1", "image is missing", "copy it")
    problems.add("case_22", "spacing is not positive")
    with pytest.raises(UserError) as caught:
        problems.raise_if_any()
    assert str(caught.value).splitlines() == [
        "train.json: 2 problems",
        "  case_1   image is missing -> copy it",
        "  case_22  spacing is not positive",
    ]


def test_words_from_a_process_that_loads_data_come_without_its_traceback(capsys):
    try:
        raise UserError("case_7: axt2.nii.gz is broken\ncopy it again")
    except UserError:
        from_worker = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(UserError, match="Traceback") as caught:
        from_worker.reraise()
    bundle._hook(caught.type, caught.value, caught.tb)
    assert capsys.readouterr().err == "error: case_7: axt2.nii.gz is broken\ncopy it again\n"
