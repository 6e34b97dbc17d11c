"""What a DICOM file says of its frames: place, size, values, b-value, numbers.

A classic file holds one frame; an enhanced one holds many, whose attributes stand in functional groups, shared or per
frame (PS3.3, C.7.6.16).
"""

from __future__ import annotations

import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.utils import optional_import

pydicom, has_pydicom = optional_import("pydicom")

# Where scanners write the b-value besides (0018,9087): Siemens, Philips, GE (plus 1e9 in newer files), United Imaging.
PRIVATE_B_VALUES = ((0x0019, 0x100C), (0x2001, 0x1003), (0x0043, 0x1039), (0x0065, 0x1009))
GE_B_VALUE_OFFSET = 1_000_000_000
SEQUENCE_B_VALUE = re.compile(r"^\*?ep_b(\d+)")  # Siemens before the private element: *ep_b1000t
# Units of a RealWorldValueMapping (UCUM) in 1e-6 mm²/s.
DIFFUSIVITY = {"um2/s": 1.0, "10-6.mm2/s": 1.0, "1e-6.mm2/s": 1.0, "10*-6.mm2/s": 1.0, "10-3.mm2/s": 1e3}
DIFFUSIVITY |= {"1e-3.mm2/s": 1e3, "10*-3.mm2/s": 1e3, "mm2/s": 1e6, "cm2/s": 1e8, "m2/s": 1e12}
PIXEL_DATA = (0x7FE00008, 0x7FE00009, 0x7FE00010)
UNDEFINED_LENGTH = 0xFFFFFFFF  # compressed pixels: fragments up to a delimiter
DELIMITER = b"\xfe\xff\xdd\xe0"
UNITLESS = ("1", "{none}", "no units", "")  # a mapping to no unit says no more than the rescaling


@dataclass(frozen=True)
class Frame:
    """One image of a series; what its header does not say is None."""

    file: Path
    index: int  # of the frame in its file, from 0
    uid: str
    rows: int
    columns: int
    position: tuple[float, ...] | None  # LPS, mm, of the first voxel's centre
    orientation: tuple[float, ...] | None  # of a row and of a column, LPS
    spacing: tuple[float, ...] | None  # mm between rows and between columns
    slope: float
    intercept: float
    unit: str | None  # of a RealWorldValueMapping that was taken
    b_value: int | None  # s/mm²
    number: int | None  # InstanceNumber, in an enhanced file the position in the stack
    largest: int | None  # stored value that the header's BitsStored allow


@dataclass(frozen=True)
class Header:
    """One DICOM file with an image."""

    file: Path
    series: str
    description: str
    modality: str
    kind: str  # SOP class
    image_type: tuple[str, ...]
    promised: int | None  # ImagesInAcquisition
    frames: tuple[Frame, ...]

    @property
    def is_mosaic(self) -> bool:
        """Whether one frame shows all slices side by side, as Siemens writes it."""
        return "MOSAIC" in self.image_type


@contextmanager
def quietly() -> Iterator[None]:
    """pydicom without its warnings, which quote what stands in a header, and without its checks of form."""
    settings = pydicom.config.settings
    before = settings.reading_validation_mode, settings.writing_validation_mode
    settings.reading_validation_mode = settings.writing_validation_mode = pydicom.config.IGNORE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        settings.reading_validation_mode, settings.writing_validation_mode = before


def read_header(path: Path) -> Header | None:
    """What a file says of its frames; None for DICOM without an image, such as a DICOMDIR or a report.

    Raises:
        Exception: whatever pydicom raises for bytes that are no DICOM.
    """
    with quietly():
        data, has_pixels = _up_to_pixels(path)
        kind = pydicom.uid.UID(str(data.file_meta.MediaStorageSOPClassUID))
        if "Rows" not in data and "Image" not in kind.name:
            return None
        if not has_pixels or any(name not in data for name in ("Rows", "Columns", "SeriesInstanceUID")):
            raise ValueError("cut short")
        return Header(
            file=path,
            series=str(data.SeriesInstanceUID),
            description=str(data.get("SeriesDescription") or "").strip(),
            modality=str(data.get("Modality") or ""),
            kind=str(kind),
            image_type=tuple(str(part) for part in _several(data.get("ImageType"))),
            promised=_whole(data.get("ImagesInAcquisition")),
            frames=tuple(_frames(data, path)),
        )


def _up_to_pixels(path: Path) -> tuple[Any, bool]:
    """All elements before the pixel data, and whether those are there to the length that they declare."""
    lengths: list[int] = []

    def at_pixels(tag: int, kind: str | None, length: int) -> bool:
        if tag in PIXEL_DATA:
            lengths.append(length)
        return bool(lengths)

    with path.open("rb") as file:
        data = pydicom.filereader.read_partial(file, stop_when=at_pixels)
        if not lengths or data.file_meta.TransferSyntaxUID.is_deflated:
            return data, bool(lengths)
        rest = file.read() if lengths[0] == UNDEFINED_LENGTH else b""
        has_all = DELIMITER in rest if rest else file.tell() + lengths[0] <= path.stat().st_size
    return data, has_all


def _frames(data: Any, path: Path) -> Iterator[Frame]:
    per_frame = data.get("PerFrameFunctionalGroupsSequence")
    count = _whole(data.get("NumberOfFrames")) or 1
    if per_frame is None and count == 1:
        yield _frame(data, [data], path, 0, _whole(data.get("InstanceNumber")))
        return
    if per_frame is None:  # a film or a screenshot: nothing tells where its frames lie
        yield from (_frame(data, [], path, index, None) for index in range(count))
        return
    if len(per_frame) != count:
        raise ValueError("number of frames")
    shared = list(data.get("SharedFunctionalGroupsSequence") or ())
    for index, groups in enumerate(per_frame):
        content = _group([groups], "FrameContentSequence")
        number = None if content is None else _whole(content.get("InStackPositionNumber"))
        yield _frame(data, [groups, *shared], path, index, number)


def _frame(data: Any, groups: list[Any], path: Path, index: int, number: int | None) -> Frame:
    """A frame out of the file's attributes and the groups that hold its own, the nearest first."""
    slope, intercept, unit = _values(groups)
    bits = _whole(data.get("BitsStored"))
    return Frame(
        file=path,
        index=index,
        uid=f"{data.get('SOPInstanceUID')}/{index}",
        rows=int(data.Rows),
        columns=int(data.Columns),
        position=_numbers(groups, "PlanePositionSequence", "ImagePositionPatient", 3),
        orientation=_numbers(groups, "PlaneOrientationSequence", "ImageOrientationPatient", 6),
        spacing=_numbers(groups, "PixelMeasuresSequence", "PixelSpacing", 2),
        slope=slope,
        intercept=intercept,
        unit=unit,
        b_value=_b_value([*groups, data]),
        number=number,
        largest=None if bits is None else 2 ** (bits - int(data.get("PixelRepresentation") or 0)) - 1,
    )


def _group(groups: list[Any], name: str) -> Any | None:
    """The first item of a functional group, where one of `groups` has it."""
    return next((item[name].value[0] for item in groups if name in item and item[name].value), None)


def _find(groups: list[Any], sequence: str, name: str) -> Any | None:
    """An attribute by its name: of a functional group, or of the file itself."""
    group = _group(groups, sequence)
    return next((item[name].value for item in (group, *groups) if item is not None and name in item), None)


def _numbers(groups: list[Any], sequence: str, name: str, count: int) -> tuple[float, ...] | None:
    values = _find(groups, sequence, name)
    if values is None or isinstance(values, (str, bytes)) or not hasattr(values, "__len__") or len(values) != count:
        return None
    return tuple(map(float, values))


def _values(groups: list[Any]) -> tuple[float, float, str | None]:
    """Slope, intercept and unit that turn stored values into real ones (PS3.3, C.7.6.16.2.9 and .11)."""
    mappings = next(
        (
            list(item["RealWorldValueMappingSequence"].value)
            for item in groups
            if "RealWorldValueMappingSequence" in item
        ),
        [],
    )
    units = [_unit(item) for item in mappings]
    known = [n for n, unit in enumerate(units) if unit in DIFFUSIVITY] or [
        n for n, unit in enumerate(units) if unit not in UNITLESS
    ]
    if known:
        item, unit = mappings[known[0]], units[known[0]]
        if len({units[n] for n in known}) > 1 or "RealWorldValueSlope" not in item:
            raise ValueError("real world values")
        scale = DIFFUSIVITY.get(unit, 1.0)
        return float(item.RealWorldValueSlope) * scale, float(item.RealWorldValueIntercept) * scale, unit
    slope = _find(groups, "PixelValueTransformationSequence", "RescaleSlope")
    intercept = _find(groups, "PixelValueTransformationSequence", "RescaleIntercept")
    return (1.0 if slope is None else float(slope)), (0.0 if intercept is None else float(intercept)), None


def _unit(mapping: Any) -> str:
    codes = mapping.get("MeasurementUnitsCodeSequence")
    return str(codes[0].get("CodeValue") or "").strip() if codes else ""


def _b_value(groups: list[Any]) -> int | None:
    value = _find(groups, "MRDiffusionSequence", "DiffusionBValue")
    if value is not None:
        return round(float(value))
    diffusion = _group(groups, "MRDiffusionSequence")
    if diffusion is not None and diffusion.get("DiffusionDirectionality") == "NONE":
        return 0
    data = groups[-1]  # the file itself
    for tag in PRIVATE_B_VALUES:
        value = _private_number(data[tag].value) if tag in data else None
        if value is not None:
            return round(value) % GE_B_VALUE_OFFSET
    named = SEQUENCE_B_VALUE.match(str(data.get("SequenceName") or ""))
    return int(named.group(1)) if named else None


def _private_number(value: Any) -> float | None:
    """A private element's first number, whose type implicit files do not tell."""
    if isinstance(value, bytes):
        text = value.split(b"\\")[0].strip(b" \0")
        if text.isdigit():
            return float(text)
        sizes = {4: "<f", 8: "<d"}
        return struct.unpack(sizes[len(value)], value)[0] if len(value) in sizes else None
    first = value[0] if hasattr(value, "__len__") and not isinstance(value, str) and len(value) else value
    try:
        return float(first)
    except (TypeError, ValueError):
        return None


def _several(value: Any) -> list[Any]:
    """A value that may be one or many."""
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def _whole(value: Any) -> int | None:
    return None if value in (None, "") else int(value)
