"""An S3 client: listing, sizes, whole small objects, ranges, and writing; each call says what went wrong in words."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from kappamask_stream.errors import ProductError
from kappamask_stream.s3 import reading, writing
from kappamask_stream.s3.checksums import md5_of_etag, wrong_checksum
from kappamask_stream.s3.failures import changed
from kappamask_stream.s3.options import S3Object, bare_etag
from kappamask_stream.s3.pace import Pieces
from kappamask_stream.s3.reading import Version
from kappamask_stream.s3.retry import TryLaterError
from kappamask_stream.s3.session import S3Session
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
    from typing import Self

    from kappamask_stream.s3.limits import RequestLimits
    from kappamask_stream.s3.options import S3Options
    from kappamask_stream.s3.writing import Body

#: Bytes of one request of a stream: larger ones save little, and a stream holds as many in memory.
SEGMENT_BYTES = 4 * 1024 * 1024


class S3Client:
    """A client for one store and one set of credentials, for as many buckets and tasks as you like.

    An async context manager; nothing is connected, and no credentials are looked for, before the first call. All calls
    raise `StoreError` where the store refuses and `StoreUnavailableError` where it fails again and again.

    Parameters
    ----------
    options : where and as whom.
    limits : shared with other clients of the same store and credentials; None: own ones.
    on_retry : as `retry.persist` calls it.
    """

    def __init__(
        self,
        options: S3Options,
        limits: RequestLimits | None = None,
        on_retry: Callable[[str, str], None] = lambda _cause, _text: None,
    ) -> None:
        self.options = options
        self._session = S3Session(options, limits, on_retry)

    def __repr__(self) -> str:
        who = "anonymous" if self.options.anonymous else self.options.profile or "default credentials"
        return f"<S3Client {self.options.endpoint_url or 'AWS'}, {who}, {self._session.limits!r}>"

    @property
    def requests(self) -> int:
        """Requests sent so far, with those that failed."""
        return self._session.requests

    @property
    def received_bytes(self) -> int:
        """Bytes of objects received so far."""
        return self._session.received_bytes

    async def __aenter__(self) -> Self:
        await self._session.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._session.__aexit__(*error)

    async def list(self, bucket: str, prefix: str, *, most: int) -> list[S3Object]:
        """Return all objects whose keys begin with `prefix`, in the store's order; none is no error.

        Raises
        ------
        ProductError
            If there are more than `most`.
        """
        found: list[S3Object] = []
        token: str | None = ""
        while token is not None:
            page, token = await self._page(bucket, prefix, token)
            for entry in page.get("Contents", []):
                etag = bare_etag(entry.get("ETag"))
                found.append(S3Object(bucket=bucket, key=entry["Key"], size=int(entry["Size"]), etag=etag))
            if len(found) > most:
                raise ProductError(
                    f"more than {most} objects lie under s3://{bucket}/{prefix}: give one product's prefix"
                )
        return found

    async def folders(self, bucket: str, prefix: str, *, most: int) -> Sequence[str]:
        """Return all that keys which begin with `prefix` have up to their next slash, ``2024/S2A_1/``, each once.

        Raises
        ------
        ProductError
            If there are more than `most`.
        """
        found: list[str] = []
        token: str | None = ""
        while token is not None:
            page, token = await self._page(bucket, prefix, token, Delimiter="/")
            found += [entry["Prefix"] for entry in page.get("CommonPrefixes", [])]
            if len(found) > most:
                raise ProductError(f"more than {most} folders lie under s3://{bucket}/{prefix}")
        return found

    async def _page(self, bucket: str, prefix: str, token: str, **rest: Any) -> tuple[dict[str, Any], str | None]:
        """Return a part of a listing, and what the next one is asked for with; None after the last."""
        following: dict[str, Any] = {"ContinuationToken": token} if token else {}
        page = await self._session.call(
            "list_objects_v2", f"s3://{bucket}/{prefix}", Bucket=bucket, Prefix=prefix, **following, **rest
        )
        after = page.get("NextContinuationToken")
        return page, after if page.get("IsTruncated") and after and after != token else None

    async def head(self, bucket: str, key: str) -> S3Object | None:
        """Return an object's size, version and metadata; None if there is none."""
        answer = await self._session.call(
            "head_object", f"s3://{bucket}/{key}", may_be_absent=True, Bucket=bucket, Key=key
        )
        if not answer:
            return None
        return S3Object(
            bucket=bucket,
            key=key,
            size=int(answer["ContentLength"]),
            etag=bare_etag(answer.get("ETag")),
            metadata={name.lower(): value for name, value in answer.get("Metadata", {}).items()},
        )

    async def get(
        self, bucket: str, key: str, *, limit: int, etag: str | None = None, size: int | None = None
    ) -> bytes:
        """Return a whole small object, compared with its checksum where the store gives one.

        Parameters
        ----------
        limit : most bytes.
        etag, size : of the version that is wanted, as a listing has them; None: any.

        Raises
        ------
        ProductError
            If it has more than `limit` bytes.
        StoreError
            If it is another version.
        """
        url = f"s3://{bucket}/{key}"
        headers = {} if etag is None or etag.startswith("W/") else {"If-Match": f'"{etag}"'}
        seen: set[bytes] = set()
        announcements: set[int] = set()

        async def attempt() -> bytes:
            async with self._session.get(bucket, key, headers, with_checksum=True) as answer:
                now = bare_etag(answer.headers.get("ETag"))
                if etag is not None and now is not None and now != etag:
                    raise changed(url, f"its ETag was {etag}, it is {now}")
                announced = answer.content_length
                if size is not None and announced is not None and announced != size:
                    # Twice the same, where nothing tells versions apart: it is no accident of one answer.
                    if announced in announcements and (etag is None or now is None):
                        raise changed(url, f"it had {size} bytes, it has {announced}")
                    announcements.add(announced)
                    raise TryLaterError(f"the object has {size} bytes, the store announces {announced}")
                if announced is not None and announced > limit:
                    raise ProductError(
                        f"{url} has {announced} bytes, at most {limit} are read: it is not what its name says"
                    )
                body = Pieces(answer, self.options.patience)
                data = b"".join([piece async for piece in _limited(body, limit, url)])
                self._session.received_bytes += len(data)
                if announced is not None and len(data) != announced:
                    raise TryLaterError(f"the answer ended at byte {len(data)} of {announced}")
                # Stores that unpack an object on its way announce nothing, and send more.
                if size is not None and len(data) < size:
                    raise TryLaterError(f"the answer ended at byte {len(data)} of {size}")
                await in_thread(None, _verify, data, now, dict(answer.headers), seen)
                return data

        return await self._session.persist(attempt, url)

    async def read(self, at: S3Object, start: int, length: int, version: Version | None = None) -> bytes:
        """Return exactly `length` bytes of that version of an object.

        Parameters
        ----------
        version : shared by all reads of one object; `at` may lack an ETag, then that of the first answer holds for all.
        """
        pieces: list[bytes] = []
        await reading.fetch(self._session, at, version or Version(), start, length, pieces.append)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def stream(
        self, at: S3Object, start: int, length: int, version: Version | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Yield the same bytes as they arrive; at most `SEGMENT_BYTES` wait in memory for who takes them.

        An async generator: close it (``contextlib.aclosing``) where it is not read to its end.
        """
        return reading.stream(self._session, at, version or Version(), start, length, SEGMENT_BYTES)

    async def put(
        self,
        bucket: str,
        key: str,
        body: Body,
        *,
        content_type: str,
        metadata: Mapping[str, str] | None = None,
        part_bytes: int = writing.PART_BYTES,
    ) -> S3Object:
        """Write an object: it is there whole, or as it was before. See `writing.put`."""
        target = writing.Target(bucket=bucket, key=key, content_type=content_type, metadata=metadata or {})
        return await writing.put(self._session, target, body, part_bytes)

    async def replace(
        self, at: S3Object, data: bytes, *, content_type: str, metadata: Mapping[str, str] | None = None
    ) -> bool:
        """Write a small object in the place of that version; False where it is another one by now.

        Not all stores know conditions: those that do not replace whatever is there.
        """
        target = writing.Target(bucket=at.bucket, key=at.key, content_type=content_type, metadata=metadata or {})
        return await writing.replace(self._session, target, data, at.etag)

    async def try_write(self, bucket: str, key: str) -> None:
        """Begin an upload and give it up, so that missing rights are found before any work is done."""
        await writing.try_write(self._session, writing.Target(bucket=bucket, key=key))

    async def delete(self, bucket: str, key: str) -> None:
        """Delete an object; none is no error."""
        await self._session.call("delete_object", f"s3://{bucket}/{key}", may_be_absent=True, Bucket=bucket, Key=key)


async def _limited(pieces: AsyncIterator[bytes], limit: int, url: str) -> AsyncIterator[bytes]:
    taken = 0
    async for piece in pieces:
        taken += len(piece)
        if taken > limit:
            raise ProductError(f"{url} has more than the {limit} bytes that are read: it is not what its name says")
        yield piece


def _verify(data: bytes, etag: str | None, headers: dict[str, str], seen: set[bytes]) -> None:
    """Compare with the checksums; `seen` holds digests of earlier attempts that did not fit the ETag."""
    lower = {name.lower(): value for name, value in headers.items()}
    wrong = wrong_checksum(data, lower)
    if wrong is not None:
        raise TryLaterError(f"what came is damaged: {wrong}")
    expected = md5_of_etag(etag, lower)
    if expected is None:
        return
    digest = hashlib.md5(data, usedforsecurity=False).digest()
    # The same bytes twice: it is not the way here that damages them, the store's ETag is no MD5.
    if digest.hex() != expected and digest not in seen:
        seen.add(digest)
        raise TryLaterError(f"what came is damaged: its MD5 is {digest.hex()}, the store's ETag says {expected}")
