"""Reading ranges of one version of an object: resumed from the byte reached, never glued from two versions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING

from kappamask_stream.s3.failures import changed
from kappamask_stream.s3.options import bare_etag
from kappamask_stream.s3.pace import Pieces
from kappamask_stream.s3.retry import TryLaterError
from kappamask_stream.s3.segments import in_segments

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    import aiohttp

    from kappamask_stream.s3.options import S3Object
    from kappamask_stream.s3.session import S3Session

_CONTENT_RANGE = re.compile(r"bytes (?P<first>\d{1,18})-(?P<last>\d{1,18})/(?P<total>\d{1,18}|\*)", re.ASCII)


@dataclass(kw_only=True)
class Version:
    """Which version of an object is read, where its listing does not say.

    Attributes
    ----------
    etag : of the first answer; None before it, and where the store gives none.
    """

    etag: str | None = None


async def fetch(
    session: S3Session, at: S3Object, version: Version, start: int, length: int, put: Callable[[bytes], None]
) -> None:
    """Give `put` the bytes of a range, in order and as they arrive, each exactly once.

    Raises
    ------
    StoreError
        If the store refuses, or the object is another version than `at`, or else `version`, says; all that was put
        before is right.
    StoreUnavailableError
        If it breaks off, or drips, again and again.
    """
    reached, end = start, start + length

    async def attempt() -> None:
        nonlocal reached
        headers, etag = {"Range": f"bytes={reached}-{end - 1}"}, at.etag or version.etag
        if etag is not None and not etag.startswith("W/"):
            headers["If-Match"] = f'"{etag}"'
        async with session.get(at.bucket, at.key, headers) as answer:
            _check(answer, at, version, reached, end)
            async for piece in Pieces(answer, session.options.patience):
                if len(piece) > end - reached:
                    raise TryLaterError(f"more than the {length} bytes that were asked for came")
                reached += len(piece)
                session.received_bytes += len(piece)
                put(piece)
                if reached == end:
                    return
            raise TryLaterError(f"the answer ended at byte {reached} of {end}")

    if length:
        await session.persist(attempt, at.url, lambda: reached)


def _check(answer: aiohttp.ClientResponse, at: S3Object, version: Version, first: int, end: int) -> None:
    """Check that an answer is the range asked for, of the version asked for.

    Stores differ: rclone sends the right range with status 200 and ignores If-Match. So the length is what counts.
    """
    etag, expected = bare_etag(answer.headers.get("ETag")), at.etag or version.etag
    if expected is not None and etag is not None and etag != expected:
        raise changed(at.url, f"its ETag was {expected}, it is {etag}")
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
    version.etag = expected or etag


def stream(
    session: S3Session, at: S3Object, version: Version, start: int, length: int, segment: int
) -> AsyncGenerator[bytes, None]:
    """Yield the bytes of a range as they arrive (`in_segments`); raises as `fetch` does."""
    return in_segments(partial(fetch, session, at, version), start, length, segment)
