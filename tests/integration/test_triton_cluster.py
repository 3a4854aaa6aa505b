"""Several servers behind one name: requests go to all, one that dies is not missed, a new one is found."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc
import pytest

from kappamask_stream.errors import ContractError, ModelChangedError, ServerUnavailableError
from kappamask_stream.inference import InFlightWindow, RetryPolicy, TritonClient, contract_watch, infer_with_retry
from kappamask_stream.models import ModelChoice, ModelPool
from kappamask_stream.settings import Settings
from tests.integration.dns_server import NameServer, name_server
from tests.integration.kserve_servers import Replica, serving
from tests.integration.tiles import tile_for
from tests.stream.polling import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kappamask_stream.contract import ModelContract

PATIENT = RetryPolicy(attempts=1, server_wait_s=60.0, backoff_s=0.01, backoff_max_s=0.1)


@pytest.fixture(autouse=True)
def quick_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kappamask_stream.inference.channel._RESOLVE_MS", 100)


@pytest.fixture(scope="module")
def any_names() -> Iterator[NameServer]:
    with name_server() as server:
        yield server


@pytest.fixture
def names(any_names: NameServer) -> NameServer:
    any_names.addresses = ["127.0.0.1", "127.0.0.2"]
    return any_names


@pytest.fixture
def contract(csmask_contract: ModelContract) -> ModelContract:
    return csmask_contract


async def answered(client: TritonClient, tiles: int, *, at_once: int = 8) -> int:
    """Send tiles as a product does; returns how often one was sent again. None may fail."""
    window, retries = InFlightWindow(at_once), []
    results = await asyncio.gather(
        *(
            infer_with_retry(
                client,
                tile_for(client, 4000, f"tile {i}"),
                window=window,
                policy=PATIENT,
                on_retry=lambda *said: retries.append(said),
            )
            for i in range(tiles)
        )
    )
    assert all((result.labels == 4).all() for result in results)
    return len(retries)


async def both_are_used(client: TritonClient, *replicas: Replica) -> None:
    """Send tiles until each has answered some."""

    async def send() -> None:
        before = [replica.tiles for replica in replicas]
        while not all(replica.tiles > n for replica, n in zip(replicas, before, strict=True)):
            await answered(client, 1)

    async with asyncio.timeout(60.0):
        await send()


# Spreading


async def test_requests_go_to_all_addresses_of_a_name_in_turn(names: NameServer, contract: ModelContract) -> None:
    one, other = Replica(contract), Replica(contract)
    async with (
        serving(one) as (_, port),
        serving(other, f"127.0.0.2:{port}"),
        await TritonClient.connect(names.endpoint(port), contract.name) as client,
    ):
        await both_are_used(client, one, other)
        before = one.tiles, other.tiles
        assert await answered(client, 40) == 0
        assert (one.tiles - before[0], other.tiles - before[1]) == (20, 20)


@pytest.mark.parametrize("form", ["grpc://127.0.0.1:{0},127.0.0.2:{0}", "grpc://127.0.0.1:{0},grpc://127.0.0.2:{0}"])
async def test_requests_go_to_all_addresses_of_a_list(form: str, contract: ModelContract) -> None:
    one, other = Replica(contract), Replica(contract)
    async with (
        serving(one) as (_, port),
        serving(other, f"127.0.0.2:{port}"),
        await TritonClient.connect(form.format(port), contract.name) as client,
    ):
        await both_are_used(client, one, other)


async def test_a_proxy_for_the_web_does_not_come_between(
    names: NameServer, contract: ModelContract, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    one, other = Replica(contract), Replica(contract)
    async with (
        serving(one) as (_, port),
        serving(other, f"127.0.0.2:{port}"),
        await TritonClient.connect(names.endpoint(port), contract.name) as client,
    ):
        await both_are_used(client, one, other)


async def test_counters_are_those_of_one_server(names: NameServer, contract: ModelContract) -> None:
    one, other = Replica(contract), Replica(contract)
    other.tiles = 1_000_000
    async with (
        serving(one) as (_, port),
        serving(other, f"127.0.0.2:{port}"),
        await TritonClient.connect(names.endpoint(port), contract.name) as client,
    ):
        await both_are_used(client, one, other)
        asked = [await client.batch_sizes() for _ in range(8)]
        assert len({sizes.counts[1] for sizes in asked}) == 1
        await both_are_used(client, one, other)
        assert 0 < (await client.batch_sizes()).since(asked[0]).counts[1] < 1000


# Coming and going


async def test_one_that_dies_is_not_missed(names: NameServer, contract: ModelContract) -> None:
    one, other = Replica(contract, delay_s=0.02), Replica(contract, delay_s=0.02)
    async with (
        serving(one) as (server, port),
        serving(other, f"127.0.0.2:{port}"),
        await TritonClient.connect(names.endpoint(port), contract.name) as client,
    ):
        await both_are_used(client, one, other)
        sending = asyncio.create_task(answered(client, 120))
        begun = one.tiles
        await until(lambda: one.tiles > begun + 10)
        await server.stop(None)  # what it works on is broken off, as by SIGKILL
        await sending
        assert other.tiles > one.tiles
        last = one.tiles
        assert await answered(client, 20) == 0
        assert one.tiles == last


async def test_all_that_die_are_waited_for(names: NameServer, contract: ModelContract) -> None:
    async with AsyncExitStack() as stack:
        server, port = await stack.enter_async_context(serving(Replica(contract)))
        client = await stack.enter_async_context(await TritonClient.connect(names.endpoint(port), contract.name))
        await server.stop(None)
        sending = asyncio.create_task(answered(client, 4))
        assert not (await asyncio.wait([sending], timeout=0.3))[0]
        await stack.enter_async_context(serving(Replica(contract), f"127.0.0.2:{port}"))
        assert await sending > 0


async def test_a_new_one_is_found_when_connections_come_of_age(names: NameServer, contract: ModelContract) -> None:
    """A closed connection has names resolved again; servers close theirs after a while to this end."""
    of_age = [("grpc.max_connection_age_ms", 300)]
    one, other, new = Replica(contract), Replica(contract), Replica(contract)
    async with (
        serving(one, options=of_age) as (_, port),
        serving(other, f"127.0.0.2:{port}", options=of_age),
        serving(new, f"127.0.0.3:{port}", options=of_age),
        await TritonClient.connect(names.endpoint(port), contract.name) as client,
    ):
        await both_are_used(client, one, other)
        assert new.tiles == 0
        names.addresses = ["127.0.0.2", "127.0.0.3"]
        await both_are_used(client, new)
        await both_are_used(client, other, new)
        left = one.tiles
        assert await answered(client, 20) == 0
        assert one.tiles == left
        assert names.asked > 1


async def test_a_name_that_nobody_knows_is_unavailable(names: NameServer) -> None:
    endpoint = names.endpoint(8001).replace(names.NAME, "elsewhere.test")
    with pytest.raises(ServerUnavailableError, match=rf"no server answers at {endpoint}: .*elsewhere\.test"):
        await TritonClient.connect(endpoint, "null_l2a")


# Different models under one name


@pytest.fixture
def others(contract: ModelContract) -> ModelContract:
    return replace(contract, weights_sha256="cd" * 32)


async def test_servers_that_serve_different_weights_are_refused_with_both_sides(
    names: NameServer, contract: ModelContract, others: ModelContract
) -> None:
    async with (
        serving(Replica(contract)) as (_, port),
        serving(Replica(others), f"127.0.0.2:{port}"),
    ):
        with pytest.raises(
            ContractError, match=r"do not serve the same test_l2a: weights_sha256: .*; masks would"
        ) as e:
            await TritonClient.connect(names.endpoint(port), contract.name)
        assert contract.weights_sha256 in str(e.value)
        assert others.weights_sha256 in str(e.value)


async def test_servers_of_different_size_are_alike(names: NameServer, contract: ModelContract) -> None:
    larger = replace(contract, max_batch=32, instances=2)
    async with (
        serving(Replica(contract)) as (_, port),
        serving(Replica(larger), f"127.0.0.2:{port}"),
        await TritonClient.connect(names.endpoint(port), contract.name) as client,
    ):
        assert replace(client.contract, max_batch=1, instances=1) == replace(contract, max_batch=1, instances=1)


async def test_a_model_that_one_server_has_not_loaded_yet_is_taken_from_the_other(
    names: NameServer, contract: ModelContract
) -> None:
    late = Replica(replace(contract, name="another"))
    ready = Replica(contract)
    async with (
        serving(late) as (_, port),
        serving(ready, f"127.0.0.2:{port}"),
        await TritonClient.connect(names.endpoint(port), contract.name) as client,
    ):
        assert client.contract == contract


async def test_a_mask_that_is_begun_with_one_network_is_not_ended_with_another(
    contract: ModelContract, others: ModelContract, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = Replica(contract)
    async with (
        serving(replica) as (_, port),
        await TritonClient.connect(f"grpc://127.0.0.1:{port}", "test_l2a") as client,
    ):
        assert await answered(client, 2) == 0
        replica.contract = others
        monkeypatch.setattr("kappamask_stream.inference.contract_watch._CONFIRM_S", 0.0)
        for _ in range(2):
            with pytest.raises(ModelChangedError, match="another test_l2a than before: weights_sha256") as caught:
                await client.infer(tile_for(client))
            assert caught.value.retryable, "begun anew it takes the other network"
        assert repr(client) == f"<TritonClient test_l2a at grpc://127.0.0.1:{port}, outdated, gRPC>"
        assert replica.tiles == 2


async def test_a_server_that_comes_back_with_another_network_gets_no_tile(
    contract: ModelContract, others: ModelContract
) -> None:
    """Deployed by Recreate, within the half minute in which nobody looks."""
    other = Replica(others)
    async with AsyncExitStack() as stack:
        server, port = await stack.enter_async_context(serving(Replica(contract)))
        client = await stack.enter_async_context(await TritonClient.connect(f"grpc://127.0.0.1:{port}", contract.name))
        assert await answered(client, 2) == 0
        assert not client.is_doubtful
        await server.stop(None)
        sending = asyncio.create_task(answered(client, 4))
        assert not (await asyncio.wait([sending], timeout=0.3))[0]
        assert client.is_doubtful
        await stack.enter_async_context(serving(other, f"127.0.0.1:{port}"))
        with pytest.raises(ModelChangedError, match="serves another test_l2a than before"):
            await sending
        assert other.tiles == 0


async def test_what_was_read_before_a_connection_was_lost_confirms_nothing(
    contract: ModelContract, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lost(Replica):
        async def ModelInfer(self, request: object, context: grpc.aio.ServicerContext) -> None:  # noqa: N802
            await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    async with (
        serving(Lost(contract)) as (_, port),
        await TritonClient.connect(f"grpc://127.0.0.1:{port}", contract.name) as client,
    ):
        read = contract_watch.contract_of

        async def slowly(*arguments: object) -> ModelContract:
            found = await read(*arguments)
            with pytest.raises(ServerUnavailableError):
                await client.infer(tile_for(client))
            return found

        monkeypatch.setattr(contract_watch, "contract_of", slowly)
        await client.confirm()
        assert client.is_doubtful
        monkeypatch.undo()
        await client.confirm()
        assert not client.is_doubtful


async def test_a_server_that_cannot_say_what_it_serves_gets_no_tile(contract: ModelContract) -> None:
    class Silent(Replica):
        is_silent = False

        async def ModelConfig(self, request: object, context: grpc.aio.ServicerContext) -> object:  # noqa: N802
            if self.is_silent:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
            return await super().ModelConfig(request, context)

    replica = Silent(contract)
    async with (
        serving(replica) as (_, port),
        await TritonClient.connect(f"grpc://127.0.0.1:{port}", contract.name) as client,
    ):
        replica.is_silent = True
        with pytest.raises(ServerUnavailableError):
            await client.confirm()
        with pytest.raises(ServerUnavailableError):
            await client.infer(tile_for(client))
        assert replica.tiles == 0
        replica.is_silent = False
        assert await answered(client, 2) == 0


@pytest.fixture
def doubting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every look at a server be due."""
    monkeypatch.setattr("kappamask_stream.inference.contract_watch._CONFIRM_S", -1.0)


async def test_a_pool_takes_the_network_that_is_deployed_anew(
    names: NameServer, contract: ModelContract, others: ModelContract, doubting: None
) -> None:
    one, other = Replica(contract), Replica(contract)
    async with serving(one) as (_, port), serving(other, f"127.0.0.2:{port}"):
        settings = Settings(triton=names.endpoint(port))
        async with ModelPool(ModelChoice(model=contract.name), settings) as pool:
            first = await pool.get("L2A")
            assert await pool.get("L2A") is first
            assert await pool.refresh("L2A") is first

            other.contract = others  # a rolling update has begun
            with pytest.raises(ContractError, match="do not serve the same"):
                await pool.get("L2A")
            with pytest.raises(ContractError):
                await first.client.infer(tile_for(first.client))

            one.contract = others
            second = await pool.get("L2A")
            assert second.client.contract == others
            assert await pool.get("L2A") is second
            await both_are_used(second.client, one, other)


async def test_a_pool_whose_server_is_away_keeps_the_model_and_refresh_tells(
    contract: ModelContract, doubting: None
) -> None:
    async with AsyncExitStack() as stack:
        server, port = await stack.enter_async_context(serving(Replica(contract)))
        settings = Settings(triton=f"grpc://127.0.0.1:{port}")
        pool = await stack.enter_async_context(ModelPool(ModelChoice(model=contract.name), settings))
        model = await pool.get("L2A")
        await server.stop(None)
        assert await pool.get("L2A") is model
        with pytest.raises(ServerUnavailableError, match="no server answers"):
            await pool.refresh("L2A")
        await stack.enter_async_context(serving(Replica(contract), f"127.0.0.1:{port}"))
        await answered(model.client, 1)
        assert await pool.refresh("L2A") is model


async def test_an_update_that_is_taken_back_is_no_update(
    contract: ModelContract, others: ModelContract, doubting: None
) -> None:
    replica = Replica(contract)
    async with serving(replica) as (_, port):
        settings = Settings(triton=f"grpc://127.0.0.1:{port}")
        async with ModelPool(ModelChoice(model=contract.name), settings) as pool:
            first = await pool.get("L2A")
            replica.contract = others
            with pytest.raises(ContractError):
                await first.client.confirm()
            replica.contract = contract
            again = await pool.get("L2A")
            assert again.client.contract == contract
            assert await answered(again.client, 2) == 0


async def test_a_request_that_is_refused_has_the_contract_looked_at(
    contract: ModelContract, others: ModelContract
) -> None:
    class Refusing(Replica):
        async def ModelInfer(self, request: object, context: grpc.aio.ServicerContext) -> None:  # noqa: N802
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "unexpected shape for input 'DN_20M'")

    replica = Refusing(contract)
    async with (
        serving(replica) as (_, port),
        await TritonClient.connect(f"grpc://127.0.0.1:{port}", "test_l2a") as client,
    ):
        assert not client.is_doubtful
        with pytest.raises(ContractError, match="refuses the request: unexpected shape"):
            await client.infer(tile_for(client))
        replica.contract = others
        for _ in range(2):
            with pytest.raises(ModelChangedError, match="serves another"):
                await client.infer(tile_for(client))
        assert client.is_doubtful


# A dead endpoint


async def test_a_dead_endpoint_costs_a_run_its_patience_once(
    contract: ModelContract, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[float] = []
    connect = TritonClient.connect.__func__

    async def counted(cls: type, *args: object, server_wait_s: float, **rest: object) -> TritonClient:
        attempts.append(server_wait_s)
        return await connect(cls, *args, server_wait_s=0.2 if server_wait_s == 10.0 else server_wait_s, **rest)

    monkeypatch.setattr(TritonClient, "connect", classmethod(counted))
    async with serving(Replica(contract)) as (server, port):
        await server.stop(None)
    settings = Settings(triton=f"grpc://127.0.0.1:{port}")
    async with ModelPool(ModelChoice(model=contract.name), settings) as pool:
        ends = await asyncio.gather(*(pool.get("L2A") for _ in range(100)), return_exceptions=True)
        assert {type(end) for end in ends} == {ServerUnavailableError}
        assert len({str(end) for end in ends}) == 1
        assert attempts == [10.0]

        monkeypatch.setattr("kappamask_stream.models._DEAD_S", 0.0)
        pool._dead = (0.0, pool._dead[1])  # a while has passed
        with pytest.raises(ServerUnavailableError):
            await pool.get("L2A")
        async with serving(Replica(contract), f"127.0.0.1:{port}"):  # and it is there again
            await answered((await pool.get("L2A")).client, 1)
        assert attempts == [10.0, 1.0, 1.0]
