"""Whether the worker could do work now: what it needs is asked, part by part."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kappamask_stream.errors import KappaMaskError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from kappamask_stream.models import ModelPool
    from kappamask_stream.queues import Queue

#: Seconds in which each part must answer.
_PATIENCE_S = 5.0


class WorkerProbe:
    """A `Probe` of the inference server, the queue, and the worker's own pauses.

    Parameters
    ----------
    models : asked for the models of `levels`, and whether the server serves them now.
    levels : of the products that are wanted.
    queue : asked for its counts.
    pause : why the worker takes nothing, because it ends or everything fails; None where it takes.

    State: whether the worker is still starting; nobody is asked then, as a server may take minutes to start.
    """

    def __init__(
        self, *, models: ModelPool, levels: Sequence[str], queue: Queue, pause: Callable[[], str | None]
    ) -> None:
        self._models, self._levels, self._queue, self._pause = models, tuple(levels), queue, pause
        self.is_starting = True

    async def __call__(self) -> dict[str, str | None]:
        """See `Probe`: ``triton``, ``queue``, and ``worker``."""
        if self.is_starting:
            return dict.fromkeys(("triton", "queue", "worker"), "the worker is starting")
        triton, queue = await asyncio.gather(_why_not(self._ask_triton), _why_not(self._ask_queue))
        return {"triton": triton, "queue": queue, "worker": self._pause()}

    async def _ask_triton(self) -> None:
        for level in self._levels:
            client = (await self._models.refresh(level)).client
            if not await client.is_ready():
                raise _AwayError(f"the server does not serve {client.contract.name} now")

    async def _ask_queue(self) -> None:
        await self._queue.stats()


class _AwayError(Exception):
    """A part answers that it cannot do work."""


async def _why_not(ask: Callable[[], Awaitable[None]]) -> str | None:
    """Return why a part is not ready, None where it is."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            await ask()
    except TimeoutError:
        return f"no answer within {_PATIENCE_S:g} s"
    except (KappaMaskError, _AwayError) as error:
        return str(error)
    return None
