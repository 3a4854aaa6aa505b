"""What people see of a submission: names or JSON on stdout, how far it is on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kappamask_stream.feed.backfill import Submitted

_PERIOD_S = 5.0
#: Reasons that are said; thousands of the same help nobody.
_MOST_SAID = 5
_WORDS = {
    "sent": "sent", "wanted": "would be sent", "known": "sent before", "filtered": "not wanted",
    "refused": "refused by the queue", "unread": "of no product",
}  # fmt: skip


class SubmitTelling:
    """Counts what becomes of products, and says it.

    Parameters
    ----------
    as_json : one JSON object per product on stdout, and nothing else.
    is_dry : print the names of products that would be sent.

    State: counts by status, and when they were said last.
    """

    def __init__(self, *, as_json: bool, is_dry: bool) -> None:
        self._as_json, self._is_dry = as_json, is_dry
        self._counts: Counter[str] = Counter()
        self._said_at = time.monotonic()

    def __repr__(self) -> str:
        return f"<SubmitTelling {self._summary()}>"

    @property
    def done(self) -> int:
        """Products that were sent, now or before, or would be."""
        return self._counts["sent"] + self._counts["wanted"] + self._counts["known"]

    @property
    def refused(self) -> int:
        """Messages that the queue did not take."""
        return self._counts["refused"]

    @property
    def failed(self) -> int:
        """Products that should have been sent and were not, and Items that are of none."""
        return self._counts["refused"] + self._counts["unread"]

    def tell(self, submitted: Submitted) -> None:
        """Say what became of a product."""
        self._counts[submitted.status] += 1
        name = submitted.ref.name.text
        if self._as_json:
            self._print(name, submitted.status, submitted.ref.location, submitted.reason)
        elif submitted.status == "wanted":
            sys.stdout.write(f"{name}\n")
        if submitted.status == "refused":
            self._complain("refused", f"{name}: {submitted.reason}")
        self._say_now_and_then()

    def unread(self, reason: str) -> None:
        """Say that an Item is none of a product."""
        self._counts["unread"] += 1
        if self._as_json:
            self._print(None, "unread", None, reason)
        self._complain("unread", reason)

    def retried(self, _cause: str, text: str) -> None:
        """Say that the queue or the API is asked again."""
        self._write(text)

    def finish(self) -> None:
        """Sum up."""
        sys.stdout.flush()
        self._write(self._summary())

    def _print(self, name: str | None, status: str, location: str | None, reason: str | None) -> None:
        said = {"product": name, "status": status, "location": location, "reason": reason}
        sys.stdout.write(f"{json.dumps(said)}\n")

    def _complain(self, status: str, text: str) -> None:
        count = self._counts[status]
        if count <= _MOST_SAID:
            self._write(text + (" (further ones are counted only)" if count == _MOST_SAID else ""))

    def _say_now_and_then(self) -> None:
        if (now := time.monotonic()) - self._said_at >= _PERIOD_S:
            self._said_at = now
            self._write(self._summary())

    def _summary(self) -> str:
        parts = [f"{self._counts[status]} {words}" for status, words in _WORDS.items() if self._counts[status]]
        total = sum(self._counts.values())
        return f"{total} product{'' if total == 1 else 's'}" + (f": {', '.join(parts)}" if parts else "")

    def _write(self, text: str) -> None:
        if not self._as_json:
            with suppress(OSError):  # whoever read this has gone; the work goes on
                sys.stderr.write(f"{text}\n")
