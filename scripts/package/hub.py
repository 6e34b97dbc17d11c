"""A package to the Hugging Face hub, by MONAI's own `push_to_hf_hub`."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
from huggingface_hub.constants import is_offline_mode
from huggingface_hub.errors import HfHubHTTPError
from monai.bundle import push_to_hf_hub

from scripts.cli.bundle import CODE, read_metadata
from scripts.common.identity import code_fingerprint
from scripts.common.problems import UserError
from scripts.package.making import is_package
from scripts.package.zipping import places


def push(
    folder: Path, repo: str, *, token: str | None = None, private: bool, latest: bool, dry_run: bool
) -> str | None:
    """Send a package, and tag it with its version; gives its address. Arguments as in `scripts.package.push`.

    Raises:
        UserError: see `scripts.package.push`.
    """
    if not is_package(folder):
        raise UserError(f"{folder} is no package: make one with `python -m scripts.package make`")
    if repo.count("/") != 1:
        raise UserError(f"repo is {repo!r}; give <user or organisation>/<name>")
    meta = read_metadata(folder)
    own = code_fingerprint(folder / meta[CODE]["folder"])
    if own != meta[CODE]["fingerprint"]:
        raise UserError(
            f"{folder}: its code was edited, it is {own} and was packaged as {meta[CODE]['fingerprint']}; make the "
            "change in the repository and package it again, so that the fingerprint says what is shared"
        )
    if dry_run:
        _tell(folder, repo, meta["version"], private)
        return None
    if token is None and huggingface_hub.get_token() is None:
        raise UserError("the hub wants a token: run `hf auth login`, set HF_TOKEN, or give --token; nothing was sent")
    if is_offline_mode():
        raise UserError("HF_HUB_OFFLINE is set, and pushing needs the network: unset it; nothing was sent")
    try:
        return push_to_hf_hub(
            repo, folder.name, str(folder.parent), token=token, private=private, version=meta["version"],
            tag_as_latest_version=latest, ignore_patterns=["**/__pycache__/**", "eval/**"],
        )  # fmt: skip
    except (HfHubHTTPError, OSError) as error:
        raise UserError(f"the hub refused {repo}, or was not reached: {str(error).splitlines()[0]}") from error


def _tell(folder: Path, repo: str, version: str, private: bool) -> None:
    sizes = {place: (folder / place).stat().st_size for place in places(folder)}
    print(f"would send {len(sizes)} files, {sum(sizes.values()) / 1e6:.1f} MB, to {repo}, tag {version}:")
    for place, size in sizes.items():
        print(f"  {size:>12,}  {place}")
    print(f"a new repository would be {'private' if private else 'public'}; nothing was sent (dry run)")
