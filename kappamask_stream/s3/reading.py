"""Reading ranges of one version of an object: resumed from the byte reached, never glued from two versions."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from http import HTTPStatus
from typing import TYPE_CHECKING

from kappamask_stream.s3.failures import changed
from kappamask_stream.s3.options import bare_etag
from kappamask_stream.s3.retry import TryLaterError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    import aiohttp

    from kappamask_stream.s3.options import S3Object
    from kappamask_stream.s3.session import S3Session

_CONTENT_RANGE = re.compile(r"bytes (?P<first>\d+)-(?P<last>\d+)/(?P<total>\d+|\*)")


async def fetch(session: S3Session, at: S3Object, start: int, length: int, put: Callable[[bytes], None]) -> None:
    """Give `put` the bytes of a range, in order and as they arrive, each exactly once.

    Raises
    ------
    StoreError
        If the store refuses, or the object is another version than `at`; all that was put before is right.
    StoreUnavailableError
        If it breaks off again and again.
    """
    reached, end = start, start + length

    async def attempt() -> None:
        nonlocal reached
        headers = {"Range": f"bytes={reached}-{end - 1}"}
        if at.etag is not None and not at.etag.startswith("W/"):
            headers["If-Match"] = f'"{at.etag}"'
        async with session.get(at.bucket, at.key, headers) as answer:
            _check(answer, at, reached, end)
            while reached < end:
                piece = await answer.content.readany()
                if not piece:
                    raise TryLaterError(f"the answer ended at byte {reached} of {end}")
                if len(piece) > end - reached:
                    raise TryLaterError(f"more than the {length} bytes that were asked for came")
                reached += len(piece)
                session.received_bytes += len(piece)
                put(piece)

    if length:
        await session.persist(attempt, at.url, lambda: reached)


def _check(answer: aiohttp.ClientResponse, at: S3Object, first: int, end: int) -> None:
    """Check that an answer is the range asked for, of the version asked for.

    Stores differ: rclone sends the right range with status 200 and ignores If-Match. So the length is what counts.
    """
    etag = bare_etag(answer.headers.get("ETag"))
    if at.etag is not None and etag is not None and etag != at.etag:
        raise changed(at.url, f"its ETag was {at.etag}, it is {etag}")
    said = answer.headers.get("Content-Range")
    if said is not None:
        found = _CONTENT_RANGE.fullmatch(said.strip())
        if found is None or (int(found["first"]), int(found["last"])) != (first, end - 1):
            raise TryLaterError(f"asked for bytes {first} to {end - 1}, the store answers {said[:80]!r}")
        if found["total"] not in {"*", str(at.size)}:
            raise changed(at.url, f"it had {at.size} bytes, it has {found['total']}")
    elif answer.status == HTTPStatus.PARTIAL_CONTENT or answer.content_length is None:
        raise TryLaterError("the store does not say which bytes it sends")
    if answer.content_length not in {None, end - first}:
        raise TryLaterError(f"asked for {end - first} bytes, the store announces {answer.content_length}")


async def stream(
    session: S3Session, at: S3Object, start: int, length: int, segment: int
) -> AsyncGenerator[bytes, None]:
    """Yield the bytes of a range as they arrive, in requests of at most `segment` bytes.

    Each request is read to its end into memory, however slowly its bytes are taken: who takes them may be waiting for
    bytes of another object, which would never come if all connections were held by streams that nobody reads on.

    Raises
    ------
    As `fetch` does.
    """
    end = start + length
    for first in range(start, end, segment):
        arrivals = _Arrivals()
        work = asyncio.create_task(fetch(session, at, first, min(segment, end - first), arrivals.put))
        work.add_done_callback(arrivals.wake)
        try:
            while piece := await arrivals.get(work):
                yield piece
            await work  # raises what ended it
        finally:
            work.cancel()
            await asyncio.wait([work])
            if not work.cancelled():
                work.exception()  # mark as seen: who closes early does not ask


class _Arrivals:
    """Pieces between the task that fetches and the consumer; bounded by the segment. State: the pieces."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._news = asyncio.Event()

    def put(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._news.set()

    def wake(self, _: object) -> None:
        self._news.set()

    async def get(self, work: asyncio.Task[None]) -> bytes:
        """Return the next piece; empty once `work` is done and all are taken."""
        while not self._pieces:
            if work.done():
                return b""
            self._news.clear()
            await self._news.wait()
        return self._pieces.popleft()
