"""The network between a client and Triton on a bad day: it breaks off, stands still, crawls, or changes bytes."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

import pytest
import rasterio

from kappamask_stream.errors import ServerError
from kappamask_stream.inference import channel
from tests.faults.triton_masks import TILES, Disturbed, impatient, scene, undisturbed
from tests.faults.triton_relay import relayed
from tests.integration.dns_server import name_server
from tests.integration.fault_proxy import FaultProxy
from tests.integration.tls_files import Authority
from tests.stream.polling import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fault_table import Fault
    from tests.faults.triton_relay import TritonRelay
    from tests.integration.dns_server import NameServer
    from tests.integration.session import SessionServer
    from tests.stream.scene import Scene

pytestmark = pytest.mark.integration

__all__ = ["impatient", "scene", "undisturbed"]

_SEED = 11
#: Bytes of what a product sends and gets, roughly; where connections are cut is drawn from so many.
_PRODUCT = 3_500_000


@pytest.fixture
def proxy(session_server: SessionServer) -> Iterator[FaultProxy]:
    with FaultProxy(session_server.address) as made:
        yield made


@pytest.fixture
def disturbed(proxy: FaultProxy, scene: Scene, tmp_path: Path) -> Disturbed:
    return Disturbed(scene, f"grpc://{proxy.address}", tmp_path / "out")


@pytest.mark.fault("Network", "connection to Triton reset at random bytes")
async def test_connections_are_reset_at_random_points(
    proxy: FaultProxy, disturbed: Disturbed, undisturbed: Path, fault: Fault
) -> None:
    places, wanted = random.Random(_SEED), fault.amount(10, 200)
    async with disturbed.masker() as masker:
        await disturbed.mask(masker)
        while proxy.cuts < wanted:
            begin = proxy.passed
            proxy.cut_points.extend(begin + offset for offset in sorted(places.sample(range(_PRODUCT), 5)))
            fault.identical(await disturbed.mask(masker), undisturbed)
            proxy.cut_points.clear()
    fault.injected(proxy.cuts)
    assert disturbed.causes == {"ServerUnavailableError"}


@pytest.mark.fault("Network", "half-open connection to Triton (keepalive)")
async def test_a_connection_that_stands_still_is_given_up(
    proxy: FaultProxy, disturbed: Disturbed, undisturbed: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing comes through any more, and nobody says so; new connections work.

    Where packets are lost it takes TCP 10 s to find out, for what is sent is not acknowledged; here it is, by the
    proxy's machine, and a ping of gRPC is not answered within its 60 s.
    """
    usual = channel.channel_arguments
    quick = [("grpc.http2.ping_timeout_ms", fault.amount(1_000, 60_000))]
    monkeypatch.setattr(channel, "channel_arguments", lambda *given, **rest: [*usual(*given, **rest), *quick])
    async with disturbed.masker() as masker:
        await disturbed.mask(masker)
        before = proxy.connections
        fault.injected(proxy.freeze())
        fault.identical(await disturbed.mask(masker), undisturbed)
    assert proxy.connections > before
    assert disturbed.causes <= {"ServerUnavailableError", "InferenceTimeoutError"}


@pytest.mark.fault("Network", "50 ms and 200 ms of latency between client and Triton")
@pytest.mark.parametrize("milliseconds", [50, 200])
async def test_a_server_that_is_far_away(
    milliseconds: int, proxy: FaultProxy, disturbed: Disturbed, undisturbed: Path, fault: Fault
) -> None:
    """From the beginning, so that connecting and the canary take their time, too; nothing is sent a second time."""
    proxy.latency_s = milliseconds / 1000
    async with disturbed.masker() as masker:
        for _ in range(fault.amount(1, 5)):
            fault.injected()
            began = time.monotonic()
            fault.identical(await disturbed.mask(masker), undisturbed)
            assert time.monotonic() - began > 2 * proxy.latency_s, "there and back"
    assert (disturbed.retries, proxy.connections) == ([], 1)


# Names


class Moving:
    """A server that has a name, and takes another address while nobody can look the name up.

    Attributes
    ----------
    tiles : after so many answers the name and the old address are gone.
    """

    def __init__(self, names: NameServer, relay: TritonRelay, old: FaultProxy, tiles: int) -> None:
        self._names, self._relay, self._old, self._last = names, relay, old, tiles
        relay.change["ModelInfer"] = self._answering
        self.gone = asyncio.Event()

    def _answering(self, _answer: object) -> None:
        if self._relay.tiles == self._last:
            self._names.is_gone = self._old.refuses = True
            self._old.cut()
            self.gone.set()


@pytest.mark.fault("Network", "DNS of Triton gone in the middle, the server under another address afterwards")
async def test_a_name_that_is_gone_while_the_server_moves(
    session_server: SessionServer, scene: Scene, tmp_path: Path, undisturbed: Path, fault: Fault
) -> None:
    async with relayed(session_server.address) as (relay, endpoint):
        with name_server("127.0.0.1") as names, FaultProxy(endpoint.removeprefix("grpc://")) as old:
            port = int(old.address.rpartition(":")[2])
            disturbed = Disturbed(scene, names.endpoint(port), tmp_path / "out")
            with FaultProxy(old.server, f"127.0.0.2:{port}") as new:
                async with disturbed.masker() as masker:
                    await disturbed.mask(masker)
                    moving = Moving(names, relay, old, relay.tiles + TILES // 2)
                    masking = asyncio.create_task(disturbed.mask(masker))
                    await moving.gone.wait()
                    await until(lambda: names.refused)
                    assert not (await asyncio.wait([masking], timeout=fault.amount(0.5, 20.0)))[0]
                    assert 0 < disturbed.progress.tiles_done < TILES
                    assert new.connections == 0
                    fault.injected(names.refused)
                    names.addresses, names.is_gone = ["127.0.0.2"], False
                    fault.identical(await masking, undisturbed)
                assert new.connections > 0
    assert disturbed.causes == {"ServerUnavailableError"}


@pytest.mark.fault("Network", "DNS of Triton gone in the middle, connections cut")
async def test_a_name_that_is_gone_is_not_needed_where_its_address_answers(
    session_server: SessionServer, scene: Scene, tmp_path: Path, undisturbed: Path, fault: Fault
) -> None:
    async with relayed(session_server.address) as (relay, endpoint):
        with name_server("127.0.0.1") as names, FaultProxy(endpoint.removeprefix("grpc://")) as proxy:
            disturbed = Disturbed(scene, names.endpoint(int(proxy.address.rpartition(":")[2])), tmp_path / "out")
            async with disturbed.masker() as masker:
                await disturbed.mask(masker)
                moving = Moving(names, relay, proxy, relay.tiles + TILES // 2)
                masking = asyncio.create_task(disturbed.mask(masker))
                await moving.gone.wait()
                proxy.refuses = False
                fault.injected(proxy.cuts)
                fault.identical(await masking, undisturbed)
                assert names.is_gone


@pytest.mark.fault("Network", "DNS of Triton gone from the beginning")
async def test_a_name_that_stays_unknown_fails_the_product(
    session_server: SessionServer, scene: Scene, tmp_path: Path, fault: Fault
) -> None:
    port = int(session_server.address.rpartition(":")[2])
    with name_server("127.0.0.1") as names:
        names.is_gone = True
        endpoint = names.endpoint(port)
        disturbed = Disturbed(scene, endpoint, tmp_path / "out", {"server_wait_s": fault.amount(1.0, 10.0)})
        with pytest.raises(ServerError) as caught:
            await disturbed.mask()
        fault.injected(names.refused)
        fault.refused(caught.value, disturbed.output, f"no server answers at {endpoint}", "DNS")
        assert caught.value.retryable


# Slowness


@pytest.mark.fault("Network", "slow loris: 1 KB/s both ways")
async def test_a_connection_that_crawls_ends_in_words_and_stops_nobody_else(
    proxy: FaultProxy, scene: Scene, session_server: SessionServer, tmp_path: Path, undisturbed: Path, fault: Fault,
    impatient: None,
) -> None:  # fmt: skip
    seconds = fault.amount(1.0, 30.0)
    options = {"infer_timeout_s": seconds, "tile_attempts": 2, "server_wait_s": seconds}
    slow = Disturbed(scene, f"grpc://{proxy.address}", tmp_path / "slow", options)
    other = Disturbed(scene, f"grpc://{session_server.address}", tmp_path / "other", options)
    async with slow.masker() as slowly, other.masker() as quickly:
        await slow.mask(slowly)
        proxy.bytes_per_s = 1000.0
        fault.injected()
        masking = asyncio.create_task(slow.mask(slowly))
        for _ in range(3):
            fault.identical(await other.mask(quickly), undisturbed)
        with pytest.raises(ServerError) as caught:
            await masking
        fault.refused(caught.value, slow.output, scene.name, f"grpc://{proxy.address}", "tried")
        assert caught.value.retryable
        proxy.bytes_per_s = None
        proxy.cut()  # what is on its way would take minutes
        fault.identical(await slow.mask(slowly), undisturbed)


# Bytes that are changed on their way


class Flips:
    """Changes one bit of some of the chunks that pass, in places drawn with a seed.

    Attributes
    ----------
    left : chunks that are still to be changed.
    """

    def __init__(self, seed: int) -> None:
        self._places, self.left = random.Random(seed), 0

    def __call__(self, _to_server: bool, data: bytes) -> bytes:  # noqa: FBT001 - as the proxy calls it
        if not self.left or len(data) < 1000 or self._places.random() > 0.2:
            return data
        self.left -= 1
        changed = bytearray(data)
        changed[self._places.randrange(len(data))] ^= 1 << self._places.randrange(8)
        return bytes(changed)


@pytest.mark.fault("Network", "bits flipped between client and Triton, over TLS")
async def test_bits_that_flip_under_tls_are_found(
    session_server: SessionServer, scene: Scene, tmp_path: Path, undisturbed: Path, fault: Fault
) -> None:
    authority = Authority(tmp_path)
    credentials = authority.pair("127.0.0.1").server_credentials()
    async with relayed(session_server.address, credentials=credentials) as (_, endpoint):
        with FaultProxy(endpoint.removeprefix("grpcs://")) as proxy:
            options = {"triton_ca": authority.file}
            disturbed = Disturbed(scene, f"grpcs://{proxy.address}", tmp_path / "out", options)
            async with disturbed.masker() as masker:
                await disturbed.mask(masker)
                flips = proxy.corrupt = Flips(_SEED)
                while proxy.corrupted < fault.amount(4, 50):
                    flips.left = 2
                    fault.identical(await disturbed.mask(masker), undisturbed)
                fault.injected(proxy.corrupted)
    assert disturbed.causes == {"ServerUnavailableError"}


@pytest.mark.fault("Network", "labels changed between client and Triton, without TLS")
async def test_labels_that_change_without_tls_pass_unseen(
    proxy: FaultProxy, disturbed: Disturbed, undisturbed: Path, fault: Fault
) -> None:
    """What is not promised, shown: TCP's checksum ends at each proxy, gRPC and protobuf have none. TLS is the remedy."""
    async with disturbed.masker() as masker:
        await disturbed.mask(masker)

        def change(to_server: bool, data: bytes) -> bytes:  # noqa: FBT001 - as the proxy calls it
            return data if to_server else data.replace(b"\1" * 64, b"\4" * 64)

        proxy.corrupt = change
        made = await disturbed.mask(masker)
    fault.injected(proxy.corrupted)
    with rasterio.open(made) as wrong, rasterio.open(undisturbed) as right:
        differ = wrong.read(1) != right.read(1)
        assert wrong.profile == right.profile
    assert differ.any()
    fault.outcome("NOT FOUND: a wrong mask, without TLS")
