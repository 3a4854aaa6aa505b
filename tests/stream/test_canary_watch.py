"""When servers are asked for the canary, and what their answers mean for tiles and products: in virtual time."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kappamask_stream.canary import known_answer
from kappamask_stream.contract import BandGroup, ModelContract
from kappamask_stream.errors import (
    AnswerError,
    CanaryError,
    InferenceTimeoutError,
    ServerFaultError,
    ServerOverloadedError,
    ServerUnavailableError,
)
from kappamask_stream.inference import (
    InFlightWindow,
    RetryPolicy,
    canary_watch,
    contract_watch,
    endpoint,
    infer_with_retry,
    triton,
)
from kappamask_stream.inference.triton import TritonClient
from kappamask_stream.inference.types import InferResult, TileRequest
from tests.conftest import make_contract
from tests.stream.virtual_time import story

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from kappamask_stream.inference.types import Priority

SIZE = 64
PLAIN = make_contract(
    inputs=(BandGroup(gsd_m=20, bands=("B02",), tile=SIZE, stride=48),), gsd_m=20, tile_size=SIZE, margin=8
)
RIGHT = np.where(np.arange(SIZE)[:, None] < SIZE // 2, np.uint8(1), np.uint8(4)) * np.ones((1, SIZE), np.uint8)


def sure(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Probabilities of labels that are certain."""
    return np.stack([np.where(value == labels, 255, 0) for value in PLAIN.probability_classes]).astype(np.uint8)


CONTRACT = replace(PLAIN, min_agreement=0.9995, canary=known_answer(PLAIN, RIGHT, sure(RIGHT)))
WRONG = np.full((SIZE, SIZE), 2, np.uint8)
SECOND = "ipv4:10.0.0.2:8001"
ONE, THREE = "grpc://10.0.0.1:8001", "grpc://10.0.0.1:8001,10.0.0.2:8001,10.0.0.3:8001"


class Servers:
    """Behind a client: what each answers, and what each was asked.

    Attributes
    ----------
    says : by target, labels or an error; `RIGHT` where nothing is said.
    chances : probabilities, where they are not those of the labels.
    asked : targets of canaries so far; `tiles` of other requests, `urgent` of those in the interactive lane.
    opened : with what connections to single servers were opened.
    delay_s : that an answer takes.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.says: dict[str, Any] = {}
        self.chances: NDArray[np.uint8] | None = None
        self.asked: list[str] = []
        self.tiles = self.urgent = 0
        self.opened: list[dict[str, Any]] = []
        self.delay_s = 0.0
        self.contract = CONTRACT
        monkeypatch.setattr(TritonClient, "_answer", self._answer)
        monkeypatch.setattr(canary_watch, "in_thread", self._now)
        monkeypatch.setattr(canary_watch, "Connection", self)
        for module in (contract_watch, triton):
            monkeypatch.setattr(module, "contract_of", self._contract)

    @staticmethod
    async def _now(_: object, function: Callable[..., Any], *args: object) -> Any:
        return function(*args)

    async def _contract(self, *_: object) -> ModelContract:
        return self.contract

    def open(self, where: endpoint.Endpoint, *_: object, **options: Any) -> Link:
        self.opened.append(options)
        return Link(where)

    def client(self, text: str = ONE, *, canary_s: float = 600.0, priority: Priority | None = None) -> TritonClient:
        link: Any = Link(endpoint.parse_endpoint(text))
        return TritonClient(link, self.contract, 120.0, canary_s=canary_s, priority=priority)

    async def _answer(self, connection: Any, request: TileRequest) -> InferResult:
        is_canary = request.name == "the canary"
        assert connection.most == self.contract.answer_bytes, "no larger answer is taken"
        if is_canary:
            self.asked.append(connection.endpoint.target)
        else:
            self.tiles += 1
            self.urgent += request.urgent
        await asyncio.sleep(self.delay_s)
        said = self.says.get("canary" if is_canary else "tile", self.says.get(connection.endpoint.target, RIGHT))
        if isinstance(said, Exception):
            raise said
        chances = sure(said) if self.chances is None else self.chances
        return InferResult(labels=said, probabilities=chances if request.probabilities else None)


class Link:
    """In the place of a connection."""

    security = None

    def __init__(self, where: endpoint.Endpoint) -> None:
        self.endpoint = where
        self.reconnects = SimpleNamespace(count=0)
        self.most = 0

    def expect(self, answer_bytes: int) -> None:
        self.most = answer_bytes

    async def aclose(self) -> None:
        pass


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Servers:
    return Servers(monkeypatch)


def tile() -> TileRequest:
    zeros = np.zeros(1, np.float32)
    return TileRequest(
        name="a tile", tensors={"DN_20M": np.ones((1, SIZE, SIZE), np.uint16)}, offset=zeros, scale=zeros
    )


def told(coroutine: Callable[[Servers], Any]) -> Callable[[Servers], None]:
    """A story about servers."""

    def test(servers: Servers) -> None:
        story(lambda: coroutine(servers))()

    test.__name__, test.__doc__ = coroutine.__name__, coroutine.__doc__
    return test


# The schedule


@told
async def test_one_canary_every_canary_s_while_tiles_flow(servers: Servers) -> None:
    client = servers.client(canary_s=600.0)
    for _ in range(3600):  # an hour, a tile each second
        await client.infer(tile())
        await asyncio.sleep(1.0)
    assert (servers.tiles, len(servers.asked)) == (3600, 6)


@told
async def test_nothing_is_asked_while_there_is_nothing_to_do(servers: Servers) -> None:
    client = servers.client()
    await client.infer(tile())
    await asyncio.sleep(86_400.0)
    assert len(servers.asked) == 1


@told
async def test_the_first_tile_after_a_long_pause_waits_for_the_canary(servers: Servers) -> None:
    client = servers.client()
    await client.infer(tile())
    await asyncio.sleep(601.0)
    servers.says["canary"] = WRONG
    with pytest.raises(CanaryError, match=r"Its last right answer was 601 s ago: masks .* are in doubt"):
        await client.infer(tile())
    assert servers.tiles == 1, "the tile was not sent"


@told
async def test_with_0_it_is_asked_on_connecting_and_where_there_is_reason_to_doubt(servers: Servers) -> None:
    client = servers.client(canary_s=0.0)
    await client.confirm_answers()
    await asyncio.sleep(1e6)
    await client.infer(tile())
    await client.confirm()
    assert len(servers.asked) == 1
    servers.says["tile"] = ServerFaultError("out of memory")
    with pytest.raises(ServerFaultError):
        await client.infer(tile())
    servers.says.clear()
    await client.infer(tile())
    assert len(servers.asked) == 2


@told
async def test_many_tiles_at_once_wait_for_one_canary(servers: Servers) -> None:
    client, servers.delay_s = servers.client(), 1.0
    await asyncio.gather(*(client.infer(tile()) for _ in range(64)))
    assert (servers.tiles, len(servers.asked)) == (64, 1)


@told
async def test_a_product_is_published_after_a_right_answer_of_its_last_canary_s(servers: Servers) -> None:
    """`confirm` is what comes before a mask is published: it asks where the last right answer is too old."""
    client = servers.client(canary_s=600.0)
    await client.infer(tile())
    await asyncio.sleep(599.0)
    await client.confirm()
    assert len(servers.asked) == 1
    await asyncio.sleep(1.0)
    await client.confirm()
    assert len(servers.asked) == 2
    await asyncio.sleep(600.0)
    servers.says["canary"] = WRONG
    with pytest.raises(CanaryError):
        await client.confirm()


# Doubt


@pytest.mark.parametrize(
    "error",
    [
        ServerUnavailableError("gone"),
        AnswerError("LABELS hold classes [77]"),
        ServerFaultError("out of memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_after_a_failure_the_canary_comes_before_the_next_tile(servers: Servers, error: Exception) -> None:
    async def tale() -> None:
        client = servers.client()
        await client.infer(tile())
        servers.says["tile"] = error
        with pytest.raises(type(error)):
            await client.infer(tile())
        servers.says = {"canary": WRONG}
        with pytest.raises(CanaryError, match="last right answer was 0 s ago"):
            await client.infer(tile())
        assert servers.tiles == 2

    story(tale)()


@pytest.mark.parametrize("error", [ServerOverloadedError("full"), InferenceTimeoutError("late")], ids=repr)
def test_a_server_that_is_slow_or_full_is_not_doubted(servers: Servers, error: Exception) -> None:
    async def tale() -> None:
        client = servers.client()
        await client.infer(tile())
        servers.says["tile"] = error
        with pytest.raises(type(error)):
            await client.infer(tile())
        servers.says.clear()
        await client.infer(tile())
        assert len(servers.asked) == 1

    story(tale)()


@told
async def test_what_cannot_be_learnt_is_asked_again_and_is_no_wrong_answer(servers: Servers) -> None:
    client = servers.client()
    servers.says["canary"] = ServerOverloadedError("full")
    with pytest.raises(ServerOverloadedError):
        await client.infer(tile())
    servers.says.clear()
    await client.infer(tile())
    assert (servers.tiles, len(servers.asked)) == (1, 2)


@told
async def test_a_server_that_hangs_costs_all_who_wait_one_timeout(servers: Servers) -> None:
    client, servers.delay_s = servers.client(), 120.0
    servers.says["canary"] = InferenceTimeoutError("no answer within 120 s")
    began = asyncio.get_running_loop().time()
    ended = await asyncio.gather(*(client.infer(tile()) for _ in range(16)), return_exceptions=True)
    assert {type(error) for error in ended} == {InferenceTimeoutError}
    assert asyncio.get_running_loop().time() - began == pytest.approx(120.0)
    assert len(servers.asked) == 1


@told
async def test_whoever_is_cancelled_while_he_asks_leaves_it_to_the_next(servers: Servers) -> None:
    client, servers.delay_s = servers.client(), 1.0
    first, second = (asyncio.create_task(client.infer(tile())) for _ in range(2))
    await asyncio.sleep(0.5)
    first.cancel()
    await second
    assert (servers.tiles, len(servers.asked)) == (1, 2)


@told
async def test_a_connection_that_was_lost_between_two_tiles_is_reason_to_doubt(servers: Servers) -> None:
    client = servers.client()
    await client.infer(tile())
    client.connection.reconnects.count += 1
    assert client.is_doubtful
    await client.infer(tile())
    assert not client.is_doubtful
    await client.infer(tile())
    assert len(servers.asked) == 2, "once for each time"
    client.connection.reconnects.count += 1
    servers.says["canary"] = WRONG
    with pytest.raises(CanaryError):
        await client.confirm()


# What a canary costs the tiles that wait for it


async def _sent(
    servers: Servers, client: TritonClient, failure: Exception, window: InFlightWindow
) -> tuple[int, float]:
    """32 tiles wait for a canary, which fails once: the limit after it, and seconds until all are answered."""
    servers.delay_s, servers.says["canary"] = 1.0, failure
    policy, loop = RetryPolicy(rng=random.Random(1)), asyncio.get_running_loop()
    began = loop.time()
    tasks = [asyncio.create_task(infer_with_retry(client, tile(), window=window, policy=policy)) for _ in range(32)]
    await asyncio.sleep(1.01)
    limit = window.limit
    servers.says.clear()
    await asyncio.gather(*tasks)
    return limit, loop.time() - began


@told
async def test_a_canary_that_finds_the_queue_full_lowers_the_limit_once(servers: Servers) -> None:
    limit, _ = await _sent(servers, servers.client(), ServerOverloadedError("full"), InFlightWindow(32))
    assert limit == 22


@told
async def test_a_canary_that_is_late_makes_no_tile_late(servers: Servers) -> None:
    limit, seconds = await _sent(servers, servers.client(), InferenceTimeoutError("late"), InFlightWindow(32))
    assert (limit, servers.urgent, servers.tiles) == (32, 0, 32)
    assert seconds < 4.0, "one canary, another one, and all tiles at once"


@pytest.mark.parametrize("failure", [InferenceTimeoutError("late"), ServerFaultError("no memory")], ids=repr)
def test_a_canary_spends_no_attempt_of_a_tile(servers: Servers, failure: Exception) -> None:
    """Each has two attempts, and fails once."""

    async def tale() -> None:
        client, window = servers.client(), InFlightWindow(1)
        policy = RetryPolicy(attempts=2, rng=random.Random(1))
        servers.delay_s, servers.says = 1.0, {"canary": failure, "tile": failure}
        work = asyncio.create_task(infer_with_retry(client, tile(), window=window, policy=policy))
        await asyncio.sleep(1.5)
        del servers.says["canary"]
        await asyncio.sleep(1.1)
        assert (len(servers.asked), servers.tiles) == (2, 1)
        await asyncio.sleep(0.52)
        servers.says.clear()
        await work
        servers.says["canary"] = failure
        client.connection.reconnects.count += 1
        asked = len(servers.asked)
        with pytest.raises(type(failure), match=r"tried 2 times"):
            await infer_with_retry(client, tile(), window=window, policy=policy)
        assert len(servers.asked) - asked == 2, "a canary that is never answered ends as a tile does"

    story(tale)()


@pytest.mark.parametrize(("priority", "urgent"), [("interactive", 0), ("backlog", 32), (None, 32)])
def test_late_tiles_are_urgent_unless_they_are_in_that_lane_already(
    servers: Servers, priority: Priority | None, urgent: int
) -> None:
    async def tale() -> None:
        client, window = servers.client(priority=priority), InFlightWindow(32)
        await client.infer(tile())
        servers.delay_s, servers.says["tile"] = 1.0, InferenceTimeoutError("late")
        policy, loop = RetryPolicy(rng=random.Random(1)), asyncio.get_running_loop()
        tasks = [asyncio.create_task(infer_with_retry(client, tile(), window=window, policy=policy)) for _ in range(32)]
        await asyncio.sleep(1.01)
        servers.says.clear()
        began = loop.time()
        await asyncio.gather(*tasks)
        assert servers.urgent == urgent
        assert (loop.time() - began < 2.0) is (urgent == 0), "two at a time"

    story(tale)()


# Wrong answers


@told
async def test_after_a_wrong_answer_nothing_more_is_sent_and_nothing_published(servers: Servers) -> None:
    client, servers.says["canary"] = servers.client(), WRONG
    ended = await asyncio.gather(*(client.infer(tile()) for _ in range(8)), return_exceptions=True)
    servers.says.clear()  # it has recovered: what was begun before fails all the same
    ended += await asyncio.gather(client.infer(tile()), client.confirm(), return_exceptions=True)
    assert [type(error) for error in ended] == [CanaryError] * 10
    assert (servers.tiles, len(servers.asked)) == (0, 1)
    assert "0.0000 of the pixels have the known class, 0.999 are needed" in str(ended[-1])
    assert "kappamask-stream models check test_l2a --triton grpc://10.0.0.1:8001" in str(ended[-1])


@told
async def test_products_that_come_later_have_another_client_once_it_answers_rightly(servers: Servers) -> None:
    client, servers.says["canary"] = servers.client(), WRONG
    with pytest.raises(CanaryError):
        await client.infer(tile())
    assert client.is_doubtful
    with pytest.raises(CanaryError):
        await client.renewed()
    servers.says.clear()
    renewed = await client.renewed()
    assert renewed is not client
    await renewed.infer(tile())
    with pytest.raises(CanaryError):
        await client.infer(tile())


@told
async def test_an_answer_to_the_canary_that_cannot_be_used_is_wrong(servers: Servers) -> None:
    client, servers.says["canary"] = servers.client(), AnswerError("LABELS hold classes [77]")
    with pytest.raises(CanaryError, match=r"its answer cannot be used: LABELS hold classes \[77\]"):
        await client.infer(tile())


@pytest.mark.parametrize(
    "chances",
    [sure(WRONG), sure(RIGHT)[::-1], np.full((3, SIZE, SIZE), 255, np.uint8), sure(np.roll(RIGHT, 4, axis=0))],
    ids=["another class", "classes in another order", "the same", "rows aside"],
)
def test_probabilities_are_wrong_though_labels_are_right(servers: Servers, chances: NDArray[np.uint8]) -> None:
    """Whatever is asked for later: a blend is made of them, and they are in a file of their own."""

    async def tale() -> None:
        client = servers.client()
        await client.infer(tile())
        await asyncio.sleep(601.0)
        servers.chances = chances
        with pytest.raises(CanaryError, match=r"known, by the largest of PROBABILITIES 0\.\d+ of the pixels have the"):
            await client.infer(tile())
        assert servers.tiles == 1, "the tile was not sent"

    story(tale)()


# Several servers


@told
async def test_each_address_that_is_named_is_asked(servers: Servers) -> None:
    client = servers.client(THREE)
    await client.infer(tile())
    assert sorted(servers.asked) == [f"ipv4:10.0.0.{i}:8001" for i in (1, 2, 3)]


@told
async def test_one_wrong_replica_of_three_is_found_and_named(servers: Servers) -> None:
    client, servers.says["ipv4:10.0.0.2:8001"] = servers.client(THREE), WRONG
    with pytest.raises(CanaryError, match=r"^grpc://10\.0\.0\.2:8001 answers wrongly"):
        await client.infer(tile())


@told
async def test_a_replica_that_is_away_does_not_keep_the_others_from_work(servers: Servers) -> None:
    client, servers.says["ipv4:10.0.0.2:8001"] = servers.client(THREE), ServerUnavailableError("gone")
    for _ in range(5):
        await client.infer(tile())
    assert len(servers.asked) == 3, "no tile doubts the others for it"
    assert servers.tiles == 5


AWAY = [
    ServerUnavailableError("gone"), ServerOverloadedError("full"), InferenceTimeoutError("late"), ServerFaultError("hm"),
]  # fmt: skip


@pytest.mark.parametrize("failure", AWAY, ids=lambda failure: type(failure).__name__)
def test_a_replica_that_did_not_answer_is_asked_again_soon(servers: Servers, failure: Exception) -> None:
    async def tale() -> None:
        client, servers.says[SECOND] = servers.client(THREE), failure
        await client.infer(tile())
        servers.says[SECOND] = WRONG  # it is back; gRPC sends it tiles again without a word
        began = asyncio.get_running_loop().time()

        async def tiles() -> None:
            for _ in range(60):
                await client.infer(tile())
                await asyncio.sleep(1.0)

        with pytest.raises(CanaryError, match=r"^grpc://10\.0\.0\.2:8001 answers wrongly") as caught:
            await tiles()
        assert asyncio.get_running_loop().time() - began <= 30.0
        assert "Its last right answer" not in str(caught.value), "it has given none"
        assert len(servers.asked) == 3 + 1, "the others are not asked again for it"
        with pytest.raises(CanaryError):
            await client.confirm()

    story(tale)()


@pytest.mark.parametrize("failure", AWAY, ids=lambda failure: type(failure).__name__)
def test_a_replica_that_did_not_answer_is_asked_before_a_mask_is_written(servers: Servers, failure: Exception) -> None:
    async def tale() -> None:
        client, servers.says[SECOND] = servers.client(THREE), failure
        await client.infer(tile())
        servers.says[SECOND] = WRONG
        with pytest.raises(CanaryError, match=r"^grpc://10\.0\.0\.2:8001 answers wrongly"):
            await client.confirm()

    story(tale)()


@told
async def test_a_replica_that_is_full_at_every_canary_keeps_masks_from_being_written(servers: Servers) -> None:
    """It does answer tiles: who is full is at work."""
    client, servers.says[SECOND] = servers.client(THREE), ServerOverloadedError("full")
    for _ in range(4):
        await client.infer(tile())
        await asyncio.sleep(600.0)
    with pytest.raises(ServerOverloadedError) as caught:
        await client.confirm()
    assert caught.value.is_of_canary
    servers.says.clear()
    await client.confirm()
    asked = len(servers.asked)
    await client.infer(tile())
    await asyncio.sleep(40.0)
    await client.infer(tile())
    assert len(servers.asked) == asked, "everybody has answered"


@told
async def test_a_replica_that_hangs_holds_up_neither_tiles_nor_masks_for_ever(servers: Servers) -> None:
    client, servers.says[SECOND] = servers.client(THREE), InferenceTimeoutError("no answer within 120 s")
    await client.infer(tile())
    await asyncio.sleep(601.0)
    await client.infer(tile())
    servers.delay_s = 10.0
    await asyncio.sleep(31.0)
    began, loop = asyncio.get_running_loop().time(), asyncio.get_running_loop()
    slow, *others = [asyncio.create_task(client.infer(tile())) for _ in range(8)]
    await asyncio.gather(*others)
    assert loop.time() - began == pytest.approx(10.0), "one of them waits for the replica, the others do not"
    await slow
    await client.confirm()
    assert all(options["infer_timeout_s"] == 120.0 for options in servers.opened)


@told
async def test_where_all_are_away_nothing_is_learnt(servers: Servers) -> None:
    client = servers.client(THREE)
    servers.says |= {f"ipv4:10.0.0.{i}:8001": ServerUnavailableError("gone") for i in (1, 2, 3)}
    with pytest.raises(ServerUnavailableError):
        await client.infer(tile())


@told
async def test_servers_behind_a_name_are_asked_as_often_as_it_has_addresses(servers: Servers) -> None:
    async def addresses(*_: object, **__: object) -> list[Any]:
        return [(2, 1, 6, "", (f"10.0.0.{i}", 8001)) for i in (1, 2, 3)]

    asyncio.get_running_loop().getaddrinfo = addresses  # type: ignore[method-assign]
    client = servers.client("dns:///triton.example:8001")
    await client.infer(tile())
    assert len(servers.asked) == 3
    client.connection.reconnects.count += 1
    began, servers.delay_s = asyncio.get_running_loop().time(), 5.0
    await client.confirm()
    assert asyncio.get_running_loop().time() - began == pytest.approx(10.0), "the first one, then all others at once"


@told
async def test_one_of_several_behind_a_name_that_is_full_does_not_keep_the_others_from_work(servers: Servers) -> None:
    async def addresses(*_: object, **__: object) -> list[Any]:
        return [(2, 1, 6, "", (f"10.0.0.{i}", 8001)) for i in (1, 2, 3)]

    async def answer(*_: object) -> InferResult:
        servers.asked.append("one of them")
        said: Any = next(answers)
        if isinstance(said, Exception):
            raise said
        return InferResult(labels=said, probabilities=sure(said))

    asyncio.get_running_loop().getaddrinfo = addresses  # type: ignore[method-assign]
    answers = iter([RIGHT, ServerOverloadedError("full"), RIGHT, RIGHT, RIGHT, WRONG])
    client = servers.client("dns:///triton.example:8001")
    client._canary._infer = answer
    await client.infer(tile())
    await asyncio.sleep(29.0)
    await client.infer(tile())
    assert len(servers.asked) == 3
    await asyncio.sleep(1.0)
    with pytest.raises(CanaryError):
        await client.infer(tile())
    assert (servers.tiles, len(servers.asked)) == (2, 6)


# Contracts without


@told
async def test_a_contract_without_a_canary_is_said_and_nothing_asked(servers: Servers) -> None:
    servers.contract = PLAIN
    client = servers.client()
    await client.infer(tile())
    await client.confirm()
    assert servers.asked == []
    assert client.no_canary is not None
    assert "cannot be checked: the contract of test_l2a knows no tile's answer" in client.no_canary


@told
async def test_an_answer_to_another_tile_is_said_too(servers: Servers) -> None:
    assert CONTRACT.canary is not None
    servers.contract = replace(CONTRACT, canary=replace(CONTRACT.canary, recipe=2))
    client = servers.client()
    await client.infer(tile())
    assert servers.asked == []
    assert "knows the answer to another tile only" in str(client.no_canary)
    servers.contract = CONTRACT
    assert servers.client().no_canary is None
