"""Whatever happens to workers and to the queue: a message is done, filtered, a dead letter, or comes back."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from kappamask_stream.errors import (
    InferenceError,
    KappaMaskError,
    OutputError,
    OutputUnavailableError,
    ProductError,
    QueueError,
    QueueUnavailableError,
    ServerOverloadedError,
    UsageError,
)
from tests.fault_table import Fault
from tests.stream.loop_machine import LoopMachine
from tests.stream.virtual_time import until
from tests.stream.worker_fakes import FakeQueue, FakeWork, Line, Scene, product

if TYPE_CHECKING:
    from collections.abc import Callable

    from kappamask_stream.queues import Message

#: Of a product: what its tries end with, one after the other; then it is made.
FATES: dict[str, list[KappaMaskError | Exception]] = {
    "good": [],
    "passing": [ServerOverloadedError("full"), OutputUnavailableError("away")],
    "surroundings": [OutputError("no permission"), UsageError("no source")],
    "poison": [ProductError("damaged")] * 99,
    "unusable": [InferenceError("not finite")] * 99,
    "fault": [RuntimeError("a fault")] * 99,
    "full machine": [MemoryError()],
}
CALLS = st.sampled_from(["receive", "hide", "delete", "stats"])
#: In the call that receives; in work, which takes 30 s; while it is finished; in the call that deletes.
MOMENTS = st.sampled_from([0.005, 1.0, 15.0, 30.005, 30.015, 30.025])
FAILURES = st.sampled_from([QueueUnavailableError("away"), QueueError("refused"), 3.0, 1e5])


class CheckedQueue(FakeQueue):
    """Looks at each message that is deleted, in that very moment; its answers may be long on their way.

    Attributes
    ----------
    early : messages that were deleted before they were done.
    late_s : seconds that its next answers to `receive` take after it has given messages away.
    """

    def __init__(self, is_done: Callable[[str], bool]) -> None:
        super().__init__()
        self._is_done = is_done
        self.early: list[str] = []
        self.late_s: list[float] = []

    async def receive(self, most: int, *, wait_s: int, visibility_s: int) -> list[Message]:
        asked = self.now
        messages = await super().receive(most, wait_s=wait_s, visibility_s=visibility_s)
        if messages and self.late_s:
            await asyncio.sleep(self.late_s.pop())
        return [replace(message, received_at=asked) for message in messages]

    async def delete(self, message: Message) -> None:
        was_there = message.id in self.messages
        await super().delete(message)
        if was_there and not self._is_done(message.id):
            self.early.append(message.id)


class Workers(LoopMachine):
    """Up to two workers share a queue; they are stopped, killed and held up, the queue fails in every call.

    The wall clock jumps, messages are shown to others before their time, answers come late.
    """

    under_test = "queue"

    def __init__(self) -> None:
        self.jumped_s = 0.0
        super().__init__()
        self.workers: list[Scene] = []
        self.started = 0
        self.lines: dict[int, Line] = {}
        self.put: dict[str, list[str]] = {}
        self.fate: dict[int, str] = {}

    def wall_clock(self) -> float:
        return super().wall_clock() + self.jumped_s

    @initialize()
    def open_queues(self) -> None:
        async def make() -> None:
            self.queue = CheckedQueue(lambda id_: self._is_accounted_for(self.put[id_]))
            self.dead = FakeQueue("https://sqs.test/1/dead")
            self.work = FakeWork(seconds=30)

        self.run_now(make())
        self.send(["good"])
        self.start(120, 2)

    @rule(fates=st.lists(st.sampled_from(sorted(FATES)), min_size=0, max_size=3))
    def send(self, fates: list[str]) -> None:
        numbers = []
        for fate in fates:
            number = len(self.fate)
            self.fate[number] = fate
            self.work.errors[product(number)] = list(FATES[fate])
            numbers.append(number)

        async def put() -> None:
            body = ",".join(map(str, numbers))
            id_ = f"sent-{len(self.put)}"
            self.queue.put_as(id_, body)
            self.put[id_] = [product(number) for number in numbers]

        self.run_now(put())

    @precondition(lambda self: len(self.workers) < 2)
    @rule(visibility_s=st.sampled_from([2, 20, 120]), slots=st.integers(1, 3))
    def start(self, visibility_s: int, slots: int) -> None:
        async def begin() -> None:
            line = Line(self.queue)
            scene = Scene(
                work=self.work, queue=line, dead_letters=self.dead, products_at_once=slots,  # type: ignore[arg-type]
                visibility_s=visibility_s, retry_after_s=5, retry_most_s=60, poison_in_a_row=4,
            )  # fmt: skip
            scene.start()
            self.started += 1
            self.lines[id(scene)] = line
            self.workers.append(scene)

        self.run_now(begin())

    @precondition(lambda self: self.workers)
    @rule(after_s=MOMENTS, grace_s=st.sampled_from([0.0, 10.0, 100.0]))
    def stop(self, after_s: float, grace_s: float) -> None:
        self.wait(after_s)
        if not self.workers:
            return
        scene = self.workers.pop(0)
        has_time = grace_s > 2 * self.work.seconds
        alone = {life.message.id for life in scene.worker._in_hand.values() if "," not in life.message.body}

        async def end() -> None:
            scene.stop.ask("SIGTERM", grace_s=grace_s)
            (result,) = await asyncio.gather(scene.task, return_exceptions=True)  # type: ignore[arg-type]
            assert result is None or isinstance(result, QueueError), result

        self.run_now(end())
        assert scene.worker._in_hand == {}
        ended = Counter(id_ for id_, _, _ in scene.seen.ended)
        assert Counter(scene.seen.taken) == ended, "each delivery that was taken ends, once"
        given_back = {id_ for id_, outcome, _ in scene.seen.ended if outcome == "released"}
        assert not (has_time and alone & given_back), "what fits the grace period is finished"

    @precondition(lambda self: self.workers)
    @rule(after_s=MOMENTS)
    def kill(self, after_s: float) -> None:
        """End a worker as SIGKILL does: nothing that it would say is heard any more."""
        self.wait(after_s)
        if not self.workers:
            return
        scene = self.workers.pop(0)
        self.lines[id(scene)].is_cut = True

        async def end() -> None:
            scene.task.cancel()  # type: ignore[union-attr]
            await asyncio.gather(scene.task, return_exceptions=True)  # type: ignore[arg-type]

        self.run_now(end())

    @rule(call=CALLS, failures=st.lists(FAILURES, min_size=1, max_size=4))
    def fail(self, call: str, failures: list[Exception | float]) -> None:
        self.queue.failing.setdefault(call, []).extend(failures)

    @rule(failures=st.lists(FAILURES, min_size=1, max_size=4))
    def fail_to_bury(self, failures: list[Exception | float]) -> None:
        self.dead.failing.setdefault("send", []).extend(failures)

    @rule(hours=st.sampled_from([-1, 1, -24, 24]))
    def clock_jumps(self, hours: int) -> None:
        """Somebody sets the machine's clock; time goes on as before."""
        self.jumped_s += hours * 3600.0

    @rule(pick=st.integers(0))
    def visibility_is_lost(self, pick: int) -> None:
        """Show a message in work to others."""

        async def show() -> None:
            hidden = [stored for stored in self.queue.messages.values() if stored.visible_at > self.queue.now]
            if hidden:
                hidden[pick % len(hidden)].visible_at = self.queue.now
                self.queue._arrived.set()

        self.run_now(show())

    @rule(seconds=st.sampled_from([0.5, 15.0, 200.0]))
    def answer_is_late(self, seconds: float) -> None:
        self.queue.late_s.append(seconds)

    @rule(seconds=st.sampled_from([1.0, 31.0, 600.0]))
    def wait(self, seconds: float) -> None:
        self.run_now(asyncio.sleep(seconds))
        self.workers = [scene for scene in self.workers if not scene.task.done()]  # type: ignore[union-attr]

    @invariant()
    def nothing_is_lost(self) -> None:
        for id_, products in self.put.items():
            if id_ not in self.queue.messages:
                assert self._is_accounted_for(products), f"{id_} is gone"

    @invariant()
    def nothing_is_deleted_before_it_is_done(self) -> None:
        if hasattr(self, "queue"):
            assert self.queue.early == []

    @invariant()
    def no_worker_has_more_in_hand_than_slots(self) -> None:
        for scene in self.workers:
            assert len(scene.worker._in_hand) <= scene.settings.products_at_once
        if hasattr(self, "work"):
            assert self.work.busy <= sum(scene.settings.products_at_once for scene in self.workers)

    @invariant()
    def no_worker_buries_a_message_twice(self) -> None:
        """One that cannot delete what it buried, or is killed before it can, may have others bury it again."""
        letters = Counter(stored.body for stored in self.dead.messages.values()) if hasattr(self, "dead") else Counter()
        assert max(letters.values(), default=0) <= self.started, letters

    def _is_accounted_for(self, products: list[str]) -> bool:
        wanted = {name for name in products if not FATES[self._fate_of(name)][9:]}
        if not wanted <= set(self.work.made):
            return False
        bodies = {stored.body for stored in self.dead.messages.values()}
        return wanted == set(products) or ",".join(str(int(name[-6:])) for name in products) in bodies

    def _fate_of(self, name: str) -> str:
        return self.fate[int(name[-6:])]

    def finish(self) -> None:
        """In the end, with the queue and one worker well, everything is done or a dead letter."""
        while self.workers:
            self.stop(0.005, 0.0)
        self.queue.failing.clear()
        self.dead.failing.clear()
        self.queue.late_s.clear()
        self.start(20, 3)

        self.run_now(until(lambda: not self.queue.messages, each_s=60))
        self.stop(0.005, 0.0)
        for id_, products in self.put.items():
            assert self._is_accounted_for(products), id_
        assert self.work.busy == 0
        assert {s.body for s in self.dead.messages.values()} == {
            ",".join(str(int(name[-6:])) for name in products)
            for products in self.put.values()
            if any(FATES[self._fate_of(name)][9:] for name in products)
        }
        assert asyncio.all_tasks(self.loop) == set()


Workers.TestCase.settings = settings(max_examples=Fault.amount(25, 1000), stateful_step_count=25, deadline=None)
TestWorkersLoseNothing = pytest.mark.thorough(Workers.TestCase)
