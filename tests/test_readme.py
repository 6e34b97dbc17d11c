"""Every command in the documents can be typed as it stands: its configs exist and its options name something."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("bundles/*/docs/README.md"))]
FENCE = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
ASSIGNMENT = re.compile(r"(\w+)=(.*)", re.DOTALL)


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command in fenced blocks, as a shell makes them: lines joined, variables put in."""
    variables: dict[str, str] = {}
    for block in FENCE.findall(text):
        joined = re.sub(r"\\\n", " ", block)
        # As in a shell, # begins a comment only where a word could begin: `a#b` is a word.
        for line in re.sub(r"(?m)(^|\s)#.*$", "", joined).splitlines():
            words = shlex.split(line)
            while words and (assigned := ASSIGNMENT.fullmatch(words[0])):
                variables[assigned[1]] = assigned[2]
                words = words[1:]
            yield [part for word in words for part in (variables[word[1:]].split() if word[:1] == "$" else [word])]


def is_ours(words: list[str]) -> bool:
    """Whether a command runs a bundle or a module of the package."""
    return "-m" in words and any(word == "monai.bundle" or word.startswith("scripts.") for word in words)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_name_configs_and_options_that_exist(document, wrong_options):
    text = document.read_text(encoding="utf-8")
    found = [words for words in commands(text) if is_ours(words)]
    mentioned = sum(len(re.findall(r"-m (?:monai\.bundle|scripts\.)", block)) for block in FENCE.findall(text))
    assert len(found) >= mentioned, "a command in a fenced block was not understood"
    assert [told for words in found if (told := wrong_options(words))] == []


def test_a_wrong_option_is_seen(wrong_options):
    typed = "RUN='python -m monai.bundle run'\n$RUN \\\n --config_file bundles/vae/configs/train.yaml --epohcs 3"
    text = f"```\n{typed}\n```\n"
    (told,) = [wrong_options(words) for words in commands(text) if is_ours(words)]
    assert "--epohcs" in told
    assert "--sede" in wrong_options(["python", "-m", "scripts.phantom", "make", "--sede", "3"])


def test_targets_of_make_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        named = {words[1] for words in commands(document.read_text(encoding="utf-8")) if words[:1] == ["make"]}
        assert {name for name in named if not name.startswith(".")} <= targets, document


def is_command(path: Path) -> bool:
    return 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")


def test_the_table_has_every_command():
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Every command")[2].partition("\n## ")[0]
    targets = (ROOT / "Makefile").read_text(encoding="utf-8")
    for path in filter(is_command, ROOT.glob("scripts/**/*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        if f"\n{module.rpartition('.')[2]}:" not in targets:
            assert f"`python -m {module}" in table
    for path in ROOT.glob("bundles/*/configs/*.yaml"):
        if path.stem in ("train", "inference", "evaluate"):
            assert f"| {path.parts[-3]} `{path.stem}` |" in table
