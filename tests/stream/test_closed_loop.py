"""The closed loop that a benchmark's client process runs, on a fake server and a clock that ticks when it is asked."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from kappamask_stream.bench.closed_loop import FEW, ClosedLoop
from kappamask_stream.errors import InferenceError, ServerOverloadedError, ServerUnavailableError
from tests.bench_tiles import made_tiles
from tests.stream.fakes import FakeInference
from tests.stream.polling import until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from kappamask_stream.contract import ModelContract
    from kappamask_stream.inference import InferResult, TileRequest


class Gate(FakeInference):
    """Answers nothing until told to.

    Attributes
    ----------
    waiting : by the name of its tile, each request that waits for its answer.
    """

    waiting: dict[str, asyncio.Future[None]]

    def __init__(self, contract: ModelContract) -> None:
        super().__init__(contract)
        self.waiting = {}

    async def infer(self, request: TileRequest) -> InferResult:
        gate = self.waiting[request.name] = asyncio.get_running_loop().create_future()
        try:
            await gate
        finally:
            del self.waiting[request.name]
        return await super().infer(request)

    async def answer_all(self) -> None:
        """Answer what waits, and return when as much waits again."""
        gates = list(self.waiting.values())
        for gate in gates:
            gate.set_result(None)
        await until(lambda: len(self.waiting) == len(gates) and not any(gate.done() for gate in self.waiting.values()))


@pytest.fixture
def requests(csmask_contract: ModelContract, tmp_path: Path) -> Sequence[TileRequest]:
    return made_tiles(csmask_contract, tmp_path, count=7).requests()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that shows `now`."""
    made = SimpleNamespace(now=0.0)
    made.monotonic = lambda: made.now
    monkeypatch.setattr("kappamask_stream.bench.closed_loop.time", made)
    return made


async def test_as_many_are_in_flight_as_were_asked_for(
    csmask_contract: ModelContract, requests: Sequence[TileRequest]
) -> None:
    client = FakeInference(csmask_contract)
    loop = ClosedLoop(client, requests, first=0, step=3)
    loop.start(3)
    await until(lambda: loop.rounds >= 20)
    await loop.stop()
    assert client.peak_in_flight == 3
    assert client.in_flight == 0
    assert set(client.sent) == {request.name for request in requests}, "all tiles are sent in turn"


async def test_processes_send_different_tiles(csmask_contract: ModelContract, requests: Sequence[TileRequest]) -> None:
    clients = [Gate(csmask_contract), Gate(csmask_contract)]
    loops = [ClosedLoop(client, requests, first=first, step=5) for client, first in zip(clients, (0, 3), strict=True)]
    for loop, count in zip(loops, (3, 2), strict=True):
        loop.start(count)
    for expected in ({0, 1, 2, 3, 4}, {5, 6, 0, 1, 2}, {3, 4, 5, 6, 0}):
        await until(lambda: len(clients[0].waiting) + len(clients[1].waiting) == 5)
        assert clients[0].waiting.keys() | clients[1].waiting.keys() == {requests[i].name for i in expected}
        for client in clients:
            await client.answer_all()
    for loop in loops:
        await loop.aclose()


async def test_what_counts_of_an_interval(
    csmask_contract: ModelContract, requests: Sequence[TileRequest], clock: SimpleNamespace
) -> None:
    client = Gate(csmask_contract)
    loop = ClosedLoop(client, requests, first=0, step=2)
    loop.start(2)  # sent at 0
    await until(lambda: len(client.waiting) == 2)
    clock.now = 10.0
    loop.begin()
    clock.now = 11.0
    await client.answer_all()  # answered in the interval, sent before it
    assert (loop.rounds, loop.whole) == (1, 0)
    clock.now = 14.0
    await client.answer_all()  # sent and answered in it
    assert (loop.rounds, loop.whole) == (2, 2)
    clock.now = 20.0
    await client.answer_all()  # answered at its end: no longer in it
    answers = loop.between(10.0, 20.0)
    assert (answers.answered, answers.latencies_s, answers.turned_away) == (4, [3.0, 3.0], 0)
    assert (answers.last_before_s, answers.last_s) == (None, 14.0)
    later = loop.between(12.0, 30.0)
    assert (later.answered, later.last_before_s, later.last_s) == (4, 11.0, 20.0)
    assert loop.between(15.0, 20.0).last_s is None
    await loop.aclose()


async def test_overload_is_counted_and_ends_nothing(
    csmask_contract: ModelContract, requests: Sequence[TileRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kappamask_stream.bench.closed_loop._PAUSE_S", 0.0)
    client = FakeInference(csmask_contract)
    client.failures.extend(ServerOverloadedError(f"full {i}") for i in range(10 * FEW))
    loop = ClosedLoop(client, requests, first=0, step=1)
    loop.start(2)
    await until(lambda: loop.rounds >= 2)
    await loop.stop()
    answers = loop.between(0.0, float("inf"))
    assert (answers.turned_away, answers.turned_away_text) == (10 * FEW, "full 0")
    assert answers.answered >= 4
    assert not loop.errors


async def test_a_few_failures_end_it_and_none_is_a_tile(
    csmask_contract: ModelContract, requests: Sequence[TileRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kappamask_stream.bench.closed_loop._PAUSE_S", 0.0)
    client = FakeInference(csmask_contract)
    loop = ClosedLoop(client, requests, first=0, step=1)
    loop.start(2)
    await until(lambda: loop.rounds >= 1)
    client.failures.extend(ServerUnavailableError("dead") for _ in range(10 * FEW))
    await until(lambda: len(loop.errors) >= FEW)
    await loop.stop()
    assert all(isinstance(error, ServerUnavailableError) for error in loop.errors)
    assert len(loop.errors) <= FEW + 1, "one more may have been in flight"
    answered = sum(client.sent.values()) - len(loop.errors)
    assert loop.between(0.0, float("inf")).answered == answered


async def test_a_failure_by_itself_is_told(csmask_contract: ModelContract, requests: Sequence[TileRequest]) -> None:
    client = FakeInference(csmask_contract)
    client.failures.append(InferenceError("no finite values"))
    loop = ClosedLoop(client, requests, first=0, step=1)
    loop.start(1)
    await until(lambda: loop.rounds >= 2)
    await loop.stop()
    assert [str(error) for error in loop.errors] == ["no finite values"]


async def test_a_fault_of_the_program_is_raised(
    csmask_contract: ModelContract, requests: Sequence[TileRequest]
) -> None:
    client = FakeInference(csmask_contract)
    loop = ClosedLoop(client, requests, first=0, step=1)
    loop.start(2)
    client.failures.append(ZeroDivisionError("a fault"))
    await until(lambda: not client.failures)
    with pytest.raises(ZeroDivisionError):
        await loop.stop()
    with pytest.raises(ZeroDivisionError):
        loop.check()
    await loop.aclose()


async def test_giving_up_leaves_nothing_in_flight(
    csmask_contract: ModelContract, requests: Sequence[TileRequest]
) -> None:
    client = Gate(csmask_contract)
    loop = ClosedLoop(client, requests, first=0, step=4)
    loop.start(4)
    await until(lambda: len(client.waiting) == 4)
    await loop.aclose()
    assert not client.waiting
    assert len(asyncio.all_tasks()) == 1
