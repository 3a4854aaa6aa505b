"""When a worker is to end, and how much time it has."""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

#: After its last answer a product needs a moment: its files are written, its Item is announced, its message deleted.
_CLOSING_S = 1.0


class Stop:
    """Is asked to end the worker: by signals, by a spot notice. Of several that ask, the earliest deadline counts.

    State: why, and until when, of the request with the earliest deadline; None before the first; whether somebody
    insists.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        #: Set once somebody insists: what only takes time is left out then.
        self.insisted = asyncio.Event()
        self._deadline: float | None = None
        self._tell: list[Callable[[], object]] = []

    def __repr__(self) -> str:
        return "<Stop not asked>" if self.reason is None else f"<Stop in {self.seconds_left:.1f} s: {self.reason}>"

    def ask(self, reason: str, *, grace_s: float) -> None:
        """Ask for an end.

        Parameters
        ----------
        reason : in words: a signal's name, what the notice says.
        grace_s : seconds in which what is in work may be finished; 0 gives everything back at once.
        """
        deadline = time.monotonic() + max(0.0, grace_s)
        if self._deadline is None or deadline < self._deadline:
            self.reason, self._deadline = reason, deadline
            for tell in self._tell:
                tell()

    def insist(self, reason: str) -> None:
        """Ask for an end at once, whatever was asked before; nothing is waited for that others do not need.

        Parameters
        ----------
        reason : as `ask` takes it; counts where no deadline is over yet.
        """
        self.ask(reason, grace_s=0.0)
        self.insisted.set()

    def on_ask(self, tell: Callable[[], object]) -> None:
        """Have `tell` called whenever the deadline changes."""
        self._tell.append(tell)

    @property
    def is_asked(self) -> bool:
        """True once somebody has asked."""
        return self._deadline is not None

    @property
    def seconds_left(self) -> float:
        """Seconds to the deadline, not below 0; infinite before anybody has asked."""
        if self._deadline is None:
            return math.inf
        return max(0.0, self._deadline - time.monotonic())


def fits(estimate_s: float | None, left_s: float) -> bool:
    """Tell whether what is in work may go on: it has time, and will probably be finished in it.

    Parameters
    ----------
    estimate_s : seconds that it will still take; None where nobody can tell yet, which is no reason to end it.
    left_s : seconds to the deadline.
    """
    return left_s > 0 and (estimate_s is None or estimate_s + _CLOSING_S <= left_s)
