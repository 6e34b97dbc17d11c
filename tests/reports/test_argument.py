"""A typed report arrives as it was typed, through a real `python -m monai.bundle run` and through the Python API."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from monai.bundle import create_workflow

from scripts.common.problems import UserError
from scripts.reports.argument import report_argument
from scripts.reports.text import normalise_report

CONFIG = """
report: null
report_file: null
out: null
initialize:
- {_target_: scripts.reports.argument.hide_report}
run:
- {_target_: tests.reports.test_argument.store, text: "@got", path: "@out"}
got: {_target_: scripts.reports.argument.report_argument, report_file: "@report_file"}
"""
TRAP = "$__import__('pathlib').Path('trap').touch()"
REPORTS = [
    "left, apex: 5 mm",
    "left, apex",
    "007",
    "1e3",
    "True",
    "None",
    "[1,2]",
    '"quoted"',
    "{'a':1}",
    "{'_target_': 'os.mkdir', 'path': 'trap'}",
    "PSA 4.5",
    "lesion #1, PI-RADS::4, see @#2",
    "linke Hälfte, 前列腺 🩻",
    "two\nlines\n\n- of text ",
    "@x",
    "@report",
    TRAP,
    "$import os",
    "a %b @c $d \\n \\",
    "-5 mm",
    " ",
    "(" * 100_000,
    "left, apex; 前列腺 " * 8000,
]


def store(text: str | None, path: str) -> None:
    """What the throw-away config runs: keep the text as bytes, or no file where there is none."""
    if text is not None:
        Path(path).write_bytes(text.encode("utf-8", "surrogateescape"))


@pytest.fixture
def bundle(tmp_path, monkeypatch, repo_root):
    """A throw-away bundle in the current folder, with tests importable as the config's target."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/x.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(repo_root))
    return tmp_path


def run_bundle(monkeypatch, *options: str) -> bytes | None:
    """`python -m monai.bundle run …` inside this process; what arrived."""
    monkeypatch.setattr(sys, "argv", ["monai", "run", "--config_file", "configs/x.yaml", "--out", "got", *options])
    runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
    return Path("got").read_bytes() if Path("got").exists() else None


@pytest.mark.parametrize("text", REPORTS, ids=lambda text: text[:20])
def test_a_report_arrives_byte_for_byte(bundle, monkeypatch, capfd, text):
    assert run_bundle(monkeypatch, "--report", text) == text.encode()
    assert not Path("trap").exists()
    # Only for texts long enough that they cannot be in a log by chance.
    if len(text) > 8:
        assert text not in "".join(capfd.readouterr())


@pytest.mark.parametrize("option", ["--report=", "-report="])
def test_other_forms_of_the_option(bundle, monkeypatch, option):
    assert run_bundle(monkeypatch, "--report", "first", f"{option}left=apex, 007") == b"left=apex, 007"


def test_a_report_that_looks_like_an_option_needs_the_equals_sign(bundle, monkeypatch):
    assert run_bundle(monkeypatch, "--report=--weird") == b"--weird"
    with pytest.raises(UserError, match="begins with a dash"):
        report_argument(argv=["x", "--report", "--weird"])
    with pytest.raises(UserError, match="--report has no text"):
        report_argument(argv=["x", "--report"])


@pytest.mark.parametrize("text", ["%a", "see @##1", "%#x"])
def test_what_monai_refuses_goes_through_a_file(bundle, monkeypatch, text):
    with pytest.raises((KeyError, ValueError)):
        run_bundle(monkeypatch, "--report", text)
    Path("report.txt").write_text(text, encoding="utf-8")
    assert run_bundle(monkeypatch, "--report_file", "report.txt") == text.encode()


def test_no_report_is_none(bundle, monkeypatch):
    assert run_bundle(monkeypatch) is None


def test_a_real_process(bundle, repo_root):
    text = "left, apex: 5 mm #1 $x 'é'"
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/x.yaml", "--out", "got"]
    environment = os.environ | {"PYTHONPATH": str(repo_root)}
    subprocess.run([*command, "--report", text], env=environment, timeout=120, check=False, capture_output=True)
    assert Path("got").read_text(encoding="utf-8") == text


@pytest.mark.parametrize("text", [*(t for t in REPORTS if "::" not in t), "lesion #1"], ids=lambda text: text[:20])
def test_the_python_api_hands_text_through_unevaluated(bundle, text):
    workflow = create_workflow(config_file="configs/x.yaml", out="got", report=text)
    workflow.run()
    assert Path("got").read_bytes() == text.encode()
    assert not Path("trap").exists()


@pytest.mark.parametrize("text", ["%a", "see @##1", "a::b @# é", TRAP])
def test_bytes_pass_the_python_api_untouched(bundle, text):
    create_workflow(config_file="configs/x.yaml", out="got", report=text.encode()).run()
    assert Path("got").read_bytes() == text.encode()


def test_the_command_line_of_another_program_is_not_read(bundle, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pytest", "--report", "of something else"])
    assert report_argument() is None
    assert report_argument("mine") == "mine"


def test_both_sources_are_refused(tmp_path):
    with pytest.raises(UserError, match="give one"):
        report_argument("a", tmp_path / "r.txt")


@pytest.mark.parametrize("value", [5, ("left", "apex"), True])
def test_a_value_that_is_no_text_is_refused_without_showing_it(value):
    with pytest.raises(UserError, match="not text") as caught:
        report_argument(value)
    assert str(value) not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("ä, 5 mm\r\n".encode(), "ä, 5 mm\r\n"),
        (b"\xef\xbb\xbfleft", "left"),
        ("left ä".encode("utf-16"), "left ä"),
        ("left ä".encode("utf-32"), "left ä"),
        (("آفة 🩻 " * 20_000).encode(), "آفة 🩻 " * 20_000),
    ],
)
def test_files_are_unicode(tmp_path, data, text, caplog):
    (tmp_path / "r.txt").write_bytes(data)
    assert report_argument(report_file=tmp_path / "r.txt") == text
    assert caplog.text == ""


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("text", ["left ä, 5 mm\r\n", "5\n", "Größe 5 µm – „links“ 🩻 "])
def test_wide_characters_without_a_mark_are_told_by_their_nuls(tmp_path, encoding, text, caplog):
    (tmp_path / "r.txt").write_bytes(text.encode(encoding))
    assert report_argument(report_file=tmp_path / "r.txt") == text
    assert caplog.text == ""


@pytest.mark.parametrize("encoding", ["utf-32-le", "utf-32-be"])
def test_utf_32_is_told_by_its_nuls_in_any_script(tmp_path, encoding):
    (tmp_path / "r.txt").write_bytes("前列腺 آفة".encode(encoding))
    assert report_argument(report_file=tmp_path / "r.txt") == "前列腺 آفة"


@pytest.mark.parametrize("data", [b"\0" * 64, b"left apex" + b"\0" * 9, b"ab\0" * 9, b"\xff\xfel\0e\0f\0t", b"l\0e\0f"])
def test_many_nuls_that_are_no_text_are_refused(tmp_path, data):
    """A file that a crash filled up, fields of fixed width, and UTF-16 cut in the middle."""
    (tmp_path / "r.txt").write_bytes(data)
    with pytest.raises(UserError, match=r"r\.txt is no text .* save it as UTF-8") as caught:
        report_argument(report_file=tmp_path / "r.txt")
    assert "left" not in str(caught.value)


def test_other_files_are_latin_1_and_that_is_said(tmp_path, caplog):
    (tmp_path / "r.txt").write_bytes("Größe 5 mm".encode("latin-1"))
    assert report_argument(report_file=tmp_path / "r.txt") == "Größe 5 mm"
    assert "Latin-1" in caplog.text
    assert "5 mm" not in caplog.text


@pytest.mark.parametrize("data", [b"\xff\xfea", b"\x80\x81 5 mm", b"\xed\xa0\x80", bytes(range(256)), b"left\0base"])
def test_any_bytes_are_a_report(tmp_path, data):
    """Broken UTF-8, UTF-16 cut in the middle, surrogates, NUL: never an error, and something that an encoder takes."""
    (tmp_path / "r.txt").write_bytes(data)
    text, absent = normalise_report(report_argument(report_file=tmp_path / "r.txt"))
    assert not absent
    assert text.encode("utf-8")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.txt"):
        report_argument(report_file=tmp_path / "none.txt")


@pytest.mark.parametrize("text", ["", " \n", "\0 \0"])
def test_an_empty_report_is_told(caplog, text):
    assert report_argument(text) == text
    assert "treated as absent" in caplog.text
