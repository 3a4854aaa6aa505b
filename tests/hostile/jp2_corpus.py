"""Band files that lie: every way in which a JPEG 2000 file of 120 x 120 pixels can be hostile or broken.

Each is a valid file of nine tiles in which one thing was changed, so it is that which is refused. What
tests/unit/test_codestream.py has of each marker segment is not all repeated here: these are the files that commands
are given, too.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tests.unit.jp2_files import (
    COD,
    EOC,
    PLT,
    POC,
    PPM,
    PPT,
    SIGNATURE,
    SIZ,
    SOC,
    TLM,
    Codestream,
    Part,
    box,
    boxed,
    poc_body,
    scene,
    write_jp2,
)

if TYPE_CHECKING:
    from pathlib import Path

SIDE = 120
#: What OpenJPEG makes of a tile, in our words.
_UNDECODABLE = r"codestream tile \d+ of .* cannot be decoded \("
_WHOLE_UNDECODABLE = r" cannot be decoded \("
#: Through a product its size is refused first: its metadata says another one.
_OWN_CODING = "code-blocks and precincts in one codestream tile|has 2048 x 2048 pixels, the metadata says"
QCD = b"\xff\x5c"


@dataclass(frozen=True)
class Hostile:
    """A file, and what is said of it: a regular expression; None where its pixels are those of the valid file."""

    data: bytes
    said: str | None


def valid(folder: Path) -> Codestream:
    """Return the file that nothing was done to."""
    return Codestream.of(written(folder).read_bytes())


def written(folder: Path, **options: str) -> Path:
    """Write it with GDAL."""
    return write_jp2(folder / "valid.jp2", scene(SIDE, SIDE), BLOCKXSIZE="40", BLOCKYSIZE="40", **options)


def corpus(stream: Codestream) -> dict[str, Hostile]:
    """Return all of them by what was done."""
    made = {**_files(stream), **_boxes(stream), **_sizes(stream), **_codings(stream), **_parts(stream)}
    return {what: Hostile(data, said) for what, (data, said) in made.items()}


_Made = dict[str, tuple[bytes, str | None]]


def _files(stream: Codestream) -> _Made:
    """What is no JPEG 2000, or ends too early."""
    whole = boxed(stream.encode())
    start = whole.index(SOC + SIZ)
    cuts = {
        "its boxes": start - 9,
        "SOC": start + 2,
        "SIZ": start + 30,
        "COD": whole.index(COD, start) + 6,
        "QCD": whole.index(QCD, start) + 3,
        "SOT": whole.index(b"\xff\x90", start) + 7,
        "SOD": whole.index(b"\xff\x93", start) + 2,
        "EOC": len(whole) - 1,
    }
    no_file = r"is no JPEG 2000 file|are no JPEG 2000 file|a JPEG 2000 file with"
    cut = r"truncated or corrupt"
    return {
        "empty": (b"", no_file),
        "text": (b"<html>503 Service Unavailable</html>", no_file),
        "a TIFF": (b"II*\0" + bytes(200), no_file),
        "zeros": (bytes(5000), no_file),
        **{f"cut in {what}": (whole[:at], cut) for what, at in cuts.items()},
    }


def _boxes(stream: Codestream) -> _Made:
    raw = stream.encode()
    ftyp = box(b"ftyp", b"jp2 \0\0\0\0jp2 ")
    ihdr = struct.pack(">IIHBBBB", SIDE, SIDE, 1, 14, 7, 0, 0)
    none = "there is no codestream"
    big, small = struct.pack(">II", 10980, 10980), struct.pack(">II", 1, 1)
    whole = boxed(raw)
    nested = box(b"jp2h", box(b"jp2h", box(b"jp2h", box(b"jp2c", raw))))
    return {
        "a box up to the end": (SIGNATURE + ftyp + struct.pack(">I4s", 0, b"jp2h") + box(b"jp2c", raw), none),
        "a box of no length again and again": (SIGNATURE + struct.pack(">I4s", 1, b"free") + bytes(8) * 100, "says 0"),
        "a long box that is short": (SIGNATURE + struct.pack(">I4sQ", 1, b"jp2h", 9) + raw, "says 9 bytes"),
        "a box of negative length": (SIGNATURE + struct.pack(">i4s", -8, b"jp2h") + raw, "says 4294967288 bytes"),
        "a long box of negative length": (SIGNATURE + struct.pack(">I4sq", 1, b"jp2h", -16) + raw, "says 18446744"),
        "a superbox beyond the file": (SIGNATURE + struct.pack(">I4s", 10**6, b"jp2h") + raw, "says 1000000 bytes"),
        "a thousand boxes": (SIGNATURE + box(b"free", b"") * 2000 + box(b"jp2c", raw), none),
        "a codestream inside other boxes": (SIGNATURE + ftyp + nested, none),
        "no codestream": (SIGNATURE + ftyp + box(b"jp2h", box(b"ihdr", ihdr)), none),
        "two codestreams": (whole + box(b"jp2c", b"\xff\x4f" + bytes(100)), None),
        "the codestream before all": (SIGNATURE + box(b"jp2c", raw) + ftyp + box(b"jp2h", box(b"ihdr", ihdr)), None),
        "an image header of 10980 pixels": (whole.replace(struct.pack(">II", SIDE, SIDE), big, 1), None),
        "an image header of 1 pixel": (whole.replace(struct.pack(">II", SIDE, SIDE), small, 1), None),
    }


def _sizes(stream: Codestream) -> _Made:
    def siz(**fields: int) -> bytes:
        return stream.with_siz(**fields).encode()

    def byte(at: int, value: int) -> bytes:
        body = bytearray(stream.segment(SIZ))
        body[at] = value
        return with_body(stream, SIZ, bytes(body)).encode()

    unfit = "do not fit together"
    long = struct.pack(">H", 16384)
    components = with_body(stream, SIZ, stream.segment(SIZ)[:34] + long + b"\x0e\1\1" * 16384).encode()
    return {
        "4 billion pixels": (siz(x1=65536, y1=65536, tile_w=65536, tile_h=65536), "4294967296 pixels, at most"),
        "18 trillion million pixels": (siz(x1=2**32 - 1, y1=2**32 - 1), "announces 18446744065119617025 pixels"),
        "no pixel": (siz(x1=0), unfit),
        "tiles of no pixel": (siz(tile_w=0, tile_h=0), unfit),
        "tiles larger than the image": (siz(tile_w=4096, tile_h=4096), "is of tile 1, there are 1 tiles"),
        "tiles that begin beyond the image": (siz(tile_x0=500, tile_y0=500), unfit),
        "a tile for each pixel": (siz(tile_w=1, tile_h=1), "codestream tile 9 is missing, 9 of 14400"),
        "16 million tiles": (siz(x1=4096, y1=4096, tile_w=1, tile_h=1), "16777216 codestream tiles, at most"),
        "no component": (byte(35, 0), "0 components"),
        "16384 components": (components, "16384 components"),
        "samples of 1 bit": (byte(36, 0), "samples of 1 bits, unsigned"),
        "samples of 38 bits": (byte(36, 37), "samples of 38 bits, unsigned"),
        "signed samples": (byte(36, 0x8E), "samples of 15 bits, signed"),
        "no sample": (byte(37, 0), "samples stand 0 x 1 pixels apart"),
        "every second sample": (byte(38, 2), "samples stand 1 x 2 pixels apart"),
        "half a SIZ": (with_body(stream, SIZ, stream.segment(SIZ)[:20]).encode(), "SIZ segment has 20 bytes"),
    }


def _codings(stream: Codestream) -> _Made:
    def cod(body: bytes) -> bytes:
        return with_body(stream, COD, body).encode()

    greedy = b"\1\0\0\1\0" + b"\5\0\0\0\1" + b"\x11" * 6
    own = COD + struct.pack(">H", 2 + len(greedy)) + greedy
    first = stream.parts[0]
    return {
        "33 decompositions": (cod(b"\0\0\0\1\0" + b"\x21\4\4\0\1"), "for 33 decompositions"),
        "precincts of no pixel": (cod(b"\1\0\0\1\0" + b"\3\2\2\0\1" + bytes(4)), _UNDECODABLE),
        "code-blocks too large": (cod(b"\0\0\0\1\0" + b"\3\x0f\x0f\0\1"), _UNDECODABLE),
        "65535 layers": (cod(b"\1\0\xff\xff\0" + b"\3\2\2\0\1" + b"\x11" * 4), "packets in one codestream tile"),
        "no layer": (cod(b"\0\0\0\0\0" + b"\3\2\2\0\1"), _UNDECODABLE),
        "an unknown wavelet": (cod(b"\0\0\0\1\0" + b"\3\2\2\0\7"), _UNDECODABLE),
        "an empty QCD": (with_body(stream, QCD, b"").encode(), "QCD is empty"),
        "a QCD of one band": (with_body(stream, QCD, b"\x40\x88").encode(), "QCD has 1 bytes for 10 sub-bands"),
        "a QCD of an unknown kind": (with_body(stream, QCD, b"\x47" + bytes(30)).encode(), "QCD is of kind 7"),
        "a tile with a QCD of one band": (
            _with_tile(stream, QCD, b"\x40\x88").encode(),
            "QCD has 1 bytes for 10 sub-bands",
        ),
        "an empty PPM": (stream.with_segment(PPM, b"").encode(), _WHOLE_UNDECODABLE),
        "a PPM of 4 GB": (stream.with_segment(PPM, b"\0\xff\xff\xff\xff").encode(), _WHOLE_UNDECODABLE),
        "half a POC": (stream.with_segment(POC, poc_body(4)[:3]).encode(), _WHOLE_UNDECODABLE),
        "a PPT and no headers": (_with_tile(stream, PPT, b"\0").encode(), _UNDECODABLE),
        "a PLT of other lengths": (_with_tile(stream, PLT, b"\0\xff\xff\x7f").encode(), None),
        "a marker segment of no length": (_raw(stream, b"\xff\x64\0\0"), "is no marker segment but ff64 0000"),
        "a marker segment of length 1": (_raw(stream, b"\xff\x64\0\1"), "is no marker segment but ff64 0001"),
        "a marker segment of 65535 bytes": (_raw(stream, b"\xff\x64\xff\xff"), "is no marker segment|does not end"),
        "200000 marker segments": (_raw(stream, b"\xff\x64\0\2" * 200_000), "marker segments in one header, at most"),
        "200000 marker segments of a tile": (
            replace(stream, parts=(replace(first, segments=b"\xff\x64\0\2" * 200_000), *stream.parts[1:])).encode(),
            "marker segments in one header, at most",
        ),
        "a tile with coding parameters of its own that cost much": (
            _own_coding(stream, own).encode(),
            _OWN_CODING,
        ),
        "the same in a file that is decoded whole": (
            _own_coding(stream, own).with_segment(POC, poc_body(6)).encode(),
            _OWN_CODING,
        ),
        "the same in a second tile-part": (
            _own_coding(stream, own, second=True).encode(),
            _OWN_CODING,
        ),
    }


def _parts(stream: Codestream) -> _Made:
    def psot(tile: int, change: int | None) -> bytes:
        """Let a tile-part say that it is so much longer; None: 0."""
        pieces = [p.encode() for p in stream.parts]
        length = 0 if change is None else len(pieces[tile]) + change
        pieces[tile] = stream.parts[tile].encode(psot=length)
        return stream.header() + b"".join(pieces) + EOC

    def changed(at: int, **fields: int) -> bytes:
        parts = list(stream.parts)
        parts[at] = replace(parts[at], **fields)  # type: ignore[arg-type]
        return replace(stream, parts=tuple(parts)).encode()

    longer = len(stream.parts[5].encode())
    listed = stream.with_tlm()
    entries = bytearray(listed.segment(TLM))
    for tile, change in ((3, 7), (4, -7)):  # a byte for the tile, four for the length
        at = 3 + 5 * tile
        struct.pack_into(">I", entries, at, struct.unpack_from(">I", entries, at)[0] + change)
    twice = replace(stream, parts=(*stream.parts[:4], stream.parts[3], *stream.parts[4:]))
    noise = Part(0, 0, 1, b"", b"\0" * 70_000_000)
    return {
        "a tile-part one byte short": (psot(4, -1), "a tile-part .SOT. should start"),
        "a tile-part one byte long": (psot(4, 1), "a tile-part .SOT. should start"),
        "a tile-part of 13 bytes": (psot(4, 13 - len(stream.parts[4].encode())), "says 13 bytes"),
        "a tile-part up to the end": (psot(4, None), "codestream tile 5 is missing"),
        "a tile-part beyond the end": (psot(4, 10**9), r"says 1000\d+ bytes"),
        "a tile-part over the next": (psot(4, longer), "codestream tile 5 is missing"),
        "a tile beyond the last": (changed(4, tile=4000), "is of tile 4000, there are 9 tiles"),
        "a tile twice": (twice.encode(), "tile-part 1 of codestream tile 3 calls itself 0"),
        "a tile in another's place": (changed(4, tile=3), "tile-part 1 of codestream tile 3 calls|tile 4 is missing"),
        "a tile missing": (replace(stream, parts=stream.parts[:-1]).encode(), "codestream tile 8 is missing"),
        "a tile-part of two, the other missing": (changed(4, total=2), "tile 4 has 1 of 2 tile-parts"),
        "a second tile-part without a first": (changed(4, number=1), "tile-part 0 of codestream tile 4 calls itself 1"),
        "a TLM that shifts a tile-part": (
            with_body(listed, TLM, bytes(entries)).encode(),
            "it should be of tile|a tile-part .SOT. should start",
        ),
        "70 MB for 1600 pixels": (
            replace(stream, parts=(noise, *stream.parts[1:])).encode(),
            "says 70000014 bytes for 40 x 40 pixels, at most",
        ),
    }


def with_body(stream: Codestream, marker: bytes, body: bytes) -> Codestream:
    """Give a segment another body."""
    return replace(stream, segments=tuple((m, body if m == marker else b) for m, b in stream.segments))


def _with_tile(stream: Codestream, marker: bytes, body: bytes) -> Codestream:
    segment = marker + struct.pack(">H", len(body) + 2) + body
    return replace(stream, parts=tuple(replace(part, segments=segment) for part in stream.parts))


def _raw(stream: Codestream, segments: bytes) -> bytes:
    """Put bytes at the main header's end."""
    return stream.header() + segments + b"".join(part.encode() for part in stream.parts) + EOC


def _own_coding(stream: Codestream, own: bytes, *, second: bool = False) -> Codestream:
    """Make an image of one tile of 2048 x 2048 pixels with a COD of its own, in its first or its second tile-part."""
    one = stream.with_siz(x1=2048, y1=2048, tile_w=2048, tile_h=2048)
    if not second:
        return replace(one, parts=(Part(0, 0, 1, own, b"\0"),))
    return replace(one, parts=(Part(0, 0, 2, b"", b"\0"), Part(0, 1, 2, own, b"\0")))
