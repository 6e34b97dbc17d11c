"""Latents on disk: mean and spread of every encoded image, so that fresh noise can be drawn in every epoch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import nibabel as nib
import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from scripts.common import identity
from scripts.common.files import inside
from scripts.common.problems import UserError
from scripts.common.tensors import write_tensors

Read = TypeVar("Read")


@dataclass(frozen=True)
class LatentHeader:
    """What is told of an encoded image beside its numbers.

    Attributes:
        cells: shape (C, X/4, Y/4, Z/4) of mean and spread.
        fingerprint: of the VAE that made it; None where it was not recorded.
        affine: (4, 4) float64, voxel to RAS world in mm, of the image.
        spacing: of the image, in mm.
        shape: of the image, in voxels.
    """

    cells: tuple[int, ...]
    fingerprint: str | None
    affine: np.ndarray
    spacing: tuple[float, float, float]
    shape: tuple[int, int, int]


@dataclass(frozen=True)
class Latent(LatentHeader):
    """One encoded image.

    Attributes:
        mu: mean (C, X/4, Y/4, Z/4), float32.
        sigma: standard deviation, same shape; None where only one draw was stored (the authors' files).
    """

    mu: torch.Tensor
    sigma: torch.Tensor | None


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
    tensors = {"mu": mu.float(), "sigma": sigma.float()}
    metadata = {
        identity.KEPT: identity.fingerprint(tensors),
        "vae_fingerprint": fingerprint,
        "made_from": made_from,
        "affine": json.dumps(affine.tolist()),
        "spacing": json.dumps(spacing.tolist()),
        "shape": json.dumps([int(n) for n in shape]),
    }
    write_tensors(path, tensors, metadata)


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
    return _read(path, _read_ours)


def read_latent_header(path: str | os.PathLike[str]) -> LatentHeader:
    """What a latent tells beside its numbers, which are not read.

    The authors' files are read whole: nothing else tells whether a compressed file is complete.

    Raises:
        UserError: the file is missing, damaged or no latent.
    """
    return _read(path, _read_our_header)


def _read(path: str | os.PathLike[str], ours: Callable[[Path], Read]) -> Read | Latent:
    path = Path(path)
    try:
        return ours(path) if path.suffix == ".safetensors" else _read_authors(path)
    except FileNotFoundError:
        raise UserError(f"latent {path} is missing; encode the images first") from None
    except (OSError, EOFError, KeyError, ValueError, SafetensorError, nib.filebasedimages.ImageFileError) as error:
        raise UserError(f"latent {path} cannot be read ({type(error).__name__}); delete it and encode again") from None


def _read_ours(path: Path) -> Latent:
    with safe_open(path, framework="pt") as file:
        return Latent(**_told(file), mu=file.get_tensor("mu"), sigma=file.get_tensor("sigma"))


def _read_our_header(path: Path) -> LatentHeader:
    with safe_open(path, framework="pt") as file:
        return LatentHeader(**_told(file))


def _told(file: Any) -> dict[str, Any]:
    metadata = file.metadata() or {}
    mu, sigma = (tuple(file.get_slice(name).get_shape()) for name in ("mu", "sigma"))
    if mu != sigma:
        raise ValueError("mean and spread differ in shape")
    return {
        "cells": mu,
        "fingerprint": metadata["vae_fingerprint"],
        "affine": np.array(json.loads(metadata["affine"])),
        "spacing": tuple(json.loads(metadata["spacing"])),
        "shape": tuple(json.loads(metadata["shape"])),
    }


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
        cells=tuple(mu.shape),
        fingerprint=None,
        affine=image.affine,
        spacing=tuple(nib.affines.voxel_sizes(image.affine).tolist()),
        shape=tuple(4 * n for n in mu.shape[1:]),
    )
