"""A stand-alone codestream tile at half its resolution: without the packets of its highest resolution. Pure.

What is left is the codestream that an encoder would have made of the low-pass band: reference grid halved, one
decomposition less. Three quarters of the samples, and about as much of the coded data, need not be decoded.

Source: ITU-T T.800 (ISO/IEC 15444-1), A.5.1 (SIZ), A.6 (COD, QCD), B.5 and B.6 (resolutions and precincts), B.12
(order of packets).
"""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import TYPE_CHECKING

from kappamask_stream.jp2.markers import STEP_BYTES, Coding, Marker, Siz, parse_coding, parse_siz, segments_of
from kappamask_stream.jp2.precincts import precinct_count, taken_apart
from kappamask_stream.jp2.tile_parts import SOT_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kappamask_stream.jp2.precincts import TilePart

_LRCP, _RLCP, _RPCL = range(3)
_BANDS_OF_A_RESOLUTION = 3


def half(edge: int) -> int:
    """Return the first sample of the low-pass band at or after an edge on the reference grid (T.800 B-15)."""
    return -(-edge // 2)


def reduced_codestream(codestream: bytes, name: str) -> bytes | None:
    """Leave out the highest resolution of a stand-alone tile of the reversible 5/3 wavelet.

    Parameters
    ----------
    codestream : as `standalone_codestream` makes it: one tile of one component.
    name : for messages.

    Returns
    -------
    A codestream of the tile's low-pass band, at half its place and size. None where the packets cannot be told apart
    (no PLT; positions lead the progression; parameters in the tile's own header), the wavelet is another one, or
    there is no resolution to leave out.

    Raises
    ------
    CodestreamError
        If the main header contradicts itself.
    """
    first = _first_sot(codestream)
    header = codestream[:first]
    segments = segments_of(name, header)
    siz = parse_siz(name, segments[Marker.SIZ][0])
    codings = [parse_coding(name, kind, body) for kind in (Marker.COD, Marker.COC) for body in segments.get(kind, [])]
    coding = replace(codings[-1], progression=codings[0].progression, layers=codings[0].layers)
    parts = _parts(codestream, first)
    if parts is None or not coding.reversible or not coding.levels:
        return None
    kept = _kept_packets(siz, coding, sum(len(part.lengths) for part, _ in parts))
    if kept is None:
        return None
    packets: list[bytes | memoryview] = []
    for part, data in parts:
        packets += _selected(part, data, kept)
    length = SOT_BYTES + 2 + sum(map(len, packets))
    sot = struct.pack(">HHHIBB", Marker.SOT, 10, 0, length, 0, 1)
    return b"".join([_reduced_header(header), sot, Marker.SOD.code, *packets, Marker.EOC.code])


def _first_sot(codestream: bytes) -> int:
    position = 2
    while codestream[position : position + 2] != Marker.SOT.code:
        position += 2 + struct.unpack_from(">H", codestream, position + 2)[0]
    return position


def _parts(codestream: bytes, first: int) -> list[tuple[TilePart, memoryview]] | None:
    """Take the tile-parts apart; None where one of them has parameters of its own or does not list its packets."""
    parts, view, position = [], memoryview(codestream), first
    while codestream[position : position + 2] == Marker.SOT.code:
        (length,) = struct.unpack_from(">I", codestream, position + 6)
        part = taken_apart(codestream[position : position + length])
        if part is None or _has_quantisation(part.segments):
            return None
        parts.append((part, view[position : position + length]))
        position += length
    return parts


def _has_quantisation(segments: bytes) -> bool:
    """Tell whether a tile-part's header lists sub-bands of its own, which would have to be shortened too."""
    position = 0
    while position < len(segments):
        marker, length = struct.unpack_from(">HH", segments, position)
        if marker in (Marker.QCD, Marker.QCC):
            return True
        position += 2 + length
    return False


def _kept_packets(siz: Siz, coding: Coding, count: int) -> Iterator[bool] | None:
    """Tell of each of `count` packets, in the codestream's order, whether it is kept; None: that is not known."""
    if coding.progression not in (_LRCP, _RLCP, _RPCL) or any(0 in pair for pair in coding.precincts[1:]):
        return None
    precincts = []
    for level in range(coding.levels + 1):
        across, down = coding.precincts[level] if coding.precincts else (15, 15)
        scale = coding.levels - level
        left, right, top, bottom = (-(-edge >> scale) for edge in (siz.x0, siz.x1, siz.y0, siz.y1))
        precincts.append(precinct_count(left, right, across) * precinct_count(top, bottom, down))
    low, high = sum(precincts[:-1]), precincts[-1]
    if count != (low + high) * coding.layers:
        return None
    order = [True] * low + [False] * high
    if coding.progression == _LRCP:
        return iter(order * coding.layers)
    return iter([True] * (low * coding.layers) + [False] * (high * coding.layers))


def _selected(part: TilePart, data: memoryview, kept: Iterator[bool]) -> list[memoryview]:
    """Return runs of the packets of a tile-part that are kept; takes as many of `kept` as it has packets."""
    runs, begin, position = [], part.start, part.start
    for length in part.lengths:
        if not next(kept):
            runs.append(data[begin:position])
            begin = position + length
        position += length
    return [*runs, data[begin:position]]


def _reduced_header(header: bytes) -> bytes:
    pieces, position = [header[:2]], 2
    while position < len(header):
        marker, length = struct.unpack_from(">HH", header, position)
        body = _reduced_segment(marker, header[position + 4 : position + 2 + length])
        pieces += [struct.pack(">HH", marker, len(body) + 2), body]
        position += 2 + length
    return b"".join(pieces)


def _reduced_segment(marker: int, body: bytes) -> bytes:
    if marker == Marker.SIZ:
        return body[:2] + struct.pack(">8I", *map(half, struct.unpack_from(">8I", body, 2))) + body[34:]
    if marker in (Marker.COD, Marker.COC):
        style_at, at = (0, 5) if marker == Marker.COD else (1, 2)
        precincts = body[at + 5 : -1] if body[style_at] & 1 else b""
        return body[:at] + bytes([body[at] - 1]) + body[at + 1 : at + 5] + precincts
    if marker in (Marker.QCD, Marker.QCC):
        style = body[0 if marker == Marker.QCD else 1] & 0x1F
        dropped = _BANDS_OF_A_RESOLUTION * STEP_BYTES.get(style, 0)
        return body[: len(body) - dropped]
    return body
