"""Chains of commands: each runs once, again when it or what it needs changed, and a failure says why."""

import subprocess
import sys

import pytest
import torch

from scripts.common.problems import UserError
from scripts.common.tensors import write_tensors
from scripts.showcase.stages import REPOSITORY, Stage, bundle, module, run_stages


def appending(name, path, word, needs=()):
    """A stage that appends a word to a file."""
    return Stage(name, (sys.executable, "-c", f"open({str(path)!r}, 'a').write({word!r})"), needs)


def test_stages_run_once_and_again_when_their_input_changed(tmp_path):
    told = tmp_path / "told"
    chain = [appending("a", told, "a"), appending("b", told, "b", ("a",)), appending("c", told, "c")]
    first = run_stages(chain, tmp_path)
    again = run_stages(chain, tmp_path)
    assert told.read_text() == "abc"
    assert again == first

    run_stages([appending("a", told, "A"), *chain[1:]], tmp_path)
    assert told.read_text() == "abcAb"  # b needs a; c does not


def timed(name, folder, seconds=0.0, needs=(), code=""):
    """A stage that writes when it began and ended, and may then fail."""
    told = folder / f"{name}.told"
    words = f"import time, sys; began = time.time(); time.sleep({seconds}); "
    words += f"open({str(told)!r}, 'w').write(f'{{began}} {{time.time()}}'); {code}"
    return Stage(name, (sys.executable, "-c", words), needs, beside=True)


def test_stages_that_may_run_beside_others_wait_for_what_they_need_alone(tmp_path):
    chain = [timed("a", tmp_path, 1.0), timed("b", tmp_path, 1.0), timed("c", tmp_path, needs=("a",))]
    chain.append(Stage("d", timed("d", tmp_path).command, ("c",)))  # alone, after all of them
    seconds = run_stages(chain, tmp_path, together=2)
    assert list(seconds) == ["a", "b", "c", "d"]
    began, ended = {}, {}
    for name in seconds:
        began[name], ended[name] = map(float, (tmp_path / f"{name}.told").read_text().split())
    assert began["b"] < ended["a"]
    assert began["a"] < ended["b"]
    assert began["c"] >= ended["a"]
    assert began["d"] >= max(ended["b"], ended["c"])
    assert run_stages(chain, tmp_path, together=2) == seconds  # done before


def test_after_a_failure_no_other_stage_begins(tmp_path):
    chain = [timed("a", tmp_path, code="sys.exit(3)"), timed("b", tmp_path, 0.5)]
    chain += [timed("c", tmp_path, needs=("a",)), timed("d", tmp_path)]
    with pytest.raises(UserError, match="stage a failed with exit status 3"):
        run_stages(chain, tmp_path, together=2)
    assert (tmp_path / "b.told").exists()
    assert not (tmp_path / "c.told").exists()
    assert not (tmp_path / "d.told").exists()


def test_copies_run_side_by_side_on_their_part_of_the_cores(tmp_path):
    make = {name: module("phantom", "make", output_dir=tmp_path / name, cases=1, size="16,16,8") for name in "ab"}
    chain = [Stage(name, command, beside=True) for name, command in make.items()]
    run_stages(chain, tmp_path, together=2)
    assert (tmp_path / "a" / "train.json").read_bytes() == (tmp_path / "b" / "train.json").read_bytes()


def test_a_stage_runs_again_when_a_file_from_outside_changed(tmp_path):
    told, weights = tmp_path / "told", tmp_path / "weights.safetensors"
    stage = Stage("a", (sys.executable, "-c", f"open({str(told)!r}, 'a').write('a')"), reads=(weights,))
    for scale in ("1", "1", "2"):
        write_tensors(weights, {"a": torch.ones(2)}, {"scale_factor": scale, "averaged": "true"})
        run_stages([stage], tmp_path)
    assert told.read_text() == "aa"


def test_results_from_other_inputs_are_removed_but_a_stopped_stage_goes_on(tmp_path):
    made, stop = tmp_path / "made", tmp_path / "stop"
    code = f"""
import pathlib, sys
made = pathlib.Path({str(made)!r})
made.mkdir(exist_ok=True)
(made / "told").open("a").write("b")
sys.exit(pathlib.Path({str(stop)!r}).exists())
"""

    def chain(word: str) -> list[Stage]:
        return [appending("a", tmp_path / "told", word), Stage("b", (sys.executable, "-c", code), ("a",), made)]

    run_stages(chain("one"), tmp_path)
    run_stages(chain("one"), tmp_path)
    assert (made / "told").read_text() == "b"
    stop.touch()
    with pytest.raises(UserError):
        run_stages(chain("two"), tmp_path)
    assert (made / "told").read_text() == "b"  # its own: the first run's is gone
    stop.unlink()
    run_stages(chain("two"), tmp_path)
    assert (made / "told").read_text() == "bb"


def test_a_stage_stopped_in_its_first_run_does_not_go_on_with_other_inputs(tmp_path):
    made = tmp_path / "made"
    code = (
        f"import pathlib, sys; p = pathlib.Path({str(made)!r}); p.mkdir(exist_ok=True); (p / 'x').open('a').write('b')"
    )

    def chain(word: str, ends: str) -> list[Stage]:
        stopped = Stage("b", (sys.executable, "-c", f"{code}; sys.exit({ends})"), ("a",), made)
        return [appending("a", tmp_path / "told", word), stopped]

    with pytest.raises(UserError):
        run_stages(chain("one", "1"), tmp_path)
    run_stages(chain("two", "0"), tmp_path)
    assert (made / "x").read_text() == "b"


def test_failed_stage_shows_its_log_and_is_tried_again(tmp_path):
    broken = Stage("broken", (sys.executable, "-c", "raise SystemExit('no such file: x.nii.gz')"))
    for _ in range(2):
        with pytest.raises(UserError, match=r"broken failed[\s\S]*x\.nii\.gz"):
            run_stages([broken], tmp_path)


def test_bundle_command_lists_overlays_after_the_base():
    command = bundle("vae", "train", ("demo",), epochs=3)
    files = command[command.index("--config_file") + 1]
    assert files.index("train.yaml") < files.index("demo.yaml")
    assert command[-2:] == ("--epochs", "3")


def test_a_command_that_is_wrong_ends_its_stage_in_its_own_words(tmp_path):
    """Neither the copied process nor what runs it stands in the log."""
    wrong = module("phantom", "make", output_dir=tmp_path / "data", cases=1, grid="none")
    with pytest.raises(UserError, match="stage make failed with exit status 1") as told:
        run_stages([Stage("make", wrong)], tmp_path)
    assert "grid is 'none'; give one of reference, demo" in str(told.value)
    assert "Traceback" not in str(told.value)


def test_commands_do_what_they_do_when_typed(tmp_path):
    """Also those that start processes of their own; the next one begins from the same state."""
    stages = [
        Stage(name, module("phantom", "make", output_dir=tmp_path / name, cases=2, size="16,16,8", spacing="5,5,7.5"))
        for name in ("one", "two")
    ]
    run_stages(stages, tmp_path)
    typed = module("phantom", "make", output_dir=tmp_path / "typed", cases=2, size="16,16,8", spacing="5,5,7.5")
    subprocess.run(typed, check=True, cwd=REPOSITORY)
    made = {path.relative_to(tmp_path / "typed") for path in (tmp_path / "typed").rglob("*.*")}
    for name in ("one", "two"):
        assert {path.relative_to(tmp_path / name) for path in (tmp_path / name).rglob("*.*")} == made
        assert (tmp_path / name / "train.json").read_bytes() == (tmp_path / "typed" / "train.json").read_bytes()
