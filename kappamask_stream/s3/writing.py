"""Writing objects: whole in one request, large ones in parts; nothing stays where it fails or is cancelled."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kappamask_stream.errors import OutputError, StoreError
from kappamask_stream.s3.checksums import content_md5
from kappamask_stream.s3.options import S3Object, bare_etag
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kappamask_stream.s3.session import S3Session

#: What may be written: bytes, pieces of them, or a file.
Body = bytes | Sequence[bytes] | Path

#: S3 takes parts of 5 MiB to 5 GiB, at most 10,000 of them; all but the last of one size (R2 asks for that).
PART_BYTES = 16 * 1024 * 1024
_MOST_PARTS = 10_000
_PARTS_AT_ONCE = 4
#: What a condition is answered with that is not met, by which version whoever writes at the same moment, and by stores
#: that know none.
_CONDITION = frozenset(
    {HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED, HTTPStatus.NOT_IMPLEMENTED}
)


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where and as what an object is written.

    Attributes
    ----------
    bucket, key : where.
    content_type : such as ``image/tiff; application=geotiff``.
    metadata : user metadata; ASCII.
    """

    bucket: str
    key: str
    content_type: str = "application/octet-stream"
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """``s3://bucket/key``."""
        return f"s3://{self.bucket}/{self.key}"

    @property
    def place(self) -> dict[str, Any]:
        """As parameters of a call."""
        return {"Bucket": self.bucket, "Key": self.key}

    @property
    def headers(self) -> dict[str, Any]:
        """As parameters of the call that makes the object."""
        return {**self.place, "ContentType": self.content_type, "Metadata": dict(self.metadata)}


async def put(session: S3Session, target: Target, body: Body, part_bytes: int) -> S3Object:
    """Write an object; it is there whole, or as it was before.

    Parameters
    ----------
    part_bytes : a longer body is sent in parts of so many bytes (more where 10,000 of them would not do).

    Raises
    ------
    OutputError
        If the file cannot be read.
    StoreError, StoreUnavailableError
        If the store refuses; if it fails again and again.
    """
    size = await _size(body)
    if size <= part_bytes:
        data = await _slice(body, 0, size)
        md5 = await in_thread(None, content_md5, data)
        answer = await session.call("put_object", target.url, Body=data, ContentMD5=md5, **target.headers)
        return S3Object(bucket=target.bucket, key=target.key, size=size, etag=bare_etag(answer.get("ETag")))
    return await _put_in_parts(session, target, body, size, max(part_bytes, -(-size // _MOST_PARTS)))


async def replace(session: S3Session, target: Target, data: bytes, etag: str | None) -> bool:
    """Write a small object in the place of one version of it; False where it is another one by now.

    A store that knows no conditions, or gives no ETag to name in one, replaces whatever is there.

    Raises
    ------
    StoreError, StoreUnavailableError
        As `put` does.
    """
    md5 = await in_thread(None, content_md5, data)
    body = {"Body": data, "ContentMD5": md5, **target.headers}
    if etag is not None and not etag.startswith("W/"):
        answer = await session.call("put_object", target.url, expected=_CONDITION, IfMatch=f'"{etag}"', **body)
        if answer.get("refused") != HTTPStatus.NOT_IMPLEMENTED:
            return "refused" not in answer
    await session.call("put_object", target.url, **body)
    return True


async def try_write(session: S3Session, target: Target) -> None:
    """Begin an upload and give it up.

    Raises
    ------
    StoreError, StoreUnavailableError
        As `put` does.
    """
    await _abort(session, target, await _begin(session, target))


async def _put_in_parts(session: S3Session, target: Target, body: Body, size: int, part_bytes: int) -> S3Object:
    upload = await _begin(session, target)
    try:
        parts = await _send_parts(session, target, body, upload, size, part_bytes)
        await _complete(session, target, upload, parts, size)
    except BaseException:
        await _abort(session, target, upload)
        raise
    # rclone answers with another ETag than it gives the object.
    return S3Object(bucket=target.bucket, key=target.key, size=size)


async def _begin(session: S3Session, target: Target) -> dict[str, Any]:
    """Begin an upload in parts and return what names it; one that a cancellation overtakes is given up again."""
    work = asyncio.ensure_future(session.call("create_multipart_upload", target.url, **target.headers))
    try:
        answer = await asyncio.shield(work)
    except asyncio.CancelledError:
        await _ended(work)
        if not work.cancelled() and work.exception() is None:
            await _abort(session, target, {**target.place, "UploadId": work.result()["UploadId"]})
        raise
    return {**target.place, "UploadId": answer["UploadId"]}


async def _send_parts(
    session: S3Session, target: Target, body: Body, upload: dict[str, Any], size: int, part_bytes: int
) -> list[dict[str, Any]]:
    starts = iter(enumerate(range(0, size, part_bytes), start=1))
    sent: dict[int, str] = {}

    async def worker() -> None:
        for number, start in starts:
            data = await _slice(body, start, min(part_bytes, size - start))
            md5 = await in_thread(None, content_md5, data)
            answer = await session.call(
                "upload_part", target.url, Body=data, PartNumber=number, ContentMD5=md5, **upload
            )
            sent[number] = answer["ETag"]

    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(_PARTS_AT_ONCE):
                tasks.create_task(worker())
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    return [{"PartNumber": number, "ETag": sent[number]} for number in sorted(sent)]


async def _complete(
    session: S3Session, target: Target, upload: dict[str, Any], parts: list[dict[str, Any]], size: int
) -> None:
    """Put the parts together."""
    try:
        await session.call("complete_multipart_upload", target.url, MultipartUpload={"Parts": parts}, **upload)
    except StoreError:
        # Where an earlier attempt succeeded and its answer was lost, there is no such upload any more.
        there = await session.call("head_object", target.url, may_be_absent=True, **target.place)
        made_of_parts = str(there.get("ETag", "")).strip('"').endswith(f"-{len(parts)}")
        if there.get("ContentLength") != size or not made_of_parts:
            raise


async def _abort(session: S3Session, target: Target, upload: dict[str, Any]) -> None:
    """Have the store forget the parts, which cost money; a cancellation waits for it."""
    work = asyncio.ensure_future(session.call("abort_multipart_upload", target.url, may_be_absent=True, **upload))
    await _ended(work)
    work.exception()  # the first failure is what people need to know


async def _ended(work: asyncio.Future[dict[str, Any]]) -> None:
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError:  # once more: the first one is raised by the caller
            continue


async def _size(body: Body) -> int:
    if isinstance(body, bytes):
        return len(body)
    if isinstance(body, Path):
        try:
            return (await in_thread(None, body.stat)).st_size
        except OSError as error:
            raise OutputError(f"cannot read {body}: {error.strerror}") from error
    return sum(len(piece) for piece in body)


async def _slice(body: Body, start: int, length: int) -> bytes:
    if isinstance(body, bytes):
        return body if length == len(body) else body[start : start + length]
    if isinstance(body, Path):
        return await in_thread(None, _read, body, start, length)
    return await in_thread(None, _joined, body, start, length)


def _read(path: Path, start: int, length: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(start, os.SEEK_SET)
            data = file.read(length)
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror}") from error
    if len(data) < length:
        raise OutputError(f"{path} ended at byte {start + len(data)} of {start + length}: it changed while it was sent")
    return data


def _joined(pieces: Sequence[bytes], start: int, length: int) -> bytes:
    """Cut bytes out of what the pieces are together."""
    taken: list[bytes] = []
    at = 0
    for piece in pieces:
        first, last = max(start - at, 0), min(start + length - at, len(piece))
        if first < last:
            taken.append(piece[first:last])
        at += len(piece)
    return b"".join(taken)
