"""JPEG 2000 files for tests: written by GDAL, then taken apart and put together again in odd but valid ways.

Nothing here uses the package's own parser: a small one of its own reads what GDAL wrote, so both must agree.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from rasterio.io import MemoryFile
from rasterio.shutil import copy as copy_dataset

from kappamask_stream.jp2 import CodestreamIndex, ImagecodecsDecoder, TileDecoder, index_steps
from kappamask_stream.jp2.standalone import standalone_codestream

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SIGNATURE = bytes.fromhex("0000000c6a5020200d0a870a")
SOC, SIZ, COD, TLM, PLT, PPM, PPT, POC, SOT, SOP, EPH, SOD, EOC = (
    b"\xff\x4f", b"\xff\x51", b"\xff\x52", b"\xff\x55", b"\xff\x58", b"\xff\x60", b"\xff\x61", b"\xff\x5f",
    b"\xff\x90", b"\xff\x91", b"\xff\x92", b"\xff\x93", b"\xff\xd9",
)  # fmt: skip

#: GDAL's options for small lossless tiles with several code-blocks and precincts each.
SMALL = {
    "BLOCKXSIZE": "64", "BLOCKYSIZE": "64", "CODEBLOCK_WIDTH": "16", "CODEBLOCK_HEIGHT": "16",
    "PRECINCTS": "{32,32},{32,32},{32,32},{32,32}", "RESOLUTIONS": "4", "REVERSIBLE": "YES", "QUALITY": "100",
    "NBITS": "15", "GeoJP2": "NO", "GMLJP2": "NO",
}  # fmt: skip


def esa_options(gsd_m: int) -> dict[str, str]:
    """ESA's layout of a resolution (FACTS.md section 3)."""
    tile, block, precinct = {10: (1024, 64, 256), 20: (640, 8, 128), 60: (192, 4, 64)}[gsd_m]
    return SMALL | {
        "BLOCKXSIZE": str(tile), "BLOCKYSIZE": str(tile),
        "CODEBLOCK_WIDTH": str(block), "CODEBLOCK_HEIGHT": str(block),
        "PRECINCTS": ",".join([f"{{{precinct},{precinct}}}"] * 5), "RESOLUTIONS": "5", "PLT": "YES",
    }  # fmt: skip


def scene(height: int, width: int, *, seed: int = 1, dtype: str = "uint16") -> NDArray[Any]:
    """Slopes, edges and noise: nothing in it is alike at two places."""
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[:height, :width]
    smooth = 700 + 9 * rows + 5 * cols + 600 * np.sin(rows / 9) * np.cos(cols / 7)
    steps = 2500 * ((rows // 21 + cols // 34) % 3 == 0)
    values = np.clip(smooth + steps + rng.integers(0, 90, (height, width)), 1, 20000)
    return (values if dtype == "uint16" else values // 1500).astype(dtype)


def write_jp2(path: Path, pixels: NDArray[Any], **options: str) -> Path:
    """Write one band with GDAL's JP2OpenJPEG; `options` go over `SMALL`."""
    height, width = pixels.shape
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", height=height, width=width, count=1, dtype=pixels.dtype) as dataset:
            dataset.write(pixels, 1)
        with memory.open() as dataset, rasterio.Env(GDAL_PAM_ENABLED="NO"):
            bits = {} if pixels.dtype == np.uint16 else {"NBITS": "8"}
            copy_dataset(dataset, str(path), driver="JP2OpenJPEG", **(SMALL | options | bits))
    return path


def plain_read(path: Path) -> NDArray[Any]:
    """Return what rasterio reads of the whole file."""
    with rasterio.open(path) as dataset:
        pixels: NDArray[Any] = dataset.read(1)
    return pixels


def index_bytes(data: bytes, name: str = "odd.jp2") -> CodestreamIndex:
    """Index a file in memory; every read asked for must lie inside it."""
    steps = index_steps(name, len(data))
    try:
        offset, length = next(steps)
        while True:
            assert 0 <= offset < offset + length <= len(data), "asked for bytes that are not there"
            assert length <= 4 * 2**20
            offset, length = steps.send(data[offset : offset + length])
    except StopIteration as finished:
        index: CodestreamIndex = finished.value
        return index


def decode_by_tiles(data: bytes, index: CodestreamIndex, decoder: TileDecoder | None = None) -> NDArray[np.uint16]:
    """Decode every codestream tile alone and put them together; each pixel is filled exactly once."""
    decoder = decoder or ImagecodecsDecoder()
    pixels = np.zeros((index.height, index.width), np.uint16)
    filled = np.zeros(pixels.shape, np.uint8)
    for tile in index.tiles:
        parts = [data[offset : offset + length] for offset, length in tile.parts]
        window = tile.window
        place = slice(window.row, window.row_end), slice(window.col, window.col_end)
        pixels[place] = decoder.decode(
            standalone_codestream(index, tile, parts), height=window.height, width=window.width, name=index.name
        )
        filled[place] += 1
    assert (filled == 1).all(), "the tiles do not partition the image"
    return pixels


@dataclass(frozen=True)
class Part:
    """A tile-part: what its SOT says, its header segments and its data."""

    tile: int
    number: int
    total: int
    segments: bytes
    data: bytes

    def encode(self, *, psot: int | None = None) -> bytes:
        """Return its bytes; `psot` overrules the length that SOT says."""
        length = 12 + len(self.segments) + 2 + len(self.data)
        said = length if psot is None else psot
        return (
            SOT + struct.pack(">HHIBB", 10, self.tile, said, self.number, self.total) + self.segments + SOD + self.data
        )


@dataclass(frozen=True)
class Codestream:
    """A codestream in pieces."""

    segments: tuple[tuple[bytes, bytes], ...]
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, data: bytes) -> Codestream:
        """Take apart what GDAL wrote, boxed or raw."""
        at = data.index(SOC + SIZ) + 2
        segments = []
        while data[at : at + 2] != SOT:
            (length,) = struct.unpack_from(">H", data, at + 2)
            segments.append((data[at : at + 2], data[at + 4 : at + 2 + length]))
            at += 2 + length
        parts = []
        while data[at : at + 2] == SOT:
            tile, length, number, total = struct.unpack_from(">HIBB", data, at + 4)
            body = data[at + 12 : at + length]
            sod = 0
            while body[sod : sod + 2] != SOD:
                sod += 2 + struct.unpack_from(">H", body, sod + 2)[0]
            parts.append(Part(tile, number, total, body[:sod], body[sod + 2 :]))
            at += length
        assert data[at : at + 2] == EOC
        return cls(tuple(segments), tuple(parts))

    def header(self) -> bytes:
        return SOC + b"".join(m + struct.pack(">H", len(body) + 2) + body for m, body in self.segments)

    def encode(self, *, open_end: bool = False, eoc: bytes = EOC) -> bytes:
        """Return the raw codestream; with `open_end` the last tile-part does not say its length."""
        last = self.parts[-1].encode(psot=0 if open_end else None)
        return self.header() + b"".join(part.encode() for part in self.parts[:-1]) + last + eoc

    def with_segment(self, marker: bytes, body: bytes) -> Codestream:
        """Add a segment at the main header's end."""
        return replace(self, segments=(*self.segments, (marker, body)))

    def without(self, marker: bytes) -> Codestream:
        return replace(self, segments=tuple(s for s in self.segments if s[0] != marker))

    def segment(self, marker: bytes) -> bytes:
        return next(body for found, body in self.segments if found == marker)

    def with_siz(self, **fields: int) -> Codestream:
        """Overwrite 32-bit fields of SIZ."""
        names = ("x1", "y1", "x0", "y0", "tile_w", "tile_h", "tile_x0", "tile_y0")
        siz = bytearray(self.segment(SIZ))
        for name, value in fields.items():
            struct.pack_into(">I", siz, 2 + 4 * names.index(name), value)
        return replace(self, segments=tuple((m, bytes(siz) if m == SIZ else body) for m, body in self.segments))

    def with_tlm(
        self, *, tile_bytes: int = 1, long: bool = True, per_segment: int = 10_000, start: int = 0
    ) -> Codestream:
        """Add TLM segments that list all tile-parts."""
        entries = []
        for part in self.parts:
            length = struct.pack(">I" if long else ">H", len(part.encode()))
            entries.append((part.tile.to_bytes(tile_bytes, "big") if tile_bytes else b"") + length)
        style = bytes([tile_bytes << 4 | (0x40 if long else 0)])
        chunks = [entries[i : i + per_segment] for i in range(0, len(entries), per_segment)]
        added = self
        for number, chunk in enumerate(chunks):
            added = added.with_segment(TLM, bytes([start + number]) + style + b"".join(chunk))
        return added


def boxed(codestream: bytes, *, length: str = "32") -> bytes:
    """Wrap a codestream into the least JP2 boxes; its box tells its length in 32 or 64 bits or not at all (``0``)."""
    siz = codestream.index(SOC + SIZ) + 2
    x1, y1, x0, y0 = struct.unpack_from(">4I", codestream, siz + 6)
    bits = codestream[siz + 40]
    ftyp = box(b"ftyp", b"jp2 \0\0\0\0jp2 ")
    ihdr = box(b"ihdr", struct.pack(">IIHBBBB", y1 - y0, x1 - x0, 1, bits, 7, 0, 0))
    colr = box(b"colr", b"\1\0\0" + struct.pack(">I", 17))
    head = {
        "32": struct.pack(">I4s", len(codestream) + 8, b"jp2c"),
        "64": struct.pack(">I4sQ", 1, b"jp2c", len(codestream) + 16),
        "0": struct.pack(">I4s", 0, b"jp2c"),
    }[length]
    return SIGNATURE + ftyp + box(b"jp2h", ihdr + colr) + head + codestream


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", len(body) + 8, kind) + body


def split_packets(part: Part) -> tuple[list[bytes], bytes]:
    """Take the packet headers (with EPH) out of a tile-part written with SOP=YES, EPH=YES; return them and the rest.

    Inside coded data no two bytes look like a marker, so SOP and EPH are found by searching.
    """
    headers, rest, at = [], [], 0
    while at < len(part.data):
        assert part.data[at : at + 2] == SOP
        header_end = part.data.index(EPH, at + 6) + 2
        headers.append(part.data[at + 6 : header_end])
        after = part.data.find(SOP, header_end)
        after = len(part.data) if after < 0 else after
        rest += [part.data[at : at + 6], part.data[header_end:after]]
        at = after
    return headers, b"".join(rest)


def cut_into_parts(stream: Codestream, packets: int, *, count_them: bool = True) -> Codestream:
    """Cut each tile of a file written with SOP=YES into tile-parts of `packets` packets each."""
    parts: list[Part] = []
    for whole in stream.parts:
        starts = [at for at in range(len(whole.data)) if whole.data[at : at + 2] == SOP][::packets]
        total = len(starts) if count_them else 0
        for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(whole.data)], strict=True)):
            segments = whole.segments if number == 0 else b""
            parts.append(Part(whole.tile, number, total, segments, whole.data[start:end]))
    return replace(stream, parts=tuple(parts))


def with_ppm(stream: Codestream) -> Codestream:
    """Move all packet headers into the main header (T.800 A.7.4)."""
    packed, parts = b"", []
    for part in stream.parts:
        headers, rest = split_packets(part)
        packed += struct.pack(">I", len(b"".join(headers))) + b"".join(headers)
        parts.append(replace(part, segments=b"", data=rest))
    assert len(packed) < 65000
    return replace(stream, parts=tuple(parts)).with_segment(PPM, b"\0" + packed)


def with_ppt(stream: Codestream) -> Codestream:
    """Move packet headers into the tile-part headers (T.800 A.7.5)."""
    parts = []
    for part in stream.parts:
        headers, rest = split_packets(part)
        body = b"\0" + b"".join(headers)
        parts.append(replace(part, segments=PPT + struct.pack(">H", len(body) + 2) + body, data=rest))
    return replace(stream, parts=tuple(parts))


def poc_body(*ends: int) -> bytes:
    """POC segment: layer 1 and component 0 in LRCP, resolutions up to each of `ends` in turn (T.800 A.6.6)."""
    starts = (0, *ends[:-1])
    return b"".join(struct.pack(">BBHBBB", start, 0, 1, end, 1, 0) for start, end in zip(starts, ends, strict=True))


def interleaved(stream: Codestream) -> Codestream:
    """Order tile-parts by number first: all first parts, then all second ones."""
    return replace(stream, parts=tuple(sorted(stream.parts, key=lambda part: (part.number, part.tile))))


def moved_image(folder: Path, pixels: NDArray[Any], **options: str) -> Codestream:
    """Return ``pixels[64:, 64:]`` as an image that begins at (64, 64) of the reference grid, in tiles of 128.

    The tiles begin at 0, so the first row and column of them is half as large as the others. GDAL cannot write
    that, but it writes tiles of 64 and 128 pixels that stand at the same place: they are put together here.
    """
    tops, lefts = ([64, *range(128, size, 128)] for size in pixels.shape)
    parts: list[Part] = []
    stream: Codestream | None = None
    for tall, wide in ((64, 64), (64, 128), (128, 64), (128, 128)):
        path = write_jp2(folder / f"{tall}_{wide}.jp2", pixels, BLOCKYSIZE=str(tall), BLOCKXSIZE=str(wide), **options)
        stream = Codestream.of(path.read_bytes())
        across = -(-pixels.shape[1] // wide)
        for row, top in enumerate(tops):
            for col, left in enumerate(lefts):
                if (tall, wide) == (64 if row == 0 else 128, 64 if col == 0 else 128):
                    number = top // tall * across + left // wide
                    part = next(part for part in stream.parts if part.tile == number)
                    parts.append(replace(part, tile=row * len(lefts) + col))
    assert stream is not None
    moved = replace(stream, parts=tuple(sorted(parts, key=lambda part: part.tile)))
    return moved.with_siz(x0=64, y0=64, tile_w=128, tile_h=128)


def cropped_image(stream: Codestream, *, across: int, size: int) -> Codestream:
    """Drop the first row and column of tiles (`across` in a row, of `size` pixels) and let the image begin there."""
    kept = [part for part in stream.parts if part.tile >= across and part.tile % across]
    moved = tuple(replace(p, tile=(p.tile // across - 1) * (across - 1) + p.tile % across - 1) for p in kept)
    return replace(stream, parts=moved).with_siz(x0=size, y0=size, tile_x0=size, tile_y0=size)
