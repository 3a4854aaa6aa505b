"""The end of a worker: what is finished, what goes back, and every race between: over fakes, in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from kappamask_stream.errors import ProductError, StoreUnavailableError
from tests.stream.virtual_time import in_virtual_time, story
from tests.stream.worker_fakes import FakeWork, Scene, product

pytestmark = pytest.mark.filterwarnings("error")


@story
async def test_what_fits_the_grace_period_is_finished_and_nothing_is_taken_any_more() -> None:
    scene = Scene(products_at_once=1, work=FakeWork(seconds=30))
    scene.queue.put("1", "2")
    task = scene.start()
    await asyncio.sleep(10)
    scene.stop.ask("SIGTERM", grace_s=60)
    await task
    assert scene.work.made == [product(1)]
    assert scene.seen.outcomes == ["done"]
    assert scene.seen.phases == ["taking", "draining", "ended"]
    assert [m.body for m in scene.queue.visible()] == ["2"]


@story
async def test_what_does_not_fit_is_given_back_at_once() -> None:
    scene = Scene(products_at_once=1, work=FakeWork(seconds=300))
    scene.queue.put("1")
    task = scene.start()
    await asyncio.sleep(100)
    begun = scene.queue.now
    scene.stop.ask("SIGTERM", grace_s=60)
    await task
    assert scene.queue.now - begun < 1
    assert scene.work.cancelled == [f"{scene.seen.taken[0]}/0"]
    assert scene.seen.ended == [(scene.seen.taken[0], "released", "SIGTERM")]
    assert scene.queue.calls("hide")[-1] == (scene.seen.taken[0], 0)
    assert len(scene.queue.visible()) == 1


@story
async def test_what_nobody_can_estimate_has_until_the_deadline() -> None:
    scene = Scene(products_at_once=1, work=FakeWork(seconds=300, tiles=1))
    scene.queue.put("1")
    task = scene.start()
    await asyncio.sleep(10)
    begun = scene.queue.now
    scene.stop.ask("SIGTERM", grace_s=60)
    await task
    assert 60 <= scene.queue.now - begun < 61
    assert scene.seen.outcomes == ["released"]
    assert len(scene.queue.visible()) == 1


@story
async def test_a_second_request_gives_everything_back_at_once() -> None:
    scene = Scene(products_at_once=1, work=FakeWork(seconds=30))
    scene.queue.put("1")
    task = scene.start()
    await asyncio.sleep(10)
    scene.stop.ask("SIGINT", grace_s=60)
    await asyncio.sleep(1)
    assert scene.work.busy == 1
    begun = scene.queue.now
    scene.stop.ask("SIGINT again", grace_s=0)
    scene.stop.ask("a later deadline changes nothing", grace_s=100)
    await task
    assert scene.queue.now - begun < 1
    assert scene.seen.ended == [(scene.seen.taken[0], "released", "SIGINT again")]


@story
async def test_no_further_product_of_a_message_is_begun_while_it_drains() -> None:
    scene = Scene(products_at_once=1, work=FakeWork(seconds=30))
    scene.queue.put("1,2")
    task = scene.start()
    await asyncio.sleep(10)
    scene.stop.ask("SIGTERM", grace_s=60)
    await task
    assert scene.work.made == [product(1)]
    assert scene.seen.outcomes == ["released"]
    assert len(scene.queue.visible()) == 1


@story
async def test_told_to_stop_while_it_waits_for_messages_it_ends_at_once() -> None:
    scene = Scene()
    task = scene.start()
    await asyncio.sleep(5)
    begun = scene.queue.now
    scene.stop.ask("SIGTERM", grace_s=60)
    await task
    assert scene.queue.now - begun < 0.1
    assert scene.seen.taken == []


@story
async def test_told_to_stop_between_receive_and_work_the_message_goes_back() -> None:
    """Messages that arrive in the very moment of the stop are given back, not begun."""
    scene = Scene(products_at_once=5)
    scene.start()
    await asyncio.sleep(1)
    scene.queue.put("1", "2")

    scene.queue.received.clear()
    await scene.queue.received.wait()  # the receive has its messages, and nobody has seen them yet
    scene.stop.ask("SIGTERM", grace_s=60)
    assert scene.task is not None
    await scene.task
    assert scene.work.jobs == []
    assert scene.seen.outcomes == ["released"] * 2
    assert len(scene.queue.visible()) == 2


@story
async def test_told_to_stop_while_it_deletes_the_deletion_is_finished() -> None:
    scene = Scene(work=FakeWork(seconds=2))
    scene.queue.failing["delete"] = [5.0]
    scene.queue.put("1")
    task = scene.start()
    await asyncio.sleep(4)
    scene.stop.ask("SIGTERM", grace_s=0)
    await task
    assert scene.seen.outcomes == ["done"]
    assert scene.queue.messages == {}


@story
async def test_told_to_stop_while_a_failed_message_is_hidden_it_stays_hidden() -> None:
    scene = Scene(work=FakeWork(seconds=2))
    scene.work.errors[product(1)] = [StoreUnavailableError("overloaded")]
    scene.queue.failing["hide"] = [5.0]
    scene.queue.put("1")
    task = scene.start()
    await asyncio.sleep(4)
    scene.stop.ask("SIGTERM", grace_s=0)
    await task
    assert scene.seen.outcomes == ["retry"]
    ((_, hidden),) = scene.queue.calls("hide")
    assert 15 <= hidden <= 30


@story
async def test_work_that_is_slow_to_stop_is_waited_for_before_its_message_is_shown_to_others() -> None:
    scene = Scene(work=FakeWork(seconds=300))
    scene.work.stubborn_s = 4
    scene.queue.put("1")
    task = scene.start()
    await asyncio.sleep(1)
    scene.stop.ask("SIGTERM", grace_s=0)
    await asyncio.sleep(3)
    assert scene.queue.visible() == []
    await task
    assert len(scene.queue.visible()) == 1


@story
async def test_a_queue_that_is_away_does_not_hold_up_the_end() -> None:
    scene = Scene(work=FakeWork(seconds=300))
    scene.queue.put("1")
    task = scene.start()
    await asyncio.sleep(1)
    scene.queue.failing["hide"] = [1e6]
    begun = scene.queue.now
    scene.stop.ask("SIGTERM", grace_s=0)
    await task
    assert scene.queue.now - begun < 11
    assert scene.seen.outcomes == ["released"]


@story
async def test_where_the_worker_itself_is_cancelled_every_message_goes_back() -> None:
    scene = Scene(products_at_once=3, work=FakeWork(seconds=300))
    scene.queue.put("1", "2", "3")
    task = scene.start()
    await asyncio.sleep(5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert scene.seen.outcomes == ["released"] * 3
    assert len(scene.queue.visible()) == 3
    assert scene.work.busy == 0


@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize("after_ms", [0, 5, 10, 12, 15, 20, 22, 25, 500, 1005, 1012, 1015, 1018, 1025, 1030, 1035])
def test_ended_at_any_moment_it_leaves_no_task_and_hides_no_message(after_ms: int, *, asks: bool) -> None:
    """While it receives (10 ms), works (1 s), deletes (10 ms), and between these; cancelled, or asked without grace."""

    async def scenario() -> None:
        scene = Scene(products_at_once=2)
        scene.queue.put("1", "2", "3", "4")
        task = scene.start()
        await asyncio.sleep(after_ms / 1000)
        if asks:
            scene.stop.ask("SIGTERM", grace_s=0)
        else:
            task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() or task.exception() is None
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert scene.seen.taken == [id_ for id_, _, _ in scene.seen.ended]
        done = scene.seen.outcomes.count("done")
        assert len(scene.queue.messages) == 4 - done
        received_by_nobody = len(scene.queue.calls("receive")) - len(scene.seen.taken)
        assert len(scene.queue.visible()) == 4 - done - received_by_nobody
        assert received_by_nobody == 0 or not asks

    in_virtual_time(scenario())


@story
async def test_an_observer_that_fails_harms_nothing() -> None:
    scene = Scene(until_empty=True)
    said: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context["message"]))
    scene.seen.message_taken = lambda message: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    scene.queue.put("1")
    await scene.run()
    assert said == ["Recorder.message_taken failed"]
    assert scene.seen.outcomes == ["done"]


@story
async def test_an_extension_that_hangs_holds_up_the_end_for_seconds_only() -> None:
    scene = Scene(work=FakeWork(seconds=1000), visibility_s=120)
    scene.queue.failing["hide"] = [1e6] * 9
    scene.queue.put("1")
    task = scene.start()
    await asyncio.sleep(61)  # the extension of second 60 is under way
    begun = scene.queue.now
    scene.stop.ask("SIGTERM", grace_s=0)
    await task
    assert scene.queue.now - begun <= 11
    assert scene.seen.outcomes == ["released"]


@pytest.mark.parametrize("after_s", [1.5, 8.0, 12.0, 13.0, 24.0, 30.0, 40.0, 50.0, 60.0])
@pytest.mark.parametrize("grace_s", [0.0, 5.0])
@pytest.mark.parametrize("sent_s", [1e6, 8.0])
def test_queues_that_hang_while_it_buries_hold_up_the_end_for_20_s(
    after_s: float, grace_s: float, sent_s: float
) -> None:
    async def scenario() -> None:
        scene = Scene(work=FakeWork(seconds=1), visibility_s=120)
        scene.work.errors[product(1)] = [ProductError("damaged")]
        assert scene.dead is not None
        scene.dead.failing["send"] = [sent_s] * 9
        scene.queue.failing = {call: [1e6] * 99 for call in ("hide", "delete")}
        scene.queue.put("1")
        task = scene.start()
        await asyncio.sleep(after_s)
        begun = scene.queue.now
        scene.stop.ask("SIGTERM", grace_s=grace_s)
        await task
        assert scene.queue.now - begun <= grace_s + 20.1
        assert len(scene.queue.messages) == 1

    in_virtual_time(scenario())
