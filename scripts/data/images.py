"""Images: reading them checked and scaled to 0..1, and writing volumes in scanner-like units."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    EnsureTyped,
    LoadImaged,
    MapTransform,
    Orientationd,
    ScaleIntensityRanged,
    ScaleIntensityRangePercentilesd,
)
from tqdm import tqdm

from scripts.common.problems import Problems, UserError
from scripts.data.grid import SPACING_TOLERANCE, by
from scripts.data.nifti import save_nifti

# MONAI's loader tries all its readers, whichever is asked for, and with pydicom there it misses a decoder on the GPU.
logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")

# What 1.0 means when a volume is written: T2w and high-b in the scanner's arbitrary units, ADC in 1e-6 mm²/s.
SCANNER_UNITS = {"axt2": 962, "b1600": 117, "adc": 3000}
QUANTITATIVE = ("adc",)  # its intensities mean the same in every image: a fixed range instead of percentiles


class CheckImaged(MapTransform):
    """Make sure that loaded images (1, X, Y, Z) are one channel, finite, not constant and on the declared grid."""

    def __init__(
        self, keys: KeysCollection, spatial_size: Sequence[int] | None, factor: int, constant: bool = False
    ) -> None:
        super().__init__(keys)
        self.spatial_size = None if spatial_size is None else tuple(spatial_size)
        self.factor, self.constant = factor, constant

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return `data` unchanged.

        Raises:
            UserError: everything that is wrong with the images of this case.
        """
        problems = Problems("images")
        for key in self.key_iterator(data):
            image: MetaTensor = data[key]
            case = f"{data.get('folder', '')}/{key}"
            if image.ndim != 4 or image.shape[0] != 1:
                problems.add(case, f"has shape {by(image.shape)}", "one 3D volume a file is expected")
                continue
            _check_size(problems, case, image.shape[1:], self.spatial_size, self.factor)
            spacing, declared = image.pixdim.tolist(), data.get("spacing")
            if declared is not None and not np.allclose(spacing, declared, rtol=0, atol=SPACING_TOLERANCE):
                what = f"has spacing {by(np.round(spacing, 4))} mm, the datalist says {by(declared)}"
                problems.add(case, what, "correct the datalist, or resample the image (python -m scripts.prepare)")
            if not torch.isfinite(image).all():
                problems.add(case, "contains NaN or infinite values", "export the image again")
            elif not self.constant and image.min() == image.max():
                problems.add(case, f"is constant (every voxel is {image.min().item():g})", "export the image again")
        problems.raise_if_any()
        return dict(data)


def _check_size(
    problems: Problems, case: str, shape: Sequence[int], wanted: tuple[int, ...] | None, factor: int
) -> None:
    """Note a size (X, Y, Z) that is not the wanted one or that the network cannot divide."""
    if wanted is not None and tuple(shape) != wanted:
        problems.add(case, f"has size {by(shape)}, not {by(wanted)}", "resample it (python -m scripts.prepare)")
    elif any(n % factor for n in shape):
        problems.add(case, f"has size {by(shape)}, not divisible by {factor}", "crop or pad it to such a size")


class ImageTransforms(Compose):
    """A `Compose` whose failures name the case and say what is wrong, instead of which transform was running."""

    def __call__(self, input_: Mapping[Hashable, Any], *args: Any, **kwargs: Any) -> dict[Hashable, Any]:
        """Load one case.

        Raises:
            UserError: an image is missing, unreadable, truncated or not usable.
        """
        try:
            return super().__call__(input_, *args, **kwargs)
        except (RuntimeError, OSError) as error:
            root: BaseException = error
            while root.__cause__ is not None and not isinstance(root, UserError):
                root = root.__cause__
            if isinstance(root, UserError):
                raise root from None
            # Only the kind of the error is passed on: its text may quote anything that stood in the datalist.
            problems = Problems("images")
            what = f"an image cannot be read ({type(root).__name__}): it is missing, truncated or no image"
            problems.add(str(input_.get("folder", "")), what, "copy it again")
            raise UserError(str(problems), problems.rows) from None


def image_transforms(
    keys: Sequence[str], spatial_size: Sequence[int] | None = None, factor: int = 4, constant: bool = False
) -> Compose:
    """Preprocessing of the method: RAS, float32, 0..1.

    T2w and high-b: percentiles 0..99.5 to 0..1, clipped; ADC: 0..3000 (1e-6 mm²/s) to 0..1, clipped.

    Args:
        keys: the sequences to load, e.g. ("axt2", "adc").
        spatial_size: voxels that every image must have; None allows any size divisible by `factor`.
        factor: what the network divides every axis by.
        constant: an image may be constant (and then comes out as zeros), as a network makes it that has not learnt.

    Returns:
        A transform from a case (a dict with a path per key, optionally `folder` and `spacing`) to the same dict with
        a `MetaTensor` (1, X, Y, Z), float32 in 0..1, per key.
    """
    relative = [key for key in keys if key not in QUANTITATIVE]
    absolute = [key for key in keys if key in QUANTITATIVE]
    steps: list[Any] = [
        LoadImaged(keys, reader="NibabelReader", ensure_channel_first=True),
        Orientationd(keys, axcodes="RAS", labels=None),
        EnsureTyped(keys, dtype=torch.float32),
        CheckImaged(keys, spatial_size, factor, constant),
    ]
    if relative:
        steps.append(ScaleIntensityRangePercentilesd(relative, lower=0, upper=99.5, b_min=0, b_max=1, clip=True))
    if absolute:
        steps.append(ScaleIntensityRanged(absolute, a_min=0, a_max=SCANNER_UNITS["adc"], b_min=0, b_max=1, clip=True))
    return ImageTransforms(steps)


def check_voxels(cases: Iterable[Mapping[str, Any]], transforms: Compose, problems: Problems) -> None:
    """Load every case once and note what only voxels tell of it, before anything heavy or any write."""
    for case in tqdm(list(cases), desc="checking volumes", disable=None):
        try:
            transforms(case)
        except UserError as error:
            problems.add_error(case["folder"], error)


def scanner_units(volume: torch.Tensor, sequence: str) -> torch.Tensor:
    """Values 0..1 (clipped) in the scanner-like units of `sequence`, int16, on their device.

    Raises:
        UserError: the sequence is not known.
    """
    if sequence not in SCANNER_UNITS:
        raise UserError(f"sequence {sequence!r} is not known; known are {', '.join(SCANNER_UNITS)}")
    return (volume.float().clamp(0, 1) * SCANNER_UNITS[sequence]).round().to(torch.int16)


def to_scanner(volume: torch.Tensor | np.ndarray, sequence: str) -> np.ndarray:
    """Values as `scanner_units` makes them, on the host.

    Raises:
        UserError: the sequence is not known, or a value is not finite.
    """
    values = torch.as_tensor(volume).detach().to("cpu", torch.float32)
    if not values.isfinite().all():
        raise UserError(f"a volume of {sequence} is not finite: give --amp fp32 or bf16, or other weights")
    return scanner_units(values, sequence).numpy()


def save_volume(
    path: str | os.PathLike[str],
    volume: torch.Tensor | np.ndarray,
    affine: torch.Tensor | np.ndarray,
    sequence: str,
    description: str = "",
) -> None:
    """Write a volume (X, Y, Z) in 0..1 as int16 NIfTI in mm, q-form and s-form set; complete or not at all.

    Args:
        description: up to 79 characters for the header, where `read_description` finds them.
    """
    values = to_scanner(volume, sequence)
    if values.ndim != 3:
        raise ValueError(f"a volume (X, Y, Z) is expected, not {values.ndim} dimensions")
    save_nifti(path, values, np.asarray(affine, dtype=np.float64), description)


def read_description(path: str | os.PathLike[str]) -> str | None:
    """What a volume's header says about it; None where there is no volume that can be read."""
    try:
        return nib.load(path).header["descrip"].item().decode("utf-8", "replace")
    except Exception:  # nibabel raises whatever the broken bytes lead it to
        return None


def refuse_overwriting(volumes: Iterable[tuple[str, Path]], marks: Sequence[str], problems: Problems) -> None:
    """Note every image that is there and is not ours: no real exam may be lost where output goes to the wrong folder.

    Args:
        volumes: case and path of what is to be written.
        marks: how the descriptions of our volumes begin.
    """
    for case, path in volumes:
        description = read_description(path)  # None: none there, or half of one
        if description is not None and not description.startswith(tuple(marks)):
            what = f"{path} is there already and was not made by inference"
            problems.add(case, what, "give another output_dir, or take the file away")


def load_volume(path: str | os.PathLike[str]) -> tuple[np.ndarray, tuple[float, ...], np.ndarray]:
    """Read a volume as `save_volume` writes it: values (X, Y, Z) as they stand there, spacing in mm, affine."""
    image = nib.load(path)
    return np.asarray(image.dataobj, dtype=np.float32), image.header.get_zooms()[:3], image.affine
