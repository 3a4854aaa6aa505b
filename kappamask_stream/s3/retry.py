"""Which attempts are worth another one, when, and how often."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, TypeVar

from kappamask_stream.errors import StoreCredentialsError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

T = TypeVar("T")

#: Bytes further than before that make an attempt a success, after which failures are counted anew.
_GAIN = 256 * 1024


class TryLaterError(Exception):
    """An attempt failed in a way that the next one may not.

    Attributes
    ----------
    overloaded : the store asks for fewer requests: only time counts, not attempts.
    retry_after_s : seconds that the store asks to wait; None where it does not say.
    dripped_bytes : that came, but too slowly: they are kept, and are no gain.
    """

    def __init__(
        self,
        message: str,
        *,
        overloaded: bool = False,
        retry_after_s: float | None = None,
        dripped_bytes: int = 0,
    ) -> None:
        super().__init__(message)
        self.overloaded, self.retry_after_s, self.dripped_bytes = overloaded, retry_after_s, dripped_bytes

    @property
    def cause(self) -> str:
        """A word that retries are counted by; ``SlowDown`` is what S3 calls it."""
        return "SlowDown" if self.overloaded else StoreUnavailableError.__name__


class ExpiredError(Exception):
    """The credentials, or a signature made with them, are not accepted any more.

    Attributes
    ----------
    cause : a word that retries are counted by.
    """

    cause = "ExpiredCredentials"


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a store that fails is tried again.

    Attributes
    ----------
    attempts : that fail without getting further, before it is given up.
    wait_s : seconds without getting further; the only limit while the store asks for fewer requests.
    backoff_s, backoff_max_s : first and longest pause; pauses double, each is drawn from [half, whole].
    connect_s, read_s : seconds without a connection, seconds without a byte, that fail an attempt. So do twice `read_s`
        in which fewer bytes come than `pace.LEAST_RATE` says.
    """

    attempts: int = 7
    wait_s: float = 120.0
    backoff_s: float = 0.2
    backoff_max_s: float = 20.0
    connect_s: float = 15.0
    read_s: float = 30.0
    rng: random.Random = field(default_factory=random.Random, compare=False, repr=False)

    def pause_s(self, failures: int) -> float:
        """Return seconds to wait after so many failures in a row (1, 2, ...), with jitter."""
        whole = min(self.backoff_max_s, self.backoff_s * 2.0 ** min(failures - 1, 16))
        return whole * self.rng.uniform(0.5, 1.0)


def retry_after_s(header: str | None, date: str | None) -> float | None:
    """Read a Retry-After header, seconds or a date (RFC 9110, 10.2.3); None where it is neither.

    Parameters
    ----------
    date : the header Date of the same answer, which the other date counts from: this machine's clock may be another.
    """
    if not header:
        return None
    if header.isascii() and header.isdigit():
        return float(header)
    try:
        until = parsedate_to_datetime(header)
    except ValueError:
        return None
    try:
        now = parsedate_to_datetime(date or "")
    except ValueError:
        now = datetime.now(UTC)
    return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - now.replace(tzinfo=now.tzinfo or UTC)).total_seconds())


async def _nothing_to_renew() -> None:
    """Stand for credentials where there are none."""


async def persist(
    attempt: Callable[[], Awaitable[T]],
    *,
    what: str,
    patience: Patience,
    renew: Callable[[], Awaitable[None]] = _nothing_to_renew,
    reached: Callable[[], int] = lambda: 0,
    slot: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
    on_retry: Callable[[str, str], None] = lambda _cause, _text: None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> T:
    """Call `attempt` until it succeeds or the patience ends.

    Parameters
    ----------
    attempt : raises `TryLaterError` or `ExpiredError` where another one may succeed.
    what : names the object, for messages.
    renew : gets new credentials; called once, and once more after a gain.
    reached : bytes that are there; getting further gives new patience, but not at a drip's pace.
    slot : held by each attempt. Waiting for it uses up no patience: that is our own queue, not the store's failure.
    on_retry : told the cause (see `TryLaterError.cause`, `ExpiredError.cause`), and in words, of each attempt that
        failed and is followed by another.

    Raises
    ------
    StoreUnavailableError
        When the patience ends, or credentials cannot be renewed for the moment.
    StoreCredentialsError
        If renewed credentials are refused as well.
    """
    failures, renewed, furthest, since = 0, False, reached(), clock()
    while True:
        queued = clock()
        try:
            async with slot():
                since += clock() - queued
                return await attempt()
        except ExpiredError as error:
            if renewed and reached() < furthest + _GAIN:
                raise StoreCredentialsError(f"{what}: {error}, also after they were read anew: log in again") from error
            renewed, furthest = True, reached()
            on_retry(error.cause, f"{what}: {error}; they are read anew")
            try:
                await renew()
            except (TryLaterError, ExpiredError) as refused:
                raise StoreUnavailableError(f"{what}: new credentials cannot be had: {refused}") from refused
        except TryLaterError as error:
            furthest += error.dripped_bytes
            if reached() >= furthest + _GAIN:
                failures, furthest, since = 0, reached(), clock()
            failures += 1
            pause = max(patience.pause_s(failures), error.retry_after_s or 0.0)
            waited = clock() - since
            if waited + pause > patience.wait_s or (failures >= patience.attempts and not error.overloaded):
                raise StoreUnavailableError(
                    f"{what}: {error}; given up after {failures} attempts in {waited:.0f} s: try again later"
                ) from error
            text = f"{what}: {error}; attempt {failures} failed, the next one comes in {pause:.1f} s"
            on_retry(error.cause, text)
            await sleep(pause)
