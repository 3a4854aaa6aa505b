"""A message in work stays hidden from other workers, or the work is stopped: in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from kappamask_stream.errors import (
    QueueError,
    QueueUnavailableError,
)
from tests.stream.virtual_time import in_virtual_time, story, until
from tests.stream.worker_fakes import FakeWork, Scene

pytestmark = pytest.mark.filterwarnings("error")


@story
async def test_work_far_longer_than_the_visibility_is_done_once() -> None:
    scene = Scene(until_empty=True, work=FakeWork(seconds=1000), visibility_s=30, queue_wait_s=20)
    scene.queue.put("1")
    await scene.run()
    assert scene.queue.calls("receive") == [(scene.seen.taken[0], 1)]
    hidden = scene.queue.calls("hide")
    assert {seconds for _, seconds in hidden} == {30}
    assert 66 <= len(hidden) <= 67
    assert scene.seen.outcomes == ["done"]


@story
async def test_a_heartbeat_that_fails_for_a_moment_is_made_up_for() -> None:
    scene = Scene(until_empty=True, work=FakeWork(seconds=40), visibility_s=32, queue_wait_s=20)
    scene.queue.failing["hide"] = [QueueUnavailableError("busy")] * 7
    scene.queue.put("1")
    await scene.run()
    assert scene.seen.outcomes == ["done"]
    assert len(scene.seen.retries) == 7
    assert scene.queue.calls("receive") == [(scene.seen.taken[0], 1)]


@pytest.mark.parametrize(("visibility_s", "waits_s"), [(120, 20), (30, 15), (3, 1), (2, 1)])
def test_a_long_poll_leaves_half_of_the_visibility(visibility_s: int, waits_s: int) -> None:
    """A message is hidden from the moment when it is given, which may be any of the poll's."""

    async def scenario() -> None:
        scene = Scene(until_empty=True, visibility_s=visibility_s, queue_wait_s=20)
        started = scene.queue.now
        await scene.run()
        assert waits_s <= scene.queue.now - started < waits_s + 1

    in_virtual_time(scenario())


@pytest.mark.parametrize("failure", [[QueueUnavailableError("gone")] * 50, [QueueError("no permission")], [1e6]])
def test_the_first_extension_that_fails_stops_the_work_before_another_worker_has_the_message(
    failure: list[Exception | float],
) -> None:
    async def scenario() -> None:
        scene = Scene(work=FakeWork(seconds=40), visibility_s=32)
        scene.queue.failing["hide"] = list(failure)
        scene.queue.put("1")
        scene.start()
        await until(lambda: scene.seen.ended)
        (stored,) = scene.queue.messages.values()
        assert scene.queue.now <= stored.visible_at + 0.2
        assert scene.seen.outcomes == ["lost"]
        assert "the queue could not be told that the message is still in work" in str(scene.seen.ended[0][2])
        assert scene.work.busy == 0
        assert [state for _, state in scene.seen.jobs] == ["stopped"]
        scene.queue.failing.clear()
        await asyncio.sleep(60)
        assert scene.seen.outcomes == ["lost", "done"]
        await scene.drained()

    in_virtual_time(scenario())


@story
async def test_work_is_given_up_before_the_queues_twelve_hours_are_over() -> None:
    scene = Scene(work=FakeWork(seconds=50_000), visibility_s=1200, products_at_once=1)
    scene.queue.put("1")
    scene.start()
    await until(lambda: scene.seen.ended, each_s=10)
    assert scene.seen.ended[0][1:] == (
        "released", "in work for 11.9 h: a queue hides a message for 12 h at most",
    )  # fmt: skip
    assert max(seconds for _, seconds in scene.queue.calls("hide")) == 1200
    assert scene.queue.calls("hide")[-1][1] == 0
    await scene.drained()


@story
async def test_the_heartbeat_covers_the_deletion() -> None:
    scene = Scene(work=FakeWork(seconds=7), visibility_s=16, until_empty=True)
    scene.queue.failing["delete"] = [7.0]
    scene.queue.put("1")
    await scene.run()
    assert scene.queue.calls("hide") == [(scene.seen.taken[0], 16)]
    assert scene.seen.outcomes == ["done"]


@story
async def test_an_extension_under_way_does_not_hide_what_is_given_back() -> None:
    """The last call counts: the heartbeat's is let end before the message is shown to others."""
    scene = Scene(work=FakeWork(seconds=100), visibility_s=16)
    scene.queue.failing["hide"] = [3.0]
    scene.queue.put("1")
    task = scene.start()
    await asyncio.sleep(9)  # the extension of second 8 is under way
    scene.stop.ask("SIGTERM", grace_s=0)
    await task
    assert [seconds for _, seconds in scene.queue.calls("hide")] == [16, 0]
    assert len(scene.queue.visible()) == 1
