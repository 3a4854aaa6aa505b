"""The in-flight window under tiles that are answered, fail, time out and are cancelled, in any order and at once.

Tiles go through `infer_with_retry`, as the pipeline's do; the server answers what the machine tells it to. Several
things may happen between two steps of the event loop: a slot is given and its waiter cancelled before it runs.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from kappamask_stream.errors import (
    InferenceError,
    InferenceTimeoutError,
    KappaMaskError,
    ProductError,
    ServerError,
    ServerOverloadedError,
    ServerUnavailableError,
)
from kappamask_stream.inference import InferResult, InFlightWindow, RetryPolicy, TileRequest, infer_with_retry
from tests.fault_table import Fault
from tests.stream.loop_machine import LoopMachine

#: What a request ends with but for an answer; the last one is not worth another try.
FAILURES: dict[str, KappaMaskError] = {
    "overload": ServerOverloadedError("full"),
    "away": ServerUnavailableError("away"),
    "late": InferenceTimeoutError("late"),
    "fault": InferenceError("not finite"),
    "refusal": ProductError("refused"),
}
#: Something that happens, and to which of those that it may happen to.
#: ``step`` lets every task that can go on do so once.
EVENTS = st.tuples(st.sampled_from(["tile", "answer", "answer", "cancel", "step", *FAILURES]), st.integers(0))
PATIENCE = RetryPolicy(attempts=3, server_wait_s=30, overload_wait_s=60, backoff_s=1, backoff_max_s=8)


class ToldServer:
    """Keeps requests until it is told how each ends."""

    priority = None

    def __init__(self, machine: Window) -> None:
        self._machine = machine
        self.waiting: dict[str, asyncio.Future[InferResult]] = {}
        self.contract: Any = None

    async def infer(self, request: TileRequest) -> InferResult:
        self._machine.sees_sent(request.name)
        self.waiting[request.name] = asyncio.get_running_loop().create_future()
        try:
            return await self.waiting[request.name]
        finally:
            del self.waiting[request.name]


class OrderedWindow(InFlightWindow):
    """Writes down who waits for a slot, in the order in which they asked."""

    def __init__(self, maximum: int) -> None:
        super().__init__(maximum)
        self.asked: list[str] = []

    async def acquire(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.asked.append(task.get_name())
        try:
            await super().acquire()
        except BaseException:
            self.asked.remove(task.get_name())
            raise


class Window(LoopMachine):
    """Tiles of several products share a window; `ended` says how each of their tasks must end."""

    under_test = "window"
    window: OrderedWindow

    def __init__(self) -> None:
        super().__init__()
        self.tasks: dict[str, asyncio.Task[InferResult]] = {}
        self.cancelled: set[str] = set()
        self.answered: set[str] = set()
        self.unfair: list[str] = []

    @initialize(maximum=st.integers(1, 5), seed=st.integers(0, 9))
    def open_window(self, maximum: int, seed: int) -> None:
        self.window, self.server = OrderedWindow(maximum), ToldServer(self)
        self.policy = RetryPolicy(**{**vars(PATIENCE), "rng": random.Random(seed)})

    def sees_sent(self, name: str) -> None:
        """Take down a request: who asked for a slot before it must have been given one, though it may not have run."""
        given = self.window.in_flight - len(self.server.waiting)
        asked = [one for one in self.window.asked if one not in self.cancelled or one == name]
        if asked.index(name) >= given:
            self.unfair.append(f"{name} overtook {asked}, of which {given} had slots")
        self.window.asked.remove(name)

    @rule(events=st.lists(EVENTS, min_size=1, max_size=8))
    def happens_at_once(self, events: list[tuple[str, int]]) -> None:
        """Several events, before the loop runs again or between its steps."""

        async def all_of_them() -> None:
            for what, which in events:
                if what == "step":
                    await asyncio.sleep(0)
                    continue
                getattr(self, f"_{what}", lambda which, what=what: self._fail(what, which))(which)

        self.run_now(all_of_them())
        self.settle()

    @precondition(lambda self: self.window.asked)
    @rule(steps=st.integers(0, 3), what=st.sampled_from(["answer", "overload", "refusal"]), which=st.integers(0))
    def a_slot_falls_to_a_waiter_that_is_cancelled(self, steps: int, what: str, which: int) -> None:
        """So many steps after a request has ended: before its slot is given on, when it is, and after it is taken."""

        async def both() -> None:
            first = next((name for name in self.window.asked if name not in self.cancelled), None)
            if what == "answer":
                self._answer(which)
            else:
                self._fail(what, which)
            for _ in range(steps):
                await asyncio.sleep(0)
            if first is not None and self.tasks[first].cancel():
                self.cancelled.add(first)

        self.run_now(both())
        self.settle()

    def _tile(self, _: int) -> None:
        name = f"t{len(self.tasks)}"
        request = TileRequest(name=name, tensors={}, offset=None, scale=None)  # type: ignore[arg-type]
        work = infer_with_retry(self.server, request, window=self.window, policy=self.policy)  # type: ignore[arg-type]
        self.tasks[name] = asyncio.create_task(work, name=name)

    def _pending(self) -> list[str]:
        return [name for name, turn in self.server.waiting.items() if not turn.done()]

    def _answer(self, which: int) -> None:
        if pending := self._pending():
            name = pending[which % len(pending)]
            self.server.waiting[name].set_result(InferResult(labels=None))  # type: ignore[arg-type]
            self.answered.add(name)

    def _fail(self, kind: str, which: int) -> None:
        if pending := self._pending():
            self.server.waiting[pending[which % len(pending)]].set_exception(FAILURES[kind])

    def _cancel(self, which: int) -> None:
        if running := [name for name, task in self.tasks.items() if not task.done()]:
            name = running[which % len(running)]
            self.tasks[name].cancel()
            self.cancelled.add(name)

    @rule(seconds=st.sampled_from([0.5, 2.0, 10.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        """Pauses end, and what failed is sent again."""
        self.run_now(asyncio.sleep(seconds))
        self.settle()

    @precondition(lambda self: hasattr(self, "window"))
    @invariant()
    def slots_are_neither_lost_nor_made(self) -> None:
        window = self.window
        assert window.in_flight == len(self.server.waiting) <= window.maximum
        assert 1 <= window.limit <= window.maximum
        assert not self.unfair, self.unfair
        assert not window.asked or window.in_flight >= window.limit, f"{window.asked} wait for nothing"

    @precondition(lambda self: hasattr(self, "window"))
    @invariant()
    def each_tile_ends_as_it_must(self) -> None:
        for name, task in self.tasks.items():
            if not task.done():
                continue
            if task.cancelled():
                assert name in self.cancelled
            elif task.exception() is None:
                assert name in self.answered
            else:
                assert isinstance(task.exception(), (ServerError, ProductError)), task.exception()

    def finish(self) -> None:
        """With a server that answers, every tile that is left ends, no slot is held, the limit is the maximum again."""
        for number in range(200):
            while self._pending():
                self._answer(number)
                self.settle()
                self.slots_are_neither_lost_nor_made()
            if all(task.done() for task in self.tasks.values()):
                break
            self.time_passes(2.0)
        assert all(task.done() for task in self.tasks.values()), "a tile waits for ever"
        self.each_tile_ends_as_it_must()
        assert (self.window.in_flight, self.window.asked) == (0, [])
        assert repr(self.window).endswith("in flight, 0 waiting>")
        for _ in range(self.window.maximum**2):  # 1/limit an answer: the sum of limits up to the maximum
            self._tile_now_answered()
        assert self.window.limit == self.window.maximum
        for number in range(self.window.maximum + 2):
            self.happens_at_once_of("tile", number)
        assert len(self.server.waiting) == self.window.maximum, "all slots are of use again"

    def happens_at_once_of(self, what: str, which: int) -> None:
        async def one() -> None:
            getattr(self, f"_{what}")(which)

        self.run_now(one())
        self.settle()

    def _tile_now_answered(self) -> None:
        for what in ("tile", "answer"):
            self.happens_at_once_of(what, 0)


Window.TestCase.settings = settings(max_examples=Fault.amount(40, 2000), stateful_step_count=25, deadline=None)
TestWindowNeitherLosesNorMakesSlots = pytest.mark.thorough(Window.TestCase)
