"""A process-wide budget in bytes: products wait for their share, first come first served."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from kappamask_stream.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_MB = 1024 * 1024


class ByteBudget:
    """Bytes that may be reserved at once.

    State: `_free` and the waiting (bytes, future) pairs, oldest first; a small request does not overtake a large
    one that waits.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def __repr__(self) -> str:
        return f"<ByteBudget {self._free}/{self.total} bytes free, {len(self._waiting)} waiting>"

    @property
    def free(self) -> int:
        """Bytes not reserved."""
        return self._free

    @asynccontextmanager
    async def reserve(self, nbytes: int, *, what: str = "a product") -> AsyncIterator[None]:
        """Hold `nbytes` for the duration of the block, waiting for them if need be.

        Raises
        ------
        UsageError
            At once, if the budget could never hold them.
        """
        if nbytes > self.total:
            raise UsageError(
                f"{what} needs {-(-nbytes // _MB)} MB for decoded pixels, the budget is {self.total // _MB} MB: "
                f"raise it (--memory-budget-mb {-(-nbytes // _MB)} or KAPPAMASK_MEMORY_BUDGET_MB)"
            )
        await self._acquire(nbytes)
        try:
            yield
        finally:
            self._release(nbytes)

    async def _acquire(self, nbytes: int) -> None:
        if nbytes <= self._free and not self._waiting:
            self._free -= nbytes
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (nbytes, turn)
        self._waiting.append(entry)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with suppress(ValueError):  # gone already where `_wake` has passed over it
                    self._waiting.remove(entry)
                self._wake()
            else:  # given, and cancelled before we ran
                self._release(nbytes)
            raise

    def _release(self, nbytes: int) -> None:
        self._free += nbytes
        self._wake()

    def _wake(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            nbytes, turn = self._waiting.popleft()
            if not turn.done():
                self._free -= nbytes
                turn.set_result(None)
