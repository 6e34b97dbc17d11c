"""What `make gpu` does with what its processes tell, fail to tell, or have no time to tell."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from scripts.common.problems import UserError
from scripts.showcase import gpu

ABOUT = {"card": "none", "commit": "abc"}


def task(code: str, limit: float = 20) -> gpu.Task:
    """A process of its own that runs Python code."""
    return gpu.Task("code", (sys.executable, "-c", code), limit)


def told(code: str, limit: float = 20) -> list[dict]:
    return list(gpu.results_of(task(code), limit))


def written(folder: Path) -> dict:
    return json.loads((folder / "gpu.json").read_text())


@pytest.fixture
def card(monkeypatch):
    """A machine that says it has a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu, "describe", lambda: ABOUT)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


# ---- processes -------------------------------------------------------------------------------------------------------


def test_lines_of_json_are_results_and_the_rest_is_shown(capsys):
    assert told("print('hello'); print('{\"title\": \"a\", \"seconds\": 1.5}'); print('{broken')") == [
        {"title": "a", "seconds": 1.5}
    ]
    assert capsys.readouterr().out == "hello\n{broken\n"


def test_a_process_that_dies_is_told_with_what_it_had_found():
    first, second = told('import os; print(\'{"title": "a"}\', flush=True); os.kill(os.getpid(), 9)')
    assert first == {"title": "a"}
    assert second == {"title": "code", "error": "ended with status -9"}


def test_an_error_that_was_told_is_not_told_twice():
    assert told('print(\'{"title": "a", "error": "x"}\'); raise SystemExit(1)') == [{"title": "a", "error": "x"}]


def test_a_process_without_end_is_stopped_with_all_that_it_has_started():
    code = "import subprocess, sys; print('{\"title\": \"a\"}', flush=True); subprocess.run(['sleep', '60'])"
    started = time.monotonic()
    first, second = told(code, limit=1)
    assert time.monotonic() - started < 20
    assert first == {"title": "a"}
    assert second == {"title": "code", "error": "stopped after 1 s"}


def test_what_has_no_time_left_is_told_and_not_begun():
    (result,) = gpu.run_tasks([task('print(\'{"title": "a"}\')')], until=time.monotonic() + gpu.LEAST / 2)
    assert result == {"title": "code", "error": "left out: no time was left"}


def test_every_command_can_be_typed(wrong_options):
    tasks = [one for part in gpu.PARTS.values() for one in part()]
    assert len({one.name for one in tasks}) == len(tasks) > 5
    typed = [one.command for one in tasks if "pytest" not in one.command]
    assert [wrong for command in typed if (wrong := wrong_options(command))] == []


def test_the_tests_tell_what_they_find(repo_root):
    """On a machine without a GPU all of them are skipped, with the reason."""
    if torch.cuda.is_available():
        pytest.skip("here they would run")
    (right,) = gpu.right()
    results = list(gpu.results_of(right, 120))
    files = {result["title"].partition("::")[0] for result in results}
    assert files == {str(path.relative_to(repo_root)) for path in repo_root.glob("tests/gpu/test_*.py")}
    assert all("no CUDA card" in result["reason"] or "reference" in result["reason"] for result in results)
    assert not any("error" in result for result in results)


# ---- the report ------------------------------------------------------------------------------------------------------


def test_each_result_is_in_the_file_before_the_next_comes(tmp_path):
    report = gpu.Report(tmp_path, ABOUT)

    def results():
        for number in range(3):
            if number:
                assert [one["n"] for one in written(tmp_path)["parts"]["speed"]["results"]] == list(range(number))
            yield {"title": "a", "n": number}

    report.part("speed", results())
    part = written(tmp_path)["parts"]["speed"]
    assert part["complete"]
    assert [one["n"] for one in part["results"]] == [0, 1, 2]
    assert written(tmp_path)["about"] == ABOUT


def test_a_run_that_is_cut_short_has_told_what_it_found(tmp_path):
    def results():
        yield {"title": "a"}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gpu.Report(tmp_path, ABOUT).part("right", results())
    part = written(tmp_path)["parts"]["right"]
    assert (part["complete"], part["results"]) == (False, [{"title": "a"}])


def test_a_part_that_fails_is_told_and_the_next_goes_on(tmp_path, capsys):
    def results():
        yield {"title": "a"}
        raise ValueError("no such kernel")

    report = gpu.Report(tmp_path, ABOUT)
    report.part("right", results())
    report.part("speed", [{"title": "b"}])
    assert report.failed(["right", "speed"]) == ["right (ValueError: no such kernel)"]
    assert written(tmp_path)["parts"]["speed"]["complete"]
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(("about", "kept"), [(ABOUT, True), (ABOUT | {"card": "x"}, False), ({"commit": None}, False)])
def test_parts_of_the_same_card_and_code_stay(tmp_path, about, kept):
    gpu.Report(tmp_path, ABOUT).part("right", [{"title": "a"}])
    gpu.Report(tmp_path, about).part("train", [{"title": "b"}])
    assert ("right" in written(tmp_path)["parts"]) is kept


def test_ours_stands_beside_the_authors_way():
    row = {"way": "eager", "precision": "fp16"}
    results = [
        row | {"row": "authors_step", "title": "step", "seconds": 0.03},
        row | {"row": "decode", "title": "decode", "seconds": 0.2},
        row | {"row": "training_authors", "title": "theirs", "seconds": 1.0, "images_per_second": 8.0},
        {"row": "volume", "title": "volume of 8", "way": "eager", "precision": "bf16", "seconds": 0.4},
        {"row": "training", "title": "t", "way": "eager", "precision": "bf16", "images_per_second": 20.0},
        {"row": "training", "title": "t", "way": "compiled", "precision": "bf16", "images_per_second": 24.0},
        {"row": "training", "title": "t", "way": "compiled", "precision": "bf16", "error": "x"},
    ]
    volume, training = gpu.compared(results)
    assert volume["title"] == "volume of 8, bf16, eager, beside the authors'"
    assert (volume["ours"], volume["theirs"], volume["ratio"]) == pytest.approx((0.4, 30.2, 75.5))
    assert (training["ours"], training["theirs"], training["ratio"]) == pytest.approx((24, 8, 3))
    assert list(gpu.compared(results[3:])) == []


# ---- the command -----------------------------------------------------------------------------------------------------


def test_it_is_refused_in_words_without_a_card(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"there is no GPU .*timing table"):
        gpu.gpu(str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_wrong_options_are_told(tmp_path):
    with pytest.raises(UserError, match="not known: rihgt; the parts are right, ceilings, speed, train"):
        gpu.gpu(str(tmp_path), parts=["rihgt"])
    with pytest.raises(UserError, match="minutes is 0"):
        gpu.gpu(str(tmp_path), train=True, minutes=0)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["right", "ceilings", "speed"]),
        ({"train": True}, ["train"]),
        ({"train": True, "parts": ["speed", "right"]}, ["right", "speed", "train"]),
    ],
)
def test_parts_are_run_in_their_order(tmp_path, monkeypatch, card, options, expected):
    for name in gpu.PARTS:
        monkeypatch.setitem(gpu.PARTS, name, lambda name=name: [task(f'print(\'{{"title": "{name}"}}\')')])
    monkeypatch.setattr(gpu, "trainings", lambda folder, minutes: [{"title": "train", "minutes": minutes}])
    gpu.gpu(str(tmp_path), **options)
    parts = written(tmp_path)["parts"]
    assert list(parts) == expected
    assert [part["results"][0]["title"] for part in parts.values()] == expected


def test_the_status_tells_that_something_was_not_right(tmp_path, monkeypatch, card, capsys):
    monkeypatch.setitem(gpu.PARTS, "right", lambda: [task("raise SystemExit(3)")])
    with pytest.raises(SystemExit) as ended:
        gpu.gpu(str(tmp_path), parts=["right"])
    assert ended.value.code == 1
    assert "not right: code (ended with status 3)" in capsys.readouterr().out
