"""Indexing of a file whose bytes are in memory: what a source would read is cut from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Generator

T = TypeVar("T")


def indexed_in(data: bytes, steps: Generator[tuple[int, int], bytes, T]) -> T:
    """Hand steps the bytes they ask for, offset and length, and return what they make of them; errors pass through."""
    try:
        offset, length = next(steps)
        while True:
            assert 0 <= offset < offset + length <= len(data), "bytes are asked for that are not there"
            offset, length = steps.send(data[offset : offset + length])
    except StopIteration as finished:
        made: T = finished.value
        return made
