"""What is read after a verification are the bytes that were verified, whatever happens on their way."""

from __future__ import annotations

import random
from contextlib import aclosing
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappamask_stream.errors import StoreChangedError
from kappamask_stream.sources.verified import BLOCK_BYTES, VerifiedSource, block_checksums

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping

SIZE = 3 * BLOCK_BYTES + 1234
DATA = random.Random(3).randbytes(SIZE)


class Flipping:
    """A source of one file, in the pieces that are asked for, that flips a bit of so many answers.

    Attributes
    ----------
    flips : answers whose last byte is flipped, from now on.
    asked : ranges.
    """

    label, coalesce_bytes = "s3://bucket/X.SAFE", 1 << 20

    def __init__(self, data: bytes = DATA, *, flips: int = 0, pieces: int = 1000) -> None:
        self.data, self.flips, self.asked, self._pieces = data, flips, list[tuple[int, int]](), pieces

    async def files(self) -> Mapping[str, int]:
        return MappingProxyType({"band.jp2": len(self.data), "other.xml": len(self.data)})

    async def read(self, path: str, start: int, length: int) -> bytes:
        self.asked.append((start, length))
        data = self.data[start : start + length]
        if not self.flips or not data:
            return data
        self.flips -= 1
        return data[:-1] + bytes([data[-1] ^ 1])

    async def stream(self, path: str, start: int, length: int) -> AsyncIterator[bytes]:
        data = await self.read(path, start, length)
        for at in range(0, length, self._pieces):
            yield data[at : at + self._pieces]

    async def read_all(self, path: str, *, limit: int) -> bytes:
        return await self.read(path, 0, len(self.data))

    async def aclose(self) -> None:
        pass


def verified(source: Flipping) -> VerifiedSource:
    return VerifiedSource(cast("Any", source), {"band.jp2": block_checksums(DATA)})


async def streamed(source: VerifiedSource, path: str, start: int, length: int) -> bytes:
    async with aclosing(cast("AsyncGenerator[bytes, None]", source.stream(path, start, length))) as pieces:
        return b"".join([piece async for piece in pieces])


@given(
    start=st.integers(0, SIZE), length=st.integers(0, SIZE), flips=st.integers(0, 2), pieces=st.integers(1000, 40_000)
)
async def test_every_range_is_as_it_was(start: int, length: int, flips: int, pieces: int) -> None:
    length = min(length, SIZE - start)
    expected = DATA[start : start + length]
    assert await verified(Flipping(flips=flips, pieces=pieces)).read("band.jp2", start, length) == expected
    assert await streamed(verified(Flipping(flips=flips, pieces=pieces)), "band.jp2", start, length) == expected


@pytest.mark.parametrize("flips", [0, 1, 2])
async def test_a_whole_file_is_as_it_was(flips: int) -> None:
    assert await verified(Flipping(flips=flips)).read_all("./band.jp2", limit=10**6) == DATA


async def test_only_the_block_that_is_wrong_is_read_again() -> None:
    source = Flipping(flips=1)
    assert await verified(source).read("band.jp2", 100, 2 * BLOCK_BYTES) == DATA[100 : 100 + 2 * BLOCK_BYTES]
    assert source.asked == [(0, 3 * BLOCK_BYTES), (2 * BLOCK_BYTES, BLOCK_BYTES)]


@pytest.mark.parametrize("how", ["read", "stream", "read_all"])
async def test_what_stays_wrong_is_refused(how: str) -> None:
    """A file that was changed without a change of its size, or a way that damages each time."""
    changed = bytearray(DATA)
    changed[BLOCK_BYTES + 5] ^= 1
    source = verified(Flipping(bytes(changed)))
    reading = {
        "read": lambda: source.read("band.jp2", BLOCK_BYTES + 100, 10),
        "stream": lambda: streamed(source, "band.jp2", BLOCK_BYTES + 100, 10),
        "read_all": lambda: source.read_all("band.jp2", limit=10**6),
    }[how]
    end = 2 * BLOCK_BYTES
    with pytest.raises(
        StoreChangedError, match=rf"^s3://bucket/X\.SAFE/band\.jp2: bytes {BLOCK_BYTES} to {end} are not"
    ):
        await reading()
    assert await source.read("band.jp2", 5, 10) == DATA[5:15], "other blocks are as they were"


@pytest.mark.parametrize("size", [SIZE - 2000, SIZE + 2000])
async def test_another_size_is_refused(size: int) -> None:
    longer = (DATA + bytes(5000))[:size]
    source = verified(Flipping(longer))
    with pytest.raises(StoreChangedError):
        await source.read_all("band.jp2", limit=10**6)
    with pytest.raises(StoreChangedError):
        await source.read("band.jp2", size - 10, 10)


async def test_what_nobody_vouches_for_is_read_as_it_comes() -> None:
    source = Flipping(flips=3)
    ours = verified(source)
    flipped = DATA[7:99] + bytes([DATA[99] ^ 1])
    assert await ours.read("other.xml", 7, 93) == flipped
    assert await streamed(ours, "other.xml", 7, 93) == flipped
    assert (await ours.read_all("other.xml", limit=10**6))[:-1] == DATA[:-1]
    assert source.asked == [(7, 93), (7, 93), (0, SIZE)]
