"""One store, one set of credentials: botocore's client for calls, own connections for bytes, limits for both.

Through ``get_object`` a small ranged GET costs 1.4-1.7 ms of CPU, most of it in botocore's models and signature; with a
URL that is signed once per object it costs 0.3. So bytes are read with such URLs, everything else with the client.
botocore's own retries are off (they would not be counted by the limits, nor go on where a body broke off), and so are
its checksums in trailers, which other stores than AWS do not understand.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError  # type: ignore[import-untyped]
from botocore.utils import get_environ_proxies  # type: ignore[import-untyped]
from yarl import URL

from kappamask_stream.s3.connections import Connections
from kappamask_stream.s3.failures import FOREIGN, meant, of_refusal, refusal_of, refusal_of_call
from kappamask_stream.s3.limits import RequestLimits
from kappamask_stream.s3.pace import WHOLE_READS, answer_to
from kappamask_stream.s3.retry import ExpiredError, TryLaterError, persist

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
    from typing import Self, TypeVar

    import aiohttp

    from kappamask_stream.s3.failures import Refusal
    from kappamask_stream.s3.options import S3Options

    T = TypeVar("T")

#: A signed URL is valid for an hour and used for a quarter of one: clocks differ, laptops sleep.
_VALID_S, _USED_S = 3600, 900
_MOST_URLS = 1024
_ERROR_BODY = 64 * 1024
#: Calls whose answers are small and made at once.
_READING = {"list_objects_v2", "head_object"}


@dataclass(frozen=True, kw_only=True)
class _SignedUrl:
    """A URL for any range of one object; generation of the credentials; monotonic seconds."""

    url: URL
    proxy: str | None
    generation: int
    use_until: float


class S3Session:
    """What `S3Client` sends its requests with.

    Parameters
    ----------
    limits : shared by all that use the same credentials at the same store; None: own ones, as `options` say.
    on_retry : as `retry.persist` calls it.

    Attributes
    ----------
    requests : sent so far, with those that failed; redirections of botocore's own are not seen.
    received_bytes : of objects, so far.

    State: connections, with clients and credentials; URLs that are signed; the counts.
    """

    def __init__(
        self,
        options: S3Options,
        limits: RequestLimits | None = None,
        on_retry: Callable[[str, str], None] = lambda _cause, _text: None,
    ) -> None:
        self.options = options
        self.limits = limits or RequestLimits(options.connections, options.requests_per_minute)
        self._connections = Connections(options)
        self._credentials = self._connections.credentials
        self._on_retry = on_retry
        self._whole_s = WHOLE_READS * options.patience.read_s
        self._payer = {"RequestPayer": "requester"} if options.requester_pays else {}
        self._urls: dict[tuple[str, str], _SignedUrl] = {}
        self.requests, self.received_bytes = 0, 0

    async def __aenter__(self) -> Self:
        await self._connections.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._connections.__aexit__(*error)

    async def call(
        self,
        operation: str,
        url: str,
        *,
        may_be_absent: bool = False,
        expected: Collection[int] = (),
        **params: Any,
    ) -> dict[str, Any]:
        """Call an operation of the client, again while it is worth it.

        Parameters
        ----------
        url : of the object or prefix, for messages.
        may_be_absent : an object that is not there gives ``{}``.
        expected : statuses of refusals that are answers to the caller: they give ``{"refused": status}``.

        Raises
        ------
        StoreError, StoreUnavailableError
            If the store refuses; if it cannot be reached, or fails again and again.
        """
        bucket = params["Bucket"]

        async def attempt() -> dict[str, Any]:
            try:
                client = await self._connections.client(bucket)
                self.requests += 1
                # A listing that drips has no other end; what writes may take long for good reasons.
                async with asyncio.timeout(self._whole_s if operation in _READING else None):
                    answer: dict[str, Any] = await getattr(client, operation)(**self._payer, **params)
            except ClientError as error:
                refusal = refusal_of_call(error)
                if may_be_absent and refusal.is_missing and refusal.code != "NoSuchBucket":
                    return {}
                if refusal.status in expected:
                    return {"refused": refusal.status}
                if operation == "head_object" and refusal.status == HTTPStatus.BAD_REQUEST and self._credentials:
                    # HEAD has no body, and so no code: the usual cause is an expired token.
                    raise ExpiredError(f"the credentials may have expired ({refusal.said})") from error
                raise self._refused(refusal, bucket, url) from error
            except FOREIGN as error:
                raise self._meant(error, url) from error
            return answer

        return await self.persist(attempt, url)

    async def persist(self, attempt: Callable[[], Awaitable[T]], url: str, reached: Callable[[], int] = lambda: 0) -> T:
        """Try again while it is worth it, with new credentials where they have expired: see `retry.persist`.

        Each attempt holds one slot of the store's limits: it must not wait for anybody who needs one.
        """
        used = 0

        async def attempt_noting_credentials() -> T:
            nonlocal used
            used = self._generation or 1  # 0: it reads them itself
            return await attempt()

        async def renew() -> None:
            if self._credentials is None:
                return
            try:
                await self._credentials.renew(used)
            except FOREIGN as error:
                raise self._meant(error, url) from error

        return await persist(
            attempt_noting_credentials,
            what=url,
            patience=self.options.patience,
            renew=renew,
            reached=reached,
            slot=self.limits.slot,
            on_retry=self._on_retry,
        )

    @asynccontextmanager
    async def get(
        self, bucket: str, key: str, headers: Mapping[str, str], *, with_checksum: bool = False
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Ask for an object's bytes once; yields an answer of status 200 or 206, whose body is to be read.

        For attempts of `persist`, which hold a slot.

        Parameters
        ----------
        with_checksum : ask for the object's checksum, which the whole object has.

        Raises
        ------
        TryLaterError, ExpiredError
            Where another attempt may succeed.
        StoreError
            Where none will.
        """
        where = f"s3://{bucket}/{key}"
        try:
            signed, extra = await self._signed(bucket, key, with_checksum=with_checksum)
            http, sent = await self._connections.http(), {**headers, **extra}
            self.requests += 1
            request = http.get(signed.url, headers=sent, proxy=signed.proxy, allow_redirects=False)
            async with answer_to(request, self.options.patience) as answer:
                await self._require_success(answer, bucket, key)
                yield answer
        except FOREIGN as error:
            raise self._meant(error, where) from error

    async def _require_success(self, answer: aiohttp.ClientResponse, bucket: str, key: str) -> None:
        if answer.status in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
            return
        refusal = refusal_of(answer.status, answer.headers, await answer.content.read(_ERROR_BODY))
        self._urls.pop((bucket, key), None)
        raise self._refused(refusal, bucket, f"s3://{bucket}/{key}")

    def _refused(self, refusal: Refusal, bucket: str, url: str) -> Exception:
        if self._connections.learn_region(bucket, refusal.region):
            return TryLaterError(f"bucket {bucket} is in region {refusal.region}")
        return of_refusal(refusal, url, signed=self._credentials is not None)

    def _meant(self, error: Exception, url: str) -> Exception:
        return meant(error, url, signed=self._credentials is not None)

    async def _signed(self, bucket: str, key: str, *, with_checksum: bool) -> tuple[_SignedUrl, Mapping[str, str]]:
        """Return a URL, and the headers that its signature covers."""
        extra = {"x-amz-request-payer": "requester"} if self._payer else {}
        if with_checksum and self._credentials is not None:
            extra["x-amz-checksum-mode"] = "ENABLED"
            return await self._sign({"Bucket": bucket, "Key": key, "ChecksumMode": "ENABLED"}), extra
        known = self._urls.get((bucket, key))
        if known is None or known.generation != self._generation or time.monotonic() > known.use_until:
            known = await self._sign({"Bucket": bucket, "Key": key})
            if len(self._urls) >= _MOST_URLS:
                self._urls.pop(next(iter(self._urls)))  # the oldest
            self._urls[bucket, key] = known
        return known, extra

    async def _sign(self, params: dict[str, str]) -> _SignedUrl:
        client = await self._connections.client(params["Bucket"])
        generation, use_until = self._generation, time.monotonic() + _USED_S
        url = await client.generate_presigned_url("get_object", {**params, **self._payer}, _VALID_S)
        # Asked for here, once: aiohttp would do so in a thread for each request, and read passwords from netrc.
        proxy = get_environ_proxies(url).get(url.partition(":")[0])
        return _SignedUrl(url=URL(url, encoded=True), proxy=proxy, generation=generation, use_until=use_until)

    @property
    def _generation(self) -> int:
        return self._credentials.generation if self._credentials else 0
