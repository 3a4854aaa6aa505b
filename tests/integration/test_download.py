"""Downloading weights over real sockets: continued where it broke off, never glued from two versions, never half."""

from __future__ import annotations

import gzip
import time
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import pytest

from kappamask_stream.errors import InputError
from kappamask_stream.weights import download as download_module
from kappamask_stream.weights.download import Patience
from kappamask_stream.weights.fetching import fetch
from tests.integration.fetching import (
    CONTENT,
    HALF,
    PATIENT,
    UNET,
    cache,
    fetched,
    files,
    half_way,
    has_arrived,
    part,
    server,
    sha256,
)
from tests.integration.weights_server import Fault, WeightsServer, hdf5_like

if TYPE_CHECKING:
    from kappamask_stream.weights import WeightsCache

__all__ = ["cache", "server"]

# Continued


@pytest.mark.parametrize("then", ["close", "reset"])
@pytest.mark.parametrize("length", ["yes", "chunked"])
async def test_a_connection_that_breaks_is_continued_at_the_byte_reached(
    server: WeightsServer, cache: WeightsCache, then: Any, length: str
) -> None:
    server.length = length
    server.faults.append(half_way(cache, then=then))
    got = await fetched(server, cache)
    assert got.path.read_bytes() == CONTENT
    assert server.ranges_asked == [None, f"bytes={HALF}-"]
    assert server.requests[1].if_range == '"one"'
    assert [request.sent for request in server.requests] == [HALF, len(CONTENT) - HALF], "no byte twice"


async def test_without_a_length_the_file_itself_says_where_it_ends(server: WeightsServer, cache: WeightsCache) -> None:
    """A connection that is closed is then all that tells the end, and looks the same when it broke."""
    server.length = "none"
    server.faults.append(half_way(cache))
    got = await fetched(server, cache)
    assert got.path.read_bytes() == CONTENT
    assert server.ranges_asked == [None, f"bytes={HALF}-"]


async def test_a_stalled_server_is_left_and_asked_for_the_rest(server: WeightsServer, cache: WeightsCache) -> None:
    server.faults.append(half_way(cache, then="stall"))
    got = await fetched(server, cache, patience=Patience(attempts=4, pause_s=0.001, read_s=1.0))
    assert got.path.read_bytes() == CONTENT
    assert server.ranges_asked[:2] == [None, f"bytes={HALF}-"]


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429])
async def test_a_server_in_trouble_is_asked_again(server: WeightsServer, cache: WeightsCache, status: int) -> None:
    server.faults += [Fault(status=status), half_way(cache), Fault(status=status)]
    got = await fetched(server, cache)
    assert got.path.read_bytes() == CONTENT
    assert server.ranges_asked == [None, None, f"bytes={HALF}-", f"bytes={HALF}-"]


async def test_what_has_arrived_is_kept_for_the_next_call(server: WeightsServer, cache: WeightsCache) -> None:
    server.faults.append(half_way(cache))
    server.faults += [Fault(status=503)] * 3
    with pytest.raises(InputError, match=rf"given up at {HALF} bytes of {len(CONTENT)} after 4 attempts: .* 503"):
        await fetched(server, cache)
    assert files(cache) == ["l2a_unet.hdf5.part", "l2a_unet.hdf5.part.json"]
    got = await fetched(server, cache)
    assert got.path.read_bytes() == CONTENT
    assert server.requests[-1].sent == len(CONTENT) - HALF
    assert files(cache) == ["l2a_unet.hdf5", "l2a_unet.hdf5.json"]


async def test_failures_are_counted_anew_when_it_gets_further(
    server: WeightsServer, cache: WeightsCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long file over a line that breaks often: more breaks than attempts, each after a gain."""
    monkeypatch.setattr(download_module, "_GAIN", 20_000)
    step = 30_000
    for number in range(1, 9):
        server.faults.append(Fault(after=step, until=lambda n=number: has_arrived(cache, n * step)))  # type: ignore[misc]
    got = await fetched(server, cache)
    assert got.path.read_bytes() == CONTENT
    assert server.ranges_asked == [None, *(f"bytes={n * step}-" for n in range(1, 9))]


async def test_a_server_that_always_breaks_at_the_same_byte_is_given_up(
    server: WeightsServer, cache: WeightsCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download_module, "_GAIN", 20_000)
    server.ranges = "ignored"
    server.faults += [half_way(cache)] * 10
    with pytest.raises(InputError, match=rf"given up at \d+ bytes of {len(CONTENT)} after {PATIENT.attempts} attempts"):
        await fetched(server, cache)
    assert len(server.requests) == PATIENT.attempts


async def test_a_part_that_was_complete_needs_no_request(server: WeightsServer, cache: WeightsCache) -> None:
    """Killed between the last byte and the renaming."""
    server.faults.append(half_way(cache))
    server.faults += [Fault(status=503)] * 3
    with pytest.raises(InputError):
        await fetched(server, cache)
    part(cache).write_bytes(CONTENT)
    before = len(server.requests)
    got = await fetched(server, cache)
    assert got.path.read_bytes() == CONTENT
    assert got.record.etag == '"one"'
    assert len(server.requests) == before


# Never glued from two


async def test_a_file_that_changes_in_between_is_fetched_anew(server: WeightsServer, cache: WeightsCache) -> None:
    other = hdf5_like(280_000, seed=1)

    def change() -> bool:
        if arrived := has_arrived(cache, HALF):
            server.content, server.etag = other, '"two"'
        return arrived

    server.faults.append(Fault(after=HALF, until=change))
    got = await fetched(server, cache)
    assert got.path.read_bytes() == other
    assert (got.record.etag, got.record.sha256) == ('"two"', sha256(other))
    assert [(r.range, r.status) for r in server.requests] == [(None, 200), (f"bytes={HALF}-", 200)]


async def test_a_server_that_compares_nothing_but_tells_its_etag_is_seen_through(
    server: WeightsServer, cache: WeightsCache
) -> None:
    """If-Range ignored: status 206 with bytes of another version."""
    other = hdf5_like(300_000, seed=1)

    class Careless(str):
        __slots__ = ()

        def __eq__(self, _: object) -> bool:
            return True

        __hash__ = str.__hash__

    def change() -> bool:
        if arrived := has_arrived(cache, HALF):
            server.content, server.etag = other, Careless('"two"')
        return arrived

    server.faults.append(Fault(after=HALF, until=change))
    got = await fetched(server, cache)
    assert got.path.read_bytes() == other
    assert [(r.range, r.status) for r in server.requests] == [(None, 200), (f"bytes={HALF}-", 206), (None, 200)]


@pytest.mark.parametrize("ranges", ["ignored", "as 200", "as 200, silent", "shifted"])
async def test_a_server_that_gives_another_range_than_asked_for(
    server: WeightsServer, cache: WeightsCache, ranges: str
) -> None:
    server.ranges = ranges
    server.faults.append(half_way(cache))
    got = await fetched(server, cache)
    assert got.path.read_bytes() == CONTENT
    assert got.record.bytes == len(CONTENT)
    assert server.ranges_asked[:2] == [None, f"bytes={HALF}-"]
    assert server.ranges_asked[2:] == ([] if ranges == "ignored" else [None])


@pytest.mark.parametrize(
    ("etag", "age_s", "validator"),
    [
        ('W/"weak"', 100, None),
        (None, 100, "date"),
        (None, 0, None),
        (None, None, None),
    ],
)
async def test_only_what_names_a_version_for_certain_lets_it_continue(
    server: WeightsServer, cache: WeightsCache, etag: str | None, age_s: int | None, validator: str | None
) -> None:
    """A weak ETag, or a date of this very second, does not (RFC 9110, 13.1.5)."""
    server.etag = etag
    server.modified = (
        None if age_s is None else formatdate(time.time() - age_s + (60 if age_s == 0 else 0), usegmt=True)
    )
    server.faults.append(half_way(cache))
    got = await fetched(server, cache)
    assert got.path.read_bytes() == CONTENT
    if validator:
        assert server.ranges_asked == [None, f"bytes={HALF}-"]
        assert server.requests[1].if_range == server.modified
    else:
        assert server.ranges_asked == [None, None]


async def test_the_beginning_from_one_mirror_is_not_continued_from_another(
    server: WeightsServer, cache: WeightsCache
) -> None:
    server.faults.append(half_way(cache))
    server.faults += [Fault(status=503)] * 3
    with pytest.raises(InputError):
        await fetched(server, cache)
    with WeightsServer(hdf5_like(300_000, seed=2)) as mirror:  # with the same ETag
        got = await fetched(mirror, cache)
        assert mirror.ranges_asked == [None]
    assert got.path.read_bytes() == mirror.content


@pytest.mark.parametrize("damage", [b"", b"[]", b"{", b'{"url": 3, "colour": 4}'])
async def test_a_part_whose_version_cannot_be_told_is_thrown_away(
    server: WeightsServer, cache: WeightsCache, damage: bytes
) -> None:
    cache.folder.mkdir()
    part(cache).write_bytes(b"something else" * 100)
    part(cache).with_name("l2a_unet.hdf5.part.json").write_bytes(damage)
    got = await fetched(server, cache)
    assert got.path.read_bytes() == CONTENT
    assert server.ranges_asked == [None]


async def test_a_file_that_got_shorter_is_fetched_anew(server: WeightsServer, cache: WeightsCache) -> None:
    """Under the same ETag: the range is not satisfiable."""
    shorter = hdf5_like(100_000)

    def shorten() -> bool:
        if arrived := has_arrived(cache, HALF):
            server.content = shorter
        return arrived

    server.faults.append(Fault(after=HALF, until=shorten))
    got = await fetched(server, cache)
    assert got.path.read_bytes() == shorter
    assert [r.status for r in server.requests] == [200, 416, 200]


# Refused


@pytest.mark.parametrize("status", [301, 304, 400, 403, 404, 410])
async def test_a_file_that_is_not_there_is_said_once(server: WeightsServer, cache: WeightsCache, status: int) -> None:
    server.faults.append(Fault(status=status))
    with pytest.raises(InputError, match=rf"/l2a_unet\.hdf5: the server answers {status} .*--url .*--weights"):
        await fetched(server, cache)
    assert len(server.requests) == 1
    assert files(cache) == []


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"<!DOCTYPE html><title>Log in</title>" * 100, r"is no HDF5 file, it begins with b'<!DOCTYPE html>"),
        (b"", "is no HDF5 file, it is empty"),
        (b"\x1f\x8b\x08" + bytes(500), r"begins with b'\\x1f\\x8b"),
        (b"\x89HDF", "begins with b'"),
        (hdf5_like(300_000, own_size=300_001), "is cut short: the server has 300000 bytes, the file says .* 300001"),
        (hdf5_like(300_000)[:60], "is cut short"),
    ],
)
async def test_what_is_no_whole_hdf5_file_is_refused(
    server: WeightsServer, cache: WeightsCache, content: bytes, says: str
) -> None:
    server.content = content
    with pytest.raises(InputError, match=says):
        await fetched(server, cache)
    assert len(server.requests) == 1
    assert files(cache) == []


async def test_nothing_is_unpacked_for_a_server_that_packs_unasked(server: WeightsServer, cache: WeightsCache) -> None:
    """Lengths and ranges would count other bytes, and a gigabyte of zeros is a megabyte."""
    server.content, server.encoding = gzip.compress(CONTENT), "gzip"
    with pytest.raises(InputError, match=r"begins with b'\\x1f\\x8b"):
        await fetched(server, cache)
    assert files(cache) == []


async def test_a_length_that_is_announced_too_large_is_never_taken_for_whole(
    server: WeightsServer, cache: WeightsCache
) -> None:
    server.length = len(CONTENT) + 1
    with pytest.raises(InputError, match=rf"given up at \d+ bytes.* after {PATIENT.attempts} attempts"):
        await fetched(server, cache)
    assert "l2a_unet.hdf5" not in files(cache)


async def test_a_length_that_is_announced_too_small_is_seen_in_the_file(
    server: WeightsServer, cache: WeightsCache
) -> None:
    server.length = len(CONTENT) - 1
    with pytest.raises(InputError, match=rf"cut short: the server has {len(CONTENT) - 1} bytes"):
        await fetched(server, cache)
    assert files(cache) == []


@pytest.mark.parametrize("length", [(1 << 30) + 1, "chunked"])
async def test_more_than_a_weights_file_can_be_is_refused(
    server: WeightsServer, cache: WeightsCache, monkeypatch: pytest.MonkeyPatch, length: str | int
) -> None:
    server.length = length
    if length == "chunked":  # a gigabyte is too much for a test
        monkeypatch.setattr(download_module, "MAX_BYTES", HALF)
    with pytest.raises(InputError, match=r"weights files have at most 1073741824|is longer than 150000 bytes"):
        await fetched(server, cache)
    assert files(cache) == []
    assert len(server.requests) == 1


@pytest.mark.parametrize("base", ["http://127.0.0.1:1/weights", "http://nowhere.invalid/weights"])
async def test_where_nobody_answers_the_ways_out_are_named(cache: WeightsCache, base: str) -> None:
    with pytest.raises(InputError) as told:
        await fetch(UNET, cache, base, patience=PATIENT)
    for text in (f"{base}/l2a_unet.hdf5", "--url", "KAPPAMASK_WEIGHTS_URL", "--weights", "--model csmask"):
        assert text in str(told.value)
    assert files(cache) == []


@pytest.mark.parametrize("base", ["http://[half", "http://:80:80/", "http://h\x00st/"])
async def test_a_url_that_is_none_is_said(cache: WeightsCache, base: str) -> None:
    with pytest.raises(InputError, match="cannot be fetched"):
        await fetch(UNET, cache, base, patience=PATIENT)
