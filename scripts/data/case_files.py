"""The files of one generated case, written by a process of its own, which needs neither PyTorch nor MONAI."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from scripts.data.montage import montage
from scripts.data.nifti import save_nifti


def begin() -> None:
    """Set up a process that writes: it ends with the program, not by Ctrl-C, and knows no options, such as a report."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    del sys.argv[1:]


def write_case(
    folder: Path,
    volumes: Mapping[str, np.ndarray],
    affine: np.ndarray,
    description: str,
    titles: Sequence[str],
    spacing: Sequence[float],
) -> float:
    """Write `<folder>/<sequence>.nii.gz` for each volume (X, Y, Z), int16, and the picture `<folder>.png`.

    Args:
        affine, description: see `save_nifti`.
        titles, spacing: see `montage`.

    Returns:
        the seconds of a processor that it took.

    Raises:
        UserError: the folder cannot be written to, or the disk is full.
    """
    started = time.thread_time()
    for sequence, volume in volumes.items():
        save_nifti(folder / f"{sequence}.nii.gz", volume, affine, description)
    montage(list(volumes.values()), titles, spacing, folder.parent / f"{folder.name}.png")
    return time.thread_time() - started
