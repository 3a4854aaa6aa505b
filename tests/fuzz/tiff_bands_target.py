"""Bands in TIFFs: directory, blocks, and their samples: `kappamask_stream.bands.tiff` and `.cog`."""

from __future__ import annotations

import struct
import zlib

from kappamask_stream.bands.cog import CogIndex, index_cog_steps
from kappamask_stream.errors import ProductError
from tests.fuzz.in_memory import indexed_in

_NAME = "fuzzed.tif"
#: Tables of blocks of real files have up to 256 KB.
LONGEST = 1 << 16
_MOST_PIXELS = 2**16
_LETTERS = {1: "B", 2: "B", 3: "H", 4: "I", 12: "d", 16: "Q"}
_Tags = dict[int, tuple[int, tuple[float, ...]]]
_BLOCK = 512


def seeds() -> list[bytes]:
    """Return TIFFs of every form of the header and every compression."""
    place: _Tags = {
        33550: (12, (10.0, 10.0, 0.0)), 33922: (12, (0.0, 0.0, 0.0, 499980.0, 5900040.0, 0.0)),
        34735: (3, (1, 1, 0, 1, 3072, 0, 1, 32629)), 42113: (2, (48, 0)),
    }  # fmt: skip
    block = bytes(range(256))
    packed = zlib.compress(block)
    pieces = [
        _tiff({}, block),
        _tiff(place, block, order=">"),
        _tiff(place, block, big=True),
        _tiff({259: (3, (8,)), 317: (3, (2,))}, packed),
        _tiff({259: (3, (50000,))}, b"\x28\xb5\x2f\xfd\x20\x00\x01\x00\x00"),
        _tiff({259: (3, (5,))}, b"\x80\x00\x01"),
        _tiff({258: (3, (15,))}, bytes(16 * 30)),
        _tiff({258: (3, (16,))}, block * 2, order=">", big=True),
        _tiff({325: (4, (0, 0, 0, 0)), 42113: (2, (48,))}, b""),
        _tiff({256: (12, (32.0,))}, block),
        _tiff({256: (12, (float("nan"),))}, block),
        _tiff({258: (12, (float("inf"),))}, block),
    ]
    pieces.append(_blocks(20))
    return [*pieces, b"II*\0", b"<html>"]


def large() -> dict[str, bytes]:
    """Return files near the limits of 2^15 blocks and 500 tags."""
    return {
        "blocks": _blocks(181),
        "more blocks": _blocks(182),
        "blocks, 8 bytes each": _blocks(181, big=True),
        "tags": _tiff({1000 + number: (3, (0,)) for number in range(480)}, bytes(256)),
        "tags of 4 KB": _tiff({1000 + number: (4, (0,) * 1000) for number in range(480)}, bytes(256)),
        "a tag": _tiff({33550: (12, (10.0,) * 100_000)}, bytes(256)),
    }


def _blocks(side: int, *, big: bool = False) -> bytes:
    """Write a TIFF of so many blocks in height and width."""
    count, kind = side * side, 16 if big else 4
    return _tiff(
        {256: (4, (16 * side,)), 257: (4, (16 * side,)), 324: (kind, (_BLOCK,) * count), 325: (kind, (256,) * count)},
        bytes(256), big=big,
    )  # fmt: skip


def one_input(data: bytes) -> None:
    """Index a TIFF and unpack its blocks."""
    index = _indexed(data)
    if index is None:
        return
    assert sum(tile.window.height * tile.window.width for tile in index.tiles) == index.height * index.width
    for tile in index.tiles[:3]:
        if tile.is_zero or index.tile_height * index.tile_width > _MOST_PIXELS:
            continue
        parts = [data[offset : offset + length] for offset, length in tile.parts]
        assert all(len(part) == length for part, (_, length) in zip(parts, tile.parts, strict=True))
        pixels = said = None
        try:
            pixels = index.pixels(tile, parts)
        except ProductError as error:
            said = str(error)
        if pixels is None:
            assert said is not None
            assert _NAME in said, "the file is not named"
        else:
            assert (pixels.dtype, pixels.shape) == ("uint16", (tile.window.height, tile.window.width))


def _indexed(data: bytes) -> CogIndex | None:
    try:
        return indexed_in(data, index_cog_steps(_NAME, len(data)))
    except ProductError as error:
        said = str(error)
    assert said.startswith(_NAME), "the file is not named"
    return None


def _tiff(change: _Tags, block: bytes, *, order: str = "<", big: bool = False) -> bytes:
    """Write 2 x 2 blocks of 16 x 16 pixels, which share their bytes."""
    tags: _Tags = {
        256: (3, (32,)), 257: (3, (30,)), 258: (3, (8,)), 259: (3, (1,)), 277: (3, (1,)), 322: (3, (16,)),
        323: (3, (16,)), 324: (4, (_BLOCK,) * 4), 325: (4, (len(block),) * 4), 339: (3, (1,)),
    }  # fmt: skip
    tags |= change
    wide, letter = (8, "Q") if big else (4, "I")
    head = struct.pack(order + "2sHHHQ", b"MM" if order == ">" else b"II", 43, 8, 0, 16) if big else b""
    head = head or struct.pack(order + "2sHI", b"MM" if order == ">" else b"II", 42, 8)
    at = len(head) + (8 if big else 2) + len(tags) * (4 + 2 * wide) + wide
    table, more = struct.pack(order + ("Q" if big else "H"), len(tags)), b""
    for code, (kind, values) in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(values)}{_LETTERS[kind]}", *values)
        table += struct.pack(order + "HH" + letter, code, kind, len(values))
        if len(packed) > wide:
            table += struct.pack(order + letter, at + len(more))
            more += packed
        else:
            table += packed.ljust(wide, b"\0")
    return (head + table + bytes(wide) + more).ljust(_BLOCK, b"\0") + block
