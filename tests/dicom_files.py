"""Small DICOM series, written by pydicom as scanners and archives write them, each of which a test then spoils."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from scipy.spatial.transform import Rotation

SHAPE = (8, 6, 5)  # columns, rows, slices
SPACING = np.array([0.75, 0.5, 3.0])
ORIGIN = np.array([12.5, -30.25, 8.0])  # LPS
AXES = Rotation.from_euler("xyz", (14, -9, 21), degrees=True).as_matrix()  # columns, LPS
AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0]) @ nib.affines.from_matvec(AXES * SPACING, ORIGIN)
VOXELS = np.random.default_rng(0).integers(1, 900, SHAPE).astype(np.uint16)
MR, ENHANCED_MR = pydicom.uid.MRImageStorage, pydicom.uid.EnhancedMRImageStorage
SECRET = "Mustermann^Erika"


def uid(*parts: int) -> str:
    return ".".join(["1.2.826.0.1.3680043.2", *map(str, parts)])


def place(k: float) -> list[float]:
    return [round(float(value), 6) for value in ORIGIN + AXES[:, 2] * SPACING[2] * k]


def plane() -> list[float]:
    return [round(float(value), 10) for value in AXES[:, :2].T.ravel()]


def base(kind: str, series: int, number: int, description: str) -> pydicom.Dataset:
    data = pydicom.Dataset()
    data.SOPClassUID, data.SOPInstanceUID = kind, uid(series, number)
    data.StudyInstanceUID, data.SeriesInstanceUID = uid(0), uid(series)
    data.Modality, data.SeriesNumber, data.InstanceNumber = "MR", series, number
    data.SeriesDescription, data.PatientName, data.PatientID = description, SECRET, "0815"
    data.Rows, data.Columns = SHAPE[1], SHAPE[0]
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    return data


def classic(k: int, voxels: np.ndarray = VOXELS, series: int = 1, first: int = 1, description: str = "t2 tra"):
    """Slice k of a series, numbered from `first`."""
    data = base(MR, series, first + k, description)
    data.ImagePositionPatient, data.ImageOrientationPatient = place(k), plane()
    data.PixelSpacing = [float(SPACING[1]), float(SPACING[0])]  # between rows, then between columns
    data.PixelData = voxels[:, :, k].T.tobytes()
    return data


def write_series(folder: Path, edit=None, slices=range(SHAPE[2]), prefix: str = "", **options) -> Path:
    """A series, one file a slice, in files whose names do not follow the slices; `edit` may spoil each of them."""
    for k in slices:
        data = classic(k, **options)
        if edit is not None:
            edit(data, k)
        save(data, folder / f"{prefix}{(k * 3) % SHAPE[2]}.dcm")
    return folder


def enhanced(frames, series: int = 1, description: str = "t2 tra") -> pydicom.Dataset:
    """A multi-frame file; each frame is a dict with k and perhaps slope, b_value."""
    data = base(ENHANCED_MR, series, 1, description)
    data.NumberOfFrames = len(frames)
    shared, per_frame = pydicom.Dataset(), []
    shared.PlaneOrientationSequence = item(ImageOrientationPatient=plane())
    shared.PixelMeasuresSequence = item(PixelSpacing=[float(SPACING[1]), float(SPACING[0])])
    for frame in frames:
        groups = pydicom.Dataset()
        groups.PlanePositionSequence = item(ImagePositionPatient=place(frame["k"]))
        groups.FrameContentSequence = item(InStackPositionNumber=frame["k"] + 1)
        groups.PixelValueTransformationSequence = item(RescaleSlope=frame.get("slope", 1), RescaleIntercept=0)
        if "b_value" in frame:
            groups.MRDiffusionSequence = item(DiffusionBValue=float(frame["b_value"]))
        per_frame.append(groups)
    data.SharedFunctionalGroupsSequence, data.PerFrameFunctionalGroupsSequence = [shared], per_frame
    data.PixelData = b"".join(frame.get("voxels", VOXELS)[:, :, frame["k"]].T.tobytes() for frame in frames)
    return data


def item(**attributes) -> Sequence:
    made = pydicom.Dataset()
    for name, value in attributes.items():
        setattr(made, name, value)
    return Sequence([made])


def mapping(slope: float, unit: str) -> Sequence:
    """A RealWorldValueMapping."""
    return item(
        RealWorldValueSlope=slope,
        RealWorldValueIntercept=0.0,
        MeasurementUnitsCodeSequence=item(CodeValue=unit, CodingSchemeDesignator="UCUM"),
    )


def save(data: pydicom.Dataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path
