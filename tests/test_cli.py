"""What users see of an error: its words, not a traceback; and a mistake of ours keeps its traceback."""

import subprocess
import sys

import pytest

from scripts.cli import run, switch
from scripts.problems import Problems, UserError

WRAPPED = """
from scripts.cli import tell_user_errors
from scripts.problems import UserError
tell_user_errors()
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
    def command(path: str) -> None:
        raise UserError(f"{path} is missing")

    with pytest.raises(SystemExit, match="1"):
        run(command, ["--path", "x.nii"])
    assert capsys.readouterr().err == "error: x.nii is missing\n"


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


def test_switches_are_read_as_fire_hands_them_over():
    assert [switch(resume=value) for value in (True, "true", False, "false")] == [True, True, False, False]
    with pytest.raises(UserError, match="resume is 'no'; give true or false"):
        switch(resume="no")
