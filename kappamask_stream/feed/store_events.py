"""What stores say of new objects: S3 event notifications, and the same through EventBridge. Pure.

Sources: "Event message structure" (notification-content-structure.html) and "EventBridge event message structure"
(ev-events.html) in Amazon's S3 User Guide. MinIO and Ceph send the first, some with ``s3:`` before the event's name.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

from kappamask_stream.errors import MessageError
from kappamask_stream.feed.naming import upload_of
from kappamask_stream.feed.types import ProductRef

if TYPE_CHECKING:
    from collections.abc import Mapping

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}", re.ASCII)
_LONGEST_KEY = 1024 * 3  # a key has up to 1024 bytes; each may be written as %XX


def is_test_event(message: Mapping[str, Any]) -> bool:
    """Tell whether a message is the one that S3 sends when a notification is set up."""
    return message.get("Event") == "s3:TestEvent"


def is_bridge_event(message: Mapping[str, Any]) -> bool:
    """Tell whether a message is one of S3's through EventBridge."""
    return "detail-type" in message and "detail" in message


def of_record(record: Mapping[str, Any]) -> tuple[ProductRef, ...]:
    """Return the product that a record of an event notification stands for; none for most keys and all deletions.

    Raises
    ------
    MessageError
        If the record lacks what it must have.
    """
    event, s3 = record.get("eventName"), record.get("s3")
    if not isinstance(event, str) or not isinstance(s3, dict):
        raise MessageError("a record has no eventName and s3")
    if not event.removeprefix("s3:").startswith("ObjectCreated:"):
        return ()
    bucket, key = _place(s3)
    try:
        return _refs(bucket, unquote_plus(key, errors="strict"))
    except UnicodeDecodeError as error:
        raise MessageError(f"its object.key is {key[:80]!r}, which is no UTF-8") from error


def of_bridge_event(message: Mapping[str, Any]) -> tuple[ProductRef, ...]:
    """Return the product of an event through EventBridge, whose keys are written as they are; see `of_record`."""
    if message.get("source") != "aws.s3" or not isinstance(message["detail"], dict):
        raise MessageError(f"it is an event of {str(message.get('source'))[:80]!r}, those of aws.s3 are read")
    if message["detail-type"] != "Object Created":
        return ()
    return _refs(*_place(message["detail"]))


def _place(holder: Mapping[str, Any]) -> tuple[str, str]:
    bucket, found = holder.get("bucket"), holder.get("object")
    name = bucket.get("name") if isinstance(bucket, dict) else None
    key = found.get("key") if isinstance(found, dict) else None
    if not isinstance(name, str) or _BUCKET.fullmatch(name) is None:
        raise MessageError(f"its bucket.name is {repr(name)[:80]}, a bucket's name is expected")
    if not isinstance(key, str) or not 0 < len(key) <= _LONGEST_KEY:
        raise MessageError(f"its object.key is {repr(key)[:80]}, an object's key is expected")
    return name, key


def _refs(bucket: str, key: str) -> tuple[ProductRef, ...]:
    upload = upload_of(key)
    if upload is None:
        return ()
    name, place = upload
    return (ProductRef(name=name, kind="s3-event", location=f"s3://{bucket}/{place}"),)
