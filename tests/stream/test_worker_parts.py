"""Decisions of the worker one by one: who is at fault, how long to wait, what may be taken, what still fits."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappamask_stream.errors import (
    ContractError,
    InferenceError,
    InferenceTimeoutError,
    InternalError,
    KappaMaskError,
    OutputError,
    OutputUnavailableError,
    ProductError,
    QueueUnavailableError,
    ServerOverloadedError,
    ServerUnavailableError,
    StoreAccessError,
    StoreCredentialsError,
    StoreUnavailableError,
    error_kinds,
)
from kappamask_stream.s3.retry import TryLaterError
from kappamask_stream.worker.admission import Admission
from kappamask_stream.worker.breaker import Breaker, Pauses
from kappamask_stream.worker.outcomes import Verdict, asked_wait_s, retry_wait_s, verdict_of
from kappamask_stream.worker.probe import WorkerProbe
from kappamask_stream.worker.spot import SpotNotice
from kappamask_stream.worker.stop import Stop, fits
from kappamask_stream.worker.taking import Room, Trouble, room
from tests.stream.virtual_time import in_virtual_time
from tests.stream.worker_fakes import FakeQueue

if TYPE_CHECKING:
    from collections.abc import Callable

# Who is at fault

#: The whole tree: a new class fails the test below until somebody has decided what it means for a message.
MEANINGS = {
    "KappaMaskError": ("poison", "message"),
    "UsageError": ("retry", "surroundings"),
    "InputError": ("poison", "message"),
    "ProductError": ("poison", "message"),
    "CodestreamError": ("poison", "message"),
    "MessageError": ("poison", "message"),
    "StoreError": ("poison", "message"),
    "StoreCredentialsError": ("retry", "surroundings"),
    "StoreAccessError": ("retry", "unclear"),
    "StoreChangedError": ("retry", "passing"),
    "StoreUnavailableError": ("retry", "passing"),
    "ServerError": ("retry", "surroundings"),
    "ServerSetupError": ("retry", "surroundings"),
    "ContractError": ("retry", "surroundings"),
    "ModelChangedError": ("retry", "passing"),
    "ServerUnavailableError": ("retry", "passing"),
    "ServerOverloadedError": ("retry", "passing"),
    "InferenceTimeoutError": ("retry", "passing"),
    "ServerFaultError": ("retry", "unclear"),
    "CanaryError": ("retry", "surroundings"),
    "InferenceError": ("poison", "message"),
    "AnswerError": ("retry", "unclear"),
    "OutputError": ("retry", "surroundings"),
    "OutputUnavailableError": ("retry", "passing"),
    "QueueError": ("retry", "surroundings"),
    "QueueAccessError": ("retry", "surroundings"),
    "MessageRefusedError": ("poison", "message"),
    "QueueUnavailableError": ("retry", "passing"),
    "ProcessEndedError": ("retry", "passing"),
    "InternalError": ("poison", "message"),
}


def test_every_error_of_the_tree_has_a_meaning_for_its_message() -> None:
    found = {}
    for name, kind in error_kinds().items():
        verdict = verdict_of(kind("why"), "S2A_…")
        found[name] = verdict.outcome, verdict.fault
        assert (verdict.reason, verdict.product) == (f"{name}: why", "S2A_…")
    assert found == MEANINGS


@pytest.mark.parametrize(("cause", "outcome"), [
    (MemoryError(), "retry"), (OSError(24, "Too many open files"), "retry"), (KeyError("x"), "poison"),
    (RuntimeError("a bug"), "poison"), (RuntimeError("can't start new thread"), "retry"),
    (RuntimeError("cannot schedule new futures after shutdown"), "retry"),
])  # fmt: skip
def test_a_machine_at_its_end_is_not_the_messages_fault(cause: Exception, outcome: str) -> None:
    error = InternalError("a fault")
    error.__cause__ = cause
    assert verdict_of(error).outcome == outcome


# How long a message that failed waits


@given(
    received=st.integers(1, 10_000), first=st.floats(0.1, 100), most=st.floats(0.1, 50_000), age=st.floats(0, 42_900)
)
def test_waits_double_with_jitter_up_to_the_most_and_never_beyond_the_queues_twelve_hours(
    received: int, first: float, most: float, age: float
) -> None:
    wait = retry_wait_s(received, first_s=first, most_s=most, age_s=age, rng=random.Random(received), error=None)
    whole = min(most, first * 2.0 ** min(received - 1, 32))
    assert wait >= 1
    assert age + wait < 12 * 3600
    assert wait <= math.ceil(whole)
    if age + whole < 43_000:
        assert wait >= min(whole / 2, 43_000 - age)


def test_messages_that_failed_together_do_not_come_back_together() -> None:
    waits = {
        retry_wait_s(3, first_s=30, most_s=3600, age_s=1, rng=random.Random(seed), error=None) for seed in range(200)
    }
    assert len(waits) > 40
    assert (min(waits), max(waits)) == (61, 120)


def chain(*errors: Exception) -> Exception:
    for error, cause in pairwise(errors):
        error.__cause__ = cause
    return errors[0]


def test_what_a_store_asks_for_is_waited_through_layers_of_translation() -> None:
    asked = TryLaterError("503 SlowDown", overloaded=True, retry_after_s=700.0)
    error = chain(OutputUnavailableError("cannot write"), StoreUnavailableError("overloaded"), asked)
    assert asked_wait_s(error) == 700
    rng = random.Random(1)
    assert retry_wait_s(1, first_s=30, most_s=60, age_s=0, rng=rng, error=error) == 700
    assert retry_wait_s(1, first_s=30, most_s=60, age_s=43_000, rng=rng, error=error) == 140
    assert asked_wait_s(chain(StoreUnavailableError("x"), TryLaterError("no Retry-After"))) is None
    assert asked_wait_s(None) is None


# What may be taken

QUIET = Trouble()


def may_take(
    *,
    slots: int = 4,
    busy: int = 0,
    left: float = math.inf,
    queue: Trouble = QUIET,
    work: Trouble = QUIET,
    load: str | None = None,
) -> Room:
    return room(slots=slots, busy=busy, left=left, queue=queue, work=work, load=load)


def test_free_slots_and_the_queues_ten_are_what_is_asked_for() -> None:
    assert may_take().most == 4
    assert may_take(busy=3).most == 1
    assert may_take(busy=4) == Room(most=0)
    assert may_take(slots=64).most == 10
    assert may_take(left=2).most == 2


def test_each_trouble_pauses_with_its_reason_until_it_is_over() -> None:
    assert may_take(queue=Trouble(reason="away", wait_s=3)) == Room(most=0, reason="away", wait_s=3)
    assert may_take(queue=Trouble(reason="away")).most == 4, "it is asked again"
    assert may_take(work=Trouble(reason="no rights", wait_s=5)) == Room(most=0, reason="no rights", wait_s=5)
    assert may_take(work=Trouble(reason="no rights")).most == 1, "one is tried"
    assert may_take(work=Trouble(reason="no rights"), busy=1) == Room(most=0, reason="no rights")
    assert may_take(load="full") == Room(most=0, reason="full")


def test_pauses_double_and_what_fails_during_one_counts_once() -> None:
    async def scenario() -> None:
        import asyncio

        pauses = Pauses(first_s=5, most_s=15)
        seen = []
        for _ in range(4):
            for _ in range(3):
                pauses.failed("it fails")
            seen.append(pauses.trouble.wait_s)
            await asyncio.sleep(pauses.trouble.wait_s)
            assert pauses.trouble == Trouble(reason="it fails")
        assert seen == [5, 10, 15, 15]
        pauses.succeeded()
        assert pauses.trouble == QUIET
        pauses.failed("anew")
        assert pauses.trouble.wait_s == 5

    in_virtual_time(scenario())


DONE, FILTERED, RELEASED = (Verdict(outcome=outcome) for outcome in ("done", "filtered", "released"))


def new_breaker() -> Breaker:
    return Breaker(
        poison_in_a_row=3, pauses=Pauses(first_s=5, most_s=15), poison_pauses=Pauses(first_s=5, most_s=10)
    )  # fmt: skip


def test_only_poison_without_a_success_between_counts_as_in_a_row() -> None:
    breaker = new_breaker()
    poison, done = verdict_of(ProductError("x")), DONE
    others = [FILTERED, RELEASED, verdict_of(StoreUnavailableError("x"))]
    for verdict in [poison, poison, done, poison, *others, poison]:
        breaker.note(verdict)
        assert breaker.trouble.reason is None
    breaker.note(poison)
    assert breaker.trouble.reason == "3 messages in a row can never be done, the last because of ProductError: x"
    assert "open: 3 messages" in repr(breaker)
    for verdict in others:
        breaker.note(verdict)
    assert breaker.trouble.reason is not None
    breaker.note(done)
    assert repr(breaker) == "<Breaker closed>"


@pytest.mark.parametrize(
    "error",
    [
        ContractError("no such model"), StoreCredentialsError("expired"), ServerUnavailableError("nobody answers"),
        OutputUnavailableError("away"), QueueUnavailableError("away"),
    ],
)  # fmt: skip
def test_what_every_message_needs_opens_at_once(error: KappaMaskError) -> None:
    breaker = new_breaker()
    breaker.note(verdict_of(error))
    assert breaker.pause == f"{type(error).__name__}: {error}"


@pytest.mark.parametrize(
    "error", [StoreUnavailableError("x"), ServerOverloadedError("x"), InferenceTimeoutError("x"), StoreAccessError("x")]
)
def test_what_may_be_one_products_opens_after_three_without_a_success_between(error: KappaMaskError) -> None:
    breaker, failed = new_breaker(), verdict_of(error)
    for verdict in (failed, failed, DONE, failed, FILTERED, failed, RELEASED):
        breaker.note(verdict)
        assert breaker.trouble.reason is None
    breaker.note(failed)
    assert breaker.pause == f"3 messages in a row have failed, the last because of {type(error).__name__}: x"


def test_a_pause_that_is_over_is_no_reason_any_more_and_what_is_filtered_lets_others_pass() -> None:
    async def scenario() -> None:
        import asyncio

        breaker = new_breaker()
        breaker.note(verdict_of(OutputError("no permission")))
        breaker.note(FILTERED)
        assert (breaker.pause, breaker.is_trying) == ("OutputError: no permission", False), "it proves nothing"
        await asyncio.sleep(5)
        assert (breaker.pause, breaker.is_trying) == (None, True)
        assert breaker.trouble == Trouble(reason="OutputError: no permission"), "one is tried"
        breaker.is_at_trial = True
        assert breaker.pause == "OutputError: no permission", "what tries it may find it as it was"
        breaker.note(FILTERED)
        assert breaker.trouble == QUIET
        breaker.still("output: no permission")
        assert breaker.trouble == Trouble(reason="output: no permission", wait_s=10), "the next pause is longer still"

    in_virtual_time(scenario())


def test_poison_pauses_for_less_long_than_an_outage_which_counts_where_there_are_both() -> None:
    async def scenario() -> None:
        import asyncio

        breaker, seen = new_breaker(), []
        for _ in range(2):
            breaker.note(verdict_of(ProductError("x")))
        for _ in range(4):
            breaker.note(verdict_of(ProductError("x")))
            seen.append(breaker.trouble.wait_s)
            await asyncio.sleep(seen[-1])
        assert seen == [5, 10, 10, 10]
        for _ in range(3):
            breaker.still("triton: away")
            await asyncio.sleep(breaker.trouble.wait_s)
        breaker.note(verdict_of(ProductError("x")))
        breaker.still("triton: away")
        assert breaker.trouble == Trouble(reason="triton: away", wait_s=15)

    in_virtual_time(scenario())


@pytest.mark.parametrize(
    ("counts", "closed"),
    [
        ([101], False), ([101, 101], False), ([101, 101, 101], True), ([101, 101, 100, 101, 101], False),
        ([101, 101, 101, 51], True), ([101, 101, 101, 50], False), ([101, 101, 101, 50, 101, 101], False),
        ([101, 101, 101, None], False), ([None] * 9, False), ([101, 101, None, 101], False),
        ([200] * 3 + [60, 90, 99, 60], True),
    ],
)  # fmt: skip
def test_a_loaded_server_closes_admission_and_half_of_it_opens(counts: list[float | None], *, closed: bool) -> None:
    changes: list[str | None] = []

    async def unused() -> float | None:
        raise AssertionError

    admission = Admission(
        unused, most=100, on_change=lambda: changes.append(admission.reason), on_fault=lambda *_: None
    )  # fmt: skip
    for count in counts:
        admission.see(count)
    assert (admission.reason is not None) == closed
    assert [change is not None for change in changes] == [n % 2 == 0 for n in range(len(changes))]


def test_a_look_that_fails_or_hangs_in_whatever_way_is_not_known_and_told_once() -> None:
    async def scenario() -> None:
        import asyncio

        looks: list[Exception | float] = [200.0] * 3
        told: list[tuple[str, str]] = []

        async def ask() -> float | None:
            look = looks.pop(0) if looks else 0.0
            if isinstance(look, Exception):
                raise look
            if look < 0:
                await asyncio.Event().wait()
            return look

        admission = Admission(ask, most=100, on_change=lambda: None, on_fault=lambda *said: told.append(said))
        watch = asyncio.create_task(admission.watch())
        await asyncio.sleep(7)
        assert admission.reason is not None
        looks += [UnicodeError("label too long"), KeyError("x"), ServerUnavailableError("x")]
        await asyncio.sleep(9)
        assert (admission.reason, admission.pending, watch.done()) == (None, None, False)
        assert [cause for cause, _ in told] == ["InternalError"]
        assert told[0][1].startswith("how full the inference server is cannot be told: UnicodeError: label too long")
        looks += [7.0, -1.0]
        await asyncio.sleep(3)
        assert admission.pending == 7
        await asyncio.sleep(14)
        assert (admission.pending, len(told)) == (None, 2)
        watch.cancel()
        await asyncio.wait([watch])

    in_virtual_time(scenario())


# What fits


@pytest.mark.parametrize(
    ("estimate", "left", "expected"),
    [(10, 60, True), (59, 60, True), (60, 60, False), (None, 60, True), (None, 0, False), (0, 0, False), (0, 5, True)],
)
def test_what_still_fits(estimate: float | None, left: float, *, expected: bool) -> None:
    assert fits(estimate, left) is expected


def test_the_earliest_deadline_counts_and_is_told() -> None:
    async def scenario() -> None:
        import asyncio

        stop, told = Stop(), []
        stop.on_ask(lambda: told.append(stop.reason))
        assert (stop.is_asked, stop.seconds_left) == (False, math.inf)
        assert repr(stop) == "<Stop not asked>"
        stop.ask("SIGTERM", grace_s=60)
        assert repr(stop) == "<Stop in 60.0 s: SIGTERM>"
        stop.ask("spot", grace_s=90)
        stop.ask("spot", grace_s=30)
        assert (stop.reason, stop.seconds_left, told) == ("spot", 30, ["SIGTERM", "spot"])
        await asyncio.sleep(31)
        assert stop.seconds_left == 0
        stop.insist("SIGTERM once more")
        assert (stop.reason, stop.insisted.is_set()) == ("spot", True), "also where the deadline is over"

    in_virtual_time(scenario())


NOW = datetime(2026, 7, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(("seconds", "grace"), [(120, 100), (90, 80), (5, 0), (-60, 0)])
def test_a_spot_notice_leaves_the_grace_that_fits(seconds: float, grace: float) -> None:
    notice = SpotNotice(action="terminate", time=NOW + timedelta(seconds=seconds))
    assert notice.grace_s(100, now=NOW) == grace


# Ready or not


class Model:
    """Stands for a `ServedModel` and its client."""

    def __init__(self, *, ready: bool) -> None:
        self.client, self.ready = self, ready
        self.contract = type("Contract", (), {"name": "csmask_l2a"})()

    async def is_ready(self) -> bool:
        return self.ready


class Models:
    """Stands for a `ModelPool`."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        self._answer = answer

    async def refresh(self, level: str) -> Any:
        return self._answer()


def fails(error: Exception) -> Callable[[], Any]:
    def answer() -> Any:
        raise error

    return answer


async def fine() -> None:
    """Stand for an output that can be written."""


async def full() -> None:
    raise OutputError("no space")


def new_probe(
    answer: Callable[[], Any],
    queue: FakeQueue,
    pause: Callable[[], str | None] = lambda: None,
    try_output: Callable[[], Any] = fine,
) -> WorkerProbe:
    models: Any = Models(answer)
    return WorkerProbe(models=models, levels=("L2A",), queue=queue, try_output=try_output, pause=pause)


@pytest.mark.parametrize(
    ("answer", "queue_fails", "pause", "expected"),
    [
        (lambda: Model(ready=True), [], None, (None, None, None)),
        (lambda: Model(ready=False), [], None, ("the server does not serve csmask_l2a now", None, None)),
        (fails(InferenceError("down")), [StoreUnavailableError("gone")], "everything fails",
         ("down", "gone", "everything fails")),
        (lambda: Model(ready=True), [1e6], None, (None, "no answer within 5 s", None)),
    ],
)  # fmt: skip
def test_readiness_names_the_part_that_is_not_there(
    answer: Callable[[], Any],
    queue_fails: list[Exception | float],
    pause: str | None,
    expected: tuple[str | None, ...],
) -> None:
    async def scenario() -> dict[str, str | None]:
        queue = FakeQueue()
        queue.failing["stats"] = queue_fails
        probe = new_probe(answer, queue, lambda: pause)
        starting = await probe()
        assert set(starting.values()) == {"the worker is starting"}
        probe.is_starting = False
        return await probe()

    assert in_virtual_time(scenario()) == dict(zip(("triton", "queue", "worker"), expected, strict=True))


@pytest.mark.parametrize(
    ("answer", "queue_fails", "try_output", "expected"),
    [
        (lambda: Model(ready=True), [], fine, None),
        (lambda: Model(ready=False), [], fine, "triton: the server does not serve csmask_l2a now"),
        (fails(InferenceError("down")), [1e6], full, "triton: down; queue: no answer within 30 s; output: no space"),
        (lambda: Model(ready=True), [6.0], fine, None),
    ],
)
def test_before_a_message_is_tried_after_a_pause_the_output_is_asked_too_and_all_have_more_time(
    answer: Callable[[], Any], queue_fails: list[Exception | float], try_output: Callable[[], Any], expected: str | None
) -> None:
    async def scenario() -> str | None:
        queue = FakeQueue()
        queue.failing["stats"] = queue_fails
        return await new_probe(answer, queue, try_output=try_output).why_not()

    assert in_virtual_time(scenario()) == expected
