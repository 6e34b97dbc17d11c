"""Files above 25 MB, which the Model Zoo does not take: `large_files.yml` says where they are, their hash and size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from scripts.common.problems import Problems
from scripts.common.public_weights import file_digest

LIMIT = 25_000_000  # bytes
NAME = "large_files.yml"


def write_large_files(folder: Path, urls: Mapping[str, str]) -> list[str]:
    """Write the list of a package's large files, where it has any; give their places.

    Args:
        urls: of files, or of folders that hold them, by their places in the package.

    Raises:
        UserError: files of which nobody knows where they can be fetched from.
    """
    large = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size > LIMIT]
    places = [path.relative_to(folder).as_posix() for path in large]
    problems = Problems("large files")
    entries = []
    for path, place in zip(large, places, strict=True):
        url = _url(place, urls)
        if url is None:
            what = f"has {path.stat().st_size / 1e6:.0f} MB; above {LIMIT / 1e6:.0f} the Model Zoo takes none"
            problems.add(place, what, "put it somewhere, and say under large_files of the facts where")
        entries.append({"path": place, "url": url, "hash_val": file_digest(path, "sha256"), "hash_type": "sha256"})
    problems.raise_if_any()
    if entries:
        sizes = {place: path.stat().st_size for path, place in zip(large, places, strict=True)}
        # Apart from the list, each entry of which MONAI hands to its downloader as it is.
        text = yaml.safe_dump({"large_files": entries, "sizes": sizes}, sort_keys=False)
        (folder / NAME).write_text(text, encoding="utf-8")
    return places


def read_large_files(folder: Path) -> list[str]:
    """The places of a package's large files."""
    path = folder / NAME
    return [entry["path"] for entry in yaml.safe_load(path.read_text())["large_files"]] if path.is_file() else []


def _url(place: str, urls: Mapping[str, str]) -> str | None:
    """Its own, or that of the nearest folder above it."""
    if place in urls:
        return urls[place]
    for parent in Path(place).parents:
        if (above := urls.get(parent.as_posix())) is not None:
            return f"{above.rstrip('/')}/{Path(place).relative_to(parent).as_posix()}"
    return None
