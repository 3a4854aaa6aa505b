"""Whether the worker could do work now: what it needs is asked, part by part."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kappamask_stream.runner import of_ours

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from kappamask_stream.models import ModelPool
    from kappamask_stream.queues import Queue

#: Seconds in which each part must answer: where somebody waits to be told, and where nobody does.
_PATIENCE_S, _LONG_PATIENCE_S = 5.0, 30.0


class WorkerProbe:
    """A `Probe` of the inference server, the queue, and the worker's own pauses.

    Parameters
    ----------
    models : asked for the models of `levels`, and whether the server serves them now.
    levels : of the products that are wanted.
    queue : asked for its counts.
    try_output : sees whether masks can be written.
    pause : why the worker takes nothing, because it ends or everything fails; None where it takes.

    State: whether the worker is still starting; nobody is asked then, as a server may take minutes to start.
    """

    def __init__(
        self,
        *,
        models: ModelPool,
        levels: Sequence[str],
        queue: Queue,
        try_output: Callable[[], Awaitable[None]],
        pause: Callable[[], str | None],
    ) -> None:
        self._models, self._levels, self._queue = models, tuple(levels), queue
        self._try_output, self._pause = try_output, pause
        self.is_starting = True

    async def __call__(self) -> dict[str, str | None]:
        """See `Probe`: ``triton``, ``queue``, and ``worker``."""
        if self.is_starting:
            return dict.fromkeys(("triton", "queue", "worker"), "the worker is starting")
        triton, queue = await asyncio.gather(_why_not(self._ask_triton), _why_not(self._ask_queue))
        return {"triton": triton, "queue": queue, "worker": self._pause()}

    async def why_not(self) -> str | None:
        """Return why no message could be done now, None where all that messages need answers: output, too."""
        asked = (("triton", self._ask_triton), ("queue", self._ask_queue), ("output", self._try_output))
        answers = await asyncio.gather(*(_why_not(ask, _LONG_PATIENCE_S) for _, ask in asked))
        away = [f"{part}: {answer}" for (part, _), answer in zip(asked, answers, strict=True) if answer is not None]
        return "; ".join(away) or None

    async def _ask_triton(self) -> None:
        for level in self._levels:
            client = (await self._models.refresh(level)).client
            if not await client.is_ready():
                raise _AwayError(f"the server does not serve {client.contract.name} now")

    async def _ask_queue(self) -> None:
        await self._queue.stats()


class _AwayError(Exception):
    """A part answers that it cannot do work."""


async def _why_not(ask: Callable[[], Awaitable[None]], patience_s: float = _PATIENCE_S) -> str | None:
    """Return why a part is not ready, None where it is."""
    try:
        async with asyncio.timeout(patience_s):
            await ask()
    except TimeoutError:
        return f"no answer within {patience_s:g} s"
    except _AwayError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - whatever it is, no work can be done
        return str(of_ours(error))
    return None
