"""What lies beside weights in the cache, and what their publisher answers, when it is made to break the reader.

The files themselves, which come over plain HTTP, are tried in tests/networks/test_hdf5_weights.py. Of ONNX the project
reads what it built itself, and what the package ukis-csmask carries; nobody's file is given to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kappamask_stream.errors import InputError
from kappamask_stream.weights.fetching import fetch
from tests.integration.fetching import CONTENT, HALF, PATIENT, UNET, cache, fetched, part, server
from tests.integration.ranged_server import Fault, RangedServer

if TYPE_CHECKING:
    from kappamask_stream.weights import WeightsCache
    from tests.integration.weights_server import WeightsServer

__all__ = ["cache", "server"]

HUGE = "9" * 5000


@pytest.mark.parametrize(
    "pin",
    [
        b"", b"[" * 10**5, b"null", b"[]", b"{}", b"\xff\xfe", HUGE.encode(), b'{"url": 1}', b'{"url": "x", "total": "y"}',
        b'{"url": "x", "total": {}}', b'{"url": [], "total": 1}', b'{"url": null}', b'{"url": "x", "etag": 5, "validator": [1]}',
        b'{"url": "x", "total": 1e400}', b'{"url": "x", "total": ' + HUGE.encode() + b"}", b'{"url": "x", "__class__": "y"}',
        b'{"url": "x", "total": -1}', b'{"url": "x", "total": NaN}',
    ],
)  # fmt: skip
async def test_a_beginning_whose_record_is_nonsense_is_thrown_away(
    server: WeightsServer, cache: WeightsCache, pin: bytes
) -> None:
    """Other bytes than the publisher's are never kept, whatever the record says of them."""
    cache.folder.mkdir(parents=True, exist_ok=True)
    part(cache).write_bytes(b"not the beginning of the file" * 100)
    part(cache).with_name("l2a_unet.hdf5.part.json").write_bytes(pin)
    got = await fetched(server, cache)
    assert got.path.read_bytes() == CONTENT
    assert server.ranges_asked == [None]


@pytest.mark.parametrize(
    "record",
    [
        b"", b"[" * 10**5, b"null", b"[]", b'{"sha256": 1, "bytes": 1}', b'{"sha256": "' + b"a" * 64 + b'", "bytes": 1e400}',
        b'{"sha256": "' + b"a" * 64 + b'", "bytes": []}', b'{"sha256": "' + b"a" * 64 + b'", "bytes": ' + HUGE.encode() + b"}",
        b'{"sha256": "../../x", "bytes": 1}', b"\xff",
    ],
)  # fmt: skip
async def test_a_record_that_is_nonsense_is_refused_in_words(
    server: WeightsServer, cache: WeightsCache, record: bytes
) -> None:
    got = await fetched(server, cache)
    cache.record_path(UNET).write_bytes(record)
    with pytest.raises(InputError, match=r"the record of what l2a_unet\.hdf5 was, cannot be read"):
        cache.record(UNET)
    assert got.path.read_bytes() == CONTENT


@pytest.mark.parametrize("said", [f"bytes {HALF}-1/{HUGE}", f"bytes {HUGE}-1/1", f"bytes 1-{HUGE}/1", "x" * 7000])
async def test_a_range_with_numbers_of_five_thousand_digits_is_no_range(cache: WeightsCache, said: str) -> None:
    """What was there is thrown away, and the file is fetched from its beginning."""
    async with RangedServer({UNET.file_name: CONTENT}) as publisher:
        publisher.faults += [Fault(after=HALF), Fault(status=206, headers={"Content-Range": said})]
        got = await fetch(UNET, cache, publisher.url("").rstrip("/"), patience=PATIENT)
    assert got.path.read_bytes() == CONTENT
    assert [range_ is None for _, range_ in publisher.requests] == [True, False, True]
