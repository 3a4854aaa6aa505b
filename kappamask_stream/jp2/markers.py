"""Marker segments of a JPEG 2000 main header: image and tile geometry, coding parameters, and what they cost.

Source: ITU-T T.800 (ISO/IEC 15444-1), annex A.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from kappamask_stream.errors import CodestreamError
from kappamask_stream.grid import Window
from kappamask_stream.jp2.limits import check_image, damaged


class Marker(IntEnum):
    """Marker codes (T.800 table A.2; CAP, PRF and CPF: T.814)."""

    SOC = 0xFF4F
    CAP = 0xFF50
    SIZ = 0xFF51
    COD = 0xFF52
    COC = 0xFF53
    TLM = 0xFF55
    PRF = 0xFF56
    PLM = 0xFF57
    PLT = 0xFF58
    CPF = 0xFF59
    QCD = 0xFF5C
    QCC = 0xFF5D
    RGN = 0xFF5E
    POC = 0xFF5F
    PPM = 0xFF60
    CRG = 0xFF63
    COM = 0xFF64
    SOT = 0xFF90
    SOD = 0xFF93
    EOC = 0xFFD9

    @property
    def code(self) -> bytes:
        """The marker as it stands in a file."""
        return self.to_bytes(2, "big")


#: Segments that decide how any tile is decoded; all of them act on a tile that stands alone as they do in the image.
DECISIVE = frozenset({Marker.SIZ, Marker.CAP, Marker.COD, Marker.COC, Marker.QCD, Marker.QCC, Marker.RGN})
#: Segments that decide nothing: positions of what is found anyway, profiles, colour registration, comments.
IDLE = frozenset({Marker.TLM, Marker.PRF, Marker.PLM, Marker.CPF, Marker.CRG, Marker.COM})

PROGRESSIONS = ("LRCP", "RLCP", "RPCL", "PCRL", "CPRL")

#: Bytes for each sub-band in QCD and QCC (T.800 table A.28): without quantisation, derived from one, each by itself.
STEP_BYTES = {0: 1, 1: 0, 2: 2}

_MOST_LEVELS = 32
#: Exponent of a precinct that holds a whole resolution.
_WHOLE = 15


@dataclass(frozen=True)
class Siz:
    """Image and tile geometry of the SIZ marker segment (T.800 A.5.1), reference grid coordinates."""

    x1: int
    y1: int
    x0: int
    y0: int
    tile_w: int
    tile_h: int
    tile_x0: int
    tile_y0: int
    bit_depth: int

    @property
    def tiles_across(self) -> int:
        """Codestream tiles in a row."""
        return -(-(self.x1 - self.tile_x0) // self.tile_w)

    @property
    def tiles_down(self) -> int:
        """Codestream tiles in a column."""
        return -(-(self.y1 - self.tile_y0) // self.tile_h)

    @property
    def largest_tile(self) -> tuple[int, int]:
        """Height and width that no codestream tile exceeds."""
        return min(self.tile_h, self.y1 - self.y0), min(self.tile_w, self.x1 - self.x0)

    def window(self, index: int) -> Window:
        """Return the pixels of a codestream tile, relative to the image."""
        down, across = divmod(index, self.tiles_across)
        left = max(self.tile_x0 + across * self.tile_w, self.x0)
        top = max(self.tile_y0 + down * self.tile_h, self.y0)
        right = min(self.tile_x0 + (across + 1) * self.tile_w, self.x1)
        bottom = min(self.tile_y0 + (down + 1) * self.tile_h, self.y1)
        return Window(top - self.y0, left - self.x0, bottom - top, right - left)


@dataclass(frozen=True)
class Coding:
    """Coding parameters of a COD or COC marker segment (T.800 A.6.1, A.6.2).

    Attributes
    ----------
    progression, layers : of COD; 0 and 1 of a COC, which has none.
    levels : decompositions; there is one resolution more.
    block_w, block_h : exponents of a code-block's size.
    reversible : True for 5/3, False for 9/7.
    precincts : exponents (width, height) per resolution, the lowest first; empty where there is one per resolution.
    has_sop, has_eph : of COD: whether packets may begin with a marker, and whether their headers end with one.
    """

    progression: int
    layers: int
    levels: int
    block_w: int
    block_h: int
    reversible: bool
    precincts: tuple[tuple[int, int], ...]
    has_sop: bool
    has_eph: bool

    def blocks_and_precincts(self, height: int, width: int) -> tuple[int, int]:
        """Return upper bounds of the code-blocks and of the precincts of a tile of this size (T.800 B.6, B.7)."""
        blocks = precincts = 0
        for resolution in range(self.levels + 1):
            reduced = self.levels - resolution
            exponents = self.precincts[resolution] if self.precincts else (_WHOLE, _WHOLE)
            precincts += _met(width >> reduced, exponents[0]) * _met(height >> reduced, exponents[1])
            # Above the lowest resolution there are three sub-bands, of half its size; so are their precincts.
            bands, half = (3, 1) if resolution else (1, 0)
            block_w = min(self.block_w, max(exponents[0] - half, 0))
            block_h = min(self.block_h, max(exponents[1] - half, 0))
            blocks += bands * _met(width >> reduced + half, block_w) * _met(height >> reduced + half, block_h)
        return blocks, precincts


def _met(length: int, exponent: int) -> int:
    """Return how many cells of 2**exponent `length` + 1 samples meet at most: they may begin within one."""
    return (length >> exponent) + 2


def segments_of(name: str, header: bytes) -> dict[int, list[bytes]]:
    """Split a main header into marker segments (without marker and length).

    Raises
    ------
    CodestreamError
        If the segments do not fill the header, or one that every codestream has is missing.
    """
    found: dict[int, list[bytes]] = {}
    position = 2
    while position + 4 <= len(header):
        marker, length = struct.unpack_from(">HH", header, position)
        found.setdefault(marker, []).append(header[position + 4 : position + 2 + length])
        position += 2 + length
    if position != len(header):
        raise damaged(name, f"the main header's segments end at byte {position}, the header at {len(header)}")
    for kind in (Marker.SIZ, Marker.COD, Marker.QCD):
        count = len(found.get(kind, []))
        if count != 1:
            raise damaged(name, f"the main header has {count} {kind.name} segments, it needs 1")
    return found


def parse_siz(name: str, body: bytes) -> Siz:
    """Check and read SIZ.

    Raises
    ------
    CodestreamError
        If the image is nothing that Sentinel-2 bands are stored as, or contradicts itself.
    """
    if len(body) < 39:  # noqa: PLR2004 - up to the first component
        raise damaged(name, f"the SIZ segment has {len(body)} bytes, 39 are needed")
    _, x1, y1, x0, y0, tile_w, tile_h, tile_x0, tile_y0, components = struct.unpack_from(">H8IH", body)
    depth, step_x, step_y = body[36], body[37], body[38]
    if components != 1:
        raise CodestreamError(f"{name}: {components} components, a Sentinel-2 band has 1: give a single-band file")
    if (step_x, step_y) != (1, 1):
        raise damaged(name, f"samples stand {step_x} x {step_y} pixels apart, a Sentinel-2 band's 1 x 1")
    bits = (depth & 0x7F) + 1
    if depth & 0x80 or not 8 <= bits <= 16:  # noqa: PLR2004
        signed = "signed" if depth & 0x80 else "unsigned"
        raise damaged(name, f"samples of {bits} bits, {signed}; a Sentinel-2 band has 8 to 16, unsigned")
    siz = Siz(x1, y1, x0, y0, tile_w, tile_h, tile_x0, tile_y0, bits)
    inside = x0 < x1 and y0 < y1 and tile_w and tile_h and tile_x0 <= x0 and tile_y0 <= y0
    if not inside or tile_x0 + tile_w <= x0 or tile_y0 + tile_h <= y0:
        raise damaged(name, f"image {x0},{y0}..{x1},{y1} and tiles of {tile_w} x {tile_h} do not fit together")
    check_image(name, (x1 - x0) * (y1 - y0), siz.tiles_across * siz.tiles_down)
    return siz


def parse_coding(name: str, marker: int, body: bytes) -> Coding:
    """Read a COD or COC segment of a file with one component.

    Raises
    ------
    CodestreamError
        If it is too short for what it announces.
    """
    # COD: Scod, progression, layers (2), component transform; COC: component, Scoc. Then they are alike.
    style_at, at = (0, 5) if marker == Marker.COD else (1, 2)
    levels = body[at] if len(body) > at else 0
    listed = levels + 1 if len(body) > at and body[style_at] & 1 else 0
    needed = at + 5 + listed
    if len(body) < needed or levels > _MOST_LEVELS:
        raise damaged(name, f"coding parameters of {len(body)} bytes, {needed} are needed for {levels} decompositions")
    return Coding(
        progression=body[1] if marker == Marker.COD else 0,
        layers=int.from_bytes(body[2:4], "big") if marker == Marker.COD else 1,
        levels=levels,
        block_w=(body[at + 1] & 15) + 2,
        block_h=(body[at + 2] & 15) + 2,
        reversible=body[at + 4] == 1,
        precincts=tuple((size & 15, size >> 4) for size in body[at + 5 : needed]),
        has_sop=marker == Marker.COD and bool(body[0] & 2),
        has_eph=marker == Marker.COD and bool(body[0] & 4),
    )


def check_quantisation(name: str, marker: int, body: bytes, levels: int) -> None:
    """Check that QCD or QCC of a file with one component tell of every sub-band (T.800 A.6.4).

    OpenJPEG takes 0 for what is not there, and decodes to other pixels without a word.

    Raises
    ------
    CodestreamError
        If they do not.
    """
    values = body if marker == Marker.QCD else body[1:]
    what = Marker(marker).name
    if not values:
        raise damaged(name, f"its {what} is empty")
    kind, bands = values[0] & 0x1F, 3 * levels + 1
    if kind not in STEP_BYTES:
        raise damaged(name, f"its {what} is of kind {kind}, there are 0 to 2")
    # Kind 1 has the lowest sub-band's, which all others follow from.
    needed = STEP_BYTES[kind] * bands if kind != 1 else 2
    if len(values) - 1 < needed:
        raise damaged(name, f"its {what} has {len(values) - 1} bytes for {bands} sub-bands, {needed} are needed")
