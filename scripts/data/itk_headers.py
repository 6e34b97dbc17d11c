"""What ITK does not check of MetaImage and NRRD files: that they say where they lie, and that their data are whole.

ITK takes an absent orientation for an axial one and unpacks damaged data as far as it comes. The headers are text:
https://itk.org/Wiki/ITK/MetaIO/Documentation and https://teem.sourceforge.net/nrrd/format.html.
"""

from __future__ import annotations

import math
import re
import zlib
from pathlib import Path

from scripts.common.problems import DAMAGED, FROM_DICOM, ImageError

ORIENTATION = {"TransformMatrix", "Rotation", "Orientation"}
POSITION = {"Offset", "Position", "Origin"}
SPACING = {"ElementSpacing", "ElementSize"}
TURN_TOLERANCE = 1e-3
VECTOR = re.compile(r"\((.*?)\)")
METAIMAGE, NRRD = (".mha", ".mhd"), (".nrrd", ".nhdr")
BYTES = {
    **dict.fromkeys(("char", "uchar", "signed char", "unsigned char", "int8", "int8_t", "uint8", "uint8_t"), 1),
    **dict.fromkeys(("short", "ushort", "unsigned short", "int16", "int16_t", "uint16", "uint16_t"), 2),
    **dict.fromkeys(("int", "uint", "unsigned int", "int32", "int32_t", "uint32", "uint32_t", "float"), 4),
    **dict.fromkeys(("long_long", "ulong_long", "int64", "int64_t", "uint64", "uint64_t", "double"), 8),
}
# An axis that runs to one side or the other of the patient; other spaces are a scanner's or nobody's.
SPACE = re.compile(r"(?:left|right)-(?:anterior|posterior)-(?:superior|inferior)|[LR][AP][SI]", re.IGNORECASE)


def check_header(path: Path) -> list[str]:
    """Make sure that a `.mha`, `.mhd`, `.nrrd` or `.nhdr` file is one whole volume in a known place.

    Returns:
        What should be told of it.

    Raises:
        ImageError: it is damaged, holds several values a voxel, or does not say where it lies.
    """
    content = path.read_bytes()
    return _check_metaimage(path, content) if path.suffix.lower() in METAIMAGE else _check_nrrd(path, content)


def _check_metaimage(path: Path, content: bytes) -> list[str]:
    found = re.search(rb"^\s*ElementDataFile\s*=\s*(.*?)\s*?\n", content, re.MULTILINE)
    if found is None:
        raise ImageError("cannot be read: its header does not end", DAMAGED)
    head = content[: found.start()]
    if any(
        line.strip() and b"=" not in line for line in head.split(b"\n")
    ):  # ITK takes the line behind it for its rest
        raise ImageError("has a line in its header that says nothing", DAMAGED)
    fields = _fields(head, "=")
    if not fields.keys() & ORIENTATION:
        raise ImageError("has no orientation", FROM_DICOM)
    if not fields.keys() & POSITION:
        raise ImageError("has no position", FROM_DICOM)
    if not fields.keys() & SPACING:
        raise ImageError("has no spacing", FROM_DICOM)
    for name in fields.keys() & {*ORIENTATION, *POSITION, *SPACING}:
        numbers = _numbers(fields[name], " ")
        if name in ORIENTATION and len(numbers) == 9:  # a turn: its rows have length 1
            rows = [math.hypot(*numbers[start : start + 3]) for start in (0, 3, 6)]
            if any(abs(length - 1) > TURN_TOLERANCE for length in rows):
                raise ImageError("has an orientation that is no turn", FROM_DICOM)
    sizes = _sizes(fields.get("DimSize", ""))
    _check_one_volume(sizes, int(fields.get("ElementNumberOfChannels", "1")))
    name = found[1].decode("utf-8", "replace")
    if "%" in name or name.startswith("LIST") or fields.get("HeaderSize", "0") != "0":
        return []
    data = content[found.end() :] if name.upper() == "LOCAL" else _beside(path, name)
    if fields.get("CompressedData", "").lower() == "true" and fields.get("CompressedDataSize") != str(len(data)):
        raise ImageError("is damaged or cut short: its header tells another size of the compressed data", DAMAGED)
    kind = fields.get("ElementType", "").removeprefix("MET_").lower()
    return _check_data(data, fields.get("CompressedData", "").lower() == "true", math.prod(sizes), kind)


def _check_nrrd(path: Path, content: bytes) -> list[str]:
    head, _, data = content.replace(b"\r\n", b"\n", 64).partition(b"\n\n")
    fields = _fields(head, ":")
    if "space directions" not in fields or not SPACE.fullmatch(fields.get("space", "")):
        raise ImageError("has no orientation", FROM_DICOM)
    if "space origin" not in fields:
        raise ImageError("has no position", FROM_DICOM)
    axes = VECTOR.findall(fields["space directions"]) + VECTOR.findall(fields["space origin"])
    for vector in axes:
        _numbers(vector, ",")
    units = set(re.findall(r'"(.*?)"', fields.get("space units", "")))
    if units - {"mm", ""}:
        raise ImageError("is not in mm", "write it in mm")
    sizes = _sizes(fields.get("sizes", ""))
    _check_one_volume(sizes, 1)
    encoding, name = fields.get("encoding", ""), fields.get("data file", fields.get("datafile", ""))
    if encoding not in ("raw", "gzip", "gz") or "%" in name or name.startswith("LIST") or "byte skip" in fields:
        return []
    data = _beside(path, name) if name else data
    return _check_data(data, encoding != "raw", math.prod(sizes), fields.get("type", ""))


def _fields(head: bytes, sign: str) -> dict[str, str]:
    # Lines end as ITK ends them, and no other way.
    lines = (line.partition(sign) for line in head.decode("utf-8", "replace").split("\n"))
    return {name.strip(): value.strip() for name, found, value in lines if found}


def _numbers(text: str, sign: str) -> list[float]:
    """Readers take what is no number for 0 or for the end, without a word."""
    try:
        numbers = [float(number) for number in text.split(sign) if number or sign != " "]
    except ValueError:
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        raise ImageError("has a place or spacing in its header that is no number", DAMAGED)
    return numbers


def _sizes(text: str) -> list[int]:
    if not re.fullmatch(r"\d+( +\d+)*", text):
        raise ImageError("cannot be read: its header tells no size", DAMAGED)
    return [int(size) for size in text.split()]


def _check_one_volume(sizes: list[int], channels: int) -> None:
    if channels > 1:
        raise ImageError(f"holds {channels} values a voxel", "give the image itself, with one")
    if len(sizes) > 3 and math.prod(sizes) > math.prod(sizes[:3]):
        raise ImageError(f"has {len(sizes)} axes ({'×'.join(map(str, sizes))})", "give one 3D volume")


def _beside(path: Path, name: str) -> bytes:
    data = path.parent / Path(name).name
    if Path(name).name != name or not data.is_file():
        raise ImageError(f"lacks the file of its voxels ({Path(name).name})", "put it into the same folder")
    return data.read_bytes()


def _check_data(data: bytes, compressed: bool, voxels: int, kind: str) -> list[str]:
    """Hold the data's length against the header; packed data are unpacked to their end, where a checksum stands."""
    if compressed:
        unpack = zlib.decompressobj(wbits=47)  # zlib or gzip
        try:
            data = unpack.decompress(data)
        except zlib.error:
            data = None
        if data is None or not unpack.eof:
            raise ImageError("is damaged or cut short: its compressed data do not unpack", DAMAGED)
    if kind not in BYTES:  # `long` has 4 bytes or 8
        return []
    spare = len(data) - voxels * BYTES[kind]
    if spare < 0:
        raise ImageError("is cut short", DAMAGED)
    return [f"holds {spare} bytes more than its header tells of: slices may be missing"] if spare > 512 else []
