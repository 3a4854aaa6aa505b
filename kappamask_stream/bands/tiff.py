"""The first image of a TIFF: where its blocks are and how they are stored. Sans-I/O.

Source: TIFF 6.0; BigTIFF; GeoTIFF 1.1 (OGC 19-008r4); GDAL's sparse blocks and NODATA. Every limit here is far beyond
what Sentinel-2 needs; it keeps a damaged or hostile file from taking the machine's memory.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Literal

from kappamask_stream.errors import ProductError

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from kappamask_stream.bands.types import ByteRange

#: Holds the directory and the block table of a COG of Sentinel-2's size: one read in most cases.
_FIRST_READ = 16 * 1024
_MOST_TAGS = 500
#: Each of them is kept, for every band: blocks of 64 pixels in a 10 m band are 29,584.
MOST_BLOCKS = 2**15
#: Of a tag that is no table of blocks.
_MOST_VALUES = 2**10


class Tag(IntEnum):
    """Tags that are read; all others decide nothing about the pixels."""

    SUBFILE = 254
    WIDTH = 256
    HEIGHT = 257
    BITS = 258
    COMPRESSION = 259
    FILL_ORDER = 266
    SAMPLES = 277
    PREDICTOR = 317
    TILE_WIDTH = 322
    TILE_HEIGHT = 323
    OFFSETS = 324
    COUNTS = 325
    SAMPLE_FORMAT = 339
    PIXEL_SCALE = 33550
    TIEPOINT = 33922
    GEO_KEYS = 34735
    NODATA = 42113


#: Field type -> struct letter; of the others no tag is read.
_WHOLE_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
_TEXT, _DOUBLES = {2: "B"}, {12: "d"}
#: Tags that are not of whole numbers.
_TYPES = {Tag.NODATA: _TEXT, Tag.PIXEL_SCALE: _DOUBLES, Tag.TIEPOINT: _DOUBLES}
_PROJECTED_CRS_KEY = 3072


@dataclass(frozen=True, kw_only=True)
class TiffTags:
    """The first directory of a TIFF.

    Attributes
    ----------
    name : file name, for messages.
    size : of the file, bytes.
    order : ``<`` or ``>``, of all numbers and 16-bit pixels.
    values : tag -> its numbers, of the tags of `Tag` that are there.
    """

    name: str
    size: int
    order: Literal["<", ">"]
    values: Mapping[Tag, tuple[float, ...]]

    def count(self, tag: Tag, default: int | None = None) -> int:
        """Return the one whole number of a tag.

        Raises
        ------
        ProductError
            If it is missing and there is no default, or it is several or none.
        """
        found = self.values.get(tag)
        if found is None and default is not None:
            return default
        if found is None or len(found) != 1:
            said = "is missing" if found is None else f"is {list(found[:4])}, one whole number is expected"
            raise damaged(self.name, f"tag {tag.value} ({tag.name.lower()}) {said}")
        return int(found[0])

    def counts(self, tag: Tag, expected: int) -> tuple[int, ...]:
        """Return the whole numbers of a tag, of which there must be `expected`."""
        found = self.values.get(tag, ())
        if len(found) != expected:
            raise damaged(
                self.name, f"tag {tag.value} ({tag.name.lower()}) has {len(found)} values, {expected} are needed"
            )
        return tuple(map(int, found))


@dataclass(frozen=True, kw_only=True)
class Georeference:
    """Where the image lies, as the file itself says.

    Attributes
    ----------
    epsg : of the projection; None where the file does not say it as a code.
    gsd_m : size of a pixel, metres.
    ulx, uly : upper-left corner of the upper-left pixel, metres.
    """

    epsg: int | None
    gsd_m: float
    ulx: float
    uly: float

    @classmethod
    def of(cls, tags: TiffTags) -> Georeference | None:
        """Read pixel scale, tie-point and projection; None where the file has none of a north-up image."""
        scale, tie = tags.values.get(Tag.PIXEL_SCALE, ()), tags.values.get(Tag.TIEPOINT, ())
        if len(scale) < 2 or len(tie) < 6 or scale[0] != scale[1] or scale[0] <= 0:  # noqa: PLR2004 - x, y; i, j, k, x, y, z
            return None
        keys = tags.values.get(Tag.GEO_KEYS, ())
        entries = [keys[at : at + 4] for at in range(4, len(keys) - 3, 4)]
        epsg = next((int(value) for key, where, _, value in entries if (key, where) == (_PROJECTED_CRS_KEY, 0)), None)
        return cls(epsg=epsg, gsd_m=scale[0], ulx=tie[3] - tie[0] * scale[0], uly=tie[4] + tie[1] * scale[1])


def tag_steps(name: str, size: int) -> Generator[ByteRange, bytes, TiffTags]:
    """Read the first directory of a file of `size` bytes; yields (offset, length) and is sent those bytes.

    Raises
    ------
    ProductError
        If it is no TIFF, truncated, or its directory contradicts itself.
    """
    head = yield from _read(name, size, b"", 0, min(size, _FIRST_READ))
    order, is_big = _header(name, size, head)
    offset_letter, offset_bytes, count_letter = ("Q", 8, "Q") if is_big else ("I", 4, "H")
    (position,) = struct.unpack_from(order + offset_letter, head, 8 if is_big else 4)
    count_bytes = struct.calcsize(count_letter)
    (count,) = struct.unpack(order + count_letter, (yield from _read(name, size, head, position, count_bytes)))
    if not 0 < count <= _MOST_TAGS:
        raise damaged(name, f"its directory at byte {position} has {count} tags, 1 to {_MOST_TAGS} are read")
    entry_bytes = 4 + 2 * offset_bytes
    table = yield from _read(name, size, head, position + count_bytes, count * entry_bytes)
    values: dict[Tag, tuple[float, ...]] = {}
    for at in range(0, len(table), entry_bytes):
        code, kind, number = struct.unpack_from(order + "HH" + offset_letter, table, at)
        if code not in Tag.__members__.values():
            continue
        tag = Tag(code)
        letter = _TYPES.get(tag, _WHOLE_NUMBERS).get(kind)
        most = MOST_BLOCKS if tag in (Tag.OFFSETS, Tag.COUNTS) else _MOST_VALUES
        if letter is None or number > most or tag in values:
            raise damaged(name, f"tag {code} is of type {kind} with {number} values, or is there twice")
        length = number * struct.calcsize(letter)
        data = table[at + 4 + offset_bytes : at + entry_bytes]
        if length > offset_bytes:
            (where,) = struct.unpack(order + offset_letter, data)
            data = yield from _read(name, size, head, where, length)
        values[tag] = struct.unpack_from(f"{order}{number}{letter}", data)
        if not all(map(math.isfinite, values[tag])):
            raise damaged(name, f"tag {code} holds a number that is not finite")
    return TiffTags(name=name, size=size, order=order, values=values)


def damaged(name: str, what: str) -> ProductError:
    """Return the error for a file that is not what its directory says."""
    return ProductError(f"{name} cannot be read as a TIFF: {what}; the file is truncated or corrupt, fetch it again")


def _header(name: str, size: int, head: bytes) -> tuple[Literal["<", ">"], bool]:
    """Return the byte order, and whether offsets have 64 bits."""
    order: Literal["<", ">"] = ">" if head[:2] == b"MM" else "<"
    (version,) = struct.unpack_from(order + "H", head, 2) if size >= 16 else (0,)  # noqa: PLR2004 - BigTIFF's header
    is_big = version == 43  # noqa: PLR2004
    wide = struct.unpack_from(order + "HH", head, 4) if is_big else (8, 0)
    if head[:2] not in {b"II", b"MM"} or version not in {42, 43} or wide != (8, 0):
        raise damaged(name, f"{size} bytes begin with {head[:8].hex()}, a TIFF with 49492a00, 4d4d002a or BigTIFF's")
    return order, is_big


def _read(name: str, size: int, head: bytes, offset: int, length: int) -> Generator[ByteRange, bytes, bytes]:
    """Return bytes of the file: from those that are there already, or by asking for them."""
    if offset + length > size:
        raise damaged(name, f"bytes {offset} to {offset + length} are needed, the file has {size}")
    if offset + length <= len(head):
        return head[offset : offset + length]
    data = (yield offset, length) if length else b""
    if len(data) != length:
        raise damaged(name, f"{len(data)} of {length} bytes are there from byte {offset} on")
    return data
