"""The worker's events as lines of the log."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import structlog
from structlog.contextvars import bind_contextvars, unbind_contextvars

from kappamask_stream.errors import InternalError
from kappamask_stream.monitor.log import LOGGER
from kappamask_stream.sources.hrefs import shown_url
from kappamask_stream.worker.types import Observer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kappamask_stream.extras import Extra
    from kappamask_stream.queues import Message
    from kappamask_stream.worker.types import Job, JobEnd, Outcome, WorkerState

#: Seconds between two lines about retries for the same cause: a server that is down fails very many tiles.
_RETRY_PERIOD_S = 5.0
_MOST_CAUSES = 64
_LEVELS: dict[Outcome, str] = {
    "done": "info", "filtered": "info", "released": "warning", "retry": "warning", "lost": "warning", "poison": "error",
}  # fmt: skip


class LogObserver(Observer):
    """Writes one line per event; of many retries for one cause, one line each few seconds that counts them.

    Message and product are bound to the task that tells of them: whatever is logged there, or in tasks that it starts,
    carries them. So each message needs a task of its own.

    State: per cause of retries, when it was said last and how often it came since; the last state that was said.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._log: Any = structlog.get_logger(LOGGER)
        self._clock = clock
        self._retries: dict[str, tuple[float, int]] = {}
        self._said: tuple[str, str | None] | None = None

    def message_taken(self, message: Message) -> None:
        """Say which message has a slot."""
        bind_contextvars(message_id=message.id)
        waited = {"waited_s": round(max(0.0, time.time() - message.sent_at), 3)} if message.sent_at else {}
        self._log.info("message taken", message_id=message.id, received=message.received, **waited)

    def message_ended(self, message: Message, outcome: Outcome, reason: str | None, seconds: float) -> None:
        """Say what became of a message."""
        why = {} if reason is None else {"reason": reason}
        say = getattr(self._log, _LEVELS[outcome])
        say("message ended", message_id=message.id, outcome=outcome, seconds=round(seconds, 3), **why)
        unbind_contextvars("message_id")

    def job_started(self, job: Job) -> Sequence[Extra]:
        """Say which product is begun."""
        bind_contextvars(product=job.ref.name.text)
        where = {} if job.ref.location is None else {"location": shown_url(job.ref.location)}
        self._log.info("product begun", **_names(job), kind=job.ref.kind, **where)
        return ()

    def job_ended(self, job: Job, end: JobEnd) -> None:
        """Say how a product ended."""
        said: dict[str, Any] = {**_names(job), "status": end.status, "seconds": round(end.seconds, 3)}
        if end.output is not None:
            said["output"] = end.output
        if end.result is not None:
            result = end.result
            said |= {"tiles": result.tiles, "bytes_read": result.bytes_read, "retries": result.retries}
        say = self._log.info
        if end.error is not None:
            said |= {"error": type(end.error).__name__, "reason": str(end.error)}
            say = self._log.warning if end.error.retryable else self._log.error
        if isinstance(end.error, InternalError):
            said["exc_info"] = end.error  # nobody could find a fault of the program without its traceback
        say("product ended", **said)
        unbind_contextvars("product")

    def retried(self, cause: str, text: str) -> None:
        """Say that something is tried again."""
        key = cause if cause in self._retries or len(self._retries) < _MOST_CAUSES else "other"
        said_at, since = self._retries.get(key, (-_RETRY_PERIOD_S, 0))
        now = self._clock()
        if now - said_at < _RETRY_PERIOD_S:
            self._retries[key] = said_at, since + 1
            return
        self._retries[key] = now, 0
        self._log.warning("tried again", cause=cause, reason=text, **({"unsaid": since} if since else {}))

    def state_changed(self, state: WorkerState) -> None:
        """Say what the worker does, where that is another thing than before."""
        if (state.phase, state.reason) == self._said:
            return
        self._said = state.phase, state.reason
        why = {} if state.reason is None else {"reason": state.reason}
        self._log.info("worker", phase=state.phase, busy=state.busy, slots=state.slots, **why)


def _names(job: Job) -> dict[str, str]:
    return {"message_id": job.message.id, "product": job.ref.name.text}
