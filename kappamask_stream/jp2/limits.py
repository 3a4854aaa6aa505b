"""What the headers of a JPEG 2000 file may ask for, and what decoding it takes.

Every limit here is far beyond what Sentinel-2 needs; it keeps a damaged or hostile header from taking the machine's
memory. What decoding takes within them is held against the budget (`DecodePlan.required_bytes`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kappamask_stream.errors import CodestreamError

if TYPE_CHECKING:
    from kappamask_stream.grid import Window
    from kappamask_stream.jp2.markers import Coding

_MOST_PIXELS = 2**31
_MOST_PIXELS_AT_ONCE = 2**28
#: Of one band: tiles of 64 pixels in a 10 m band are 29,584. What a product's take is counted (`PieceAccount`).
_MOST_TILES = 2**15
#: Coded data of 16 bits have two bytes a pixel, and packet headers; beside them are a tile's header segments.
_MOST_BYTES_PER_PIXEL, _CODED_SLACK_BYTES = 8, 2**22
#: In a header: TLM, PPM, PLM and PLT may each be 256.
_MOST_SEGMENTS = 2**11
_MOST_BLOCKS = 2**21
_MOST_PACKETS = 2**24
#: Measured with OpenJPEG 2.5: its 32-bit samples, and its book-keeping per code-block or precinct, and per packet.
_BYTES_PER_SAMPLE, _BYTES_PER_BLOCK, _BYTES_PER_PACKET = 4, 600, 2


def check_image(name: str, pixels: int, tiles: int) -> None:
    """Refuse an image of more pixels or codestream tiles than are read.

    Raises
    ------
    CodestreamError
        If it has so many.
    """
    _at_most(name, pixels, _MOST_PIXELS, "pixels")
    _at_most(name, tiles, _MOST_TILES, "codestream tiles")


def check_cost(name: str, coding: Coding, height: int, width: int) -> int:
    """Return the bytes that decoding a tile of this size takes at most, beside its bytes and its pixels.

    Raises
    ------
    CodestreamError
        If that is beyond any reason.
    """
    samples = check_pixels(name, height, width)
    blocks, precincts = coding.blocks_and_precincts(height, width)
    _at_most(name, blocks + precincts, _MOST_BLOCKS, "code-blocks and precincts in one codestream tile")
    _at_most(name, coding.layers * precincts, _MOST_PACKETS, "packets in one codestream tile")
    packets = coding.layers * precincts
    return samples + (blocks + precincts) * _BYTES_PER_BLOCK + packets * _BYTES_PER_PACKET


def check_pixels(name: str, height: int, width: int) -> int:
    """Return the bytes of a decoder's samples for this many pixels.

    Raises
    ------
    CodestreamError
        If more are to be decoded at once than is reasonable.
    """
    _at_most(name, height * width, _MOST_PIXELS_AT_ONCE, "pixels to be decoded at once")
    return height * width * _BYTES_PER_SAMPLE


def check_coded(name: str, tile: int, nbytes: int, window: Window) -> None:
    """Refuse a tile with more bytes than its pixels can be coded to: they are read before any of them is decoded.

    Raises
    ------
    CodestreamError
        If it says so many.
    """
    most = window.height * window.width * _MOST_BYTES_PER_PIXEL + _CODED_SLACK_BYTES
    if nbytes > most:
        raise damaged(
            name,
            f"codestream tile {tile} says {nbytes} bytes for {window.height} x {window.width} pixels, "
            f"at most {most} are read",
        )


def check_segments(name: str, count: int) -> None:
    """Refuse a header of more marker segments than any has: they are read one by one, by us and by the decoder.

    Raises
    ------
    CodestreamError
        If there are so many.
    """
    _at_most(name, count, _MOST_SEGMENTS, "marker segments in one header")


def damaged(name: str, what: str) -> CodestreamError:
    """Return the error of a file that is not as it was written."""
    return CodestreamError(f"{name}: {what}: the file is truncated or corrupt, fetch it again")


def _at_most(name: str, value: int, most: int, what: str) -> None:
    if value > most:
        raise CodestreamError(
            f"{name}: its header announces {value} {what}, at most {most} are read: this layout is not read"
        )
