"""Downloading one file over HTTP into a `PartFile`: continued where it broke off, never glued from two versions."""

from __future__ import annotations

import asyncio
import re
import struct
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import hdrs
from yarl import URL

from kappamask_stream.errors import InputError
from kappamask_stream.weights.part import Pin

if TYPE_CHECKING:
    from collections.abc import Callable

    from kappamask_stream.weights.part import PartFile

    #: Bytes that are there, bytes of the whole file (None where the server does not say).
    OnProgress = Callable[[int, int | None], None]

#: As the server's build allows; the largest published file has 124 MB.
MAX_BYTES = 1 << 30
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
#: Superblocks of HDF5 by version: where the address of the end of the file stands (format specification, II.A).
_END_AT = {0: 40, 1: 44, 2: 28, 3: 28}
_HEAD, _ADDRESS = 64, 8
_CHUNK = 256 * 1024
#: Bytes further than ever before that make an attempt a success, after which failures are counted anew.
_GAIN = 1 << 20
_RANGE = re.compile(r"bytes (?P<first>\d{1,18})-(?P<last>\d{1,18})/(?P<total>\d{1,18}|\*)", re.ASCII)
_LATER = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
_FINAL = (aiohttp.InvalidURL, aiohttp.TooManyRedirects, aiohttp.ClientConnectorCertificateError)
_REMEDY = (
    "try again later (what is there is kept), name a mirror with --url or KAPPAMASK_WEIGHTS_URL, give a file that you "
    "have with --weights, or take --model csmask"
)


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a server is waited for.

    Attributes
    ----------
    attempts : that fail without getting further, before it is given up.
    pause_s : before the second attempt; each later pause is twice as long.
    connect_s, read_s : without a connection, without a byte.
    """

    attempts: int = 5
    pause_s: float = 0.5
    connect_s: float = 15.0
    read_s: float = 30.0


class _BrokenOffError(Exception):
    """An attempt failed in a way that the next one may not."""


async def download(url: str, part: PartFile, on_progress: OnProgress, patience: Patience) -> Pin:
    """Get what is missing of a file; returns which version it is.

    Proxies are taken from the environment (``HTTP_PROXY``, ``HTTPS_PROXY``, ``NO_PROXY``).

    Raises
    ------
    InputError
        If the server has no such file or gives it up, or the file is no HDF5, empty, cut short or over 1 GiB.
    OutputError
        If it cannot be written. The bytes that are there stay, for the next attempt.
    """
    shown = shown_url(url)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=patience.connect_s, sock_read=patience.read_s)
    # Not decompressed: lengths and ranges count the bytes on the wire.
    async with aiohttp.ClientSession(timeout=timeout, trust_env=True, auto_decompress=False) as session:
        failures, furthest = 0, part.size
        while True:
            try:
                return await _attempt(session, url, part, on_progress)
            except _BrokenOffError as error:
                failures = 1 if part.size >= furthest + _GAIN else failures + 1
                furthest = max(furthest, part.size)
                if failures >= patience.attempts:
                    raise InputError(
                        f"{shown} cannot be fetched, given up at {part.size} bytes{_of_total(part)} after {failures} "
                        f"attempts: {error}: {_REMEDY}"
                    ) from error
            except _FINAL as error:
                raise InputError(f"{shown} cannot be fetched: {_said(error)}: {_REMEDY}") from error
            await asyncio.sleep(patience.pause_s * 2 ** (failures - 1))


def shown_url(url: str) -> str:
    """Return a URL without user and password, as it may be shown and recorded."""
    try:
        return str(URL(url).with_user(None))
    except ValueError:  # which aiohttp refuses, too
        return url.rpartition("@")[2]


async def _attempt(session: aiohttp.ClientSession, url: str, part: PartFile, on_progress: OnProgress) -> Pin:
    """Ask once, for the rest where it can be asked for, and write what comes."""
    pin, shown = part.pin, shown_url(url)
    start = part.size if pin and pin.url == shown and pin.validator else 0
    if pin and start and start == pin.total:  # complete, and then killed
        return _whole(part, pin, shown)
    headers = {hdrs.ACCEPT_ENCODING: "identity"}
    if pin and pin.validator and start:
        headers |= {hdrs.RANGE: f"bytes={start}-", hdrs.IF_RANGE: pin.validator}
    try:
        async with session.get(url, headers=headers) as answer:
            pin = _accept(answer, part, shown, start)
            is_hdf5 = part.size > 0
            on_progress(part.size, pin.total)
            async for data in answer.content.iter_chunked(_CHUNK):
                await part.append(data)
                if part.size > MAX_BYTES:
                    raise _refuse(part, f"{shown} is longer than {MAX_BYTES} bytes: no weights file is so large")
                if not is_hdf5 and part.size >= len(_SIGNATURE):
                    _require_hdf5(part, shown, asked_for_a_range=start > 0)
                    is_hdf5 = True
                on_progress(part.size, pin.total)
    except _FINAL:
        raise
    except (aiohttp.ClientError, TimeoutError) as error:
        raise _BrokenOffError(_said(error)) from error
    _require_hdf5(part, shown, asked_for_a_range=start > 0)
    return _whole(part, pin, shown)


def _accept(answer: aiohttp.ClientResponse, part: PartFile, shown: str, start: int) -> Pin:
    """Decide from status and headers what the body is: the rest, the whole, or not wanted; returns its version."""
    status = answer.status
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _LATER:
        raise _BrokenOffError(f"the server answers {status} {answer.reason}")
    if start and status == HTTPStatus.PARTIAL_CONTENT and part.pin:
        return _accept_rest(answer, part, part.pin, start)
    if start and status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        part.clear()
        raise _BrokenOffError(f"the server answers {status} {answer.reason} to the request for bytes {start} and on")
    if status != HTTPStatus.OK:
        raise InputError(
            f"{shown}: the server answers {status} {answer.reason}; is the file there? Name another folder with --url "
            "or KAPPAMASK_WEIGHTS_URL, give a file that you have with --weights, or take --model csmask"
        )
    pin = Pin(
        url=shown,
        validator=_validator(answer),
        etag=answer.headers.get(hdrs.ETAG),
        total=answer.content_length,
    )
    _limit(part, pin, shown)
    part.begin(pin)
    return pin


def _accept_rest(answer: aiohttp.ClientResponse, part: PartFile, pin: Pin, start: int) -> Pin:
    """Check that a partial answer goes on exactly where the file ends, in the very same version."""
    said = answer.headers.get(hdrs.CONTENT_RANGE, "")
    found = _RANGE.fullmatch(said)
    total = int(found["total"]) if found and found["total"] != "*" else pin.total
    if (
        found is None
        or int(found["first"]) != start
        or (pin.total is not None and total != pin.total)
        or answer.headers.get(hdrs.ETAG, pin.etag) != pin.etag
    ):
        part.clear()
        shown = said[:60] or "no range"
        raise _BrokenOffError(f"the server answers the request for bytes {start} and on with {shown!r}")
    if total != pin.total:
        pin = replace(pin, total=total)
        _limit(part, pin, pin.url)
        part.repin(pin)
    return pin


def _validator(answer: aiohttp.ClientResponse) -> str | None:
    """Return what may stand in If-Range (RFC 9110, 13.1.5): a strong ETag; without any, a date that is strong."""
    etag, modified = answer.headers.get(hdrs.ETAG), answer.headers.get(hdrs.LAST_MODIFIED)
    if etag is not None:
        return None if etag.startswith("W/") else etag
    try:
        age = parsedate_to_datetime(answer.headers[hdrs.DATE]) - parsedate_to_datetime(modified or "")
    except (KeyError, ValueError, TypeError):
        return None
    return modified if age.total_seconds() >= 1 else None


def _limit(part: PartFile, pin: Pin, shown: str) -> None:
    if pin.total is not None and pin.total > MAX_BYTES:
        raise _refuse(part, f"{shown} has {pin.total} bytes, weights files have at most {MAX_BYTES}")


def _require_hdf5(part: PartFile, shown: str, *, asked_for_a_range: bool) -> None:
    """Refuse what does not begin like HDF5: an empty answer, the page of a portal, a compressed file."""
    head = part.head(_HEAD)
    if head.startswith(_SIGNATURE):
        return
    if asked_for_a_range:  # some stores answer it with status 200 and the rest, which looks like a whole file
        part.clear()
        raise _BrokenOffError("the server answered the request for a range with something that is no HDF5")
    begins = f"begins with {head[:40]!r}" if head else "is empty"
    raise _refuse(part, f"{shown} is no HDF5 file, it {begins}; does a proxy or a portal answer for the server?")


def _whole(part: PartFile, pin: Pin, shown: str) -> Pin:
    """Compare the length with what the server and the file itself say."""
    if pin.total is not None and part.size < pin.total:
        raise _BrokenOffError(f"the answer ended at {part.size} of {pin.total} bytes")
    if pin.total is not None and part.size > pin.total:
        part.clear()
        raise _BrokenOffError(f"the server sent more than the {pin.total} bytes that it announced")
    end = _own_end(part.head(_HEAD))
    if end is not None and part.size < end:
        if pin.total is None:  # without a length, a broken connection looks like the end
            raise _BrokenOffError(f"the answer ended at {part.size} bytes, the file says that it has {end}")
        raise _refuse(part, f"{shown} is cut short: the server has {part.size} bytes, the file says that it has {end}")
    return pin


def _own_end(head: bytes) -> int | None:
    """Return the length that an HDF5 file says it has; None where its superblock is of an unknown kind."""
    if len(head) < _HEAD:  # less than the shortest superblock and one object
        return _HEAD
    version = head[8]
    if version not in _END_AT or head[13 if version < 2 else 9] != _ADDRESS:  # noqa: PLR2004 - layout changed in 2
        return None
    (end,) = struct.unpack_from("<Q", head, _END_AT[version])
    return int(end)


def _refuse(part: PartFile, message: str) -> InputError:
    part.discard()
    return InputError(message)


def _of_total(part: PartFile) -> str:
    return f" of {part.pin.total}" if part.pin and part.pin.total is not None else ""


def _said(error: BaseException) -> str:
    """Put aiohttp's errors into words: some of them have none."""
    if isinstance(error, TimeoutError):
        return "the server does not answer in time"
    if isinstance(error, aiohttp.ClientResponseError):  # whose text holds the URL with its password
        return f"{error.status} {error.message}"
    return str(error) or type(error).__name__
