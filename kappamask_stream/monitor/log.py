"""The worker's log: one way for its own events and for records of libraries, for people or as JSON.

A line of JSON is one object: ``timestamp`` (RFC 3339, UTC), ``level``, ``event``, and the event's fields. Credentials
are hidden in every field, in messages of exceptions and in tracebacks.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, Literal

import structlog

from kappamask_stream.monitor.redaction import HIDDEN, Redaction
from kappamask_stream.names import printable

if TYPE_CHECKING:
    from typing import TextIO

    from structlog.typing import EventDict, Processor, WrappedLogger

#: Of the logger that this package's events go to; other loggers say what is at least a warning.
LOGGER = "kappamask_stream"
_FIRST = ("timestamp", "level", "event")
_DEEPEST = 5
#: Characters that are kept of a traceback's begin and of its end, which says what happened.
_HEAD, _TAIL = 2000, 6000
_NEW_LINE = "\n"
_MOST_ITEMS = 100


def configure_log(form: Literal["text", "json"], stream: TextIO | None = None) -> None:
    """Send this process's log to a stream, libraries' records and Python's warnings included.

    Parameters
    ----------
    form : lines for people, or one JSON object each.
    stream : None: stderr.
    """
    stream = sys.stderr if stream is None else stream
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    shared: list[Processor] = [structlog.contextvars.merge_contextvars, structlog.stdlib.add_log_level, stamp]
    last: list[Processor]
    if form == "json":
        last = [_ordered, structlog.processors.JSONRenderer()]
    else:
        plain = structlog.dev.plain_traceback  # tracebacks are texts already, without credentials
        console = structlog.dev.ConsoleRenderer(
            colors=stream.isatty(), pad_event_to=0, sort_keys=False, exception_formatter=plain
        )
        last = [_printable, console]
    handler = _Handler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _shortened,
                _Plain(Redaction.of_environment(os.environ)),
                *last,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(LOGGER).setLevel(logging.INFO)
    logging.captureWarnings(capture=True)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


class _Handler(logging.StreamHandler["TextIO"]):
    """Gives up a line that cannot be written: who read this has gone, the work goes on."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's signature
        """Say nothing: logging would print the record as it is, credentials included."""


class _Plain:
    """Makes every field a plain value without credentials, whatever it was."""

    def __init__(self, redaction: Redaction) -> None:
        self._redaction = redaction

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        return {self._redaction.text(str(name)): self._field(str(name), value, 0) for name, value in event.items()}

    def _field(self, name: str, value: Any, depth: int) -> Any:
        if value is not None and self._redaction.is_secret(name):
            return HIDDEN
        return self._value(value, depth)

    def _value(self, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, bool | int):
            return value
        if isinstance(value, float):
            return value if abs(value) < float("inf") else str(value)  # JSON has no infinity, nor NaN
        if isinstance(value, Mapping) and depth < _DEEPEST:
            items = list(value.items())[:_MOST_ITEMS]
            return {self._redaction.text(str(name)): self._field(str(name), item, depth + 1) for name, item in items}
        is_list = isinstance(value, Sequence | AbstractSet) and not isinstance(value, str | bytes | bytearray)
        if is_list and depth < _DEEPEST:
            return [self._value(item, depth + 1) for item in list(value)[:_MOST_ITEMS]]
        return self._redaction.text(_text_of(value))


def _text_of(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes | bytearray):
        return bytes(value).decode("utf-8", "backslashreplace")
    try:
        return f"{type(value).__name__}: {value}" if isinstance(value, BaseException) else str(value)
    except Exception:  # noqa: BLE001 - whatever a stranger's object does when it is shown
        return f"a {type(value).__name__} that cannot be shown"


def _shortened(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Leave out the middle of a very long traceback."""
    text = event.get("exception")
    if isinstance(text, str) and len(text) > _HEAD + _TAIL:
        # Whole lines: half a link would not be recognised as one that holds a password.
        event["exception"] = f"{text[:_HEAD].rpartition(_NEW_LINE)[0]}\n...\n{text[-_TAIL:].partition(_NEW_LINE)[2]}"
    return event


def _ordered(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    first = {name: event[name] for name in _FIRST if name in event}
    return first | {name: value for name, value in event.items() if name not in _FIRST}


def _printable(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Escape what would start a line of its own, or steer a terminal; a traceback keeps its lines."""
    return {
        name: "\n".join(map(printable, value.splitlines())) if name == "exception" else _shown(value)
        for name, value in event.items()
    }


def _shown(value: Any) -> Any:
    return printable(value) if isinstance(value, str) else value
