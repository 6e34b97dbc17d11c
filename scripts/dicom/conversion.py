"""The voxels of a stack, decoded and stacked by dcm2niix, and held against what the headers say of it.

dcm2niix is given a copy of every frame of one volume, reduced to its pixels and its place: what it would guess from
other attributes is settled by then, no name reaches its files, and its volume holds stored values, to which every
slice's own slope is applied.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from itertools import groupby, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.utils import optional_import

from scripts.common.problems import DAMAGED, ImageError
from scripts.dicom.geometry import Stack
from scripts.dicom.headers import Frame, pydicom, quietly

dcm2niix, has_dcm2niix = optional_import("dcm2niix")

TIMEOUT = 300  # seconds; a volume takes about one
AFFINE_TOLERANCE = 2e-3  # mm, or a direction cosine times a voxel: NIfTI stores float32
OPTIONS = ["-b", "n", "-z", "n", "-f", "volume"]  # no side-car, not compressed
OPTIONS += ["-m", "y"]  # one volume of all slices
OPTIONS += ["-p", "n", "-l", "o"]  # values as stored
OPTIONS += ["-x", "i", "-g", "i"]  # neither cropped nor rotated, and no defaults of the user's
MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
PIXELS = ("SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit")
PIXELS += ("PixelRepresentation", "PlanarConfiguration", "LossyImageCompression")


def stored_values(stack: Stack) -> np.ndarray:
    """Stored values (columns, rows, slices) of a stack, in the order of its frames.

    Raises:
        ImageError: a file is cut short or holds no grey values, dcm2niix fails, or its volume lies elsewhere than the
            headers say.
    """
    if not has_dcm2niix:
        raise ImageError("DICOM needs dcm2niix, which is not installed", 'run: pip install ".[readers]"')
    with tempfile.TemporaryDirectory(prefix="dicom-") as temporary:
        source, target = Path(temporary, "slices"), Path(temporary, "volume")
        source.mkdir()
        target.mkdir()
        _write_slices(stack.frames, source)
        _convert(source, target, Path(temporary))
        found = sorted(target.glob("*.nii"))
        if len(found) != 1:
            raise ImageError(f"makes {len(found)} volumes with dcm2niix, not one", "export the series again")
        image = nib.load(found[0])
        return _as_in_headers(np.asanyarray(image.dataobj), image.affine, stack)


def _write_slices(frames: Sequence[Frame], folder: Path) -> None:
    """Write every frame as a classic MR image, numbered in the order of their places."""
    numbers = {frame.uid: number for number, frame in enumerate(frames, start=1)}
    uids = pydicom.uid.generate_uid(), pydicom.uid.generate_uid()
    kinds = set()
    with quietly():
        for file, group in groupby(sorted(frames, key=lambda frame: frame.file), lambda frame: frame.file):
            try:
                data = pydicom.dcmread(file)
                pixels = _frame_pixels(data, file)
                kinds.add((data.BitsAllocated, data.PixelRepresentation))
                for frame in group:
                    number = numbers[frame.uid]
                    _slice(data, frame, pixels[frame.index], number, uids).save_as(
                        folder / f"{number:05d}.dcm", enforce_file_format=True
                    )
            except ImageError:
                raise
            except Exception:  # pydicom raises whatever the broken bytes lead it to
                raise ImageError(f"has a slice that cannot be read or is cut short ({file.name})", DAMAGED) from None
    if len(kinds) > 1:
        raise ImageError("has slices whose values are stored in different ways", "export the series again")


def _frame_pixels(data: Any, file: Path) -> list[bytes]:
    """The pixel data of each frame, encoded as they are.

    Raises:
        ImageError: there are fewer or more bytes than the header declares, or they are no grey values.
    """
    if data.get("SamplesPerPixel", 1) != 1 or data.get("PhotometricInterpretation") != "MONOCHROME2":
        raise ImageError(f"has a slice in colours or inverted grey ({file.name})", "give the original MR images")
    if "PixelData" not in data or data.BitsAllocated not in (8, 16, 32):
        raise ImageError(f"has a slice without grey values of 8, 16 or 32 bits ({file.name})", DAMAGED)
    count = int(data.get("NumberOfFrames") or 1)
    encoded = data.PixelData
    if data.file_meta.TransferSyntaxUID.is_encapsulated:
        if not data["PixelData"].is_undefined_length:
            raise ValueError("compressed pixels without fragments")
        frames = list(pydicom.encaps.generate_frames(encoded, number_of_frames=count))
        if len(frames) != count or not all(map(len, frames)):
            raise ImageError(f"has a slice that is cut short ({file.name})", DAMAGED)
        return frames
    size = data.Rows * data.Columns * data.BitsAllocated // 8
    if len(encoded) not in (size * count, size * count + size * count % 2):
        raise ImageError(
            f"has a slice that is cut short or of another size than its header says ({file.name})", DAMAGED
        )
    return [encoded[size * index : size * (index + 1)] for index in range(count)]


def _slice(data: Any, frame: Frame, pixels: bytes, number: int, uids: tuple[str, str]) -> Any:
    """A classic MR image with nothing but pixels and place."""
    made = pydicom.Dataset()
    for name in PIXELS:
        if name in data:
            made[name] = data[name]
    made.SOPClassUID, made.SOPInstanceUID = MR_IMAGE, f"{uids[1]}.{number}"
    made.StudyInstanceUID, made.SeriesInstanceUID = uids
    made.Modality, made.SeriesNumber, made.InstanceNumber = "MR", 1, number
    made.PatientPosition = "HFS"
    made.ImagePositionPatient, made.ImageOrientationPatient = list(frame.position), list(frame.orientation)
    made.PixelSpacing = list(frame.spacing)
    syntax = data.file_meta.TransferSyntaxUID
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    if syntax.is_encapsulated:
        made.PixelData = pydicom.encaps.encapsulate([pixels])
        made["PixelData"].is_undefined_length = True
    else:
        made.PixelData = pixels + b"\0" * (len(pixels) % 2)
    made["PixelData"].VR = "OB" if syntax.is_encapsulated or data.BitsAllocated == 8 else "OW"
    return made


def _convert(source: Path, target: Path, home: Path) -> None:
    try:
        done = subprocess.run(
            [dcm2niix.bin, *OPTIONS, "-o", str(target), str(source)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT,
            env={"HOME": str(home), "PATH": os.defpath},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ImageError(f"is not converted by dcm2niix within {TIMEOUT} s", "export the series again") from None
    except OSError:
        raise ImageError("needs dcm2niix, which cannot be started", 'run: pip install ".[readers]"') from None
    if done.returncode != 0:
        raise ImageError("has slices that dcm2niix cannot decode", "export them again, uncompressed")


def _as_in_headers(values: np.ndarray, affine: np.ndarray, stack: Stack) -> np.ndarray:
    """Turn the axes that dcm2niix flipped back, and make sure that size and place are those of the headers.

    Raises:
        ImageError: they are not.
    """
    if values.shape == stack.shape:
        for flips in product((1, -1), repeat=3):
            turn = np.column_stack([range(3), flips])
            turned = affine @ nib.orientations.inv_ornt_aff(turn, stack.shape)
            if np.abs(turned - stack.affine).max() <= AFFINE_TOLERANCE:
                return np.ascontiguousarray(nib.orientations.apply_orientation(values, turn))
    raise ImageError("is read by dcm2niix in another size or place than its headers say", "export the series again")
