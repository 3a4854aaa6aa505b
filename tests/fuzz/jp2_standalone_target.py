"""Stand-alone codestream tiles, whole, thinned and reduced: `kappamask_stream.jp2.standalone` and what stands on it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kappamask_stream.errors import CodestreamError
from kappamask_stream.jp2.origin import framed, moved
from kappamask_stream.jp2.reduced import half, reduced_codestream
from kappamask_stream.jp2.standalone import standalone_codestream
from tests.fuzz.jp2_files import LONGEST, files, large_files
from tests.fuzz.jp2_index_target import indexed

if TYPE_CHECKING:
    from kappamask_stream.jp2.codestream import CodestreamIndex, CodestreamTile

#: Tiles before one that is put into a frame: each of them is written, too.
_MOST_IN_FRAME = 16

__all__ = ["LONGEST", "large", "one_input", "seeds"]


def seeds() -> list[bytes]:
    """Return files of every layout."""
    return files()


def large() -> dict[str, bytes]:
    """Return files near the limits."""
    return large_files()


def one_input(data: bytes) -> None:
    """Index a file and build one of its tiles; decodes nothing."""
    index = indexed(data)
    if index is None:
        return
    tile = index.tiles[len(data) % len(index.tiles)]
    parts = [data[offset : offset + length] for offset, length in tile.parts]
    try:
        _build(index, tile, parts)
        said = index.name
    except CodestreamError as error:
        said = str(error)
    assert index.name in said, "the file is not named"


def _build(index: CodestreamIndex, tile: CodestreamTile, parts: list[bytes]) -> None:
    alone = standalone_codestream(index, tile, parts)
    size = tile.window.height, tile.window.width
    if index.plain_reason is not None:
        assert alone == b"".join(parts)
        return
    again = _alone(alone, size)
    assert sum(length for _, length in again.tiles[0].parts) == sum(map(len, parts))
    needed = replace(tile.window, height=-(-size[0] // 2), width=-(-size[1] // 2))
    thinned = standalone_codestream(index, tile, parts, needed)
    assert len(thinned) <= len(alone)
    _alone(thinned, size)
    reduced = reduced_codestream(alone, index.name)
    if reduced is not None:
        x0, y0 = (int.from_bytes(alone[at : at + 4], "big") for at in (16, 20))
        low = half(y0 + size[0]) - half(y0), half(x0 + size[1]) - half(x0)
        if min(low) > 0:  # `ReducedBand` refuses what leaves nothing
            _alone(reduced, low)
    if tile.index <= _MOST_IN_FRAME:
        _place(alone, size)


def _place(alone: bytes, size: tuple[int, int]) -> None:
    """Move a stand-alone tile to the origin and put it into a frame, as for a GPU; what cannot be goes to the CPU."""
    try:
        at_origin = moved(alone)
        whole, region = framed(alone)
    except CodestreamError as error:
        said = str(error)
        assert said.endswith("decode it on the CPU"), said
        return
    if at_origin is not None:
        _alone(at_origin, size)
    assert (region[2] - region[0], region[3] - region[1]) == size
    assert indexed(whole) is not None, "the frame is no codestream"


def _alone(codestream: bytes, size: tuple[int, int]) -> CodestreamIndex:
    """Index a stand-alone tile with our own parser: it must be one tile of this height and width."""
    index = indexed(codestream)
    assert index is not None, "what is built is refused"
    assert (index.height, index.width, len(index.tiles)) == (*size, 1)
    assert index.plain_reason is None
    return index
