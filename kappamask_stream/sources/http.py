"""Files on HTTP(S) servers, read at random: ranges of one version of a file, resumed where a connection breaks off."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Self, TypeVar

import aiohttp
from aiohttp import hdrs

from kappamask_stream.errors import ProductError, StoreError
from kappamask_stream.s3.limits import RequestLimits
from kappamask_stream.s3.pace import WHOLE_READS, Pieces, answer_to
from kappamask_stream.s3.retry import Patience, TryLaterError, persist
from kappamask_stream.s3.segments import in_segments
from kappamask_stream.sources.hrefs import shown_url
from kappamask_stream.sources.http_answers import Pin, check_range, failure_of, pin_of, refuse_status
from kappamask_stream.sources.http_guard import guard
from kappamask_stream.sources.reach import ReachConnector, Visit, is_too_far, no_further, on_visit

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping

    from multidict import istr

    from kappamask_stream.sources.hrefs import MayRead
    from kappamask_stream.sources.reach import Space

T = TypeVar("T")

#: Asked for when a file's size is: holds the header of a COG and of a JPEG 2000 file.
_HEAD_BYTES = 16 * 1024


class HttpStore:
    """One pool of connections for all HTTP reads of a process; proxies are taken from the environment.

    Parameters
    ----------
    connections : requests at once.
    patience : how long a server that fails is tried again.
    on_retry : as `retry.persist` calls it.
    """

    def __init__(
        self,
        *,
        connections: int = 16,
        patience: Patience | None = None,
        on_retry: Callable[[str, str], None] = lambda _cause, _text: None,
    ) -> None:
        self.patience = patience or Patience()
        self._limits = RequestLimits(connections)
        self._on_retry = on_retry
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"<HttpStore, {self._limits!r}, {'open' if self._session else 'not in use'}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    @property
    def session(self) -> aiohttp.ClientSession:
        """The pool; made at its first use, in the loop that uses it."""
        if self._session is None:
            patience = self.patience
            self._session = aiohttp.ClientSession(
                connector=ReachConnector(limit=self._limits.connections),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=patience.connect_s, sock_read=patience.read_s),
                trust_env=True,
                # Lengths and ranges count the bytes on the wire.
                auto_decompress=False,
                headers={hdrs.ACCEPT_ENCODING: "identity"},
            )
        return self._session

    async def persist(
        self, attempt: Callable[[], Awaitable[T]], shown: str, reached: Callable[[], int] = lambda: 0
    ) -> T:
        """Try again while it is worth it: see `retry.persist`. Each attempt holds one of the connections."""

        async def attempt_in_words() -> T:
            try:
                return await attempt()
            except (aiohttp.ClientError, TimeoutError) as error:
                if is_too_far(error):
                    raise no_further(shown) from error
                raise failure_of(error, shown) from error

        return await persist(
            attempt_in_words,
            what=shown,
            patience=self.patience,
            reached=reached,
            slot=self._limits.slot,
            on_retry=self._on_retry,
        )

    def blob(self, url: str, may_read: MayRead | None = None, reach: Space | None = None) -> HttpBlob:
        """Return a file to be read at random; nothing is asked yet.

        Parameters
        ----------
        may_read : asked for the URL, and for those that it is redirected to.
        reach : how far inside the URL, and those that it is redirected to, may lead; None: anywhere.
        """
        return HttpBlob(url, self, may_read, reach)

    async def fetch(
        self, url: str, *, limit: int, may_read: MayRead | None = None, visit: Visit | None = None
    ) -> tuple[bytes, str]:
        """Return a whole small document, and the URL that it came from after redirects.

        For answers made on demand, too: no ranges, and no length, are needed.

        Parameters
        ----------
        may_read : asked for the URL, and for those that it is redirected to.
        visit : how far it may lead; afterwards where it has led.

        Raises
        ------
        ProductError
            If it is not there, longer than `limit` bytes, or may not be read.
        StoreError
            If the server refuses, or cannot be reached.
        """
        shown = shown_url(url)

        async def attempt() -> tuple[bytes, str, Visit | None]:
            now = None if visit is None else replace(visit)
            with on_visit(now):
                async with (
                    # Where all of it is expected at once, that it comes at all is not enough.
                    asyncio.timeout(WHOLE_READS * self.patience.read_s),
                    self.session.get(url, middlewares=guard(may_read, shown)) as answer,
                ):
                    refuse_status(answer, shown)
                    data = bytearray()
                    async for piece in Pieces(answer, self.patience):
                        data += piece
                        if len(data) > limit:
                            raise ProductError(f"{shown} is longer than {limit} bytes: it is not what is expected")
                    return bytes(data), str(answer.url), now

        data, place, led = await self.persist(attempt, shown)
        if visit is not None and led is not None:
            visit.space = led.space
        return data, place

    async def aclose(self) -> None:
        """Close the connections; may be called again."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()


class HttpBlob:
    """One file on an HTTP server, read in ranges.

    The version that is met first is the one that is read: bytes of another are never put beside it.

    State: size, version and first bytes, once they are known. Connections are the store's.
    """

    coalesce_bytes = 4 << 20

    def __init__(self, url: str, store: HttpStore, may_read: MayRead | None = None, reach: Space | None = None) -> None:
        self.label = shown_url(url)
        self._url, self._store, self._middlewares, self._reach = url, store, guard(may_read, self.label), reach
        self._pin: Pin | None = None
        self._head = b""
        self._opening = asyncio.Lock()

    def __repr__(self) -> str:
        size = "not asked for yet" if self._pin is None else f"{self._pin.size} bytes"
        return f"<HttpBlob {self.label}, {size}>"

    async def size(self) -> int:
        """Return the file's size in bytes.

        Raises
        ------
        ProductError
            If it is not there.
        StoreError
            If the server refuses, cannot be reached, or does not say how long the file is.
        """
        return (await self._known()).size

    async def read(self, start: int, length: int) -> bytes:
        """Return exactly `length` bytes from byte `start` on.

        Raises
        ------
        ProductError
            If the file is not there, or ends before.
        StoreError
            If the server refuses, cannot be reached, knows no ranges, or has replaced the file.
        """
        pin = await self._holding(start, length)
        pieces: list[bytes] = []
        await self._fetch(pin, start, length, pieces.append)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def stream(self, start: int, length: int) -> AsyncGenerator[bytes]:
        """Yield the same bytes in pieces, each as soon as it is there; raises as `read` does.

        At most `coalesce_bytes` wait in memory for who takes them.
        """
        pin = await self._holding(start, length)
        async with aclosing(in_segments(partial(self._fetch, pin), start, length, self.coalesce_bytes)) as pieces:
            async for piece in pieces:
                yield piece

    async def aclose(self) -> None:
        """Give back what the blob holds: its first bytes."""
        self._head = b""

    async def _known(self) -> Pin:
        """Return size and version; the first time they are asked for, together with the first bytes."""
        async with self._opening:
            if self._pin is not None:
                return self._pin
            self._head, pin = await self._store.persist(self._first, self.label)
            self._pin = pin
            return pin

    async def _holding(self, start: int, length: int) -> Pin:
        """Return the version that is read, if it has these bytes."""
        pin, end = await self._known(), start + length
        if not 0 <= start <= end <= pin.size:
            raise ProductError(
                f"{self.label} has {pin.size} bytes, bytes {start} to {end} are needed: it is truncated, fetch it again"
            )
        return pin

    async def _first(self) -> tuple[bytes, Pin]:
        headers = {hdrs.RANGE: f"bytes=0-{_HEAD_BYTES - 1}"}
        async with self._asked(headers) as answer:
            pin = pin_of(answer, self.label, _HEAD_BYTES)
            wanted = min(pin.size, _HEAD_BYTES)
            head = bytearray()
            if wanted:
                async for piece in Pieces(answer, self._store.patience):
                    head += piece
                    if len(head) >= wanted:
                        break
            if len(head) < wanted:
                raise TryLaterError(f"the answer ended at {len(head)} of {wanted} bytes")
            return bytes(head[:wanted]), pin

    @asynccontextmanager
    async def _asked(self, headers: Mapping[istr, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        visit = None if self._reach is None else Visit(space=self._reach)
        with on_visit(visit):
            get = self._store.session.get(self._url, headers=headers, middlewares=self._middlewares)
            async with answer_to(get, self._store.patience) as answer:
                yield answer

    async def _fetch(self, pin: Pin, start: int, length: int, put: Callable[[bytes], None]) -> None:
        """Give `put` the bytes of a range of the pinned version, in order, each exactly once."""
        end = start + length
        if start < min(end, len(self._head)):
            put(self._head[start:end])
            start = min(end, len(self._head))
        if start == end:
            return
        if not pin.has_ranges:
            raise StoreError(
                f"{self.label}: the server gives whole files only ({pin.size} bytes), bytes {start} to {end} are "
                "needed: download the product, or take it from a server that answers ranged requests"
            )
        reached = start

        async def attempt() -> None:
            nonlocal reached
            headers = {hdrs.RANGE: f"bytes={reached}-{end - 1}"}
            if pin.validator:
                headers[hdrs.IF_RANGE] = pin.validator
            async with self._asked(headers) as answer:
                check_range(answer, pin, self.label, reached, end)
                async for piece in Pieces(answer, self._store.patience):
                    if reached + len(piece) > end:
                        raise TryLaterError(f"the server sent more than bytes {start} to {end}")
                    reached += len(piece)
                    put(piece)
            if reached < end:
                raise TryLaterError(f"the answer ended at byte {reached} of {end}")

        await self._store.persist(attempt, self.label, lambda: reached)
