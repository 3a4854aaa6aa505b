"""How late the event loop is: everything that a worker does waits as long, its heartbeats too."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_PERIOD_S = 0.05
#: Samples that one long hold stands for at most: a machine that slept for a day says nothing of the loop.
_MOST_MISSED = 1200


class LoopLag:
    """Asks to be called each 50 ms and measures how much later it is.

    State: `seen_at`, the loop's clock when it was called last.

    Parameters
    ----------
    observe : told seconds of lag.
    """

    def __init__(self, observe: Callable[[float], None]) -> None:
        self._observe = observe
        self.seen_at: float | None = None

    async def run(self) -> None:
        """Measure until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _PERIOD_S
            await asyncio.sleep(_PERIOD_S)
            self.seen_at = loop.time()
            for lag in samples(self.seen_at - due):
                self._observe(lag)


def samples(lag: float) -> list[float]:
    """Return what every call would have measured that was due while the loop was held, this one first.

    With one sample a hold of a second would weigh as little as an idle 50 ms, and no percentile would show it.
    """
    lag = max(0.0, lag)
    return [lag - n * _PERIOD_S for n in range(min(_MOST_MISSED, int(lag / _PERIOD_S) + 1))]
