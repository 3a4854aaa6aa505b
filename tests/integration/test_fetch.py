"""The cache of weights: fetched once, recorded, compared ever after, by one process at a time."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import stat
from typing import TYPE_CHECKING

import pytest

from kappamask_stream.errors import InputError, OutputError, UsageError
from kappamask_stream.weights import PUBLISHED
from kappamask_stream.weights import part as part_module
from kappamask_stream.weights.cache import Record
from kappamask_stream.weights.fetching import fetch, remove_fetched
from tests.integration.fetching import (
    CONTENT,
    HALF,
    MODEL,
    UNET,
    cache,
    fetched,
    files,
    half_way,
    has_arrived,
    server,
    sha256,
)
from tests.integration.weights_server import Fault, WeightsServer, hdf5_like
from tests.stream.polling import until

if TYPE_CHECKING:
    from pathlib import Path

    from kappamask_stream.weights import WeightsCache

__all__ = ["cache", "server"]

# Whole, and recorded


@pytest.mark.parametrize("length", ["yes", "chunked", "none"])
async def test_a_file_is_fetched_once_and_recorded(server: WeightsServer, cache: WeightsCache, length: str) -> None:
    server.length = length
    seen: list[tuple[int, int | None]] = []
    got = await fetched(server, cache, on_progress=lambda done, total: seen.append((done, total)))
    assert got.path.read_bytes() == CONTENT
    assert stat.S_IMODE(got.path.stat().st_mode) == 0o644
    assert files(cache) == ["l2a_unet.hdf5", "l2a_unet.hdf5.json"]
    assert json.loads((cache.folder / "l2a_unet.hdf5.json").read_text()) == {
        "sha256": sha256(CONTENT), "bytes": len(CONTENT), "url": f"{server.url}/l2a_unet.hdf5", "etag": '"one"',
    }  # fmt: skip
    total = len(CONTENT) if length == "yes" else None
    assert seen[0] == (0, total)
    assert seen[-1] == (len(CONTENT), total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert [request.path for request in server.requests] == ["/model_weights/l2a_unet.hdf5"]
    again = await fetched(server, cache)
    assert (got.status, again.status) == ("fetched", "there")
    assert len(server.requests) == 1
    assert cache.verified(MODEL) == got.path


async def test_a_difference_from_an_earlier_revision_only_warns(server: WeightsServer, cache: WeightsCache) -> None:
    got = await fetched(server, cache)
    assert got.warning
    assert sha256(CONTENT) in got.warning
    assert str(UNET.earlier_sha256) in got.warning
    other = await fetch(PUBLISHED["kappamask_l2a_deeplabv3plus"], cache, server.url)
    assert other.warning is None, "nobody knows a sum to compare with"


async def test_neither_user_nor_password_of_a_mirror_are_kept(server: WeightsServer, cache: WeightsCache) -> None:
    base = server.url.replace("http://", "http://someone:secret@")
    await fetch(UNET, cache, base)
    assert all(b"secret" not in path.read_bytes() for path in cache.folder.iterdir())
    server.faults.append(Fault(status=403))
    with pytest.raises(InputError, match="answers 403") as told:
        await fetch(UNET, cache, base, replace=True)
    assert "secret" not in str(told.value)


# Recorded for ever


async def test_a_file_that_was_tampered_with_is_found_and_fetched_again(
    server: WeightsServer, cache: WeightsCache
) -> None:
    path = (await fetched(server, cache)).path
    data = bytearray(CONTENT)
    data[1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError) as told:
        cache.verified(MODEL)
    for text in (str(path), sha256(bytes(data)), sha256(CONTENT), f"`kappamask-stream models fetch {MODEL}`"):
        assert text in str(told.value)
    said: list[str] = []
    got = await fetched(server, cache, say=said.append)
    assert got.status == "fetched"
    assert path.read_bytes() == CONTENT
    assert "fetching it again" in said[0]
    assert cache.verified(MODEL) == path


async def test_another_file_than_was_recorded_is_taken_only_if_the_user_says_so(
    server: WeightsServer, cache: WeightsCache
) -> None:
    path = (await fetched(server, cache)).path
    path.unlink()  # the record stays
    server.content, server.etag = hdf5_like(280_000, seed=1), '"two"'
    with pytest.raises(InputError) as told:
        await fetched(server, cache)
    for text in (sha256(CONTENT), sha256(server.content), "--replace"):
        assert text in str(told.value)
    assert files(cache) == ["l2a_unet.hdf5.json"], "the record only"
    got = await fetched(server, cache, replace=True)
    assert path.read_bytes() == server.content
    assert cache.record(UNET) == got.record
    assert cache.verified(MODEL) == path


async def test_replacing_leaves_the_old_file_until_the_new_one_is_whole(
    server: WeightsServer, cache: WeightsCache
) -> None:
    path = (await fetched(server, cache)).path
    server.content, server.etag = hdf5_like(280_000, seed=1), '"two"'
    server.faults.append(half_way(cache))
    server.faults += [Fault(status=503)] * 3
    with pytest.raises(InputError):
        await fetched(server, cache, replace=True)
    assert cache.verified(MODEL) == path
    assert path.read_bytes() == CONTENT
    await fetched(server, cache, replace=True)
    assert server.requests[-1].range == f"bytes={HALF}-"
    assert path.read_bytes() == server.content


async def test_an_unreadable_record_is_not_taken_for_none(server: WeightsServer, cache: WeightsCache) -> None:
    path = (await fetched(server, cache)).path
    record = cache.record_path(UNET)
    for damage in (b"", b"{}", b"[1]", b'{"sha256": "ab", "bytes": 1}', b'{"sha256": null, "bytes": 1}'):
        record.write_bytes(damage)
        with pytest.raises(InputError, match=r"l2a_unet\.hdf5\.json, the record .*--replace"):
            cache.verified(MODEL)
        with pytest.raises(InputError, match=r"l2a_unet\.hdf5\.json, the record"):
            await fetched(server, cache)
    await fetched(server, cache, replace=True)
    assert cache.verified(MODEL) == path


async def test_a_file_that_somebody_put_there_is_recorded_when_it_is_first_used(
    server: WeightsServer, cache: WeightsCache
) -> None:
    cache.folder.mkdir()
    cache.path(UNET).write_bytes(CONTENT)
    assert cache.verified("kappamask_l2a_unet_bf16") == cache.path(UNET)
    record = cache.record(UNET)
    assert record is not None
    assert (record.sha256, record.url) == (sha256(CONTENT), None)
    assert (await fetched(server, cache)).status == "there"
    assert server.requests == []
    assert cache.verified("csmask_l2a") is None
    assert cache.verified("kappamask_l1c_unet") is None


# One at a time


async def test_two_fetches_at_once_are_one_download(server: WeightsServer, cache: WeightsCache) -> None:
    let_go = asyncio.Event()
    server.faults.append(Fault(after=HALF, until=let_go.is_set))
    said: list[str] = []
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(fetched(server, cache))
        await until(lambda: has_arrived(cache, HALF))
        second = tasks.create_task(fetched(server, cache, say=said.append))
        await until(lambda: said)
        let_go.set()
    assert said == ["another process fetches l2a_unet.hdf5; waiting"]
    assert (first.result().status, second.result().status) == ("fetched", "there")
    assert sum(request.sent for request in server.requests) == len(CONTENT)
    assert files(cache) == ["l2a_unet.hdf5", "l2a_unet.hdf5.json"]


def test_a_part_that_its_holder_took_away_meanwhile_is_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening and locking it: the lock would be on a file that has another name by now."""
    path, lock = tmp_path / "l2a_unet.hdf5.part", fcntl.flock
    renamed = iter([True, False])

    def late(descriptor: int, operation: int) -> None:
        if next(renamed):
            path.rename(tmp_path / "l2a_unet.hdf5")
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    descriptor = part_module._take(path)
    assert descriptor is not None
    try:
        assert os.fstat(descriptor).st_ino == path.stat().st_ino
    finally:
        os.close(descriptor)


async def test_weights_are_not_removed_while_they_are_fetched(server: WeightsServer, cache: WeightsCache) -> None:
    let_go = asyncio.Event()
    server.faults.append(Fault(after=HALF, until=let_go.is_set))
    fetching = asyncio.create_task(fetched(server, cache))
    await until(lambda: has_arrived(cache, HALF))
    with pytest.raises(UsageError, match="is being fetched by another process"):
        remove_fetched(MODEL, cache)
    let_go.set()
    await fetching
    assert [path.name for path in remove_fetched(MODEL, cache)] == ["l2a_unet.hdf5", "l2a_unet.hdf5.json"]
    assert remove_fetched(MODEL, cache) == remove_fetched("csmask_l2a", cache) == []


async def test_cancelled_it_leaves_what_has_arrived(server: WeightsServer, cache: WeightsCache) -> None:
    server.faults.append(half_way(cache, then="stall"))
    fetching = asyncio.create_task(fetched(server, cache))
    await until(lambda: has_arrived(cache, HALF))
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    assert files(cache) == ["l2a_unet.hdf5.part", "l2a_unet.hdf5.part.json"]
    await fetched(server, cache)
    assert server.ranges_asked == [None, f"bytes={HALF}-"]


async def test_a_record_that_cannot_be_written_is_an_output_error(server: WeightsServer, cache: WeightsCache) -> None:
    cache.record_path(UNET).mkdir(parents=True)
    with pytest.raises(OutputError, match=r"cannot write .*l2a_unet\.hdf5\.json: Is a directory"):
        await fetched(server, cache, replace=True)
    with pytest.raises(InputError, match=r"the record of what l2a_unet\.hdf5 was, cannot be read"):
        cache.verified(MODEL)


async def test_a_file_whose_record_is_still_anothers_is_never_trusted(
    server: WeightsServer, cache: WeightsCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the file and its record, `--replace` leaves the safe half done."""
    await fetched(server, cache)
    server.content, server.etag = hdf5_like(300_000, seed=9), '"two"'

    class KilledError(Exception):
        pass

    def killed(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(type(cache), "write_record", killed)
        with pytest.raises(KilledError):
            await fetched(server, cache, replace=True)
    assert cache.path(UNET).read_bytes() == server.content
    with pytest.raises(InputError, match="it has changed since it was fetched"):
        cache.verified(MODEL)
    again = await fetched(server, cache, replace=True)
    assert again.record.sha256 == sha256(server.content)
    assert cache.verified(MODEL) == again.path


async def test_a_first_record_does_not_replace_the_one_that_another_process_has_just_written(
    server: WeightsServer, cache: WeightsCache
) -> None:
    got = await fetched(server, cache)
    late = Record(sha256="0" * 64, bytes=1)
    assert cache.write_first_record(UNET, late) == got.record
    assert cache.record(UNET) == got.record
    assert files(cache) == ["l2a_unet.hdf5", "l2a_unet.hdf5.json"]
