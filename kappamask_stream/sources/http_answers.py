"""What an HTTP server's answer to a ranged request means (RFC 9110): the bytes asked for, another version, or no."""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus

import aiohttp
from aiohttp import hdrs

from kappamask_stream.errors import (
    ProductError,
    StoreAccessError,
    StoreChangedError,
    StoreCredentialsError,
    StoreError,
)
from kappamask_stream.s3.failures import unreached
from kappamask_stream.s3.retry import TryLaterError, retry_after_s

_RANGE = re.compile(r"bytes (?:(?P<first>\d{1,18})-(?P<last>\d{1,18})|\*)/(?P<total>\d{1,18}|\*)", re.ASCII)
_LATER = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
_OVERLOADED = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
_GONE = {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}
_DENIED = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
_NO_WAY = (aiohttp.TooManyRedirects, aiohttp.NonHttpUrlClientError, aiohttp.InvalidURL)
_REMEDIES = {
    HTTPStatus.UNAUTHORIZED: "credentials are needed: are they in the URL, is it signed?",
    HTTPStatus.FORBIDDEN: "it needs other credentials, or the URL's signature has run out: sign it again",
    HTTPStatus.CONFLICT: "Planetary Computer answers so where an Item's URLs are not signed: sign the Item",
}


@dataclass(frozen=True, kw_only=True)
class Pin:
    """The version of a file that is read.

    Attributes
    ----------
    size : bytes.
    etag, modified : as the server sent them; None where it did not.
    has_ranges : False where the server gives whole files only.
    """

    size: int
    etag: str | None
    modified: str | None
    has_ranges: bool

    @property
    def validator(self) -> str | None:
        """What may stand in If-Range (RFC 9110, 13.1.5): a strong ETag."""
        return self.etag if self.etag and not self.etag.startswith("W/") else None

    def differs(self, answer: aiohttp.ClientResponse, total: int | None) -> bool:
        """Tell whether an answer is of another version."""
        etag, modified = answer.headers.get(hdrs.ETAG), answer.headers.get(hdrs.LAST_MODIFIED)
        return (
            (total is not None and total != self.size)
            or (None not in {etag, self.etag} and etag != self.etag)
            or (None not in {modified, self.modified} and modified != self.modified)
        )


def refuse_status(answer: aiohttp.ClientResponse, shown: str) -> None:
    """Return where an answer holds what was asked for.

    Raises
    ------
    TryLaterError
        If the next attempt may do better.
    ProductError
        If the file is not there.
    StoreError
        If the server refuses, or sends something encoded.
    """
    status = answer.status
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _LATER:
        raise TryLaterError(
            f"the server answers {status} {answer.reason}",
            overloaded=status in _OVERLOADED,
            retry_after_s=retry_after_s(answer.headers.get(hdrs.RETRY_AFTER), answer.headers.get(hdrs.DATE)),
        )
    if status in _GONE:
        raise ProductError(f"{shown} is not there (the server answers {status} {answer.reason}): check the URL")
    if status not in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
        try:
            remedy = _REMEDIES.get(HTTPStatus(status), "check the URL")
        except ValueError:
            remedy = "check the URL"
        kind = StoreAccessError if status in _DENIED else StoreError
        raise kind(f"{shown}: the server answers {status} {answer.reason}; {remedy}")
    encoding = answer.headers.get(hdrs.CONTENT_ENCODING, "identity")
    if encoding != "identity":
        raise StoreError(
            f"{shown}: the server sends it encoded ({encoding[:20]}), which was not asked for: it is no store"
        )


def pin_of(answer: aiohttp.ClientResponse, shown: str, asked: int) -> Pin:
    """Read size and version from the answer to the request for the first `asked` bytes.

    Raises
    ------
    TryLaterError, ProductError, StoreError
        As `refuse_status`; and if the size is not said.
    """
    said = answer.headers.get(hdrs.CONTENT_RANGE, "")
    found = _RANGE.fullmatch(said)
    total = found["total"] if found else "*"
    etag, modified = answer.headers.get(hdrs.ETAG), answer.headers.get(hdrs.LAST_MODIFIED)
    if answer.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and total == "0":
        return Pin(size=0, etag=etag, modified=modified, has_ranges=True)
    refuse_status(answer, shown)
    if found and total != "*" and found["first"] == "0" and found["last"] == str(min(int(total), asked) - 1):
        return Pin(size=int(total), etag=etag, modified=modified, has_ranges=True)
    if answer.status == HTTPStatus.PARTIAL_CONTENT or answer.content_length is None:
        raise StoreError(f"{shown}: the server does not say how long it is ({said[:60] or 'no length'!r})")
    return Pin(size=answer.content_length, etag=etag, modified=modified, has_ranges=False)


def check_range(answer: aiohttp.ClientResponse, pin: Pin, shown: str, start: int, end: int) -> None:
    """Return where an answer holds exactly bytes `start` to `end` of the pinned version.

    Raises
    ------
    TryLaterError, ProductError, StoreError
        As `refuse_status`; and if the file was replaced, or the range is not the one that was asked for.
    """
    said = answer.headers.get(hdrs.CONTENT_RANGE, "")
    found = _RANGE.fullmatch(said)
    total = int(found["total"]) if found and found["total"] != "*" else None
    out_of_range = answer.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
    if not out_of_range:
        refuse_status(answer, shown)
    # Some servers answer a range with status 200 and say in Content-Range that it is one.
    whole = found is None and answer.status == HTTPStatus.OK
    if out_of_range or pin.differs(answer, answer.content_length if whole else total):
        raise StoreChangedError(f"{shown} was replaced while it was read: run the product again")
    if whole:
        raise TryLaterError("the server answers with the whole file to the request for a range of it")
    if found is None or (found["first"], found["last"]) != (str(start), str(end - 1)):
        raise TryLaterError(
            f"the server answers the request for bytes {start} to {end} with {said[:60] or 'no range'!r}"
        )


def failure_of(error: Exception, shown: str) -> Exception:
    """Return what an exception of aiohttp's means: another attempt, or the end.

    Their texts may show a URL's password, and some have none.
    """
    if isinstance(error, _NO_WAY):
        return _no_way(error, shown)
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return StoreCredentialsError(
            f"{shown}: the server's certificate is not accepted: SSL_CERT_FILE names the file of other CAs"
        )
    if isinstance(error, TimeoutError):
        return TryLaterError("the server does not answer in time")
    if isinstance(error, aiohttp.ClientConnectorError):
        return TryLaterError(f"the server{unreached(error)}")
    return TryLaterError("the connection broke off")


def _no_way(error: Exception, shown: str) -> Exception:
    """Return what a URL, or where it is redirected to, lacks."""
    if isinstance(error, aiohttp.TooManyRedirects):
        return StoreError(f"{shown} is redirected in a circle, or too often: check the URL")
    if isinstance(error, aiohttp.NonHttpUrlClientError):  # file:, ftp:
        return ProductError(f"{shown} is redirected to what is no web address: only http: and https: are followed")
    return StoreError(f"{shown} cannot be read, it is no URL, or redirects to none: check it")
