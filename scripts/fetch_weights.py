"""Weights that others have published: which there are, which are here, and, if asked for, from their place to ours.

    python -m scripts.fetch_weights
    python -m scripts.fetch_weights --name autoencoder_v1.pt --accept_licence true

Without a name nothing but local files is looked at. No other command fetches anything.
"""

from __future__ import annotations

from pathlib import Path

from scripts.cli.run import run
from scripts.common.files import link
from scripts.common.problems import UserError
from scripts.common.public_weights import ENCODER_FILES, PUBLISHED, Published, differs, file_digest


def fetch_weights(name: str | None = None, accept_licence: bool = False) -> None:
    """Print the table of published weights, or fetch one of them, which needs the network.

    Args:
        name: of the file or folder to fetch, as in the table.
        accept_licence: you have read its licence and accept it.

    Raises:
        UserError: no such weights, the licence is not accepted, no network, or what came is another file.
    """
    if name is None:
        print(table())
        return
    if name not in PUBLISHED:
        raise UserError(f"name is {name!r}; give one of {', '.join(PUBLISHED)}")
    known = PUBLISHED[name]
    target = Path(known.folder) / name
    if not accept_licence:
        raise UserError(
            f"{name} is under: {known.licence}. Read it where it is published ({known.where}), then give "
            "--accept_licence true; nothing was fetched"
        )
    if target.exists() and not differs(target):
        print(f"{target} is there already")
        return
    _fetch(known, target)
    if differs(target):
        raise UserError(f"{target} came, but is another file than was published; it was left there, do not use it")
    print(f"fetched {target}")


def table() -> str:
    """One line for each: name, what it is, where from, licence, hash, and whether it is here."""
    rows = [("name", "what", "where", "licence", "public hash", "here")]
    for known in PUBLISHED.values():
        digest = f"{known.algorithm} {known.digest}" if known.digest else "-"
        rows.append((known.name, known.what, known.where, known.licence, digest, _here(known)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def _here(known: Published) -> str:
    target = Path(known.folder) / known.name
    if not target.exists():
        return "no"
    return {None: "yes, unchecked", False: "yes, and the same", True: "another file of this name"}[differs(target)]


def _fetch(known: Published, target: Path) -> None:
    """From the hub, with the hash that the hub itself tells, or from an address."""
    # Here, as they are slow to import and the table needs neither.
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download
    from huggingface_hub.constants import is_offline_mode
    from torch.hub import download_url_to_file

    if is_offline_mode():
        raise UserError("HF_HUB_OFFLINE is set: unset it to fetch weights; nothing was fetched")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if known.where.startswith("https://"):
            download_url_to_file(known.where, str(target), hash_prefix=known.digest)
        elif not known.inside:
            snapshot_download(known.where, allow_patterns=list(ENCODER_FILES), local_dir=target)
        else:
            told = HfApi().get_paths_info(known.where, known.inside)[0].lfs
            cached = Path(hf_hub_download(known.where, known.inside))
            if told is not None and file_digest(cached, "sha256") != told.sha256:
                raise UserError(f"{known.name}: what came is not what the hub tells; give the command again")
            link(cached, target)
    except (OSError, RuntimeError, IndexError) as error:  # all of the hub's are OSErrors
        raise UserError(f"{known.where} was not reached, or refuses: {str(error).splitlines()[0]}") from error


if __name__ == "__main__":
    run(fetch_weights)
