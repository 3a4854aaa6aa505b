"""The parent's side: how many children there are, what each works with, and who comes after one that has ended."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kappamask_stream.errors import KappaMaskError, ProcessEndedError
from kappamask_stream.processes.messages import Setup
from kappamask_stream.processes.process import ChildProcess
from kappamask_stream.resources import decode_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kappamask_stream.models import ModelChoice
    from kappamask_stream.result import ProductProgress, ProductResult
    from kappamask_stream.runner import Order, Workshop
    from kappamask_stream.settings import Settings

#: -P: a folder that happens to be the current one gives no modules.
_COMMAND = (sys.executable, "-P", "-m", "kappamask_stream.processes")


@dataclass(frozen=True, kw_only=True)
class Crew:
    """How many child processes there are, and how each works.

    Attributes
    ----------
    processes : at most; none is started without a product for it.
    choice, settings : as for a run of one process.
    on_note : told the cause, and in words, of each request to a store that a child sends again.
    command : starts a child.
    """

    processes: int
    choice: ModelChoice
    settings: Settings
    on_note: Callable[[str, str], None] = field(default=lambda _cause, _text: None, repr=False)
    command: Sequence[str] = field(default=_COMMAND, repr=False)

    def setup(self, place: int, order: Order) -> Setup:
        """Return what the child at a place, from 0, works with: threads are shared out, other limits are its own."""
        threads, left = divmod(decode_threads(self.settings), self.processes)
        share = {"processes": 1, "decode_threads": max(1, threads + (place < left))}
        return Setup(
            choice=self.choice,
            settings=self.settings.model_copy(update=share),
            order=order,
            processes=self.processes,
        )


class Place:
    """A place for a child: one is started when there is a product for it, and another one where it has ended.

    Parameters
    ----------
    number : from 0.
    order : what is asked for.

    State: the child.
    """

    def __init__(self, number: int, crew: Crew, workshop: Workshop, order: Order) -> None:
        self._crew, self._workshop, self._setup = crew, workshop, crew.setup(number, order)
        self._child: ChildProcess | None = None
        self._starting = asyncio.Lock()

    async def mask(self, where: str, progress: ProductProgress) -> ProductResult:
        """Have a product masked by the child of this place; see `ChildProcess.mask`."""
        async with self._starting:
            if self._child is None or self._child.has_ended:
                self._child = await ChildProcess.start(
                    self._crew.command, self._setup, self._workshop, self._crew.on_note
                )
            child = self._child
        return await child.mask(where, progress)

    async def aclose(self) -> None:
        """End the child."""
        if self._child is not None:
            await self._child.aclose()


def ended_twice(error: KappaMaskError) -> ProcessEndedError:
    """Say that a product has ended two processes."""
    return ProcessEndedError(
        f"{error}; so had the one before. Where the machine ran out of memory: fewer --processes, a smaller "
        "--concurrency or --memory-budget-mb, then try again"
    )
