"""A Cloud Optimized GeoTIFF's bytes from compressed blocks. Pure.

Layout: header; GDAL's structural metadata; the IFD of the image, then of its overviews, each with its values; then the
blocks, smallest overview first, the image last. Source: TIFF 6.0, OGC 21-026 (COG) and GDAL's
validate_cloud_optimized_geotiff.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal
from xml.sax.saxutils import escape, quoteattr

from kappamask_stream.disk import most_compressed
from kappamask_stream.errors import OutputError
from kappamask_stream.overviews import overview_sizes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from kappamask_stream.contract import MaskClass

Compression = Literal["deflate", "zstd"]

_COMPRESSION_CODES = {"deflate": 8, "zstd": 50000}
_MIN_IS_BLACK, _PALETTE = 1, 3
_CONTIGUOUS, _SEPARATE = 1, 2
_SHORT, _LONG, _ASCII, _DOUBLE = 3, 4, 2, 12
_FORMATS = {_SHORT: "H", _LONG: "I", _DOUBLE: "d"}
_LARGEST = 2**32 - 1

#: Name of the metadata item with the SHA-256 of all blocks as they lie in the file: tells a damaged one.
DIGEST_TAG = "BLOCKS_SHA256"

#: Before each block stands its size, behind it its last 4 bytes once more: what `_STRUCTURE` announces.
BLOCK_FRAME = 4

#: GDAL reads from it that the layout is a COG's (one request a block from afar, no careless edit in place). When it
#: does edit the file, which ends that, it writes YES over the NO: hence the space.
_STRUCTURE = (
    b"LAYOUT=IFDS_BEFORE_DATA\nBLOCK_ORDER=ROW_MAJOR\nBLOCK_LEADER=SIZE_AS_UINT4\n"
    b"BLOCK_TRAILER=LAST_4_BYTES_REPEATED\nKNOWN_INCOMPATIBLE_EDITION=NO\n "
)
_GHOST = b"GDAL_STRUCTURAL_METADATA_SIZE=%06d bytes\n%s" % (len(_STRUCTURE), _STRUCTURE)
_FIRST_IFD = 8 + len(_GHOST) + len(_GHOST) % 2


@dataclass(frozen=True, kw_only=True)
class CogSpec:
    """What a file says about itself.

    Attributes
    ----------
    height, width : pixels.
    ulx, uly : upper-left corner of the upper-left pixel, metres in the projection.
    gsd_m : size of a pixel, metres.
    epsg : code of the projection.
    nodata : pixel value without data; None where every value means something.
    classes : values, names and colours of a mask; empty where pixels are no classes.
    tags : metadata items; ``TIFFTAG_SOFTWARE`` becomes the Software tag.
    compression : of the blocks.
    bands : a description of each band; bands lie one after the other, each in blocks of its own.
    block_size : height and width of a block, pixels; a multiple of 16.
    """

    height: int
    width: int
    ulx: float
    uly: float
    gsd_m: float
    epsg: int
    nodata: int | None
    classes: tuple[MaskClass, ...]
    tags: Mapping[str, str]
    compression: Compression = "deflate"
    bands: tuple[str, ...] = ("cloud mask",)
    block_size: int = 512


@dataclass(frozen=True, kw_only=True)
class Level:
    """The image or one overview: size in pixels, and its compressed blocks in raster order, band after band."""

    height: int
    width: int
    blocks: Sequence[bytes]

    @cached_property
    def sizes(self) -> list[int]:
        """Bytes of each block."""
        return [len(block) for block in self.blocks]


@dataclass(frozen=True)
class _Entry:
    tag: int
    kind: int
    count: int
    data: bytes


def assemble(spec: CogSpec, levels: Sequence[Level]) -> list[bytes]:
    """Return the file in pieces, to be written one after the other.

    Parameters
    ----------
    levels : the image, then its overviews from fine to coarse.

    Raises
    ------
    OutputError
        If the file would not fit 32-bit offsets.
    """
    return [*head(spec, levels), *data(levels)]


def data(levels: Sequence[Level]) -> Iterator[bytes]:
    """Yield what follows the head: all blocks, smallest overview first."""
    return (part for level in reversed(levels) for block in level.blocks for part in _framed(block))


def head(spec: CogSpec, levels: Sequence[Level]) -> list[bytes]:
    """Return what stands before the blocks; reads them all, one at a time. Raises as `assemble`."""
    digest = hashlib.sha256()
    for part in data(levels):
        digest.update(part)
    sizes = [_ifd_size(_entries(spec, level, i, 0, digest.hexdigest())) for i, level in enumerate(levels)]
    starts = _starts(levels, _FIRST_IFD + sum(sizes))
    pieces = [(struct.pack("<2sHI", b"II", 42, _FIRST_IFD) + _GHOST).ljust(_FIRST_IFD, b"\0")]
    position = _FIRST_IFD
    for number, level in enumerate(levels):
        following = position + sizes[number] if number + 1 < len(levels) else 0
        entries = _entries(spec, level, number, starts[number], digest.hexdigest())
        pieces.append(_ifd(entries, position, following))
        position += sizes[number]
    return pieces


def most_bytes(spec: CogSpec) -> tuple[int, int]:
    """Return the most bytes that a file's blocks take, overviews included, and that the whole file takes."""
    size, bands = spec.block_size, len(spec.bands)
    sizes = [(spec.height, spec.width), *overview_sizes(spec.height, spec.width, size)]
    counts = [-(-height // size) * -(-width // size) * bands for height, width in sizes]
    levels = [
        Level(height=height, width=width, blocks=(b"",) * count)
        for (height, width), count in zip(sizes, counts, strict=True)
    ]
    digest = hashlib.sha256().hexdigest()
    heads = sum(_ifd_size(_entries(spec, level, number, 0, digest)) for number, level in enumerate(levels))
    blocks = sum(counts) * most_compressed(size * size)
    return blocks, _FIRST_IFD + heads + blocks + sum(counts) * 2 * BLOCK_FRAME


def _starts(levels: Sequence[Level], data_at: int) -> list[int]:
    """Return where the data of each level begins, fine to coarse; the coarsest at `data_at`."""
    starts = []
    for level in reversed(levels):
        starts.append(data_at)
        data_at += sum(level.sizes) + 2 * BLOCK_FRAME * len(level.sizes)
    if data_at > _LARGEST:
        raise OutputError(f"the file would have {data_at} bytes, a GeoTIFF of this kind holds {_LARGEST}")
    return starts[::-1]


def _framed(block: bytes) -> tuple[bytes, bytes, bytes]:
    return struct.pack("<I", len(block)), block, block[-BLOCK_FRAME:]


def _offsets_of(level: Level, start: int) -> list[int]:
    offsets = []
    for size in level.sizes:
        offsets.append(start + BLOCK_FRAME)
        start += size + 2 * BLOCK_FRAME
    return offsets


def _entries(spec: CogSpec, level: Level, number: int, start: int, digest: str) -> list[_Entry]:
    """Return the tags of one IFD, ascending; georeference and metadata stand in the first only."""
    bands = len(spec.bands)
    entries = [
        _numbers(254, _LONG, [0 if number == 0 else 1]),
        _numbers(256, _LONG, [level.width]),
        _numbers(257, _LONG, [level.height]),
        _numbers(258, _SHORT, [8] * bands),
        _numbers(259, _SHORT, [_COMPRESSION_CODES[spec.compression]]),
        _numbers(262, _SHORT, [_PALETTE if spec.classes else _MIN_IS_BLACK]),
        _numbers(277, _SHORT, [bands]),
        _numbers(284, _SHORT, [_CONTIGUOUS if bands == 1 else _SEPARATE]),
        _numbers(322, _LONG, [spec.block_size]),
        _numbers(323, _LONG, [spec.block_size]),
        _numbers(324, _LONG, _offsets_of(level, start)),
        _numbers(325, _LONG, level.sizes),
        _numbers(339, _SHORT, [1] * bands),
    ]
    if spec.classes:
        entries.append(_numbers(320, _SHORT, _colour_map(spec.classes)))
    if bands > 1:
        entries.append(_numbers(338, _SHORT, [0] * (bands - 1)))  # beyond grey: of no meaning that TIFF knows
    if spec.nodata is not None:
        entries.append(_text(42113, str(spec.nodata)))
    if number == 0:
        entries += [
            _numbers(33550, _DOUBLE, [spec.gsd_m, spec.gsd_m, 0.0]),
            _numbers(33922, _DOUBLE, [0.0, 0.0, 0.0, spec.ulx, spec.uly, 0.0]),
            # GeoKeys: projected model, pixel is area, projection by EPSG code (OGC 19-008).
            _numbers(34735, _SHORT, [1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, spec.epsg]),
            _text(42112, _gdal_metadata(spec, digest)),
        ]
        if "TIFFTAG_SOFTWARE" in spec.tags:
            entries.append(_text(305, spec.tags["TIFFTAG_SOFTWARE"]))
    return sorted(entries, key=lambda entry: entry.tag)


def _gdal_metadata(spec: CogSpec, digest: str) -> str:
    items = {name: value for name, value in spec.tags.items() if not name.startswith("TIFFTAG_")}
    items |= {f"CLASS_{c.value}": c.name for c in spec.classes}
    items[DIGEST_TAG] = digest
    # Escaped twice: GDAL unescapes what its XML parser gives it once more.
    lines = [f"<Item name={quoteattr(name)}>{escape(escape(value))}</Item>" for name, value in sorted(items.items())]
    lines += [
        f'<Item name="DESCRIPTION" sample="{number}" role="description">{escape(escape(band))}</Item>'
        for number, band in enumerate(spec.bands)
    ]
    return "<GDALMetadata>" + "".join(lines) + "</GDALMetadata>"


def _colour_map(classes: Sequence[MaskClass]) -> list[int]:
    """Return 3 x 256 values of 16 bit: all reds, greens, blues."""
    colours = {c.value: c.colour for c in classes}
    return [colours.get(value, (0, 0, 0))[channel] * 257 for channel in range(3) for value in range(256)]


def _numbers(tag: int, kind: int, values: Sequence[float]) -> _Entry:
    return _Entry(tag, kind, len(values), struct.pack(f"<{len(values)}{_FORMATS[kind]}", *values))


def _text(tag: int, text: str) -> _Entry:
    data = text.encode() + b"\0"
    return _Entry(tag, _ASCII, len(data), data)


def _ifd_size(entries: list[_Entry]) -> int:
    return 2 + 12 * len(entries) + 4 + sum(_padded(len(e.data)) for e in entries if len(e.data) > 4)  # noqa: PLR2004


def _padded(length: int) -> int:
    return length + length % 2


def _ifd(entries: list[_Entry], position: int, following: int) -> bytes:
    """Write one IFD and the values that do not fit into its entries."""
    values_at = position + 2 + 12 * len(entries) + 4
    table, values = [struct.pack("<H", len(entries))], b""
    for entry in entries:
        head = struct.pack("<HHI", entry.tag, entry.kind, entry.count)
        if len(entry.data) <= 4:  # noqa: PLR2004 - fits into the entry
            table.append(head + entry.data.ljust(4, b"\0"))
        else:
            table.append(head + struct.pack("<I", values_at + len(values)))
            values += entry.data.ljust(_padded(len(entry.data)), b"\0")
    return b"".join(table) + struct.pack("<I", following) + values
