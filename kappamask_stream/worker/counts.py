"""Asks the queue for its own counts every few seconds."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kappamask_stream.runner import of_ours

if TYPE_CHECKING:
    from collections.abc import Callable

    from kappamask_stream.queues import Queue, QueueStats

_EACH_S = 10.0


async def watch_counts(
    queue: Queue, on_look: Callable[[QueueStats | None], None], on_fault: Callable[[str, str], None]
) -> None:
    """Look for ever, whatever a look ends with.

    Parameters
    ----------
    on_look : told what each look found; None where the queue does not tell.
    on_fault : told the error's class name, and in words, of a look that fails after one that did not.
    """
    has_failed = False
    while True:
        stats: QueueStats | None = None
        try:
            stats = await queue.stats()
        except Exception as error:  # noqa: BLE001 - counts are good to know, and no more
            if not has_failed:
                ours = of_ours(error)
                on_fault(type(ours).__name__, f"the queue's counts cannot be told: {ours}")
        has_failed = stats is None
        on_look(stats)
        await asyncio.sleep(_EACH_S)
