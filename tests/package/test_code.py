"""Only what configs reach is brought along, under a name of its own."""

from __future__ import annotations

import ast
import importlib
import json
import sys

import pytest

from scripts.package.code import module_of, needed_packages, reached, renamed
from scripts.package.metadata import NAMED


@pytest.fixture
def package(tmp_path):
    """a -> b -> c (in a function), d imported by nobody; a and d are named by configs or not."""
    folder = tmp_path / "scripts"
    files = {
        "__init__.py": "",
        "one/__init__.py": '"""Room."""\n',
        "one/a.py": "import json\n\nfrom scripts.one.b import thing\n",
        "one/b.py": "def thing():\n    from scripts.two import c\n    return c.NUMBER\n",
        "two/__init__.py": "",
        "two/c.py": "import numpy as np\n\nNUMBER = 3\n",
        "two/d.py": "import scripts.one.a\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_imports_are_followed_wherever_they_stand(package):
    assert set(reached(package, ["x: {_target_: scripts.one.a.anything}"])) == {
        "scripts", "scripts.one", "scripts.one.a", "scripts.one.b", "scripts.two", "scripts.two.c",
    }  # fmt: skip
    assert "scripts.two.d" in reached(package, ["x: $scripts.two.d.f(@y#z)"])


def test_a_comment_reaches_nothing(package):
    assert reached(package, ["x: 1  # python -m scripts.two.d\n# scripts.one.a\n"]) == {}


def test_a_target_that_is_not_there_is_told(package, refused):
    with refused("scripts.three.x"):
        reached(package, ["x: {_target_: scripts.three.x}"])


def test_the_module_of_a_name(package):
    assert module_of(package, "scripts.one.a.Class.method") == "scripts.one.a"
    assert module_of(package, "scripts.one.nothing") == "scripts.one"
    assert module_of(package, "scripts.none") is None


def test_names_are_changed_where_their_module_is_brought_along():
    modules = ["scripts", "scripts.one", "scripts.one.a"]
    text = (
        "from scripts.one import a\nfrom scripts.one.a import f\nimport scripts.one.a as x\n"
        "# my scripts. run scripts.two\n"
    )
    assert renamed(text, modules, "mine_scripts") == (
        "from mine_scripts.one import a\nfrom mine_scripts.one.a import f\nimport mine_scripts.one.a as x\n"
        "# my scripts. run scripts.two\n"
    )
    config = "$os.path.isdir(@bundle_root + '/scripts') and name.startswith('scripts.') or monai.bundle.scripts.load"
    assert renamed(config, modules, "mine_scripts") == (
        "$os.path.isdir(@bundle_root + '/mine_scripts') and name.startswith('mine_scripts.') "
        "or monai.bundle.scripts.load"
    )


def test_renamed_code_imports_nothing_of_the_old_name(package, tmp_path, monkeypatch):
    files = reached(package, ["x: {_target_: scripts.one.a.thing}"])
    for path in files.values():
        target = tmp_path / "new" / "mine_scripts" / path.relative_to(package)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(renamed(path.read_text(), files, "mine_scripts"))
    monkeypatch.syspath_prepend(tmp_path / "new")
    monkeypatch.setitem(sys.modules, "scripts", None)  # whoever asks for it fails
    assert importlib.import_module("mine_scripts.one.a").thing() == 3


def test_packages_of_pip_are_told_with_their_versions(package, tmp_path, refused):
    needed = needed_packages([package / "one" / "a.py", package / "two" / "c.py"])
    assert needed == {"numpy": importlib.metadata.version("numpy")}
    (tmp_path / "x.py").write_text("def f():\n    import nothing_of_this_name\n")
    with refused("nothing_of_this_name"):
        needed_packages([tmp_path / "x.py"])


@pytest.mark.parametrize("bundle", ["vae", "ccella_ldm", "classifier"])
def test_every_import_of_a_bundle_is_found(repo_root, bundle):
    """What the modules of a real bundle import of ours is among them."""
    texts = [path.read_text() for path in (repo_root / "bundles" / bundle / "configs").glob("*.yaml")]
    files = reached(repo_root / "scripts", texts)
    for path in files.values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("scripts."):
                assert node.module in files
    assert not {name for name in files if name.startswith(("scripts.package", "scripts.showcase"))}


@pytest.mark.parametrize("bundle", ["vae", "ccella_ldm", "classifier"])
def test_the_metadata_of_a_bundle_names_every_package_that_its_code_imports(repo_root, bundle):
    configs = repo_root / "bundles" / bundle / "configs"
    needed = needed_packages(
        reached(repo_root / "scripts", [path.read_text() for path in configs.rglob("*.yaml")]).values()
    )
    told = json.loads((configs / "metadata.json").read_text())["required_packages_version"]
    assert needed.keys() - NAMED.keys() <= told.keys()
