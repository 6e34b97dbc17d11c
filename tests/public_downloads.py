"""Phantoms' images and masks in the files that public data sets come in."""

from __future__ import annotations

from pathlib import Path

import itk
import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from skimage.measure import marching_cubes

MR = "1.2.840.10008.5.1.4.1.1.4"


def save_mha(path: Path, volume: np.ndarray, affine: np.ndarray) -> None:
    image = itk.image_from_array(np.ascontiguousarray(volume.T))
    image.SetSpacing(np.abs(np.diag(affine)[:3]).tolist())
    image.SetDirection(np.diag([-1.0, -1.0, 1.0]))  # ITK's world is LPS, the phantom's RAS
    image.SetOrigin((affine[:3, 3] * (-1, -1, 1)).tolist())
    path.parent.mkdir(parents=True, exist_ok=True)
    itk.imwrite(image, str(path), compression=True)


def write_series(
    folder: Path,
    volume: np.ndarray,
    affine: np.ndarray,
    uid: str,
    *,
    study: str,
    patient: str,
    number: int,
    description: str,
) -> None:
    """A (X, Y, Z) volume with axes along RAS as an axial MR series, whose rows run to the patient's left."""
    folder.mkdir(parents=True)
    spacing = np.diag(affine)[:3]
    turned = volume[::-1, ::-1]
    corner = affine[:3, 3] + spacing * (volume.shape[0] - 1, volume.shape[1] - 1, 0)
    for k in range(volume.shape[2]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = MR, ExplicitVRLittleEndian
        meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[uid, str(k)])
        slice_ = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        slice_.SOPClassUID, slice_.SOPInstanceUID = MR, meta.MediaStorageSOPInstanceUID
        slice_.Modality, slice_.PatientID, slice_.SeriesDescription = "MR", patient, description
        slice_.StudyInstanceUID, slice_.SeriesInstanceUID, slice_.SeriesDate = study, uid, "20190102"
        slice_.SeriesNumber, slice_.InstanceNumber = number, k + 1
        x, y, z = corner + np.array([0, 0, spacing[2] * k])
        slice_.ImagePositionPatient = [round(float(value), 6) for value in (-x, -y, z)]
        slice_.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        slice_.PixelSpacing, slice_.SliceThickness = spacing[1::-1].tolist(), float(spacing[2])
        slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
        slice_.Rows, slice_.Columns = volume.shape[1], volume.shape[0]
        slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit, slice_.PixelRepresentation = 16, 16, 15, 1
        slice_.PixelData = np.ascontiguousarray(turned[:, :, k].T.astype("<i2")).tobytes()
        pydicom.dcmwrite(folder / f"1-{k + 1:02d}.dcm", slice_, enforce_file_format=True)


def write_stl(path: Path, mask: np.ndarray, affine: np.ndarray) -> None:
    """The surface of a mask (X, Y, Z), in LPS as such files come, binary."""
    corners, faces, _, _ = marching_cubes(np.pad(mask.astype(np.float32), 1), 0.5)
    world = (corners - 1) @ affine[:3, :3].T + affine[:3, 3]
    save_triangles(path, (world * (-1, -1, 1))[faces])


def save_triangles(path: Path, triangles: np.ndarray) -> None:
    record = np.zeros(len(triangles), [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("more", "<u2")])
    record["corners"] = triangles
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"solid".ljust(80) + len(triangles).to_bytes(4, "little") + record.tobytes())
