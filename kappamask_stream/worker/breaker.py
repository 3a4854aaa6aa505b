"""Stops taking messages while every one of them would fail."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from kappamask_stream.errors import OutputUnavailableError, QueueUnavailableError, ServerUnavailableError
from kappamask_stream.worker.taking import Trouble

if TYPE_CHECKING:
    from kappamask_stream.worker.outcomes import Verdict

#: Errors that say of themselves that something is away which every message needs.
_AWAY = (ServerUnavailableError, OutputUnavailableError, QueueUnavailableError)
#: Other failures that pass may be one product's own; so many in a row are not.
_FAILED_IN_A_ROW = 3


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

    def lift(self) -> None:
        """Forget the reason of a pause that is over; the next failure still begins a longer one."""
        if self.trouble.wait_s <= 0:
            self.reason = None

    def succeeded(self) -> None:
        """End it all."""
        self._failures, self._until, self.reason = 0, 0.0, None


class Breaker:
    """Is told how messages end, and says whether to take others.

    It opens where the surroundings are at fault or something is away that all need, after `_FAILED_IN_A_ROW` messages
    in a row that failed for other passing reasons, and after so many in a row that could never be done. After its pause
    one message at a time is tried; the first that is done closes it.

    Parameters
    ----------
    poison_in_a_row : messages, not counting those that say nothing: filtered, released, failed for a passing reason.
    pauses, poison_pauses : how long: while nothing can be done, and where messages themselves are at fault.

    State: failures and poison messages in a row without a success between, the pauses, and whether a trial is on.
    """

    def __init__(self, *, poison_in_a_row: int, pauses: Pauses, poison_pauses: Pauses) -> None:
        self._most, self._pauses, self._poison_pauses = poison_in_a_row, pauses, poison_pauses
        self._poison = self._failures = 0
        #: True while it is found out whether things are well again: what is needed is asked, or a message is tried.
        self.is_at_trial = False

    def __repr__(self) -> str:
        reason = self.trouble.reason
        return f"<Breaker {'closed' if reason is None else f'open: {reason}'}>"

    @property
    def trouble(self) -> Trouble:
        """What speaks against taking messages; nothing where it is closed."""
        first, second = self._pauses.trouble, self._poison_pauses.trouble
        if first.reason is None or second.wait_s > first.wait_s:
            return second
        return first

    @property
    def pause(self) -> str | None:
        """Why nothing is taken now.

        None where it is not known whether things are well again, and no message comes that would show it.
        """
        trouble = self.trouble
        return trouble.reason if trouble.wait_s > 0 or self.is_at_trial else None

    @property
    def is_trying(self) -> bool:
        """True after a pause, until it is known whether things are well again."""
        trouble = self.trouble
        return trouble.reason is not None and trouble.wait_s <= 0

    def still(self, reason: str) -> None:
        """Begin another, longer pause: what the next message would need does not answer yet."""
        self._pauses.failed(reason)

    def note(self, verdict: Verdict) -> None:
        """Take down how a message ended."""
        self.is_at_trial = False
        reason = verdict.reason or ""
        if verdict.outcome == "done":
            self._poison = self._failures = 0
            self._pauses.succeeded()
            self._poison_pauses.succeeded()
        elif verdict.outcome == "filtered":  # it needed nothing: it proves nothing, and others need not wait for it
            self._pauses.lift()
            self._poison_pauses.lift()
        elif verdict.fault == "message":
            self._poison += 1
            if self._poison >= self._most:
                self._poison_pauses.failed(
                    f"{self._poison} messages in a row can never be done, the last because of {reason}"
                )
        elif verdict.fault == "surroundings" or isinstance(verdict.error, _AWAY):
            self._failures += 1
            self._pauses.failed(reason)
        elif verdict.fault is not None:
            self._failures += 1
            if self._failures >= _FAILED_IN_A_ROW:
                self._pauses.failed(f"{self._failures} messages in a row have failed, the last because of {reason}")
