"""The log: one object a line, times that can be read, no secrets in any field, libraries' records included."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from kappamask_stream.errors import InternalError, ProductError, StoreUnavailableError
from kappamask_stream.monitor import LogObserver, configure_log
from kappamask_stream.monitor.log import LOGGER
from kappamask_stream.worker.types import JobEnd, Outcome, WorkerState
from tests.unit.monitor_scene import done, job_of, make_message, product_name

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "Zm9vYmFyYmF6cXV4MTIzNDU2Nzg5MA"
RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What configures the log as asked, and afterwards leaves no trace of it in the process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)

    def begin(form: Any = "json") -> io.StringIO:
        stream = io.StringIO()
        configure_log(form, stream)
        return stream

    yield begin
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger(LOGGER).setLevel(logging.NOTSET)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def lines_of(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def say(event: str, **fields: Any) -> None:
    structlog.get_logger(LOGGER).info(event, **fields)


def test_a_line_of_json_is_one_object(log: Any) -> None:
    stream = log()
    say(
        "two\nlines\u2028of\x00text",
        where=Path("/a/b"),
        numbers=[1, 2.5, float("nan"), None, True],
        nested={"a": {"b": 1}},
    )
    (line,) = lines_of(stream)
    assert list(line)[:3] == ["timestamp", "level", "event"]
    assert RFC_3339.fullmatch(line["timestamp"])
    assert line["event"] == "two\nlines\u2028of\x00text"
    assert line["level"] == "info"
    assert line["where"] == "/a/b"
    assert line["numbers"] == [1, 2.5, "nan", None, True]
    assert line["nested"] == {"a": {"b": 1}}


class Awkward:
    """Cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError(SECRET)


@pytest.mark.parametrize(
    "fields",
    [
        {"text": f"https://u:{SECRET}@host/x"},
        {"link": f"https://host/x?X-Amz-Signature={SECRET}&X-Amz-Expires=1"},
        {"authorization": f"Basic {SECRET}"},
        {"headers": {"Authorization": f"Bearer {SECRET}", "Host": "x"}},
        {"nested": {"a": [{"b": (f"token={SECRET}",)}]}},
        {"body": f'{{"secret": "{SECRET}"}}'.encode()},
        {"error": StoreUnavailableError(f"https://{SECRET}@host/x: 503")},
        {"names": {f"password={SECRET}": 1}},
        {f"password={SECRET}": 1},
        {"items": {f"sig={SECRET}"}},
        {"awkward": Awkward()},
        {"bare": SECRET},
        {"deep": {"a": {"b": {"c": {"d": {"e": {"token": SECRET}}}}}}},
    ],
    ids=lambda fields: next(iter(fields)).partition("=")[0],
)
@pytest.mark.parametrize("form", ["json", "text"])
def test_no_field_shows_a_secret(log: Any, form: str, fields: dict[str, Any]) -> None:
    stream = log(form)
    say("something happened", **fields)
    assert stream.getvalue().count("something happened") == 1
    assert SECRET not in stream.getvalue()


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_traceback_shows_a_secret(log: Any, form: str) -> None:
    stream = log(form)

    def fail() -> None:
        raise ValueError(f"https://u:{SECRET}@host/x?sig={SECRET}")

    def translate() -> None:
        try:
            fail()
        except ValueError as error:
            raise StoreUnavailableError(f"Authorization: Bearer {SECRET}") from error

    try:
        translate()
    except StoreUnavailableError:
        structlog.get_logger(LOGGER).exception("it failed", link=f"s3://x@b/k and https://{SECRET}@h")
        logging.getLogger("somebody.else").exception("so did this: %s", f"password={SECRET}")
    text = stream.getvalue()
    assert SECRET not in text
    assert text.count("Traceback (most recent call last)") == 4
    assert text.count("errors.StoreUnavailableError: Authorization") == 2


def test_of_a_long_traceback_the_end_is_kept(log: Any) -> None:
    stream = log()

    def deeper(depth: int) -> None:
        if depth == 0:
            raise ValueError("this is what happened, password=" + SECRET)
        try:
            deeper(depth - 1)
        except ValueError as error:
            raise ValueError(f"at {depth}") from error

    try:
        deeper(60)
    except ValueError:
        structlog.get_logger(LOGGER).exception("it failed")
    (line,) = lines_of(stream)
    assert len(line["exception"]) < 8_100
    assert line["exception"].startswith("Traceback") or "this is what happened" in line["exception"]
    assert line["exception"].endswith("ValueError: at 60")
    assert SECRET not in stream.getvalue()


def test_records_of_libraries_and_warnings_are_lines_of_the_same_kind(log: Any) -> None:
    stream = log()
    logging.getLogger("botocore.credentials").info("Found credentials")
    logging.getLogger("botocore.retryhandler").warning("retry %d of https://h/?sig=%s", 2, SECRET)
    logging.getLogger("aiohttp.access").info("GET /metrics")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("this is old", DeprecationWarning, stacklevel=1)
    first, second = lines_of(stream)
    assert (first["level"], first["event"], first["logger"]) == (
        "warning",
        "retry 2 of https://h/",
        "botocore.retryhandler",
    )
    assert (second["level"], second["logger"]) == ("warning", "py.warnings")
    assert "DeprecationWarning: this is old" in second["event"]


def test_text_keeps_each_event_on_a_line_of_its_own(log: Any) -> None:
    """Neither a new line nor a terminal's escape in a stranger's text does anything."""
    stream = log("text")
    say("message ended", reason="no\n2026-01-01 [info] forged", product="\x1b[2J\x1b]0;owned\x07\ud800")
    (line,) = stream.getvalue().splitlines()
    assert line.isprintable()
    assert "message ended" in line
    assert "forged" in line


def test_a_reader_that_has_gone_stops_nothing(log: Any, capsys: pytest.CaptureFixture[str]) -> None:
    stream = log()
    stream.close()
    say("into the void", token=SECRET)
    assert capsys.readouterr() == ("", "")


async def test_what_is_logged_in_a_messages_task_carries_its_names(log: Any) -> None:
    stream = log()
    observer = LogObserver()

    async def life(number: int) -> None:
        message = make_message(number)
        job = job_of(message, product_name(number))
        observer.message_taken(message)

        async def work() -> None:
            observer.job_started(job)
            await asyncio.sleep(0)
            logging.getLogger("some.library").warning("note %d", number)
            observer.retried(f"Cause{number}", "again")
            observer.job_ended(job, done())

        await asyncio.create_task(work())
        logging.getLogger("some.library").warning("after %d", number)
        observer.message_ended(message, "done", None, 1.5)
        logging.getLogger("some.library").warning("outside")

    await asyncio.gather(life(1), life(2))
    lines = lines_of(stream)
    for number in (1, 2):
        (note,) = [line for line in lines if line["event"] == f"note {number}"]
        assert (note["message_id"], note["product"]) == (f"message-{number}", product_name(number))
        (again,) = [line for line in lines if line.get("cause") == f"Cause{number}"]
        assert (again["message_id"], again["product"]) == (f"message-{number}", product_name(number))
        (after,) = [line for line in lines if line["event"] == f"after {number}"]
        assert after["message_id"] == f"message-{number}"
        assert "product" not in after
    assert [line for line in lines if line["event"] == "outside" and "message_id" in line] == []


def test_each_event_is_a_line(log: Any) -> None:
    stream = log()
    observer, message = LogObserver(), make_message(7, received=3)
    job = job_of(message, location=f"https://u:{SECRET}@host/x.SAFE?sig={SECRET}")
    observer.state_changed(WorkerState(phase="taking", slots=2))
    observer.state_changed(WorkerState(phase="taking", slots=2, busy=1))
    observer.message_taken(message)
    assert observer.job_started(job) == ()
    observer.job_ended(job, done(12.3456, tiles=9, retries=2))
    observer.message_ended(message, "done", None, 12.5)
    observer.state_changed(WorkerState(phase="draining", reason="SIGTERM"))
    taking, taken, begun, ended, over, draining = lines_of(stream)
    assert (taking["event"], taking["phase"]) == ("worker", "taking")
    assert (taken["event"], taken["message_id"], taken["received"]) == ("message taken", "message-7", 3)
    assert 89 < taken["waited_s"] < 200
    assert (begun["product"], begun["kind"], begun["location"]) == (product_name(), "name", "https://host/x.SAFE")
    assert {k: ended[k] for k in ("status", "seconds", "output", "tiles", "retries", "bytes_read")} == {
        "status": "done", "seconds": 12.346, "output": "s3://masks/P/P.tif", "tiles": 9, "retries": 2, "bytes_read": 1_000_000,
    }  # fmt: skip
    assert (over["outcome"], over["seconds"], "reason" in over) == ("done", 12.5, False)
    assert (draining["phase"], draining["reason"]) == ("draining", "SIGTERM")


@pytest.mark.parametrize(
    ("error", "level", "has_traceback"),
    [
        (StoreUnavailableError("s3://b/k: 503"), "warning", False),
        (ProductError("MTD_MSIL2A.xml is missing"), "error", False),
        (InternalError("ZeroDivisionError: division by zero"), "error", True),
    ],
)
def test_failures_say_why(log: Any, error: Any, level: str, *, has_traceback: bool) -> None:
    stream = log()
    if has_traceback:
        error.__cause__ = ZeroDivisionError("division by zero")
    LogObserver().job_ended(job_of(make_message()), JobEnd(status="failed", seconds=1.0, error=error))
    (line,) = lines_of(stream)
    assert (line["level"], line["error"], line["reason"]) == (level, type(error).__name__, str(error))
    assert ("ZeroDivisionError: division by zero" in line.get("exception", "")) is has_traceback


@pytest.mark.parametrize(
    ("outcome", "level"),
    [("done", "info"), ("filtered", "info"), ("retry", "warning"), ("released", "warning"), ("lost", "warning"), ("poison", "error")],
)  # fmt: skip
def test_outcomes_have_their_levels(log: Any, outcome: Outcome, level: str) -> None:
    stream = log()
    LogObserver().message_ended(make_message(), outcome, "because", 1.0)
    (line,) = lines_of(stream)
    assert (line["level"], line["outcome"], line["reason"]) == (level, outcome, "because")


def test_a_storm_of_retries_is_counted_not_repeated(log: Any) -> None:
    stream = log()
    now = [100.0]
    observer = LogObserver(clock=lambda: now[0])
    for _ in range(500):
        observer.retried("ServerOverloadedError", "tile 7: the queue is full")
    observer.retried("SlowDown", "s3://b/k: 503")
    now[0] += 6.0
    observer.retried("ServerOverloadedError", "tile 8: the queue is full")
    first, other, second = lines_of(stream)
    assert (first["cause"], "unsaid" in first) == ("ServerOverloadedError", False)
    assert other["cause"] == "SlowDown"
    assert (second["reason"], second["unsaid"]) == ("tile 8: the queue is full", 499)


def test_causes_without_end_do_not_fill_the_memory(log: Any) -> None:
    stream = log()
    observer = LogObserver(clock=lambda: 100.0)
    for number in range(1000):
        observer.retried(f"Cause{number}", "again")
    assert len(lines_of(stream)) == 65
