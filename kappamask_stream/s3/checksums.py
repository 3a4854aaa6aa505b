"""Checksums that a store gives with a whole object, and those that we send."""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_MD5 = re.compile(r"[0-9a-f]{32}")
_ENCRYPTION = "x-amz-server-side-encryption"


def wrong_checksum(data: bytes, headers: Mapping[str, str]) -> str | None:
    """Compare a whole object with the checksums of S3 (``x-amz-checksum-*``); returns what differs, None: nothing.

    Checksums of objects that were uploaded in parts and are sums of their parts' sums (``-N`` at the end, or
    ``COMPOSITE``) say nothing about the bytes together. CRC32C and CRC64NVME need code that Python lacks.
    """
    if headers.get("x-amz-checksum-type", "FULL_OBJECT") != "FULL_OBJECT":
        return None
    for name, compute in _ALGORITHMS.items():
        said = headers.get(f"x-amz-checksum-{name}")
        if said and "-" not in said:
            found = base64.b64encode(compute(data)).decode()
            if found != said:
                return f"its {name} is {found}, the store says {said}"
    return None


def md5_of_etag(etag: str | None, headers: Mapping[str, str]) -> str | None:
    """Return the MD5 that an ETag should be, in hexadecimal; None where it is none.

    On S3 it is, for objects of one part that are not encrypted with KMS or with the customer's key ("Common Response
    Headers"). Other stores write what they like in the same form: a difference proves nothing by itself.
    """
    if etag is None or _MD5.fullmatch(etag) is None:
        return None
    if headers.get(_ENCRYPTION, "AES256") != "AES256" or f"{_ENCRYPTION}-customer-algorithm" in headers:
        return None
    return etag


def content_md5(data: bytes) -> str:
    """Return the Content-MD5 header: every store compares it with what has arrived."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def _crc32(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "big")


def _sha1(data: bytes) -> bytes:
    return hashlib.sha1(data, usedforsecurity=False).digest()


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


_ALGORITHMS = {"sha256": _sha256, "sha1": _sha1, "crc32": _crc32}
