"""Requests that carry several messages, of which some may fail."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kappamask_stream.errors import QueueError
from kappamask_stream.queues.failures import meant_of_entry
from kappamask_stream.s3.retry import TryLaterError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kappamask_stream.queues.clients import Call, QueueClients


@dataclass(frozen=True, kw_only=True)
class BatchEnd:
    """What became of a batch.

    Attributes
    ----------
    outcomes : by entry: what the service says of it, or why it failed.
    failed : why the request as a whole failed, or was given up; None where it was answered.
    """

    outcomes: Mapping[int, Mapping[str, Any] | QueueError]
    failed: QueueError | None


async def call_batch(clients: QueueClients, call: Call, entries: Mapping[int, Mapping[str, Any]]) -> BatchEnd:
    """Send entries in one request; those that fail for a passing reason are sent again.

    Parameters
    ----------
    call : without its entries.
    entries : by number, at most 10.
    """
    pending = dict(entries)
    outcomes: dict[int, Mapping[str, Any] | QueueError] = {}

    async def attempt() -> None:
        sent = [{"Id": str(number), **entry} for number, entry in pending.items()]
        answer = await clients.attempt(replace(call, params={**call.params, "Entries": sent}))
        later: Exception = TryLaterError("the answer does not name all messages of the request")
        for done in answer.get("Successful", []):
            outcomes[int(done["Id"])] = done
        for failed in answer.get("Failed", []):
            meaning = meant_of_entry(failed, call.what)
            if isinstance(meaning, QueueError):
                outcomes[int(failed["Id"])] = meaning
            else:
                later = meaning
        for number in outcomes:
            pending.pop(number, None)
        if pending:
            raise later

    try:
        await clients.persist(attempt, call.what)
    except QueueError as error:
        return BatchEnd(outcomes={**outcomes, **dict.fromkeys(pending, error)}, failed=error)
    return BatchEnd(outcomes=outcomes, failed=None)
