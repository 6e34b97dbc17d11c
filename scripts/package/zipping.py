"""A package in one file."""

from __future__ import annotations

import zipfile
from pathlib import Path

from scripts.cli.bundle import read_metadata
from scripts.common.files import atomic
from scripts.package.large_files import read_large_files

TIME = (1980, 1, 1, 0, 0, 0)  # of all files: the same package gives the same zip


def zip_package(folder: Path) -> Path:
    """Write `<name>_v<version>.zip` beside a package, with its folder at the top.

    Large files are left out: whoever unpacks it fetches them with MONAI's `download_large_files`.
    """
    version = read_metadata(folder)["version"]
    left_out = set(read_large_files(folder))
    target = folder.with_name(f"{folder.name}_v{version}.zip")
    with atomic(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for place in places(folder):
            if place not in left_out:
                entry = zipfile.ZipInfo(f"{folder.name}/{place}", TIME)
                entry.external_attr = 0o644 << 16
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, (folder / place).read_bytes())
    return target


def places(folder: Path) -> list[str]:
    """The files of a package, without what running it left."""
    found = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    return [path.as_posix() for path in found if "__pycache__" not in path.parts and path.parts[0] != "eval"]
