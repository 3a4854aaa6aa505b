"""Shared memory lent to requests that end in every way, in any order: no region is ever two requests'.

A request that ended without an answer may still be read and written by the server, at any time later: its region must
not be lent again, nor be given back to the server's own books before the server is over with it.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule
from tritonclient.utils import InferenceServerException

from kappamask_stream.inference.shared_memory import lacking
from tests.fault_table import Fault
from tests.stream.inline_threads import Inline
from tests.stream.loop_machine import LoopMachine
from tests.stream.test_region_pool import FULL, LOST, SIZE, UNKNOWN, Server, files, pool_of

if TYPE_CHECKING:
    from kappamask_stream.inference.region_pool import RegionPool

pytestmark = pytest.mark.skipif(lacking() is not None, reason=f"no shared memory: {lacking()}")

EVENTS = st.tuples(st.sampled_from(["send", "send", "answer", "answer", "full", "lost", "cancel"]), st.integers(0))
CALLS = ("metadata", "register", "status", "unregister")


class Regions(LoopMachine):
    """Requests by number; `reading` holds those that the server works on, with the region of each."""

    under_test = "pool"
    pool: RegionPool

    def __init__(self) -> None:
        super().__init__()
        self.loop.set_default_executor(Inline(at_once=True))
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.ends: dict[int, asyncio.Future[None]] = {}
        self.names: dict[int, str] = {}
        self.reading: dict[int, str] = {}
        self.clashes: list[str] = []
        self.over_grpc = 0

    @initialize()
    def open_pool(self) -> None:
        self.server = Server()

        async def make() -> None:
            self.pool = pool_of(self.server)

        self.run_now(make())

    async def _request(self, number: int, size: int) -> None:
        with suppress(InferenceServerException):
            async with self.pool.lent(size) as region:
                self.ends[number] = asyncio.get_running_loop().create_future()
                if region is None:
                    self.over_grpc += 1
                else:
                    if region.name in self.reading.values():
                        self.clashes.append(f"{region.name} is lent while the server works on it")
                    if region.name not in self.server.regions:
                        raise UNKNOWN  # it was started again
                    if region.size < size:
                        self.clashes.append(f"{region.name} is too small")
                    self.names[number] = self.reading[number] = region.name
                    self.server.in_use.add(region.name)
                await self.ends[number]

    @rule(events=st.lists(EVENTS, min_size=3, max_size=12))
    def requests(self, events: list[tuple[str, int]]) -> None:
        """Some are sent, some end, one after the other."""
        for what, which in events:
            if what == "send":
                self.send((SIZE, SIZE, 2 * SIZE, 100)[which % 4])
            elif self._waiting():
                self.ends_it(which, what)

    def send(self, size: int) -> None:
        async def begin() -> None:
            number = len(self.tasks)
            self.tasks[number] = asyncio.create_task(self._request(number, size))

        self.run_now(begin())
        self.settle()

    def _waiting(self) -> list[int]:
        return [number for number, end in self.ends.items() if not end.done() and not self.tasks[number].done()]

    def ends_it(self, pick: int, how: str) -> None:
        """Only with an answer, or words of the server that it turned the request away, is the server over with it."""
        number = (waiting := self._waiting())[pick % len(waiting)]
        if how in ("answer", "full") and self.reading.pop(number, None) is not None:
            self._not_in_use(self.names[number])
        failure = {"full": FULL, "lost": LOST}.get(how)
        if how == "cancel":
            self.tasks[number].cancel()
        elif failure is not None:
            self.ends[number].set_exception(failure)
        else:
            self.ends[number].set_result(None)
        self.settle()

    def _not_in_use(self, name: str) -> None:
        if name not in self.reading.values():
            self.server.in_use.discard(name)

    @precondition(lambda self: any(task.done() for task in self.tasks.values()))
    @rule()
    def server_catches_up(self) -> None:
        """It is over with requests that nobody waits for any more."""
        for number in [number for number in self.reading if self.tasks[number].done()]:
            self._not_in_use(self.reading.pop(number))
        self.settle()

    @precondition(lambda self: [task for task in self.tasks.values() if not task.done()])
    @rule(pick=st.integers(0))
    def cancel_anything(self, pick: int) -> None:
        """Also a request that waits for its region."""
        running = [number for number, task in self.tasks.items() if not task.done()]
        self.tasks[running[pick % len(running)]].cancel()
        self.settle()

    @rule()
    def server_is_started_again(self) -> None:
        """It knows no region, and works on nothing."""
        self.server.regions.clear()
        self.server.in_use.clear()
        self.reading.clear()

    @rule(call=st.sampled_from(CALLS), fails=st.booleans())
    def server_is_away(self, call: str, *, fails: bool) -> None:
        if fails:
            self.server.failures[call] = LOST
        else:
            self.server.failures.pop(call, None)

    @rule(call=st.sampled_from(CALLS))
    def server_is_slow(self, call: str) -> None:
        async def shut() -> None:
            self.server.gates.setdefault(call, asyncio.Event())

        self.run_now(shut())

    @rule()
    def server_goes_on(self) -> None:
        for gate in self.server.gates.values():
            gate.set()
        self.server.gates.clear()
        self.settle()

    @rule(seconds=st.sampled_from([1.0, 31.0, 200.0]))
    def time_passes(self, seconds: float) -> None:
        self.run_now(asyncio.sleep(seconds))

    @invariant()
    def no_region_is_two_requests(self) -> None:
        assert not self.clashes, self.clashes
        held = [self.names[number] for number in self._waiting() if number in self.names]
        assert len(set(held)) == len(held)

    def finish(self) -> None:
        """Closed beside a server that answers, nothing is left: neither in its books nor on the disk."""
        self.server.failures.clear()
        self.server_goes_on()
        while self._waiting():
            self.ends_it(0, "answer")
        self.time_passes(200.0)
        while self._waiting():
            self.ends_it(0, "answer")
        assert all(task.done() for task in self.tasks.values()), "a request waits for ever"
        self.server_catches_up()
        self.time_passes(200.0)
        self.no_region_is_two_requests()
        # One that a request was told is unknown stays to be asked about when the next region is made.
        is_all_idle = re.fullmatch(r"<RegionPool (\d+) regions, \1 idle, 0 filled, [01] given up>", repr(self.pool))
        assert self.pool.why_not or is_all_idle, self.pool
        self.run_now(self.pool.aclose())
        assert self.server.regions == {}
        assert files() == []
        assert not asyncio.all_tasks(self.loop)


Regions.TestCase.settings = settings(max_examples=Fault.amount(25, 1000), stateful_step_count=25, deadline=None)
TestRegionsAreLentToOne = pytest.mark.thorough(Regions.TestCase)
