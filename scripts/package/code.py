"""The code of a package: just those modules that its configs reach, under a name of its own.

Two packages in one process would see each other's `scripts`: Python keeps one module of a name, whichever bundle came
first. So each package brings its modules under a name that no other has, `<bundle>_scripts`, written into imports and
`_target_` strings when it is made. The name of a module that is not brought along stays: it means the repository.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import packages_distributions, version
from pathlib import Path

from scripts.common.problems import UserError

OURS = "scripts"
NAMED = re.compile(rf"(?<![\w.]){OURS}((?:\.\w+)+)")  # a module, or something in it
MACHINERY = re.compile(rf"(?<=['/]){OURS}(?=['.])")  # what configs say of the folder: '/scripts', 'scripts.'


def own_name(bundle: str) -> str:
    """The name of a package's modules: that of the folder which they lie in."""
    return f"{bundle}_{OURS}"


def module_of(package: Path, dotted: str) -> str | None:
    """The module `scripts.a.b` that a dotted name begins with, such as that of a function; None where there is none."""
    parts = dotted.split(".")
    for end in range(len(parts), 1, -1):
        path = package.parent.joinpath(*parts[:end])
        if path.with_suffix(".py").is_file() or (path / "__init__.py").is_file():
            return ".".join(parts[:end])
    return None


def reached(package: Path, configs: Iterable[str]) -> dict[str, Path]:
    """The modules that configs, given as text, name and all that these import, wherever in them; with their files.

    Raises:
        UserError: a config names what is not there.
    """
    found: dict[str, Path] = {}
    todo = []
    for text in configs:
        for dotted in (OURS + match[1] for match in NAMED.finditer(_without_comments(text))):
            module = module_of(package, dotted)
            if module is None:
                raise UserError(f"a config names {dotted}, and {package} has no such module: correct the config")
            todo.append(module)
    while todo:
        module = todo.pop()
        if module not in found:
            found[module] = _file_of(package, module)
            todo += _imports(found[module], package)
            todo += _parents(module)
    return dict(sorted(found.items()))


def _without_comments(text: str) -> str:
    """YAML without its comments; a `#` that stands in a word, as in a reference, begins none."""
    return re.sub(r"(?m)(^|\s)#.*$", "", text)


def _file_of(package: Path, module: str) -> Path:
    path = package.parent.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _imports(path: Path, package: Path) -> Iterator[str]:
    """Our own modules that a file imports."""
    for name in _imported(path):
        if name.partition(".")[0] == OURS and (module := module_of(package, name)):
            yield module


def _imported(path: Path) -> Iterator[str]:
    """Everything that a file imports, inside functions too: `a.b` for `import a.b`, `a.b.c` for `from a.b import c`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def renamed(text: str, modules: Iterable[str], name: str) -> str:
    """Code or a config in which our modules that are brought along have the package's own name."""
    brought = set(modules)

    def rename(match: re.Match[str]) -> str:
        dotted = (OURS + match[1]).split(".")
        is_brought = any(".".join(dotted[:end]) in brought for end in range(len(dotted), 1, -1))
        return (name if is_brought else OURS) + match[1]

    text = re.sub(rf"(?m)^(\s*)from {OURS} import", rf"\1from {name} import", text)
    return MACHINERY.sub(name, NAMED.sub(rename, text))


def needed_packages(files: Iterable[Path]) -> dict[str, str]:
    """What files import that is neither ours nor Python's: the names of pip and the versions that are installed.

    Raises:
        UserError: something is imported that is not installed here, so that no version could be named.
    """
    imported = {name.partition(".")[0] for path in files for name in _imported(path)}
    distributions = packages_distributions()
    needed, missing = {}, []
    for name in sorted(imported - sys.stdlib_module_names - {OURS}):
        if name in distributions:
            needed[pip_name(distributions[name][0])] = version(distributions[name][0])
        else:
            missing.append(name)
    if missing:
        raise UserError(f"{', '.join(missing)}: imported by the package's code, not installed here; install it first")
    return needed


def pip_name(distribution: str) -> str:
    """A distribution's name in the one spelling by which pip compares them."""
    return re.sub(r"[-_.]+", "-", distribution).lower()
