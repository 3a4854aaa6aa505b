"""An event loop whose clock runs as fast as tasks do: hours of heartbeats and pauses pass in a moment, and exactly."""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any, TypeVar
from unittest.mock import patch

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


class _Selector(selectors.SelectSelector):
    """Waits for nothing: where no socket is ready the clock is put forward to the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "a deadlock: every task waits, and no timer will wake one"
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Use with fakes only: threads and sockets of others would be waited for in no time."""

    def __init__(self) -> None:
        self.selector = _Selector()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.now


def in_virtual_time(story: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on a loop of its own; ``time.monotonic`` goes with it, as it does in earnest."""
    loop = VirtualLoop()
    with patch("time.monotonic", loop.time), asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(story)


def story(coroutine: Callable[[], Coroutine[object, object, None]]) -> Callable[[], None]:
    """Make a test of a coroutine that runs in virtual time."""

    def test() -> None:
        in_virtual_time(coroutine())

    test.__name__, test.__doc__ = coroutine.__name__, coroutine.__doc__
    return test


async def until(condition: Callable[[], object], each_s: float = 0.1) -> None:
    """Let time pass until the condition holds; TimeoutError after weeks of it."""
    async with asyncio.timeout(2e6):
        while not condition():  # noqa: ASYNC110 - fakes have no event for it, and time costs nothing here
            await asyncio.sleep(each_s)
