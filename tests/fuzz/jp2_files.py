"""Small JPEG 2000 files for the fuzz targets, written by hand: their packets hold no code-blocks, or noise."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

SIGNATURE = bytes.fromhex("0000000c6a5020200d0a870a")


def segment(marker: int, body: bytes) -> bytes:
    """Return a marker segment."""
    return struct.pack(">HH", marker, len(body) + 2) + body


def tile_part(tile: int, data: bytes, *, number: int = 0, total: int = 1, segments: bytes = b"") -> bytes:
    """Return a tile-part."""
    length = 14 + len(segments) + len(data)
    return struct.pack(">HHHIBB", 0xFF90, 10, tile, length, number, total) + segments + b"\xff\x93" + data


@dataclass(frozen=True, kw_only=True)
class Written:
    """What is written: an image of `across` x `down` tiles of 16 pixels, of two resolutions.

    Attributes
    ----------
    packets : data of each tile, layer by layer.
    origin : first row and column of the image on the reference grid.
    style : Scod: 1 with precincts, 2 with SOP, 4 with EPH.
    main, tile : further segments of the main header, and of the first tile-part of each tile.
    parts : tile-parts of each tile.
    has_tlm : whether they are listed.
    """

    across: int = 2
    down: int = 2
    packets: bytes = b"\0\0"
    origin: int = 0
    style: int = 0
    main: bytes = b""
    tile: bytes = b""
    parts: int = 1
    has_tlm: bool = False

    @property
    def siz(self) -> bytes:
        """The body of SIZ."""
        ends = 16 * self.across - 3, 16 * self.down - 5
        return struct.pack(">H8IH3B", 0, *ends, self.origin, self.origin, 16, 16, 0, 0, 1, 14, 1, 1)

    def raw(self) -> bytes:
        """Return the codestream."""
        precincts = b"\x44\x44" if self.style & 1 else b""
        cod = bytes([self.style, 0, 0, 1, 0, 1, 2, 2, 0, 1]) + precincts
        step = -(-len(self.packets) // self.parts)
        pieces = [
            tile_part(
                tile,
                self.packets[number * step : (number + 1) * step],
                number=number,
                total=self.parts,
                segments=b"" if number else self.tile,
            )
            for number in range(self.parts)
            for tile in range(self.across * self.down)
        ]
        listed = b"".join(piece[4:10] for piece in pieces)
        tlm = segment(0xFF55, b"\0\x60" + listed) if self.has_tlm else b""
        head = segment(0xFF51, self.siz) + segment(0xFF52, cod) + segment(0xFF5C, b"\x40\x88\x88\x88\x88")
        return b"\xff\x4f" + head + self.main + tlm + b"".join(pieces) + b"\xff\xd9"

    def boxed(self) -> bytes:
        """Return it as a JP2 file."""
        code = self.raw()
        boxes = ((b"ftyp", b"jp2 \0\0\0\0jp2 "), (b"jp2h", bytes(20)), (b"jp2c", code))
        return SIGNATURE + b"".join(struct.pack(">I4s", len(body) + 8, kind) + body for kind, body in boxes)


PLT = segment(0xFF58, b"\0\1\1")
_COD = segment(0xFF52, bytes([0, 0, 0, 1, 0, 1, 2, 2, 0, 1]))


#: Bytes of an input, for the targets of JPEG 2000: real files have 100 MB, what is indexed of them 100 KB.
LONGEST = 1 << 15


def large_files() -> dict[str, bytes]:
    """Return files near the limits: tiles, tile-parts, segments, boxes."""
    plain = Written()
    comment = segment(0xFF64, b"\0\1x")
    listed = segment(0xFF58, b"\0" + b"\1" * 60_000)
    boxed = plain.boxed()
    box = struct.pack(">I4s", 8, b"free")
    return {
        "tiles": replace(plain, across=181, down=181).raw(),
        "tiles that are listed": replace(plain, across=100, down=100, has_tlm=True).raw(),
        "tile-parts": replace(plain, across=16, down=16, packets=bytes(250), parts=250).raw(),
        "segments": replace(plain, main=comment * 2040).raw(),
        "segments of a tile": replace(plain, tile=comment * 2040).raw(),
        "more segments": replace(plain, main=comment * 60_000).raw(),
        "lengths of packets": replace(plain, tile=listed * 4, packets=bytes(240_000)).raw(),
        "boxes": SIGNATURE + box * 990 + boxed[len(SIGNATURE) :],
        "more boxes": SIGNATURE + box * 100_000 + boxed[len(SIGNATURE) :],
        "a main header of a megabyte": replace(plain, main=segment(0xFF64, bytes(65_000)) * 16).raw(),
        "precincts": replace(plain, style=1, tile=segment(0xFF58, b"\0" + b"\1" * 4000), packets=bytes(4000)).raw(),
    }


def files() -> list[bytes]:
    """Return files of every layout that the parsers tell apart, and some that they refuse."""
    plain = Written()
    listed = replace(plain, tile=PLT)
    packets = bytes(range(128, 128 + 12))
    marked = b"\xff\x91\0\4\0\0\0\xff\x92\xff\x91\0\4\0\1\0\xff\x92"
    open_end = plain.raw()
    last = open_end.rindex(b"\xff\x90")
    return [
        plain.raw(),
        plain.boxed(),
        listed.raw(),
        replace(plain, origin=5).raw(),
        replace(plain, has_tlm=True).boxed(),
        replace(plain, parts=2, has_tlm=True).raw(),
        replace(plain, style=1, tile=segment(0xFF58, b"\0\6\6"), packets=packets).raw(),
        replace(plain, style=7, tile=segment(0xFF58, b"\0\x09\x09"), packets=marked).raw(),
        replace(plain, tile=segment(0xFF61, b"\0" + bytes(2)), packets=b"").raw(),
        replace(plain, main=segment(0xFF60, b"\0\0\0\0\2\0\0"), packets=b"").raw(),
        replace(plain, main=segment(0xFF5F, struct.pack(">BBHBBB", 0, 0, 1, 2, 1, 0))).raw(),
        replace(plain, main=segment(0xFF53, b"\0\0\1\2\2\0\1"), tile=_COD).raw(),
        replace(plain, main=segment(0xFF64, b"\0\1made by hand") + segment(0xFF77, b"?")).raw(),
        replace(plain, across=1, down=1, packets=b"").raw(),
        open_end[: last + 6] + bytes(4) + open_end[last + 10 :],
        plain.raw()[:-2],
        plain.boxed()[:60],
        replace(plain, across=12, down=12).raw(),
        replace(plain, packets=bytes(60), parts=30).raw(),
        replace(plain, across=9, down=9).raw().replace(plain.siz[:10], b"\0\0\1\0\0\0\1\0\0\0"),
    ]
