"""Which failures of an HTTP server are worth another attempt, when, and what is said of them."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import aiohttp
from yarl import URL

from kappamask_stream.errors import StoreError, StoreUnavailableError
from kappamask_stream.sources.http_answers import BrokenOffError

_FINAL = (aiohttp.InvalidURL, aiohttp.TooManyRedirects, aiohttp.ClientConnectorCertificateError)


@dataclass(frozen=True, kw_only=True)
class HttpPatience:
    """How long a server is waited for.

    Attributes
    ----------
    attempts : that fail without getting further, before it is given up.
    pause_s : before the second attempt; each later pause is twice as long, unless the server says how long.
    longest_pause_s : whatever the server says.
    connect_s, read_s : without a connection, without a byte.
    """

    attempts: int = 5
    pause_s: float = 0.5
    longest_pause_s: float = 60.0
    connect_s: float = 15.0
    read_s: float = 60.0


class Retries:
    """Counts failures in a row and waits between them."""

    def __init__(self, patience: HttpPatience, label: str) -> None:
        self._patience, self._label, self._failures = patience, label, 0

    def begin_anew(self) -> None:
        """Forget failures: the last attempt got further."""
        self._failures = 0

    async def after(self, error: Exception, *, at: int | None = None) -> None:
        """Wait before the next attempt; raises what cannot be mended by one."""
        if isinstance(error, _FINAL):
            raise StoreError(f"{self._label} cannot be read: {_said(error)}: check the URL") from error
        self._failures += 1
        if self._failures >= self._patience.attempts:
            where = "" if at is None else f" at byte {at}"
            raise StoreUnavailableError(
                f"{self._label} cannot be read, given up{where} after {self._failures} attempts: {_said(error)}: "
                "try again later"
            ) from error
        wanted = error.retry_after if isinstance(error, BrokenOffError) else None
        pause = self._patience.pause_s * 2 ** (self._failures - 1) if wanted is None else _seconds(wanted)
        await asyncio.sleep(min(max(pause, 0.0), self._patience.longest_pause_s))


def shown_url(url: str) -> str:
    """Return a URL as it may be shown and recorded: without user, password, and what a query may sign."""
    try:
        return str(URL(url).with_user(None).with_query(None).with_fragment(None))
    except ValueError:  # which aiohttp refuses, too
        return url.rpartition("@")[2].partition("?")[0].partition("#")[0]


def _seconds(retry_after: str) -> float:
    """Return the pause that a Retry-After asks for (RFC 9110, 10.2.3): seconds, or a date; 0 where it is nonsense."""
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        return parsedate_to_datetime(retry_after).timestamp() - time.time()
    except ValueError:
        return 0.0


def _said(error: BaseException) -> str:
    """Put aiohttp's errors into words: some of them have none, and some would show a URL's password."""
    if isinstance(error, TimeoutError):
        return "the server does not answer in time"
    if isinstance(error, aiohttp.InvalidURL):
        return "it is no URL"
    if isinstance(error, aiohttp.ClientResponseError):
        return f"{error.status} {error.message}"
    return str(error) or type(error).__name__
