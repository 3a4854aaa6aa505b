"""Stops taking messages while every one of them would fail."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from kappamask_stream.worker.taking import Trouble

if TYPE_CHECKING:
    from kappamask_stream.worker.outcomes import Verdict


class Pauses:
    """Pauses that double with each failure and end with the first success.

    Parameters
    ----------
    first_s, most_s : the first pause, and the longest.

    State: failures in a row, each counted once per pause; the end of the pause; why.
    """

    def __init__(self, *, first_s: float, most_s: float) -> None:
        self._first_s, self._most_s = first_s, most_s
        self._failures = 0
        self._until = 0.0
        #: Why there was a pause, until the first success after it.
        self.reason: str | None = None

    @property
    def trouble(self) -> Trouble:
        """What speaks against another try now."""
        return Trouble(reason=self.reason, wait_s=max(0.0, self._until - time.monotonic()))

    def failed(self, reason: str) -> None:
        """Begin a pause; what fails during one is of the same cause, and neither counts nor prolongs it."""
        if self.trouble.wait_s > 0:
            return
        self.reason = reason
        pause = min(self._most_s, self._first_s * 2.0 ** min(self._failures, 32))
        self._failures += 1
        self._until = time.monotonic() + pause

    def succeeded(self) -> None:
        """End it all."""
        self._failures, self._until, self.reason = 0, 0.0, None


class Breaker:
    """Is told how messages end, and says whether to take others.

    It opens where the surroundings are at fault, or so many messages in a row could never be done. After its pause
    one message at a time is tried; the first that is done closes it.

    Parameters
    ----------
    poison_in_a_row : messages, not counting those that say nothing: filtered, released, failed for a passing reason.
    pauses : how long.

    State: poison messages in a row, and the pauses.
    """

    def __init__(self, *, poison_in_a_row: int, pauses: Pauses) -> None:
        self._most, self._pauses = poison_in_a_row, pauses
        self._in_a_row = 0

    def __repr__(self) -> str:
        return f"<Breaker {'closed' if self._pauses.reason is None else f'open: {self._pauses.reason}'}>"

    @property
    def trouble(self) -> Trouble:
        """What speaks against taking messages; nothing where it is closed."""
        return self._pauses.trouble

    def note(self, verdict: Verdict) -> None:
        """Take down how a message ended."""
        if verdict.outcome == "done":
            self._in_a_row = 0
            self._pauses.succeeded()
        elif verdict.fault == "surroundings":
            self._pauses.failed(verdict.reason or "")
        elif verdict.fault == "message":
            self._in_a_row += 1
            if self._in_a_row >= self._most:
                self._pauses.failed(
                    f"{self._in_a_row} messages in a row can never be done, the last because of {verdict.reason}"
                )
