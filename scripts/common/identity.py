"""What tells files apart: what they hold, not their bytes.

Two files of equal tensors differ in bytes, as safetensors writes its metadata in random order; a compressed image holds
the time at which it was compressed.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from scripts.common.problems import UserError

KEPT = "identity"  # metadata in which a file keeps the fingerprint of its own tensors: they need not be read for it
MARK = "contents_"  # begins identities by contents; those of earlier versions, by bytes, were digits alone


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Sixteen hexadecimal digits that change when any tensor's name, shape, type or value changes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def file_identity(path: str | os.PathLike[str], metadata: Iterable[str] = ()) -> str:
    """The same for two files that hold the same, whenever and by whatever they were written.

    Of safetensors the tensors count; of NIfTI the voxels, as float32, and the affine; of other files the bytes.

    Args:
        metadata: names of a safetensors file's metadata that count, too.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return MARK + _of_tensors(path, metadata)
        if path.name.endswith((".nii", ".nii.gz")):
            return MARK + _of_image(path)
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
        return MARK + digest.hexdigest()[:16]
    except (OSError, EOFError, ValueError, zlib.error, SafetensorError, nib.filebasedimages.ImageFileError) as error:
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}): it is missing or damaged; copy it again"
        ) from None


def code_fingerprint(folder: str | os.PathLike[str]) -> str:
    """Sixteen hexadecimal digits that change when any Python file below a folder, or its place there, changes.

    Line ends do not count: version control and archives change them.
    """
    digest = hashlib.sha256()
    for path in sorted(Path(folder).rglob("*.py"), key=lambda path: path.relative_to(folder).as_posix()):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        digest.update(path.read_bytes().replace(b"\r\n", b"\n") + b"\0")
    return digest.hexdigest()[:16]


def is_by_contents(identity: object) -> bool:
    """Whether an identity, or a digest of several, was made as here, so that the two can be compared."""
    return str(identity).startswith(MARK)


def _of_tensors(path: Path, metadata: Iterable[str]) -> str:
    with safe_open(path, framework="pt") as file:
        told = file.metadata() or {}
    tensors = told.get(KEPT) or fingerprint(load_file(path))
    counted = {name: told[name] for name in metadata if name in told}
    if not counted:
        return tensors
    return hashlib.sha256(json.dumps([tensors, counted], sort_keys=True).encode()).hexdigest()[:16]


def _of_image(path: Path) -> str:
    image = nib.load(path)
    voxels, affine = np.asarray(image.dataobj, dtype=np.float32), np.asarray(image.affine, dtype=np.float64)
    return fingerprint({"voxels": torch.from_numpy(voxels), "affine": torch.from_numpy(affine)})
