"""Threads that are none: work is done at once, or when a test says; for stories in virtual time."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Inline(ThreadPoolExecutor):
    """An executor that does work at once, or keeps it.

    Attributes
    ----------
    waiting : work that is kept, with its first argument.
    """

    def __init__(self, *, at_once: bool) -> None:
        super().__init__(1)
        self._at_once = at_once
        self.waiting: list[tuple[int, Callable[[], None]]] = []

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function(*args, **kwargs))
            except Exception as error:  # noqa: BLE001 - it is whoever waits for it that is told
                future.set_exception(error)

        if self._at_once:
            work()
        else:
            self.waiting.append((args[0], work))
        return future
