"""The worker's loop over fakes, in virtual time: slots, what messages end with, and the queue itself."""

from __future__ import annotations

import asyncio

import pytest

from kappamask_stream.errors import (
    InferenceError,
    ProductError,
    QueueAccessError,
    QueueError,
    QueueUnavailableError,
    StoreUnavailableError,
    UsageError,
)
from tests.stream.virtual_time import story, until
from tests.stream.worker_fakes import FakeWork, Scene, product

pytestmark = pytest.mark.filterwarnings("error")


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


@story
async def test_poison_that_cannot_be_deleted_at_first_is_one_dead_letter() -> None:
    scene = Scene(until_empty=True)
    scene.work.errors[product(1)] = [ProductError("damaged")]
    scene.queue.failing["delete"] = [QueueUnavailableError("gone")] * 2
    scene.queue.put("1")
    await scene.run()
    assert scene.seen.outcomes == ["poison"]
    assert scene.dead is not None
    assert len(scene.dead.messages) == 1
    assert scene.queue.messages == {}


@story
async def test_poison_that_can_never_be_deleted_is_one_dead_letter_and_pauses_taking() -> None:
    scene = Scene(queue_wait_s=20, retry_after_s=1, retry_most_s=1)
    scene.work.errors[product(1)] = [ProductError("damaged")] * 99
    scene.queue.failing["delete"] = [QueueAccessError("access is refused: DeleteMessage")] * 9
    scene.queue.put("1")
    scene.start()
    await until(lambda: "poison" in scene.seen.outcomes)
    assert scene.seen.outcomes == ["lost"] * 9 + ["poison"]
    assert scene.seen.ended[0][2] == (
        "poison, but it could not be deleted and will come back: access is refused: DeleteMessage"
    )
    assert "paused" in scene.seen.phases
    assert scene.dead is not None
    assert len(scene.dead.messages) == 1
    await scene.drained()


@story
async def test_where_nothing_may_be_deleted_no_more_is_taken() -> None:
    scene = Scene(queue_wait_s=20)
    scene.queue.failing["delete"] = [QueueAccessError("access is refused: DeleteMessage")] * 9999
    scene.queue.put(*map(str, range(20)))
    scene.start()
    await asyncio.sleep(3600)
    assert set(scene.seen.outcomes) == {"lost"}
    assert len(scene.seen.outcomes) < 20
    assert "access is refused: DeleteMessage" in str(scene.breaker.trouble.reason)
    await scene.drained()


@story
async def test_at_the_last_delivery_before_the_queue_would_bury_it_the_dead_letter_says_why() -> None:
    scene = Scene(until_empty=True, queue_wait_s=20, retry_after_s=8, retry_most_s=8)
    scene.queue.receives_before_dead = 3
    scene.work.errors[product(1)] = [StoreUnavailableError("the store is away")] * 9
    (id_,) = scene.queue.put("1")
    await scene.run()
    assert scene.seen.outcomes == ["retry", "retry", "poison"]
    reason = "given up after 3 deliveries, the last failure: StoreUnavailableError: the store is away"
    assert scene.seen.ended[-1] == (id_, "poison", reason)
    assert scene.dead is not None
    (buried,) = scene.dead.messages.values()
    told = {name: buried.attributes[f"kappamask_{name}"] for name in ("reason", "error", "product", "received")}
    assert told == {"reason": reason, "error": "StoreUnavailableError", "product": product(1), "received": 3}
    assert scene.queue.messages == {}


@story
async def test_what_only_goes_back_is_not_buried_at_its_last_delivery() -> None:
    scene = Scene(work=FakeWork(seconds=100))
    scene.queue.receives_before_dead = 1
    scene.queue.put("1")
    scene.start()
    await asyncio.sleep(30)
    await scene.drained()
    assert scene.seen.outcomes == ["released"]
    assert scene.dead is not None
    assert scene.dead.messages == {}
    assert len(scene.queue.visible()) == 1


@story
async def test_a_dead_letter_names_all_products_of_its_message_that_can_never_be_done() -> None:
    scene = Scene(until_empty=True)
    for number in (1, 3, *range(4, 9)):
        scene.work.errors[product(number)] = [ProductError(f"damaged {number}")]
    scene.queue.put("1,2,3", "4,5,6,7,8,1")
    scene.work.errors[product(1)] = [ProductError("damaged 1")] * 2
    await scene.run()
    assert scene.dead is not None
    first, second = sorted(scene.dead.messages.values(), key=lambda stored: stored.body)
    assert first.attributes["kappamask_product"] == f"{product(1)},{product(3)}"
    assert first.attributes["kappamask_reason"] == (
        f"2 of its products can never be done: {product(1)}: ProductError: damaged 1; "
        f"{product(3)}: ProductError: damaged 3"
    )
    assert first.attributes["kappamask_error"] == "ProductError"
    assert str(second.attributes["kappamask_reason"]).endswith("ProductError: damaged 8; and 1 more")
    assert scene.work.made == [product(2)]


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


@story
async def test_answers_that_nobody_understands_end_no_worker_that_has_begun() -> None:
    scene = Scene(queue_wait_s=1)
    scene.start()
    await asyncio.sleep(5)
    for call in ("receive", "stats", "delete"):
        scene.queue.failing[call] = [KeyError("MessageId"), UsageError("no region is known")]
    scene.queue.put("1")
    await asyncio.sleep(600)
    assert scene.seen.outcomes == ["lost", "lost", "done"]
    assert {"InternalError", "UsageError"} <= {cause for cause, _ in scene.seen.retries}
    assert scene.seen.states[-1].queue_waiting == 0
    await scene.drained()


@story
async def test_how_long_messages_wait_is_told_by_first_deliveries_while_some_wait() -> None:
    scene = Scene(work=FakeWork(seconds=15), products_at_once=1, retry_after_s=1, retry_most_s=1)
    scene.work.errors[product(1)] = [StoreUnavailableError("away")]
    scene.queue.put("1", "2")
    scene.start()
    await asyncio.sleep(17)
    assert len(scene.queue.calls("receive")) == 2
    before = scene.seen.states[-1].queue_age_s
    assert before is not None
    await until(lambda: scene.queue.calls("receive")[-1][1] == 2)
    await asyncio.sleep(1)
    assert scene.seen.states[-1].queue_age_s == before, "that of the second delivery tells of its failure"
    await until(lambda: len(scene.seen.outcomes) == 3)
    await asyncio.sleep(11)
    assert scene.seen.states[-1].queue_age_s is None
    await scene.drained()
