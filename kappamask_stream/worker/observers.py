"""Several observers as one, of whom none can harm the work."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from kappamask_stream.worker.types import Observer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from kappamask_stream.extras import Extra
    from kappamask_stream.queues import Message
    from kappamask_stream.worker.types import Job, JobEnd, Outcome, WorkerState


class Observers(Observer):
    """Passes on what it is told. What an observer raises goes to the event loop's exception handler, and no further.

    State: those who look on.
    """

    def __init__(self, observers: Iterable[Observer]) -> None:
        self._observers = list(observers)

    def join(self, observers: Iterable[Observer]) -> None:
        """Have more of them look on from now."""
        self._observers += observers

    def message_taken(self, message: Message) -> None:
        """See `Observer.message_taken`."""
        self._tell("message_taken", message)

    def message_ended(self, message: Message, outcome: Outcome, reason: str | None, seconds: float) -> None:
        """See `Observer.message_ended`."""
        self._tell("message_ended", message, outcome, reason, seconds)

    def job_started(self, job: Job) -> Sequence[Extra]:
        """See `Observer.job_started`; returns the extras of all."""
        return [extra for extras in self._answers("job_started", job) for extra in extras]

    def job_ended(self, job: Job, end: JobEnd) -> None:
        """See `Observer.job_ended`."""
        self._tell("job_ended", job, end)

    def retried(self, cause: str, text: str) -> None:
        """See `Observer.retried`."""
        self._tell("retried", cause, text)

    def state_changed(self, state: WorkerState) -> None:
        """See `Observer.state_changed`."""
        self._tell("state_changed", state)

    def _tell(self, hook: str, *told: object) -> None:
        for _ in self._answers(hook, *told):
            pass

    def _answers(self, hook: str, *told: object) -> Iterator[Any]:
        for observer in self._observers:
            try:
                yield getattr(observer, hook)(*told)
            except Exception as error:  # noqa: BLE001 - looking on must not end what is looked at
                asyncio.get_running_loop().call_exception_handler(
                    {"message": f"{type(observer).__name__}.{hook} failed", "exception": error}
                )
