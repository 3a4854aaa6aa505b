"""Wait for a condition, not for a time: what tests use where nothing can be awaited."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

#: Generous: a deadlock fails a test, a busy machine does not.
DEADLINE_S = 60.0


async def until(condition: Callable[[], object]) -> None:
    """Return when the condition holds; TimeoutError after `DEADLINE_S`."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for: fakes and threads just go on
            await asyncio.sleep(0.001)
