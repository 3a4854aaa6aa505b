"""Takes no new products while the inference server has more than enough to do."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kappamask_stream.runner import of_ours

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

#: Looks in a row that must find too much before taking is paused: a peak is no load.
_LOOKS = 3
_EACH_S = 3.0
#: Seconds that a look may take; what hangs is not known.
_PATIENCE_S = 10.0


class Admission:
    """Closes when `_LOOKS` looks in a row found more than `most` pending requests; opens at half of that.

    What is not known never closes it: a server that does not tell is used as if it had room.

    Parameters
    ----------
    pending : returns how many requests wait in an inference server, None where it is not known; asked each few seconds.
    most : requests pending.
    on_change : called when it closes or opens.
    on_fault : told the error's class name, and in words, of a look that fails after one that did not.

    State: looks in a row that found too much, the last count, whether it is closed, and whether the last look failed.
    """

    def __init__(
        self,
        pending: Callable[[], Awaitable[float | None]],
        *,
        most: int,
        on_change: Callable[[], None],
        on_fault: Callable[[str, str], None],
    ) -> None:
        self._ask, self._most, self._on_change, self._on_fault = pending, most, on_change, on_fault
        self._too_many = 0
        self._closed = self._has_failed = False
        #: Requests pending at the last look; None where it is not known.
        self.pending: float | None = None

    @property
    def reason(self) -> str | None:
        """Why no product is to be taken; None where one may be."""
        if not self._closed:
            return None
        return (
            f"more than {self._most} requests were pending in the inference server, it goes on when there are "
            f"{self._most // 2} or fewer"
        )

    async def watch(self) -> None:
        """Look every few seconds, for ever, whatever a look ends with."""
        while True:
            self.see(await self._asked())
            await asyncio.sleep(_EACH_S)

    async def _asked(self) -> float | None:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                pending = await self._ask()
        except Exception as error:  # noqa: BLE001 - how full a server is is good to know, and no more
            if not self._has_failed:
                ours = of_ours(error)
                self._on_fault(type(ours).__name__, f"how full the inference server is cannot be told: {ours}")
            self._has_failed = True
            return None
        self._has_failed = False
        return pending

    def see(self, pending: float | None) -> None:
        """Take down what a look found."""
        before, self.pending = self._closed, pending
        self._too_many = self._too_many + 1 if pending is not None and pending > self._most else 0
        if pending is None or pending <= self._most // 2:
            self._closed = False
        elif self._too_many >= _LOOKS:
            self._closed = True
        if self._closed != before:
            self._on_change()
