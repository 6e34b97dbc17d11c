"""Latents on disk: mean and spread of every encoded image, so that fresh noise can be drawn in every epoch."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from scripts.common.files import inside, write_tensors
from scripts.common.problems import UserError


@dataclass(frozen=True)
class Latent:
    """One encoded image.

    Attributes:
        mu: mean (C, X/4, Y/4, Z/4), float32.
        sigma: standard deviation, same shape; None where only one draw was stored (the authors' files).
        fingerprint: of the VAE that made it; None where it was not recorded.
        affine: (4, 4) float64, voxel to RAS world in mm, of the image.
        spacing: of the image, in mm.
        shape: of the image, in voxels.
    """

    mu: torch.Tensor
    sigma: torch.Tensor | None
    fingerprint: str | None
    affine: np.ndarray
    spacing: tuple[float, float, float]
    shape: tuple[int, int, int]


def fingerprint(state_dict: Mapping[str, torch.Tensor]) -> str:
    """Sixteen hexadecimal digits that change when any weight's name, shape, type or value changes."""
    digest = hashlib.sha256()
    for name in sorted(state_dict):
        tensor = state_dict[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def latent_path(latent_dir: str | os.PathLike[str], folder: str, sequence: str) -> Path:
    """Where the latent of one sequence of one case is written; the path stays inside `latent_dir`."""
    return inside(latent_dir, Path(folder) / f"{sequence}_latent.safetensors")


def find_latent(latent_dir: str | os.PathLike[str], folder: str, sequence: str) -> Path:
    """The file that holds a latent: ours, else the authors' `<sequence>_emb.nii.gz`.

    Raises:
        UserError: there is neither.
    """
    ours = latent_path(latent_dir, folder, sequence)
    authors = ours.with_name(f"{sequence}_emb.nii.gz")
    for path in (ours, authors):
        if path.is_file():
            return path
    raise UserError(
        f"case {folder}: no latent of {sequence} ({ours.name} or {authors.name}) in {ours.parent}; "
        "encode the images first (inference of the vae bundle with mode: encode)"
    )


def write_latent(
    path: str | os.PathLike[str],
    mu: torch.Tensor,
    sigma: torch.Tensor,
    *,
    fingerprint: str,
    affine: np.ndarray,
    shape: tuple[int, ...],
    made_from: str = "",
) -> None:
    """Write mean and spread (C, X/4, Y/4, Z/4) of an image of `shape`; the file appears complete or not at all.

    `made_from` is a line about the origin, which `read_made_from` gives back.

    float32: half precision would save little beside the images and would show in reconstructions.
    """
    affine = np.asarray(affine, dtype=np.float64)
    spacing = nib.affines.voxel_sizes(affine)
    metadata = {
        "vae_fingerprint": fingerprint,
        "made_from": made_from,
        "affine": json.dumps(affine.tolist()),
        "spacing": json.dumps(spacing.tolist()),
        "shape": json.dumps([int(n) for n in shape]),
    }
    write_tensors(path, {"mu": mu.float(), "sigma": sigma.float()}, metadata)


def read_made_from(path: str | os.PathLike[str]) -> str | None:
    """What a latent says about its origin; None where there is no complete latent."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("made_from")
    except (OSError, SafetensorError):
        return None


def read_latent(path: str | os.PathLike[str]) -> Latent:
    """Read a latent of ours (.safetensors) or of the authors (.nii.gz: axes x, y, z, channel; one draw, no sigma).

    Raises:
        UserError: the file is missing, damaged or no latent.
    """
    path = Path(path)
    try:
        return _read_ours(path) if path.suffix == ".safetensors" else _read_authors(path)
    except FileNotFoundError:
        raise UserError(f"latent {path} is missing; encode the images first") from None
    except (OSError, EOFError, KeyError, ValueError, SafetensorError, nib.filebasedimages.ImageFileError) as error:
        raise UserError(f"latent {path} cannot be read ({type(error).__name__}); delete it and encode again") from None


def _read_ours(path: Path) -> Latent:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        mu, sigma = file.get_tensor("mu"), file.get_tensor("sigma")
    return Latent(
        mu=mu,
        sigma=sigma,
        fingerprint=metadata["vae_fingerprint"],
        affine=np.array(json.loads(metadata["affine"])),
        spacing=tuple(json.loads(metadata["spacing"])),
        shape=tuple(json.loads(metadata["shape"])),
    )


def _read_authors(path: Path) -> Latent:
    image = nib.load(path)
    values = np.asarray(image.dataobj, dtype=np.float32)
    if values.ndim != 4:
        raise ValueError("four axes are expected")
    mu = torch.from_numpy(np.ascontiguousarray(np.moveaxis(values, -1, 0)))
    # The authors' files keep the image's affine although their voxels are four times as large.
    return Latent(
        mu=mu,
        sigma=None,
        fingerprint=None,
        affine=image.affine,
        spacing=tuple(nib.affines.voxel_sizes(image.affine).tolist()),
        shape=tuple(4 * n for n in mu.shape[1:]),
    )
