"""Regions lent to requests, against a server that is a table: every way in which a request can end, and a server change."""

from __future__ import annotations

import asyncio
import gc
import os
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from kappamask_stream.errors import ServerError
from kappamask_stream.inference import region_pool, registrations, server_memory
from kappamask_stream.inference.endpoint import parse_endpoint
from kappamask_stream.inference.grpc_errors import translated
from kappamask_stream.inference.model_infer import ModelInfer
from kappamask_stream.inference.region_pool import RegionPool
from kappamask_stream.inference.shared_memory import Region, lacking
from tests.stream.polling import until

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.skipif(lacking() is not None, reason=f"no shared memory: {lacking()}")

SIZE = 10_000


def refused(said: str, status: str = "INTERNAL") -> InferenceServerException:
    return InferenceServerException(msg=said, status=f"StatusCode.{status}")


UNKNOWN = refused("Unable to find shared memory region: 'x'", "NOT_FOUND")
LOST = refused("failed to connect to all addresses", "UNAVAILABLE")
FULL = refused("Exceeds maximum queue size", "UNAVAILABLE")


@dataclass
class Server:
    """The calls of a server that are about shared memory.

    Attributes
    ----------
    version : as it says.
    regions : names that it has mapped, with the bytes of each.
    in_use : names of regions that requests use, whether or not somebody waits for their answers.
    failures : by call, what it raises.
    gates : by call, an event that is waited for.
    calls : made so far.
    seen : files of regions that there were while it mapped one.
    """

    version: str = "2.51.0"
    regions: dict[str, int] = field(default_factory=dict)
    in_use: set[str] = field(default_factory=set)
    failures: dict[str, InferenceServerException] = field(default_factory=dict)
    gates: dict[str, asyncio.Event] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    async def _call(self, name: str) -> None:
        self.calls.append(name)
        if name in self.gates:
            await self.gates[name].wait()
        if name in self.failures:
            raise self.failures[name]

    def plugin(self) -> None:
        return None

    async def get_server_metadata(self, **_: object) -> Any:
        await self._call("metadata")
        return SimpleNamespace(name="triton", version=self.version, extensions=["system_shared_memory"])

    async def register_system_shared_memory(self, name: str, key: str, size: int, **_: object) -> None:
        await self._call("register")
        if not Path(f"/dev/shm{key}").exists():
            raise refused(f"Unable to open shared memory region: '{key}'")
        self.seen.update(files())
        self.regions[name] = size

    async def get_system_shared_memory_status(self, name: str = "", **_: object) -> Any:
        await self._call("status")
        if name and name not in self.regions:
            raise refused(f"Unable to find system shared memory region: '{name}'", "NOT_FOUND")
        return SimpleNamespace(regions=self.regions)

    async def unregister_system_shared_memory(self, name: str, **_: object) -> None:
        await self._call("unregister")
        if name in self.in_use:
            raise refused(f"Cannot unregister shared memory region '{name}', it is currently in use.")
        self.regions.pop(name, None)


class Hanging(grpc.aio.ServerInterceptor):
    """A server of gRPC that answers nobody."""

    def __init__(self, asked: asyncio.Event, never: asyncio.Event) -> None:
        self._asked, self._never = asked, never

    async def intercept_service(self, *_: object) -> Any:
        self._asked.set()
        await self._never.wait()


def pool_of(server: Server, endpoint: str = "grpc://127.0.0.1:8001", **options: Any) -> RegionPool:
    channel: Any = server
    return RegionPool(channel, parse_endpoint(endpoint), **options)


def files() -> list[str]:
    return [path.name for path in Path("/dev/shm").glob(f"kappamask-*-{os.getpid()}-*")]


async def one_request(pool: RegionPool, size: int = SIZE, error: BaseException | None = None) -> str | None:
    """Send a request that ends at once; returns the name of its region."""
    with suppress(InferenceServerException, ZeroDivisionError):
        async with pool.lent(size) as region:
            name = None if region is None else region.name
            if error is not None:
                raise error
    return name


async def test_a_region_serves_one_request_after_the_other() -> None:
    server = Server()
    pool = pool_of(server)
    names = [await one_request(pool) for _ in range(5)]
    assert len(set(names)) == 1
    assert server.regions == {names[0]: SIZE}
    assert files() == []
    assert repr(pool) == "<RegionPool 1 regions, 1 idle, 0 filled, 0 given up>"
    await pool.aclose()
    assert server.regions == {}


async def test_no_file_has_the_name_by_which_a_server_knows_a_region() -> None:
    """Every user can list files, and send a request that names a region."""
    server = Server()
    pool = pool_of(server)
    async with pool.lent(SIZE):
        await one_request(pool)
    assert len(server.seen) == len(server.regions) == 2
    assert not server.seen & set(server.regions)
    await pool.aclose()


async def test_requests_at_once_have_regions_of_their_own() -> None:
    server = Server()
    pool = pool_of(server)
    held, go = [], asyncio.Event()

    async def request() -> None:
        async with pool.lent(SIZE) as region:
            assert region is not None
            held.append(region.name)
            await go.wait()

    tasks = [asyncio.create_task(request()) for _ in range(5)]
    await until(lambda: len(held) == 5)
    assert len(set(held)) == 5
    go.set()
    await asyncio.gather(*tasks)
    assert set(held) == set(server.regions)
    assert server.calls.count("metadata") == 1
    await pool.aclose()


@pytest.mark.parametrize(
    ("error", "is_lent_again"),
    [(None, True), (FULL, True), (LOST, False), (refused("Deadline Exceeded", "DEADLINE_EXCEEDED"), False),
     (refused("the network failed"), False), (refused("no room", "RESOURCE_EXHAUSTED"), False),
     (asyncio.CancelledError(), False), (ZeroDivisionError(), False)],
    ids=["answer", "full queue", "lost", "timeout", "fault", "proxy", "cancelled", "bug"],
)  # fmt: skip
async def test_a_region_comes_back_only_where_the_server_is_over_with_it(
    error: BaseException | None,
    is_lent_again: bool,  # noqa: FBT001 - parametrised
) -> None:
    server = Server()
    pool = pool_of(server)
    with suppress(asyncio.CancelledError):
        first = await one_request(pool, error=error)
    (first,) = server.regions
    server.in_use.add(first)
    second = await one_request(pool)
    assert (second == first) is is_lent_again
    server.in_use.clear()
    if not is_lent_again:
        await until(lambda: first not in server.regions)
    await pool.aclose()
    assert server.regions == {}


async def test_a_region_in_use_is_unregistered_as_soon_as_it_is_not() -> None:
    server = Server()
    pool = pool_of(server)
    name = await one_request(pool, error=LOST)
    assert name is not None
    server.in_use.add(name)
    await until(lambda: server.calls.count("unregister") >= 3)
    assert name in server.regions
    assert "1 given up" in repr(pool)
    server.in_use.clear()
    await until(lambda: server.regions == {})
    assert "0 given up" in repr(pool)
    await pool.aclose()


async def test_closing_waits_a_little_for_what_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    pool = pool_of(server)
    name = await one_request(pool)
    assert name is not None
    server.in_use.add(name)
    closing = asyncio.create_task(pool.aclose())
    await until(lambda: server.calls.count("unregister") >= 2)
    assert not closing.done()
    server.in_use.clear()
    await closing
    assert server.regions == {}
    monkeypatch.setattr(registrations, "_DRAIN_S", 0.05)
    pool = pool_of(server)
    name = await one_request(pool)
    assert name is not None
    server.in_use.add(name)
    await pool.aclose()  # the server works on: it is the next client's to clear up
    assert set(server.regions) == {name}
    assert await one_request(pool) is None


async def test_closing_beside_a_dead_server_ends_at_once() -> None:
    server = Server()
    pool = pool_of(server)
    await one_request(pool)
    server.failures["unregister"] = LOST
    await pool.aclose()
    assert server.calls.count("unregister") == 1
    await pool.aclose()


async def test_a_server_that_was_started_again_gets_other_regions() -> None:
    server = Server()
    pool = pool_of(server)
    go = asyncio.Event()

    async def request() -> None:
        async with pool.lent(SIZE):
            await go.wait()

    tasks = [asyncio.create_task(request()) for _ in range(3)]
    await until(lambda: len(server.regions) == 3)
    go.set()
    await asyncio.gather(*tasks)
    memory = pool.fill(SIZE)
    before = set(server.regions)
    server.regions.clear()
    assert await one_request(pool, error=UNKNOWN) in before
    assert not pool.is_proven
    assert await one_request(pool) not in before
    assert len(server.regions) == 1
    assert pool.is_proven
    assert memory is not None
    memory[:] = 1  # what was filled before stays readable
    await pool.aclose()


async def test_a_region_that_only_another_server_knows_ends_it_for_good() -> None:
    """A balancer gives each connection to another server: the one that is asked is not the one that gets the tiles."""
    server = Server()
    pool = pool_of(server)
    assert await one_request(pool, error=UNKNOWN) is not None
    assert [await one_request(pool) for _ in range(2)] == [None, None]
    assert pool.why_not == "several servers answer at grpc://127.0.0.1:8001, and do not share it"
    assert not pool.is_used
    await until(lambda: server.regions == {})
    await pool.aclose()


async def test_who_said_unknown_is_found_out_once_the_server_answers() -> None:
    server = Server()
    pool = pool_of(server)
    await one_request(pool, error=UNKNOWN)
    server.failures["status"] = LOST
    with pytest.raises(InferenceServerException):
        async with pool.lent(SIZE):
            raise AssertionError("there is no server")
    del server.failures["status"]
    assert await one_request(pool) is None
    assert "several servers" in str(pool.why_not)
    await pool.aclose()
    assert server.regions == {}


WHY_NOT = {
    "grpc://10.0.0.7:8001": "grpc://10.0.0.7:8001 is no loopback address of this machine",
    "dns:///triton:8001": "dns:///triton:8001 is no loopback address of this machine",
    "dns://10.0.0.1/localhost:8001": "dns://10.0.0.1/localhost:8001 is no loopback address of this machine",
    "grpc://127.0.0.1:8001,127.0.0.1:8002": "grpc://127.0.0.1:8001,127.0.0.1:8002 is several servers",
}


@pytest.mark.parametrize("endpoint", WHY_NOT)
async def test_servers_elsewhere_are_not_even_asked(endpoint: str) -> None:
    server = Server()
    pool = pool_of(server, endpoint)
    assert await one_request(pool) is None
    assert pool.why_not == WHY_NOT[endpoint]
    assert server.calls == []


@pytest.mark.parametrize("endpoint", ["grpc://localhost:8001", "grpcs://[::1]:8001", "127.0.0.2:1"])
async def test_servers_on_loopback_are_asked(endpoint: str) -> None:
    server = Server()
    pool = pool_of(server, endpoint)
    assert await one_request(pool) is not None
    assert server.calls.count("status") >= 4  # several that answer in turn would be found out
    await pool.aclose()


async def test_it_can_be_switched_off() -> None:
    server = Server()
    pool = pool_of(server, wanted=False)
    assert await one_request(pool) is None
    assert pool.fill(SIZE) is None
    assert repr(pool) == "<RegionPool, none: it is switched off (setting shared_memory)>"
    assert server.calls == []


REFUSALS: dict[str, tuple[Callable[[Server], object], str]] = {
    "restricted": (
        lambda server: server.failures.update(register=refused("This protocol is restricted", "UNAVAILABLE")),
        "refuses: This protocol is restricted",
    ),
    "not allowed": (lambda server: server.failures.update(register=refused("Not allowed")), "Not allowed"),
    "another /dev/shm": (
        lambda server: server.failures.update(register=refused("Unable to open shared memory region: '/x'")),
        "Unable to open shared memory region: '/x'",
    ),
    "too old": (
        lambda server: setattr(server, "version", "2.49.0"),
        "Triton 2.49.0 does not count who uses it, as 2.50 does",
    ),
    "no version": (lambda server: setattr(server, "version", "new"), "triton new does not know it"),
    "no metadata": (
        lambda server: server.failures.update(metadata=refused("Method not found!", "UNIMPLEMENTED")),
        "is no Triton: Method not found!",
    ),
    "replicas": (
        lambda server: server.failures.update(status=refused("Unable to find system shared memory region: 'x'")),
        "several servers answer at grpc://127.0.0.1:8001, and do not share it",
    ),
}


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_server_that_does_not_want_to_is_asked_once(refusal: str) -> None:
    server = Server()
    REFUSALS[refusal][0](server)
    pool = pool_of(server)
    assert await one_request(pool) is None
    assert REFUSALS[refusal][1] in str(pool.why_not)
    calls = len(server.calls)
    assert await one_request(pool) is None
    assert [call for call in server.calls[calls:] if call != "unregister"] == []
    await pool.aclose()
    assert (server.regions, files()) == ({}, [])


@pytest.mark.parametrize("call", ["metadata", "register", "status"])
async def test_a_server_that_is_lost_is_asked_again(call: str) -> None:
    server = Server()
    server.failures[call] = LOST
    pool = pool_of(server)
    for _ in range(2):
        with pytest.raises(InferenceServerException):
            async with pool.lent(SIZE):
                raise AssertionError("there is no server")
        assert pool.why_not is None
    del server.failures[call]
    assert await one_request(pool) is not None
    await pool.aclose()
    assert (server.regions, files()) == ({}, [])


@pytest.mark.parametrize("call", ["metadata", "register", "status"])
async def test_a_request_cancelled_while_its_region_is_made_leaves_it_to_the_next(call: str) -> None:
    server = Server(gates={call: asyncio.Event()})
    pool = pool_of(server)
    waiting = [asyncio.create_task(one_request(pool)) for _ in range(3)]
    await until(lambda: call in server.calls)
    waiting[0].cancel()
    waiting[1].cancel()
    await asyncio.wait(waiting[:2])
    server.gates[call].set()
    assert await waiting[2] is not None
    await until(lambda: len(server.regions) == 1)
    assert await one_request(pool) in server.regions
    assert len(server.regions) == 1
    await pool.aclose()
    assert (server.regions, files()) == ({}, [])


@pytest.mark.parametrize("call", ["metadata", "register", "status"])
async def test_closing_while_a_region_is_made_leaves_nothing(call: str) -> None:
    server = Server(gates={call: asyncio.Event()})
    pool = pool_of(server)
    waiting = asyncio.create_task(one_request(pool))
    await until(lambda: call in server.calls)
    waiting.cancel()
    await asyncio.wait([waiting])
    await pool.aclose()
    assert (server.regions, files()) == ({}, [])


@pytest.mark.parametrize("call", ["metadata", "register", "status"])
async def test_a_request_that_waits_while_the_connection_is_closed_is_told_so(call: str) -> None:
    """It was cancelled by nobody: a task group would take that for an end without an error."""
    server = Server(gates={call: asyncio.Event()})
    pool = pool_of(server)

    async def request() -> None:
        async with pool.lent(SIZE):
            raise AssertionError("it is closed")

    waiting = asyncio.create_task(request())
    await until(lambda: call in server.calls)
    await pool.aclose()
    with pytest.raises(InferenceServerException, match="the connection is closed"):
        await waiting
    assert (server.regions, files()) == ({}, [])


async def test_a_second_region_that_is_made_while_the_connection_is_closed_is_an_error() -> None:
    server = Server()
    pool = pool_of(server)
    async with pool.lent(SIZE):
        server.gates["register"] = asyncio.Event()
        waiting = asyncio.create_task(pool.lent(SIZE).__aenter__())
        await until(lambda: server.calls.count("register") == 2)
        await pool.aclose()
        with pytest.raises(InferenceServerException, match="the connection is closed"):
            await waiting


async def test_tiles_over_a_closed_channel_are_told_so() -> None:
    """One that waits for its answer, and one that comes later."""
    asked, never = asyncio.Event(), asyncio.Event()

    server = grpc.aio.server(interceptors=[Hanging(asked, never)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    infer = ModelInfer(grpc.aio.insecure_channel(f"127.0.0.1:{port}"), None, answer_bytes=0)
    waiting = asyncio.create_task(infer(b"", timeout_s=60.0))
    await asked.wait()
    await infer.aclose()
    for call in (waiting, infer(b"", timeout_s=60.0)):
        with pytest.raises(InferenceServerException, match="the connection is closed") as caught:
            await call
        meaning = translated(caught.value, "grpc://here", 1.0)
        assert type(meaning) is ServerError
        assert str(meaning) == "the connection to the server at grpc://here was closed while it was in use"
    never.set()
    await server.stop(None)


async def test_a_second_region_that_is_cancelled_meanwhile_is_kept() -> None:
    server = Server()
    pool = pool_of(server)
    async with pool.lent(SIZE):
        server.gates["register"] = asyncio.Event()
        waiting = asyncio.create_task(one_request(pool))
        await until(lambda: server.calls.count("register") == 2)
        waiting.cancel()
        await asyncio.wait([waiting])
        server.gates["register"].set()
        await until(lambda: len(server.regions) == 2)
    await until(lambda: repr(pool) == "<RegionPool 2 regions, 2 idle, 0 filled, 0 given up>")
    await pool.aclose()


async def test_where_there_is_no_room_tiles_go_over_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    pool = pool_of(server)
    async with pool.lent(SIZE):

        def make(_: int) -> Region:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Region, "make", make)
        assert await one_request(pool) is None
    assert await one_request(pool) is not None  # the one that there is is lent on
    assert pool.why_not is None
    other = pool_of(Server())
    assert await one_request(other) is None
    assert other.why_not == "there is no room for it: No space left on device"
    await pool.aclose()


async def test_a_server_that_takes_no_more_regions_lets_go_of_all() -> None:
    server = Server()
    pool = pool_of(server)
    async with pool.lent(SIZE) as first, pool.lent(SIZE):
        pass
    memory = pool.fill(SIZE)
    assert first is not None
    async with pool.lent(SIZE):
        server.failures["register"] = refused("Unable to open shared memory region: too many open files")
        assert await one_request(pool) is None
        assert (pool.is_proven, pool.is_used) == (False, False)
        assert "too many open files" in str(pool.why_not)
        assert len(server.regions) == 2  # in use, and filled
    await until(lambda: len(server.regions) == 1)
    del memory
    await until(lambda: server.regions == {})
    await pool.aclose()


async def test_regions_that_nobody_needs_any_more_are_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(region_pool, "_LATELY_S", 0.02)
    server = Server()
    pool = pool_of(server)
    async with AsyncExitStack() as held:
        for _ in range(5):
            await held.enter_async_context(pool.lent(SIZE))
    async with pool.lent(SIZE), pool.lent(SIZE) as second:
        await until(lambda: len(server.regions) == 2)
        assert second is not None
        assert second.name in server.regions
    await until(lambda: len(server.regions) == 1)
    assert await one_request(pool) in server.regions
    assert pool.is_used
    await pool.aclose()


async def test_regions_that_are_needed_again_and_again_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(region_pool, "_LATELY_S", 3600.0)
    server = Server()
    pool = pool_of(server)
    for _ in range(3):
        async with pool.lent(SIZE), pool.lent(SIZE), pool.lent(SIZE):
            pass
        pool._trim()
    assert server.calls.count("register") == 3
    assert len(server.regions) == 3
    pool._trim()  # nothing was sent since
    await until(lambda: len(server.regions) == 1)
    await pool.aclose()


async def test_off_the_event_loop_pixels_are_not_filled_in_and_no_region_is_lost() -> None:
    server = Server()
    pool = pool_of(server)
    name = await one_request(pool)
    assert await asyncio.to_thread(pool.fill, SIZE) is None
    assert await one_request(pool) == name
    await pool.aclose()


async def test_of_several_idle_regions_one_that_is_large_enough_is_lent() -> None:
    server = Server()
    pool = pool_of(server)
    async with pool.lent(2 * SIZE) as large:
        async with pool.lent(SIZE):
            pass
        assert large is not None
    async with pool.lent(SIZE):  # the large one came back last
        pass
    pool._idle.reverse()
    memory = pool.fill(2 * SIZE)
    assert memory is not None
    assert len(server.regions) == 2
    await pool.aclose()


async def test_a_region_that_is_too_small_gives_way_to_another() -> None:
    server = Server()
    pool = pool_of(server)
    small = await one_request(pool)
    large = await one_request(pool, 2 * SIZE)
    assert large != small
    await until(lambda: server.regions == {large: 2 * SIZE})
    assert await one_request(pool) == large
    await pool.aclose()


async def test_regions_of_killed_clients_are_cleared_up() -> None:
    mine = Region.make(1)
    mine.unlink()
    word, namespace, user, process, _, digits = mine.name.split("-")
    dead, used = (f"{word}-{namespace}-{user}-{process}-{start}-{digits}" for start in (1, 2))
    others = {mine.name: 1, "of somebody": 1, "triton_python_backend_shm_region_1": 1}
    server = Server(regions={dead: 1, used: 1, **others}, in_use={used})
    pool = pool_of(server)
    await one_request(pool)
    await until(lambda: dead not in server.regions)
    await pool.aclose()
    assert server.regions == {used: 1, **others}


async def test_pixels_are_sent_from_where_they_were_filled_in() -> None:
    server = Server()
    pool = pool_of(server)
    assert pool.fill(SIZE) is None  # there is no region yet
    first = await one_request(pool)
    memory = pool.fill(SIZE)
    assert memory is not None
    address = memory.__array_interface__["data"][0]
    for _ in range(2):  # a second time, too
        async with pool.lent(SIZE, address) as region, pool.lent(SIZE, address) as another:
            assert region is not None
            assert another is not None
            assert region.name == first
            assert another.name != first  # the answer would be written where the first one's is
    assert await one_request(pool) != first  # it is not lent as long as somebody holds the pixels
    view = memory[10:20]
    del memory, region, another
    gc.collect()
    assert "1 filled" in repr(pool)
    del view
    await until(lambda: "0 filled" in repr(pool))
    assert pool.fill(SIZE) is not None
    await pool.aclose()


async def test_pixels_of_a_request_without_an_answer_are_copied_for_the_next_try() -> None:
    server = Server()
    pool = pool_of(server)
    first = await one_request(pool)
    memory = pool.fill(SIZE)
    assert memory is not None
    memory[:] = np.arange(SIZE) % 251
    address = memory.__array_interface__["data"][0]
    with suppress(InferenceServerException):
        async with pool.lent(SIZE, address):
            raise LOST
    async with pool.lent(SIZE, address) as region:
        assert region is not None
        assert region.name != first
    assert np.array_equal(memory, np.arange(SIZE) % 251)
    del memory
    assert await one_request(pool) != first
    await pool.aclose()
    assert server.regions == {}


def test_the_header_is_the_local_servers() -> None:
    """`server_models` imports nothing of the client: the name is written down twice."""
    text = (Path(__file__).parents[2] / "server_models" / "tritonserver.py").read_text()
    assert f'MEMORY_HEADER = "{server_memory.KEY_HEADER}"' in text
    assert f"shared-memory:{server_memory.KEY_HEADER.removeprefix('triton-grpc-protocol-')}=" in text
