"""What several test files share: where the repository is, what a refusal is, what a command's options should be."""

from __future__ import annotations

import inspect
import os
import re
import runpy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from fire.parser import DefaultParseValue

from scripts.cli import options
from scripts.cli import run as cli
from scripts.common.problems import Problems, UserError

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

LONGEST = (
    "test_bundles.py",
    "test_training.py",
    "test_making.py",
    "test_workflows.py",
    "test_inference.py",
    "test_run.py",
)

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser):
    """Options of the tests in tests/gpu; here, where pytest looks for them whatever it is started with."""
    parser.addoption(
        "--device", default="cuda", help="where tests/gpu runs: cuda, or cpu to check the tests themselves"
    )
    parser.addoption("--tell", action="store_true", help="print what each test has found as a line of JSON")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take minutes come first, so that processes that share out the files end together."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The repository's root folder."""
    return ROOT


@pytest.fixture
def exams(tmp_path: Path) -> Path:
    """A folder of six small exams with their table."""
    from small_exams import write_exams  # imports all of prepare

    return write_exams(tmp_path)


@contextmanager
def _refused(match: str) -> Iterator[None]:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        yield
    error = caught.value
    while not isinstance(error, UserError):
        error = error.__cause__
        assert error is not None, caught.value
    assert re.search(match, str(error)), error


@pytest.fixture(scope="session")
def refused() -> Callable[[str], AbstractContextManager[None]]:
    """`with refused(pattern):` - a `UserError` is told in it; MONAI's config parser chains its own errors to it."""
    return _refused


@pytest.fixture
def commands_of(monkeypatch) -> Callable[[str], Callable | dict[str, Callable]]:
    """Gives what `python -m <module>` hands to the command line: a function, or several by name."""

    def run(module: str) -> Callable | dict[str, Callable]:
        given = []
        with monkeypatch.context() as patch:
            patch.setattr(cli, "run", given.append)
            path = ROOT / module.replace(".", "/")
            path = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
            runpy.run_path(str(path), run_name="__main__")
        return given[0]

    return run


def _config(file: str) -> Path:
    """A config that a command names; that of an unpacked package, `vae/configs/…`, is its bundle's."""
    return ROOT / file if (ROOT / file).is_file() else ROOT / "bundles" / file


@pytest.fixture
def wrong_options(commands_of) -> Callable[[Sequence[str]], str]:
    """Tells what is wrong with the options of a command that runs a bundle or a module of the package, "" if nothing.

    The words are those that a shell makes of the command as it is typed in the repository's root.
    """

    import monai.bundle  # reads the variables above when it is imported

    from scripts.cli import bundle

    def check(words: Sequence[str]) -> str:
        module = next(n for n, w in enumerate(words) if w == "monai.bundle" or w.startswith("scripts."))
        problems = Problems(" ".join(words[:12]))
        names = options.typed_options(words[module:])
        if words[module] == "monai.bundle":
            files = DefaultParseValue(words[words.index("--config_file") + 1])
            files = [_config(file) for file in ([files] if isinstance(files, str) else files)]
            own = inspect.signature(getattr(monai.bundle, words[module + 1])).parameters
            names = [name for name in names if name not in own]
            missing = [file for file in files if not file.is_file()]
            for file in missing:
                problems.add(str(file), "is missing")
            if not missing:
                bundle.check_ids([str(file) for file in files], names, problems)
        else:
            commands = commands_of(words[module])
            command = commands if callable(commands) else commands[words[module + 1]]
            options.check_names(command, names, problems)
        return str(problems) if problems else ""

    return check
