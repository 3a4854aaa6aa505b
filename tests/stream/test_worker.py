"""The worker's loop over fakes, in virtual time: slots, outcomes, heartbeat, pauses, and the races at its end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from kappamask_stream.errors import (
    InferenceError,
    OutputError,
    ProductError,
    QueueError,
    QueueUnavailableError,
    StoreUnavailableError,
    UsageError,
)
from tests.stream.virtual_time import in_virtual_time, until
from tests.stream.worker_fakes import FakeWork, Scene, product

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

pytestmark = pytest.mark.filterwarnings("error")


def story(coroutine: Callable[[], Coroutine[object, object, None]]) -> Callable[[], None]:
    """Make a test of a coroutine that runs in virtual time."""

    def test() -> None:
        in_virtual_time(coroutine())

    test.__name__, test.__doc__ = coroutine.__name__, coroutine.__doc__
    return test


# Slots


@story
async def test_as_many_messages_are_in_hand_as_slots_and_never_more_are_received() -> None:
    scene = Scene(products_at_once=3, until_empty=True, queue_wait_s=1)
    scene.queue.put(*map(str, range(20)))
    await scene.run()
    assert sorted(scene.work.made) == sorted(map(product, range(20)))
    assert scene.work.peak == 3
    assert max(state.busy for state in scene.seen.states) == 3
    assert scene.seen.outcomes == ["done"] * 20
    assert scene.queue.messages == {}
    assert set(scene.queue.asked) <= {1, 2, 3}


@story
async def test_no_more_than_ten_are_asked_for_at_once() -> None:
    scene = Scene(products_at_once=30, until_empty=True, queue_wait_s=1)
    scene.queue.put(*map(str, range(30)))
    await scene.run()
    assert scene.work.peak == 30
    assert max(scene.queue.asked) == 10


@story
async def test_a_slot_that_frees_while_a_receive_waits_is_used_by_the_next_one() -> None:
    scene = Scene(products_at_once=2, work=FakeWork(seconds=5))
    scene.queue.put("1")
    scene.start()
    await asyncio.sleep(3)
    assert (scene.queue.asked, scene.work.busy) == ([2, 1], 1)
    assert repr(scene.worker) == "<Worker taking, 1 of 2 slots in use>"
    await asyncio.sleep(4)  # the first is done, the receive for one message still waits
    scene.queue.put("2", "3")
    await asyncio.sleep(1)
    assert scene.work.busy == 2
    await scene.drained(60)
    assert len(scene.work.made) == 3


@story
async def test_it_ends_after_so_many_messages() -> None:
    scene = Scene(products_at_once=3, max_messages=4)
    scene.queue.put(*map(str, range(9)))
    await scene.run()
    assert len(scene.work.made) == 4
    assert len(scene.queue.messages) == len(scene.queue.visible()) == 5
    assert scene.seen.states[-1].phase == "ended"
    assert scene.seen.states[-1].reason == "it has taken as many messages as it was told to"


@story
async def test_until_empty_waits_for_what_is_in_hand_and_takes_what_comes_meanwhile() -> None:
    scene = Scene(until_empty=True, work=FakeWork(seconds=50), queue_wait_s=20)
    scene.queue.put("1")
    task = scene.start()
    await asyncio.sleep(30)
    assert not task.done()
    scene.queue.put("2")
    await task
    assert scene.work.made == [product(1), product(2)]
    assert scene.seen.phases == ["taking", "ended"]


# Outcomes


@story
async def test_a_filtered_message_is_deleted_with_its_reasons() -> None:
    scene = Scene(until_empty=True, refusal=lambda ref: f"{ref.name.discriminator[-1]} is not wanted")
    (id_,) = scene.queue.put("1,2,1")
    await scene.run()
    assert scene.seen.ended == [(id_, "filtered", "1 is not wanted; 2 is not wanted")]
    assert (scene.work.made, scene.queue.messages, scene.seen.jobs) == ([], {}, [])


@story
async def test_a_message_that_asks_for_nothing_is_filtered() -> None:
    scene = Scene(until_empty=True)
    (id_,) = scene.queue.put("")
    await scene.run()
    assert scene.seen.ended == [(id_, "filtered", "it asks for no product")]


@story
async def test_of_several_products_those_that_pass_are_made_one_after_the_other() -> None:
    scene = Scene(until_empty=True, refusal=lambda ref: "no" if ref.name.text == product(2) else None)
    (id_,) = scene.queue.put("1,2,3")
    await scene.run()
    assert scene.work.made == [product(1), product(3)]
    assert scene.work.peak == 1
    assert scene.seen.jobs == [(f"{id_}/0", "found"), (f"{id_}/2", "found")]
    assert scene.seen.outcomes == ["done"]


@story
async def test_poison_goes_to_the_dead_letter_queue_at_once_with_its_reason() -> None:
    scene = Scene(until_empty=True)
    scene.work.errors[product(7)] = [ProductError("its band B04 is missing")]
    (id_,) = scene.queue.put("7")
    await scene.run()
    assert scene.dead is not None
    assert scene.queue.messages == {}
    (buried,) = scene.dead.messages.values()
    assert buried.body == "7"
    assert buried.attributes["kappamask_reason"] == "its band B04 is missing"
    assert buried.attributes["kappamask_error"] == "ProductError"
    assert buried.attributes["kappamask_product"] == product(7)
    assert scene.seen.ended == [(id_, "poison", "ProductError: its band B04 is missing")]


@story
async def test_a_message_that_nobody_understands_is_poison_whatever_it_does_to_the_parser() -> None:
    scene = Scene(until_empty=True)
    scene.queue.put("what?")
    await scene.run()
    assert scene.dead is not None
    (buried,) = scene.dead.messages.values()
    assert buried.attributes["kappamask_error"] == "InternalError"
    assert "ValueError: invalid literal for int() with base 10: 'what?'" in buried.attributes["kappamask_reason"]
    assert scene.seen.outcomes == ["poison"]


@story
async def test_without_a_dead_letter_queue_poison_stays_and_comes_back_after_the_longest_wait() -> None:
    scene = Scene(until_empty=True, dead_letters=False)
    scene.work.errors[product(7)] = [InferenceError("the answer is unusable")] * 9
    (id_,) = scene.queue.put("7")
    await scene.run()
    ((_, hidden),) = scene.queue.calls("hide")
    assert 1800 <= hidden <= 3600
    assert list(scene.queue.messages) == [id_]
    assert scene.seen.ended[0][1:] == (
        "retry", "InferenceError: the answer is unusable (there is no dead-letter queue)",
    )  # fmt: skip


@story
async def test_a_product_that_can_never_be_done_waits_for_the_others_of_its_message() -> None:
    scene = Scene(until_empty=True)
    scene.work.errors[product(1)] = [ProductError("damaged")]
    scene.queue.put("1,2")
    await scene.run()
    assert scene.work.made == [product(2)]
    assert scene.seen.outcomes == ["poison"]


@story
async def test_a_passing_failure_comes_back_each_time_later_until_it_is_done() -> None:
    scene = Scene(until_empty=True, queue_wait_s=20, retry_after_s=8, retry_most_s=16)
    scene.work.errors[product(1)] = [StoreUnavailableError("the store is overloaded")] * 4
    scene.queue.put("1")
    await scene.run()
    waits = [seconds for _, seconds in scene.queue.calls("hide")]
    assert [received for _, received in scene.queue.calls("receive")] == [1, 2, 3, 4, 5]
    assert all(
        low <= wait <= high for wait, (low, high) in zip(waits, [(4, 8), (8, 16), (8, 16), (8, 16)], strict=True)
    )
    assert scene.seen.outcomes == ["retry"] * 4 + ["done"]
    assert {state for _, state in scene.seen.jobs} == {"failed", "found"}
    assert scene.queue.messages == {}


@story
async def test_poison_that_cannot_be_buried_is_tried_again_later_and_never_lost() -> None:
    scene = Scene(until_empty=True, queue_wait_s=20, retry_after_s=8)
    scene.work.errors[product(1)] = [ProductError("damaged")] * 2
    assert scene.dead is not None
    scene.dead.failing["send"] = [QueueUnavailableError("gone")] * 3
    scene.queue.put("1")
    await scene.run()
    assert scene.seen.outcomes == ["retry", "poison"]
    assert len(scene.dead.messages) == 1
    assert scene.queue.messages == {}


@story
async def test_a_delete_that_fails_is_tried_again() -> None:
    scene = Scene(until_empty=True)
    scene.queue.failing["delete"] = [QueueUnavailableError("busy"), 11.0]
    scene.queue.put("1")
    await scene.run()
    assert scene.seen.outcomes == ["done"]
    assert scene.queue.messages == {}
    assert [cause for cause, _ in scene.seen.retries] == ["QueueUnavailableError"] * 2


@story
async def test_done_but_not_deleted_comes_back_and_is_found() -> None:
    scene = Scene(until_empty=True, queue_wait_s=20, visibility_s=15)
    scene.queue.failing["delete"] = [QueueUnavailableError("gone")] * 3
    scene.queue.put("1")
    await scene.run()
    assert scene.seen.outcomes == ["lost", "done"]
    reason = scene.seen.ended[0][2]
    assert reason is not None
    assert reason.startswith("done, but it could not be deleted and will come back: gone")
    assert scene.queue.messages == {}


@story
async def test_work_that_is_cancelled_from_within_comes_back() -> None:
    scene = Scene(until_empty=True, queue_wait_s=20, retry_after_s=8)
    scene.work.errors[product(1)] = [asyncio.CancelledError()]  # type: ignore[list-item]
    scene.queue.put("1")
    await scene.run()
    assert scene.seen.outcomes == ["retry", "done"]


# Heartbeat


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


# Pauses


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


# The queue itself


@story
async def test_a_queue_that_refuses_the_first_request_ends_the_worker() -> None:
    scene = Scene()
    scene.queue.failing["receive"] = [QueueError("no such queue")]
    with pytest.raises(QueueError, match="no such queue"):
        await scene.run()
    assert scene.seen.states[-1].phase == "ended"


@story
async def test_a_queue_that_is_away_later_is_asked_again_for_ever() -> None:
    scene = Scene(queue_wait_s=1)
    scene.start()
    await asyncio.sleep(5)
    scene.queue.failing["receive"] = [QueueError("no permission"), *[QueueUnavailableError("no answer")] * 20]
    await asyncio.sleep(1)
    scene.queue.put("1")
    await asyncio.sleep(5)
    assert scene.seen.states[-1].phase == "paused"
    await asyncio.sleep(2000)
    assert scene.work.made == [product(1)]
    assert scene.seen.states[-1].phase == "taking"
    assert len([cause for cause, _ in scene.seen.retries if cause == "QueueUnavailableError"]) == 20
    await scene.drained()


@story
async def test_an_empty_queue_without_long_polls_is_asked_once_a_second() -> None:
    scene = Scene(queue_wait_s=0)
    scene.start()
    await asyncio.sleep(60)
    assert 55 <= len(scene.queue.asked) <= 61
    scene.queue.put("1")
    await asyncio.sleep(3)
    assert scene.seen.outcomes == ["done"]
    await scene.drained()


@story
async def test_counts_of_the_queue_are_told_every_few_seconds() -> None:
    scene = Scene(work=FakeWork(seconds=100))
    scene.queue.put(*map(str, range(5)))
    scene.start()
    await asyncio.sleep(25)
    told = {(state.queue_waiting, state.queue_in_work) for state in scene.seen.states}
    assert (3, 2) in told
    scene.queue.failing["stats"] = [QueueUnavailableError("gone")]
    await asyncio.sleep(10)
    assert scene.seen.states[-1].queue_waiting is None
    await scene.drained()


# The end


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
