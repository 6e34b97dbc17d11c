"""Weights that others have published: where they are, under which licence, and their hash where one is public.

README's table of weights is this list. Nothing here reads or fetches more than a file's bytes.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

# Of a text encoder's folder what `load_text_model` reads: not the same weights again for other frameworks.
ENCODER_FILES = ("*.json", "*.safetensors", "*.model", "*.txt")


@dataclass(frozen=True)
class Published:
    """A file, or a folder of files, that lies somewhere else.

    Attributes:
        name: of the file or folder, by which it is known here too.
        what: what it is.
        where: a repository of the Hugging Face hub, or the address of a file.
        inside: its place in that repository; "" for all that `load_text_model` reads.
        folder: where the commands look for it.
        licence: as its page says.
        digest: the beginning of the hash that is public, in hexadecimal digits, with its algorithm; "" where none is.
    """

    name: str
    what: str
    where: str
    inside: str
    folder: str
    licence: str
    algorithm: str = "sha256"
    digest: str = ""


PUBLISHED = {
    one.name: one
    for one in (
        Published(
            "autoencoder_v1.pt", "MAISI autoencoder", "nvidia/NV-Generate-CT", "models/autoencoder_v1.pt",
            "bundles/vae/models", "NVIDIA Open Model License",
            # Of the same file in the Model Zoo's maisi_ct_generative, there autoencoder_epoch273.pt (large_files.yml).
            "md5", "917cfb1e49631c8a713e3bb7c758fbca",
        ),
        Published(
            "autoencoder_v2.pt", "the same, with more MRI", "nvidia/NV-Generate-MR", "models/autoencoder_v2.pt",
            "bundles/vae/models", "NVIDIA non-commercial",
        ),
        Published(
            "diff_unet_3d_rflow-mr.pt", "MAISI diffusion U-Net for MRI, to start from", "nvidia/NV-Generate-MR",
            "models/diff_unet_3d_rflow-mr.pt", "bundles/ccella_ldm/models", "NVIDIA non-commercial",
        ),
        Published("flan-t5-xxl", "text encoder", "google/flan-t5-xxl", "", "models", "Apache-2.0"),
        Published(
            "resnet_50_23dataset.pth", "MedicalNet ResNet-50 (3D FID)", "TencentMedicalNet/MedicalNet-Resnet50",
            "resnet_50_23dataset.pth", "models", "MIT",
        ),
        Published(
            "RadImageNet-ResNet50_notop.pth", "RadImageNet ResNet-50 (2D FID)", "MONAI/checkpoints",
            "RadImageNet-ResNet50_notop.pth", "models", "see its page",
        ),
        Published(
            "vgg16-397923af.pth", "torchvision's VGG16 (LPIPS)",
            "https://download.pytorch.org/models/vgg16-397923af.pth", "", "models", "BSD-3-Clause",
            "sha256", "397923af",  # the name says it
        ),
    )
}  # fmt: skip


def differs(path: str | os.PathLike[str]) -> bool | None:
    """Whether a file of a published name is another than the published one; None where nobody can tell."""
    known = PUBLISHED.get(Path(path).name)
    if known is None or not known.digest:
        return None
    return not file_digest(path, known.algorithm).startswith(known.digest)


@functools.cache  # a run loads the same file more than once
def tell_other(path: str | os.PathLike[str]) -> None:
    """Warn where a file has the name of published weights and other contents: cut short, changed, another version."""
    if differs(path):
        known = PUBLISHED[Path(path).name]
        logger.warning(
            "%s is not the file that %s publishes under this name: its %s does not begin with %s. Copy it again, or "
            "give it another name where you mean another", path, known.where, known.algorithm, known.digest,
        )  # fmt: skip


def file_digest(path: str | os.PathLike[str], algorithm: str) -> str:
    """The hash of a file's bytes in hexadecimal digits."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with Path(path).open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
