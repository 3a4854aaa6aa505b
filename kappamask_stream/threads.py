"""Blocking work in threads, which a cancellation waits for."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

T = TypeVar("T")


async def in_thread(executor: Executor | None, function: Callable[..., T], *args: object) -> T:
    """Run ``function(*args)`` in a thread; when cancelled, let it end before the cancellation goes on.

    A thread cannot be stopped. Without the wait it would read, write or hold memory after its owner has given back
    files, folders and bytes of the budget. So only work that ends within a moment belongs here.

    Parameters
    ----------
    executor : whose threads; None: the event loop's own.
    """
    work = asyncio.get_running_loop().run_in_executor(executor, function, *args)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        while not work.done():
            with suppress(asyncio.CancelledError):  # cancelled once more: the thread still runs
                await asyncio.wait([work])
        if not work.cancelled():
            work.exception()  # mark as seen
        raise
