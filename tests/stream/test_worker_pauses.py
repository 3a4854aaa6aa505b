"""When a worker takes no messages, for how long, and what an outage costs: over fakes, in virtual time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from kappamask_stream.errors import (
    OutputError,
    OutputUnavailableError,
    ProductError,
    ServerUnavailableError,
    StoreUnavailableError,
    UsageError,
)
from tests.stream.virtual_time import in_virtual_time, story, until
from tests.stream.worker_fakes import FakeWork, Scene, product

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kappamask_stream.extras import Extra
    from kappamask_stream.worker.types import Finished, Job

pytestmark = pytest.mark.filterwarnings("error")


@story
async def test_faults_of_the_surroundings_pause_taking_longer_each_time_and_bury_nothing() -> None:
    scene = Scene(products_at_once=4, retry_after_s=1, retry_most_s=1)
    for number in range(4):
        scene.work.errors[product(number)] = [OutputError("no permission")] * 3
    scene.queue.put(*map(str, range(4)))
    scene.start()
    await asyncio.sleep(3)
    assert scene.seen.outcomes == ["retry"] * 4
    assert scene.seen.states[-1].phase == "paused"
    assert scene.seen.states[-1].reason == "OutputError: no permission"
    await asyncio.sleep(1000)
    assert scene.dead is not None
    assert scene.dead.messages == {}
    assert scene.queue.messages == {}
    assert scene.seen.outcomes.count("done") == 4
    assert scene.seen.phases[:4] == ["taking", "paused", "taking", "paused"]
    assert scene.breaker.trouble.reason is None
    assert scene.seen.states[-1].phase == "taking"
    await scene.drained()


@story
async def test_after_a_pause_one_message_is_tried_alone_until_one_is_done() -> None:
    scene = Scene(products_at_once=4, retry_after_s=1, retry_most_s=1)
    scene.work.errors[product(0)] = [UsageError("--source is missing")] * 2
    scene.queue.put("0")
    scene.start()
    await asyncio.sleep(2)
    scene.queue.put(*map(str, range(1, 9)))
    scene.work.peak = 0
    asked = len(scene.queue.asked)
    await until(lambda: len(scene.seen.outcomes) == 2)
    assert scene.work.peak == 1
    assert set(scene.queue.asked[asked:]) == {1}
    await asyncio.sleep(100)
    assert scene.work.peak == 4
    await scene.drained()


@story
async def test_so_many_poison_messages_in_a_row_pause_taking() -> None:
    scene = Scene(products_at_once=1, poison_in_a_row=3)
    for number in range(8):
        scene.work.errors[product(number)] = [ProductError("damaged")]
    scene.queue.put(*map(str, [0, 1, 9, 2, 3, 4, 5, 6]))
    scene.start()
    await asyncio.sleep(8)
    assert scene.seen.outcomes == ["poison", "poison", "done", "poison", "poison", "poison"]
    assert scene.seen.states[-1].phase == "paused"
    assert "3 messages in a row can never be done" in str(scene.seen.states[-1].reason)
    await scene.drained()


@story
async def test_a_loaded_server_pauses_taking_until_it_has_half_as_much_to_do() -> None:
    scene = Scene(work=FakeWork(seconds=1))
    scene.start()
    scene.pressure.now = 101
    await asyncio.sleep(5)
    scene.pressure.now = 99
    await asyncio.sleep(4)
    scene.pressure.now = 500
    await asyncio.sleep(12)
    scene.queue.put("1")
    await asyncio.sleep(30)
    assert scene.work.made == [], "the receive that was under way is broken off"
    assert scene.seen.states[-1].phase == "paused"
    assert scene.seen.states[-1].reason == (
        "more than 100 requests were pending in the inference server, it goes on when there are 50 or fewer"
    )
    assert scene.seen.states[-1].pending == 500
    scene.pressure.now = 51
    await asyncio.sleep(30)
    assert scene.work.made == []
    scene.pressure.now = 50
    await asyncio.sleep(6)
    assert scene.work.made == [product(1)]
    scene.pressure.now = 500
    await asyncio.sleep(30)
    scene.queue.put("2")
    scene.pressure.now = None
    await asyncio.sleep(10)
    assert scene.work.made == [product(1), product(2)], "what is not known never pauses"
    await scene.drained()


class Away(FakeWork):
    """Fails after 10 s while something is away."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error: Exception | None = error

    async def do(self, job: Job, extras: Sequence[Extra] = ()) -> Finished:
        if self.error is None:
            return await super().do(job, extras)
        await asyncio.sleep(10)
        raise self.error


@pytest.mark.parametrize(
    ("error", "probe_says", "deliveries_most"),
    [
        (ServerUnavailableError("nobody answers"), "triton: nobody answers", 1),
        (OutputUnavailableError("the store is away"), "output: the store is away", 1),
        (StoreUnavailableError("the archive is away"), None, 8),
    ],
)
def test_three_hours_of_an_outage_bury_nothing(error: Exception, probe_says: str | None, deliveries_most: int) -> None:
    """SQS itself buries at the tenth delivery. A queue that gives the oldest message is the worst case."""

    async def scenario() -> None:
        work = Away(error)
        scene = Scene(work=work)
        scene.away = probe_says
        scene.queue.receives_before_dead = 10
        scene.queue.put(*map(str, range(100)))
        scene.start()
        await asyncio.sleep(3 * 3600)
        phases = {state.phase for state in scene.seen.states[5:]}
        assert phases == {"paused"} or probe_says is None, "alerts need to see that it goes on"
        assert max(stored.received for stored in scene.queue.messages.values()) <= deliveries_most
        assert scene.seen.states[-1].phase == "paused"
        assert scene.seen.states[-1].reason == probe_says or probe_says is None
        work.error = scene.away = None
        await until(lambda: not scene.queue.messages, each_s=10)
        assert len(work.made) == 100
        assert scene.dead is not None
        assert scene.dead.messages == {}
        assert scene.breaker.trouble.reason is None
        await scene.drained()

    in_virtual_time(scenario())


@story
async def test_what_was_tried_in_vain_in_an_outage_stays_hidden_for_long() -> None:
    scene = Scene(products_at_once=1)
    scene.work.errors[product(1)] = [OutputError("no permission")] * 2
    scene.queue.put("1")
    scene.start()
    await until(lambda: len(scene.seen.outcomes) == 2)
    (_, first), (_, second) = scene.queue.calls("hide")
    assert 15 <= first <= 30
    assert 900 <= second <= 1800
    await scene.drained()


@story
async def test_told_to_stop_while_it_asks_what_is_away_it_ends_at_once() -> None:
    scene = Scene(retry_after_s=1)
    scene.work.errors[product(1)] = [OutputError("no permission")]
    scene.queue.put("1")
    hangs = asyncio.Event()

    async def hang() -> str | None:
        hangs.set()
        await asyncio.Event().wait()
        return None

    object.__setattr__(scene.worker._desk, "why_not", hang)
    task = scene.start()
    await hangs.wait()
    begun = scene.queue.now
    scene.stop.ask("SIGTERM", grace_s=60)
    await task
    assert scene.queue.now - begun < 0.1
    assert asyncio.all_tasks() == {asyncio.current_task()}


@story
async def test_what_was_mended_is_no_reason_any_more_though_no_message_comes_to_show_it() -> None:
    scene = Scene()
    scene.work.errors[product(1)] = [OutputError("no permission")]
    scene.queue.put("1")
    scene.start()
    scene.away = "output: no permission"
    await asyncio.sleep(600)
    scene.queue.messages.clear()  # another worker has it
    assert scene.breaker.pause == "output: no permission"
    scene.away = None
    await asyncio.sleep(600)
    assert (scene.breaker.pause, scene.seen.states[-1].phase) == (None, "taking")
    await scene.drained()


@story
async def test_messages_that_nobody_wants_do_not_come_one_at_a_time_after_a_pause() -> None:
    scene = Scene(
        products_at_once=4, retry_after_s=100, refusal=lambda ref: None if ref.name.text == product(0) else "no"
    )
    scene.work.errors[product(0)] = [OutputError("no permission")]
    scene.queue.put("0")
    scene.start()
    await until(lambda: scene.seen.outcomes)
    scene.queue.put("1")
    await until(lambda: len(scene.seen.outcomes) == 2)
    assert scene.seen.outcomes == ["retry", "filtered"]
    await asyncio.sleep(1)
    assert scene.queue.asked[-1] == 4
    await scene.drained()


@story
async def test_many_messages_that_are_poison_indeed_are_buried_within_hours() -> None:
    scene = Scene(work=FakeWork(seconds=1))
    for number in range(200):
        scene.work.errors[product(number)] = [ProductError("damaged")]
    scene.queue.put(*map(str, range(200)))
    scene.start()
    begun = scene.queue.now
    await until(lambda: not scene.queue.messages, each_s=10)
    assert scene.dead is not None
    assert len(scene.dead.messages) == 200
    assert 3600 < scene.queue.now - begun < 2 * 3600, "twenty at once, and one each half minute"
    await scene.drained()
