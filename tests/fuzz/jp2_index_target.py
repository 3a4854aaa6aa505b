"""JPEG 2000 files: boxes, main header, and where each tile's bytes are: `kappamask_stream.jp2.codestream`."""

from __future__ import annotations

from kappamask_stream.errors import CodestreamError
from kappamask_stream.jp2.codestream import CodestreamIndex, index_steps
from tests.fuzz.in_memory import indexed_in
from tests.fuzz.jp2_files import LONGEST, files, large_files

_NAME = "fuzzed.jp2"

__all__ = ["LONGEST", "large", "one_input", "seeds"]


def seeds() -> list[bytes]:
    """Return files of every layout."""
    return files()


def large() -> dict[str, bytes]:
    """Return files near the limits."""
    return large_files()


def one_input(data: bytes) -> None:
    """Index a file, as a whole and for its first tile."""
    whole = indexed(data)
    if whole is None:
        if not len(data) % 4:
            indexed(data, partly=True)  # what is behind the first tile does not matter then
        return
    partly = indexed(data, partly=True)
    assert partly is not None, "what can be indexed as a whole cannot in part"
    _check(data, whole)
    # What makes a file one to be decoded whole may stand behind its first tile.
    assert whole.plain_reason or partly.tiles[0] == whole.tiles[0]


def indexed(data: bytes, *, partly: bool = False) -> CodestreamIndex | None:
    """Return the index of a file in memory, None where it is refused."""
    try:
        return indexed_in(data, index_steps(_NAME, len(data), (lambda _: (0,)) if partly else None))
    except CodestreamError as error:
        said = str(error)
    assert said.startswith(f"{_NAME}: "), "the file is not named"
    remedies = ("fetch it again", "give a single-band file", "this layout is not read")
    assert said.endswith(remedies), "there is no remedy"
    return None


def _check(data: bytes, index: CodestreamIndex) -> None:
    start, length = index.codestream
    assert data[start : start + len(index.main_header)] == index.main_header
    assert sum(tile.window.height * tile.window.width for tile in index.tiles) == index.height * index.width
    total = len(index.main_header)
    for number, tile in enumerate(index.tiles):
        assert tile.index == number
        assert tile.parts
        for offset, size in tile.parts:
            assert start <= offset < offset + size <= start + length
            total += size
    if index.plain_reason is None:
        # The chain has no gap: to the end marker, behind which there may be anything.
        assert data[start + total : start + total + 2] == b"\xff\xd9"
