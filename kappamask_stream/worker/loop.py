"""The worker's loop: a slot before a fetch, as many messages in hand as slots, and a drain at the end.

    receive -> MessageLife (heartbeat, parse, filter, mask) -> delete | hide | give back | bury

One task takes messages, each message in hand is a task of its own, two more look at the queue's counts and at the
server's load. Nobody cancels a message's task: `MessageLife.release` is the way to end it early.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from kappamask_stream.runner import of_ours
from kappamask_stream.worker.admission import Admission
from kappamask_stream.worker.breaker import Pauses
from kappamask_stream.worker.counts import watch_counts
from kappamask_stream.worker.message_life import MessageLife
from kappamask_stream.worker.pulse import Pulse
from kappamask_stream.worker.stop import fits
from kappamask_stream.worker.taking import Room, room
from kappamask_stream.worker.types import WorkerState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from kappamask_stream.queues import Message, QueueStats
    from kappamask_stream.settings import Settings
    from kappamask_stream.worker.message_life import Desk

T = TypeVar("T")

#: From one request that found nothing to the next one it takes so long at least.
_EMPTY_S = 1.0
#: While it drains, estimates are looked at so often.
_LOOK_EACH_S = 1.0
_ENDS = "the worker ends"


class Worker:
    """Takes messages from a queue until it is told to stop, or has had its share.

    Parameters
    ----------
    desk : what messages are dealt with; its `stop` ends the worker.
    settings : slots, waits, limits.
    pending : returns how many requests are pending in the inference server; None where it is not known.
    pending_most : above so many, no new message is taken.
    max_messages : it ends after so many; None: no limit.
    until_empty : True ends it when a whole long poll found nothing and nothing is in work here.

    State: the messages in hand, by their task; how many were taken; the trouble with the queue; what was told last.
    """

    def __init__(
        self,
        desk: Desk,
        settings: Settings,
        *,
        pending: Callable[[], Awaitable[float | None]],
        pending_most: int,
        max_messages: int | None = None,
        until_empty: bool = False,
    ) -> None:
        self._desk, self._settings = desk, settings
        self._left: float = math.inf if max_messages is None else max_messages
        self._until_empty = until_empty
        self._pulse = Pulse()
        retried = desk.observers.retried
        self._admission = Admission(pending, most=pending_most, on_change=self._pulse.beat, on_fault=retried)
        self._queue_pauses = Pauses(first_s=1.0, most_s=60.0)
        self._in_hand: dict[asyncio.Task[None], MessageLife] = {}
        self._fault: BaseException | None = None
        self._has_received = False
        self._enough: str | None = None
        self._state = WorkerState(phase="starting", slots=settings.products_at_once)

    def __repr__(self) -> str:
        return f"<Worker {self._state.phase}, {len(self._in_hand)} of {self._state.slots} slots in use>"

    async def run(self) -> None:
        """Work until the end.

        Raises
        ------
        KappaMaskError
            If the queue refuses the very first request: there is none, or no permission. Later it is asked again.
        """
        self._desk.stop.on_ask(self._pulse.beat)
        try:
            async with asyncio.TaskGroup() as tasks:
                counts = watch_counts(self._desk.queue, self._see_counts, self._desk.observers.retried)
                helpers = [tasks.create_task(counts), tasks.create_task(self._admission.watch())]
                taking = tasks.create_task(self._take(), name="take messages")
                taking.add_done_callback(self._pulse.beat)
                try:
                    await self._until_ended(taking)
                finally:
                    await self._give_all_back()
                    for helper in helpers:
                        helper.cancel()
        except BaseExceptionGroup as group:
            raise _first(group) from None
        finally:
            self._desk.observers.state_changed(replace(self._current(), phase="ended"))

    async def _take(self) -> None:
        """Take messages until there is a reason to end."""
        while not self._desk.stop.is_asked and self._left > 0:
            room = self._room()
            if room.most and self._desk.breaker.is_trying and not await self._may_try():
                continue
            self._tell()
            if not room.most:
                await self._pulse.wait(room.wait_s)
                continue
            asked = time.monotonic()
            messages = await self._received(room.most)
            self._left -= len(messages or ())
            for message in messages or ():
                self._start(message)
            if messages == [] and self._until_empty and not self._in_hand:
                self._enough = "the queue is empty"
                return
            if messages == []:  # a queue without long polls would be asked all the time
                await self._pulse.wait(max(0.0, _EMPTY_S - (time.monotonic() - asked)))
        if self._left <= 0:
            self._enough = "it has taken as many messages as it was told to"

    async def _received(self, most: int) -> list[Message] | None:
        """Wait for messages; None where the queue failed, or the wait was broken off: for a pause, or for good.

        What comes to a wait that was broken off is given back by the queue (see `SqsQueue.receive`).
        """
        settings = self._settings
        # A message is hidden from the moment when the queue gives it: half of that time is left when it comes here.
        wait_s = min(settings.queue_wait_s, settings.visibility_s // 2)
        receive = self._desk.queue.receive(most, wait_s=wait_s, visibility_s=settings.visibility_s)
        receiving = await self._awaited(receive, broken_off=lambda: self._room().reason is not None)
        if receiving.cancelled():
            return None
        try:
            messages = receiving.result()
        except Exception as error:  # whatever an answer does to us: it is asked again
            ours = of_ours(error)
            if not ours.retryable and not self._has_received:
                raise
            self._queue_pauses.failed(str(ours))
            self._desk.observers.retried(type(ours).__name__, str(ours))
            return None
        self._has_received = True
        self._queue_pauses.succeeded()
        return messages

    async def _may_try(self) -> bool:
        """After a pause, ask what every message needs: no delivery is used up to find that it is still away."""
        breaker = self._desk.breaker
        breaker.is_at_trial = True
        asking = await self._awaited(self._desk.why_not(), broken_off=lambda: False)
        breaker.is_at_trial = False
        if asking.cancelled():
            return False
        reason = asking.result()
        if reason is not None:
            breaker.still(reason)
        return reason is None

    async def _awaited(self, call: Coroutine[object, object, T], *, broken_off: Callable[[], bool]) -> asyncio.Task[T]:
        """Wait for a call's end, or cancel it because the worker is to stop, or for that reason."""
        task = asyncio.create_task(call)
        task.add_done_callback(self._pulse.beat)
        try:
            while not (task.done() or self._desk.stop.is_asked or broken_off()):
                await self._pulse.wait()
        finally:
            task.cancel()
            await asyncio.wait([task])
        return task

    def _room(self) -> Room:
        return room(
            slots=self._settings.products_at_once,
            busy=len(self._in_hand),
            left=self._left,
            queue=self._queue_pauses.trouble,
            work=self._desk.breaker.trouble,
            load=self._admission.reason,
        )

    def _start(self, message: Message) -> None:
        """Put a message into a slot; where the worker is to stop it goes back at once."""
        life = MessageLife(message, self._desk)
        self._desk.breaker.is_at_trial = self._desk.breaker.is_trying
        if self._desk.stop.is_asked:
            life.release(self._desk.stop.reason or _ENDS)
        task = asyncio.create_task(life.run(), name=f"message {message.id}")
        self._in_hand[task] = life
        task.add_done_callback(self._ended)
        if message.received == 1:  # a later delivery tells how long it has been failing, not how long messages wait
            self._state = replace(self._state, queue_age_s=max(0.0, time.time() - message.sent_at))

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._in_hand[task]
        if not task.cancelled():
            self._fault = self._fault or task.exception()
        self._pulse.beat()

    async def _until_ended(self, taking: asyncio.Task[None]) -> None:
        """Wait until no message is taken and none is in hand; release what does not fit where time is short."""
        stop = self._desk.stop
        while not taking.done() or self._in_hand:
            if self._fault is not None:
                raise self._fault
            if stop.is_asked:
                for life in self._in_hand.values():
                    if not fits(life.seconds_left, stop.seconds_left):
                        life.release(stop.reason or _ENDS)
            self._tell()
            left = min(stop.seconds_left or _LOOK_EACH_S, _LOOK_EACH_S)
            await self._pulse.wait(left if stop.is_asked else math.inf)

    async def _give_all_back(self) -> None:
        """Leave no message in hand: nothing to do but where the worker itself fails or is cancelled."""
        while self._in_hand:
            for life in self._in_hand.values():
                life.release(_ENDS)
            await asyncio.wait(list(self._in_hand))

    def _see_counts(self, stats: QueueStats | None) -> None:
        """Take down the queue's own counts and tell them."""
        is_empty = stats is not None and stats.waiting == 0
        self._state = replace(
            self._state,
            queue_waiting=None if stats is None else stats.waiting,
            queue_in_work=None if stats is None else stats.in_work,
            queue_age_s=None if is_empty else self._state.queue_age_s,
        )
        if stats is not None:
            self._desk.settling.deliveries_most = stats.receives_before_dead
        self._state = self._current()
        self._desk.observers.state_changed(self._state)

    def _current(self) -> WorkerState:
        ends, paused = self._desk.stop.reason or self._enough, self._room().reason or self._desk.breaker.pause
        return replace(
            self._state,
            phase="draining" if ends else "paused" if paused else "taking",
            reason=ends or paused,
            busy=len(self._in_hand),
            pending=self._admission.pending,
        )

    def _tell(self) -> None:
        """Tell observers what the worker does, where that is something else than before."""
        before, self._state = self._state, self._current()
        if self._state != before:
            self._desk.observers.state_changed(self._state)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first cause of a task group's end."""
    while isinstance(group.exceptions[0], BaseExceptionGroup):
        group = group.exceptions[0]
    return group.exceptions[0]
