"""Bundles that can be given away (docs/sharing.md).

    python -m scripts.package make --bundle bundles/vae --overlays bundles/vae/configs/demo.yaml --card card.yaml
    python -m scripts.package push --folder out/packages/vae --repo me/prostate-vae --dry_run true

`make` writes a folder that stands alone, and its zip; `push` sends the folder to the Hugging Face hub.
"""

from __future__ import annotations

from pathlib import Path

from scripts.cli.run import run
from scripts.package.hub import push as push_package
from scripts.package.making import make_package
from scripts.package.zipping import zip_package


def make(
    bundle: str,
    card: str,
    output_dir: str = "out/packages",
    overlays: tuple[str, ...] = (),
    name: str | None = None,
    weights: str | None = None,
    vae_file: str | None = None,
    text_encoder: str | None = None,
) -> None:
    """Make a package of a bundle: `<output_dir>/<name>/` and `<output_dir>/<name>_v<version>.zip`.

    Args:
        bundle: its folder, `bundles/vae`, `bundles/ccella_ldm` or `bundles/classifier`.
        card: file of the facts that the model card needs.
        output_dir: gets folder and zip.
        overlays: configs that were listed after train.yaml when the weights were trained; they are folded in.
        name: of the package; by default the bundle's.
        weights, vae_file, text_encoder: what goes into it; by default what the configs and overlays name.

    Raises:
        UserError: facts are missing or wrong, copies were found, weights do not fit each other.
    """
    sources = {"weights": weights, "vae_file": vae_file, "text_encoder": text_encoder}
    folder = make_package(Path(bundle), Path(card), Path(output_dir), overlays, name, sources)
    print(f"package: {folder}\nzip:     {zip_package(folder)}")


def push(
    folder: str, repo: str, token: str | None = None, private: bool = True, latest: bool = True, dry_run: bool = False
) -> None:
    """Send a package to the Hugging Face hub, through MONAI; its version becomes a tag.

    Args:
        folder: the package.
        repo: `<user or organisation>/<name>`.
        token: of the hub; by default HF_TOKEN, or that of `hf auth login`.
        private: whether the repository is, if it is made now.
        latest: tag it as the version that MONAI's download takes.
        dry_run: only say what would be sent.

    Raises:
        UserError: no token, no network, or the folder is no package as it was made.
    """
    push_package(Path(folder), repo, token=token, private=private, latest=latest, dry_run=dry_run)


if __name__ == "__main__":
    run({"make": make, "push": push})
