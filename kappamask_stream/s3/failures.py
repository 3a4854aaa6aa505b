"""What a store's refusals and a connection's faults mean: another attempt, new credentials, or the end."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from dataclasses import dataclass
from html import unescape
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import aiohttp
from botocore import exceptions as botocore  # type: ignore[import-untyped]

from kappamask_stream.errors import (
    StoreAccessError,
    StoreChangedError,
    StoreCredentialsError,
    StoreError,
    UsageError,
)
from kappamask_stream.s3.retry import ExpiredError, TryLaterError, retry_after_s

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The last ones are SQS's and SNS's.
_OVERLOADED = {
    "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests", "RequestThrottled",
    "RequestThrottledException", "Throttled", "ThrottledException", "KmsThrottled", "KMSThrottling", "OverLimit",
}  # fmt: skip
_LATER = {"InternalError", "InternalFailure", "ServiceUnavailable", "RequestTimeout", "BadDigest", "OperationAborted"}
#: This machine's clock and the store's differ by more than signatures may: S3's code, how SQS's and SNS's words begin.
_OTHER_TIME, _OTHER_TIMES = "RequestTimeTooSkewed", ("Signature expired", "Signature not yet current")
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
_DENIED = {"AccessDenied", "AllAccessDisabled", "403"}
#: The store does not know who asks.
_UNKNOWN = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken"}
#: The exceptions of `FOREIGN` that mean: nobody to sign for, a connection that failed, a certificate that is refused.
NO_CREDENTIALS = (
    botocore.NoCredentialsError,
    botocore.PartialCredentialsError,
    botocore.CredentialRetrievalError,
    botocore.ProfileNotFound,
    botocore.SSOError,
    botocore.TokenRetrievalError,
)
BROKEN = (
    botocore.ConnectionError,
    botocore.ConnectionClosedError,
    botocore.ReadTimeoutError,
    botocore.HTTPClientError,
    botocore.ResponseStreamingError,
    botocore.IncompleteReadError,
    aiohttp.ClientError,
    TimeoutError,
    ConnectionError,
)
CERTIFICATE = (botocore.SSLError, aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError)
#: What botocore and aiohttp raise where a store, the way to it, credentials or parameters are at fault.
FOREIGN = (botocore.ClientError, botocore.BotoCoreError, aiohttp.ClientError, OSError)
_ELEMENT = re.compile(r"<(Code|Message|Region)>([^<]*)</\1>")
_REGION = re.compile(r"[a-z]{2}[a-z0-9-]{1,30}", re.ASCII)
_ELSEWHERE = {HTTPStatus.MOVED_PERMANENTLY, HTTPStatus.TEMPORARY_REDIRECT, HTTPStatus.BAD_REQUEST}
_LONGEST = 200


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A store's answer that is no success.

    Attributes
    ----------
    status : HTTP's.
    code : S3's, such as ``NoSuchKey``; the status in digits where there is no body.
    message : in the store's words, may be empty.
    retry_after_s : seconds that it asks to wait.
    region : where the bucket is, if it was asked for in another region.
    """

    status: int
    code: str
    message: str = ""
    retry_after_s: float | None = None
    region: str | None = None

    @property
    def is_missing(self) -> bool:
        """No such object or bucket."""
        return self.status == HTTPStatus.NOT_FOUND

    @property
    def said(self) -> str:
        """As messages quote it."""
        return f"{self.status} {self.code}" + (f" ({self.message})" if self.message else "")


def refusal_of(status: int, headers: Mapping[str, str], body: bytes) -> Refusal:
    """Read an answer of our own requests; its body is XML, HTML of a proxy, or empty."""
    found = {name: unescape(text) for name, text in _ELEMENT.findall(body.decode("utf-8", "replace"))}
    return _refusal(status, found, headers)


def refusal_of_call(error: Any) -> Refusal:
    """Read botocore's ``ClientError``."""
    said, answer = error.response.get("Error", {}), error.response.get("ResponseMetadata", {})
    status = int(answer.get("HTTPStatusCode", 0))
    return _refusal(status, said, answer.get("HTTPHeaders", {}))


def _refusal(status: int, said: Mapping[str, Any], headers: Mapping[str, str]) -> Refusal:
    code = str(said.get("Code", ""))
    message = "".join(character for character in str(said.get("Message", "")) if character.isprintable())
    region = str(said.get("Region") or headers.get("x-amz-bucket-region") or "")
    is_elsewhere = status in _ELSEWHERE and _REGION.fullmatch(region) is not None
    # aiohttp's headers know no case, botocore's are written small.
    after, date = (headers.get(name) or headers.get(name.lower()) for name in ("Retry-After", "Date"))
    return Refusal(
        status=status,
        code=code[:80] or str(status),
        message=message[:_LONGEST],
        retry_after_s=retry_after_s(after, date),
        region=region if is_elsewhere else None,
    )


def is_of_other_time(refusal: Refusal) -> bool:
    """Tell whether a signature is refused because this machine's clock and the store's differ."""
    return refusal.code == _OTHER_TIME or refusal.message.startswith(_OTHER_TIMES)


def of_refusal(refusal: Refusal, url: str, *, signed: bool) -> Exception:
    """Return the exception that a refusal of `url` means.

    Parameters
    ----------
    signed : credentials were used.
    """
    return worth_another(refusal, signed=signed) or _final(refusal, url, signed=signed)


def worth_another(refusal: Refusal, *, signed: bool, who: str = "the store") -> TryLaterError | ExpiredError | None:
    """Return the exception of a refusal after which another attempt may succeed; None where none will.

    Parameters
    ----------
    signed : credentials were used.
    who : answers so, for the message.
    """
    status, code = refusal.status, refusal.code
    if code in _OVERLOADED or status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}:
        return TryLaterError(
            f"{who} is overloaded, it answers {refusal.said}", overloaded=True, retry_after_s=refusal.retry_after_s
        )
    failed = status >= HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.NOT_IMPLEMENTED
    if failed or status == HTTPStatus.REQUEST_TIMEOUT or code in _LATER:
        return TryLaterError(f"{who} answers {refusal.said}", retry_after_s=refusal.retry_after_s)
    if is_of_other_time(refusal):  # a clock that has jumped is set again
        return TryLaterError(f"{who} answers {status} {code}: its clock and this machine's differ: set this machine's")
    if signed and (code in _EXPIRED or (status == HTTPStatus.FORBIDDEN and "expired" in refusal.message.lower())):
        return ExpiredError(f"the credentials have expired ({refusal.said})")
    return None


def _final(refusal: Refusal, url: str, *, signed: bool) -> StoreError:
    status, code = refusal.status, refusal.code
    bucket = url.removeprefix("s3://").partition("/")[0]
    if code == "NoSuchBucket":
        return StoreError(f"{url}: there is no bucket {bucket}{_other_store(bucket)}")
    if refusal.is_missing:
        return StoreError(f"{url}: there is no such object: check the name")
    if status in {HTTPStatus.PRECONDITION_FAILED, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE}:
        return changed(url, f"the store answers {refusal.said}")
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN} or code in _DENIED | _UNKNOWN:
        is_unknown = status == HTTPStatus.UNAUTHORIZED or code in _UNKNOWN
        kind = StoreCredentialsError if is_unknown else StoreAccessError
        return kind(f"{url}: the store refuses access: {refusal.said}: {_access_remedy(bucket, signed=signed)}")
    if status in {HTTPStatus.MOVED_PERMANENTLY, HTTPStatus.TEMPORARY_REDIRECT}:
        return StoreError(f"{url}: the bucket is elsewhere ({refusal.said}): name its region with --s3-region")
    return StoreError(f"{url}: the store answers {refusal.said}")


def changed(url: str, how: str) -> StoreChangedError:
    """Return the error for an object that was replaced while it was read."""
    return StoreChangedError(
        f"{url} was replaced since it was listed ({how}): bytes of two versions are not mixed, run again"
    )


def _access_remedy(bucket: str, *, signed: bool) -> str:
    tries = ["is the object there (a store may say so instead of 404)?"]
    if signed:
        tries.append("try --s3-profile, --s3-anonymous for public data, --s3-requester-pays where the reader pays")
    else:
        tries.append("the request was not signed: leave --s3-anonymous out and give credentials or --s3-profile")
    return " ".join(tries) + _other_store(bucket)


def _other_store(bucket: str) -> str:
    """Hint at the store that a well-known bucket belongs to."""
    if bucket.lower() == "eodata":
        return "; eodata is CDSE's: give the product's name with --source cdse, or its endpoint with --s3-endpoint"
    return ""


def meant(error: Exception, url: str, *, signed: bool) -> Exception:
    """Return what one of the `FOREIGN` exceptions means."""
    if isinstance(error, botocore.ClientError):
        return of_refusal(refusal_of_call(error), url, signed=signed)
    if isinstance(error, NO_CREDENTIALS):
        return StoreCredentialsError(
            f"{url}: no usable credentials: {quoted(error)}: log in, set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "name a profile with --s3-profile, or read public data with --s3-anonymous"
        )
    if isinstance(error, CERTIFICATE):
        return StoreCredentialsError(
            f"{url}: the store's certificate is not accepted: {quoted(error)}: AWS_CA_BUNDLE names a file of other CAs"
        )
    if isinstance(error, BROKEN):
        return TryLaterError(broken(error))
    if isinstance(error, botocore.ParamValidationError):  # a bucket's name that is none, say
        return UsageError(f"{url}: {quoted(error)}")
    return StoreError(f"{url}: {quoted(error)}")


def broken(error: Exception, who: str = "the store") -> str:
    """Say what one of the `BROKEN` exceptions means; `who` was asked."""
    if isinstance(error, (asyncio.TimeoutError, botocore.ReadTimeoutError, botocore.ConnectTimeoutError)):
        return f"{who} does not answer in time"
    if isinstance(error, (aiohttp.ClientConnectorError, botocore.EndpointConnectionError)):
        return f"{who}{unreached(error)}"
    return "the connection broke off"


def unreached(error: Exception) -> str:
    """Say whom nobody could connect to, and why: `` at HOST:PORT cannot be reached: connection refused``."""
    cause = error.kwargs.get("error") if isinstance(error, botocore.EndpointConnectionError) else error
    if not isinstance(cause, aiohttp.ClientConnectorError):
        return " cannot be reached"
    if isinstance(cause.os_error, socket.gaierror):
        why = "the name does not resolve"
    else:
        why = os.strerror(cause.os_error.errno).lower() if cause.os_error.errno else quoted(cause.os_error)
    return f" at {cause.host}:{cause.port} cannot be reached: {why}"


def quoted(error: Exception) -> str:
    """Quote an exception in one line; botocore's texts name no secrets."""
    return " ".join(str(error).split())[:_LONGEST].rstrip(". ") or type(error).__name__
