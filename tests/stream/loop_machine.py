"""What stateful tests of coroutines share: each run has an event loop of its own, in virtual time, and leaves no task."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar
from unittest.mock import patch

from hypothesis.stateful import RuleBasedStateMachine

from tests.stream.virtual_time import VirtualLoop

if TYPE_CHECKING:
    from collections.abc import Coroutine


#: Of the loop: what has not come to rest after so many never will.
_MOST_STEPS = 10_000


class LoopMachine(RuleBasedStateMachine):
    """Rules run their coroutines by `run_now`; tasks go on whenever one is run.

    Attributes
    ----------
    under_test : name of the attribute that the first rule sets; `finish` is called where it is there.
    """

    under_test: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        asyncio.set_event_loop(self.loop)
        self._clocks = [patch("time.monotonic", self.loop.time), patch("time.time", self.wall_clock)]
        for clock in self._clocks:
            clock.start()

    def wall_clock(self) -> float:
        """Return seconds since 1970, which go with the loop's."""
        return 1.7e9 + self.loop.time()

    def run_now(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def settle(self) -> None:
        """Let everything happen that happens without time."""

        async def steps() -> None:
            for _ in range(_MOST_STEPS):
                await asyncio.sleep(0)
                if not self.loop._ready:  # type: ignore[attr-defined]
                    return
            raise AssertionError("tasks call each other without end")

        self.run_now(steps())

    def finish(self) -> None:
        """Bring all to its end, and look whether it is the right one: each machine its own."""

    def teardown(self) -> None:
        try:
            if hasattr(self, self.under_test):
                self.finish()
        finally:
            for task in (left := asyncio.all_tasks(self.loop)):
                task.cancel()
            self.run_now(asyncio.wait(left) if left else asyncio.sleep(0))
            for clock in self._clocks:
                clock.stop()
            self.loop.close()
            asyncio.set_event_loop(None)
