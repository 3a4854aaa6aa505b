"""The worker as a process: a real queue, real stores, a real Triton, real signals, and what is left."""

from __future__ import annotations

import json
import signal
import time
import urllib.error
import urllib.request
import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from kappamask_stream.feed import to_message
from tests.integration.faulty_s3 import Fault, FaultyS3
from tests.integration.holding_proxy import HoldingProxy
from tests.integration.local_state import PATIENCE_S, wait_until
from tests.integration.queue_servers import QueueServer, ServedQueue, queue_server
from tests.integration.s3_servers import KEY_ID, SECRET, MotoStore
from tests.integration.test_run import small
from tests.integration.worker_process import MASKS, PRODUCTS, Outputs, WorkerProcess, safe_objects, settled
from tests.unit.feed_messages import data_space, s3_event, s3_record, s3_test_event, sns, topic

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fault_table import Fault as InjectedFault
    from tests.integration.session import SessionServer

pytestmark = pytest.mark.integration

__all__ = ["queue_server"]

#: Two versions of one scene: seeds of one day.
OLD, NEW = 1, 46


@pytest.fixture(scope="module")
def credentials() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


class Archive(NamedTuple):
    """Products in a store that fails as it is told.

    Attributes
    ----------
    names : of products, by seed.
    """

    store: FaultyS3
    names: list[str]

    def where(self, number: int) -> str:
        return f"s3://{PRODUCTS}/{self.names[number]}.SAFE/"

    def message(self, number: int) -> str:
        return to_message(self.names[number], self.where(number))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    folder = tmp_path_factory.mktemp("archive")
    products = [small(folder, seed) for seed in (OLD, NEW, *range(2, 12))]
    objects = {f"{PRODUCTS}/{key}": data for path in products for key, data in safe_objects(path).items()}
    with FaultyS3(objects) as store:
        yield Archive(store, [path.name.removesuffix(".SAFE") for path in products])


class Plant(NamedTuple):
    """A worker that lives as long as this module's tests, its queue, and where its masks go."""

    worker: WorkerProcess
    queue: ServedQueue
    emitted: ServedQueue
    outputs: Outputs

    def outcome(self, id_: str) -> dict[str, Any]:
        """Wait for the end of a message's next delivery."""
        return self.worker.wait_for("message ended", message_id=id_)[-1]


class Start(NamedTuple):
    """Starts workers.

    Attributes
    ----------
    triton : address of the session's server.
    """

    store: MotoStore
    archive: Archive
    triton: str

    def __call__(
        self, queue: ServedQueue, outputs: Outputs, *more: str, triton: str = "", **settings: object
    ) -> WorkerProcess:
        defaults = {"visibility_s": 4, "queue_wait_s": 1, "retry_after_s": 1, "s3_wait_s": 0}
        return WorkerProcess(
            "--queue", queue.url, "--queue-endpoint", self.store.endpoint, "--output", f"s3://{MASKS}/{outputs.prefix}",
            "--output-s3-endpoint", self.store.endpoint, "--s3-endpoint", self.archive.store.endpoint,
            "--allow", f"s3://{PRODUCTS}/", "--source", f"s3://{PRODUCTS}", "--level", "L2A", "--model", "null_l2a",
            "--triton", f"grpc://{triton or self.triton}", "--listen", "127.0.0.1:0", *more,
            settings={name: str(value) for name, value in {**defaults, **settings}.items()},
        )  # fmt: skip


@pytest.fixture(scope="module")
def start(session_server: SessionServer, moto_store: MotoStore, archive: Archive, credentials: None) -> Start:
    moto_store.fill(MASKS, {})
    return Start(moto_store, archive, session_server.address)


@pytest.fixture
def outputs(moto_store: MotoStore) -> Outputs:
    """A place of one test's own."""
    return Outputs(moto_store, uuid.uuid4().hex[:8])


@pytest.fixture(scope="module")
def plant(start: Start, queue_server: QueueServer) -> Iterator[Plant]:
    queue, emitted, outputs = queue_server.make_pair(receives=9), queue_server.make_queue(), Outputs(start.store, "all")
    with start(queue, outputs, "--emit", queue_server.make_topic(emitted, raw=True)) as worker:
        yield Plant(worker, queue, emitted, outputs)
        assert worker.send(signal.SIGTERM) == 0, worker.log
        assert worker.said("worker", phase="ended")
        assert worker.other == []


# Outcomes


def test_messages_of_every_kind_become_masks_and_consumers_are_told(plant: Plant, archive: Archive) -> None:
    names = archive.names
    bodies: dict[str, tuple[int, Any]] = {
        "own": (2, archive.message(2)),
        "a bare name": (3, names[3]),
        "an address": (4, archive.where(4)),
        "Amazon's topic, raw": (5, topic(names[5], tiles=[])),
        "Amazon's topic, through SNS": (6, sns(topic(names[6], tiles=[]))),
        "an event of S3": (7, s3_event(s3_record(f"{names[7]}.SAFE/manifest.safe", bucket=PRODUCTS))),
        "the Data Space": (8, data_space(name=names[8])),
    }
    texts = [body if isinstance(body, str) else json.dumps(body) for _, body in bodies.values()]
    ids = plant.queue.put(*texts, json.dumps(s3_test_event()))
    said = {kind: plant.outcome(id_)["outcome"] for kind, id_ in zip([*bodies, "a test"], ids, strict=True)}
    assert said == {**dict.fromkeys(bodies, "done"), "a test": "filtered"}
    settled(plant.queue)
    for number, _ in bodies.values():
        assert plant.outputs.is_whole(names[number])
    told = {seen.attributes["product"]: seen for seen in plant.emitted.take()}
    assert set(told) == {names[number] for number, _ in bodies.values()}
    item = json.loads(told[names[2]].body)
    assert told[names[2]].attributes["event"] == "created"
    assert item["properties"]["s2:product_uri"] == f"{names[2]}.SAFE"
    assert item["assets"]["mask"]["href"] == f"s3://{MASKS}/{plant.outputs.masks(names[2])[0]}"
    assert plant.queue.dead is not None
    assert plant.queue.dead.counts() == (0, 0)
    (page,) = (line["event"] for line in plant.worker.lines if line["event"].startswith("status page"))
    wait_until(lambda: is_ready(f"{page.rpartition(' ')[2]}readyz"), "the worker is ready")


def is_ready(url: str) -> bool:
    """Tell whether all parts answer; what was asked a moment ago is not asked again."""
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
            said = json.load(answer)
    except urllib.error.HTTPError as error:
        error.close()
        return False
    assert said == {"ready": True, "parts": {"triton": None, "queue": None, "worker": None}}
    return True


def test_what_is_not_wanted_is_deleted_and_counted(plant: Plant) -> None:
    name = "S2A_MSIL1C_20221005T115411_N0400_R023_T29UNU_20221005T135210"
    (id_,) = plant.queue.put(name)
    ended = plant.outcome(id_)
    assert (ended["outcome"], ended["reason"]) == ("filtered", "its level is L1C, L2A is wanted (--level)")
    settled(plant.queue)
    assert plant.outputs.masks(name) == []


def test_poison_goes_to_the_dead_letter_queue_at_once_with_its_reason(plant: Plant, archive: Archive) -> None:
    missing = "S2A_MSIL2A_20221005T115411_N0400_R023_T29UNU_20221005T164454"
    band = next(key for key in archive.store.objects if archive.names[9] in key and key.endswith("B8A_20m.jp2"))
    whole = archive.store.objects[band]
    archive.store.objects[band] = whole[: len(whole) // 2]
    ids = plant.queue.put("what is this?", missing, archive.message(9), f"{archive.where(9)}../../x")
    assert [plant.outcome(id_)["outcome"] for id_ in ids] == ["poison"] * 4
    archive.store.objects[band] = whole
    settled(plant.queue)
    assert plant.queue.dead is not None
    dead = {seen.attributes["kappamask_message_id"]: seen for seen in plant.queue.dead.take()}
    assert set(dead) == set(ids)
    told = [dead[id_] for id_ in ids]
    assert [seen.attributes["kappamask_error"] for seen in told] == [
        "MessageError", "ProductError", "CodestreamError", "MessageError",
    ]  # fmt: skip
    assert told[0].body == "what is this?"
    assert "'what is this?' is no Sentinel-2 product name" in told[0].attributes["kappamask_reason"]
    assert f"holds no {missing}" in told[1].attributes["kappamask_reason"]
    assert told[2].attributes["kappamask_product"] == archive.names[9]
    assert "B8A_20m.jp2" in told[2].attributes["kappamask_reason"]


def test_what_passes_is_tried_again_later_and_done(plant: Plant, archive: Archive) -> None:
    """The store says when: Retry-After is longer than the first wait of 1 s that is set here."""
    archive.store.faults.append(Fault(status=503, code="SlowDown", headers={"Retry-After": "2"}))
    (id_,) = plant.queue.put(archive.message(9))
    first, second = plant.worker.wait_for("message ended", 2, message_id=id_)
    assert (first["outcome"], second["outcome"]) == ("retry", "done")
    assert "StoreUnavailableError: " in first["reason"]
    assert "503 SlowDown" in first["reason"]
    settled(plant.queue)
    assert plant.outputs.is_whole(archive.names[9])
    taken = plant.worker.said("message taken", message_id=id_)
    assert [line["received"] for line in taken] == [1, 2]
    ended, begun = (datetime.fromisoformat(line["timestamp"]) for line in (first, taken[1]))
    assert (begun - ended).total_seconds() > 1.5


@pytest.mark.fault("Queue", "the same message twice, a worker process")
def test_the_same_message_twice_gives_one_mask(plant: Plant, archive: Archive, fault: InjectedFault) -> None:
    ids = plant.queue.put(archive.message(10), archive.message(10))
    assert {plant.outcome(id_)["outcome"] for id_ in ids} == {"done"}
    settled(plant.queue)
    assert plant.outputs.is_whole(archive.names[10])
    statuses = sorted(line["status"] for line in plant.worker.said("product ended", product=archive.names[10]))
    assert statuses == ["done", "found"]
    fault.injected()
    fault.outcome("one mask, made once")


@pytest.mark.fault("Queue", "duplicates in two forms, two worker processes")
def test_duplicates_at_two_processes_at_once_give_one_mask_each(
    plant: Plant, start: Start, archive: Archive, fault: InjectedFault
) -> None:
    with start(plant.queue, plant.outputs, "--max-messages", str(fault.amount(2, 10))) as other:
        other.wait_for("worker", phase="taking")
        bodies = [archive.message(11), archive.names[11], archive.where(11)] * fault.amount(4, 20)
        ids = plant.queue.put(*bodies)
        settled(plant.queue)
        assert other.ended() == 0, other.log
        ended = [
            (line["message_id"], line["outcome"]) for worker in (plant.worker, other)
            for line in worker.said("message ended") if line["message_id"] in ids
        ]  # fmt: skip
    assert {id_ for id_, outcome in ended if outcome == "done"} == set(ids)
    assert plant.outputs.is_whole(archive.names[11])
    fault.injected(len(bodies) - 1)
    fault.outcome("one mask")


def test_a_newer_version_supersedes_the_older_one(plant: Plant, archive: Archive) -> None:
    plant.emitted.take()
    for number in (0, 1):
        (id_,) = plant.queue.put(archive.message(number))
        assert plant.outcome(id_)["outcome"] == "done"
    old, new = (plant.outputs.masks(archive.names[number])[0] for number in (0, 1))
    assert old != new, "nothing is deleted"
    item = json.loads(plant.outputs.store.content(MASKS, f"{old.removesuffix('.tif')}.json"))
    assert item["properties"]["deprecated"] is True
    assert any(link["rel"] == "successor-version" for link in item["links"])
    told = [(seen.attributes["event"], seen.attributes["product"]) for seen in plant.emitted.take()]
    assert sorted(told) == sorted(
        [("created", archive.names[0]), ("created", archive.names[1]), ("deprecated", archive.names[0])]
    )


# The end, and what another worker finds


@pytest.fixture
def held(session_server: SessionServer) -> Iterator[HoldingProxy]:
    """A way to the server that holds the first tile back."""
    with HoldingProxy(session_server.address) as proxy:
        yield proxy


def test_work_longer_than_the_visibility_stays_hidden_and_sigterm_gives_it_back_at_once(
    start: Start, served_pair: ServedQueue, outputs: Outputs, archive: Archive, held: HoldingProxy
) -> None:
    with start(served_pair, outputs, "--grace-s", "0.5", triton=held.address, visibility_s=2) as worker:
        (id_,) = served_pair.put(archive.message(2))
        assert held.held.wait(PATIENCE_S), worker.log
        until = time.monotonic() + 5  # two times the visibility and more: the time itself is the matter here
        while time.monotonic() < until:
            assert served_pair.counts() == (0, 1)
        assert len(worker.said("message taken")) == 1
        assert worker.send(signal.SIGTERM) == 0, worker.log
        assert served_pair.counts() == (1, 0)
        (ended,) = worker.said("message ended")
        assert (ended["message_id"], ended["outcome"], ended["reason"]) == (id_, "released", "SIGTERM")
        assert [line["phase"] for line in worker.said("worker")] == ["starting", "taking", "draining", "ended"]
    assert [key for key in outputs.listed() if archive.names[2] in key] == []


@pytest.mark.fault("Queue", "worker process killed in the middle of a message")
def test_killed_in_the_middle_another_worker_makes_the_one_mask(
    start: Start,
    served_pair: ServedQueue,
    outputs: Outputs,
    archive: Archive,
    held: HoldingProxy,
    fault: InjectedFault,
) -> None:
    with start(served_pair, outputs, triton=held.address, visibility_s=3) as first:
        served_pair.put(archive.message(3))
        assert held.held.wait(PATIENCE_S), first.log
        first.process.kill()
        assert first.ended() == -signal.SIGKILL
    with start(served_pair, outputs, "--max-messages", "1", visibility_s=3) as second:
        assert second.ended() == 0, second.log
        (taken,) = second.said("message taken")
        assert taken["received"] == 2
        assert second.said("message ended", outcome="done")
    assert served_pair.counts() == (0, 0)
    assert outputs.is_whole(archive.names[3])
    fault.injected()
    fault.outcome("another worker made the mask")


@pytest.fixture
def served_pair(queue_server: QueueServer) -> ServedQueue:
    return queue_server.make_pair(receives=9)


def test_a_folder_and_no_dead_letter_queue_until_the_queue_is_empty(
    start: Start, queue_server: QueueServer, archive: Archive, tmp_path: Path
) -> None:
    """Poison stays in the queue then, hidden for long; nothing is deleted that is not done."""
    queue = queue_server.make_queue()
    queue.put(archive.names[4], "nonsense", archive.names[5])
    with start(queue, Outputs(start.store, "unused"), "--output", str(tmp_path), "--until-empty", "--png") as worker:
        assert worker.ended() == 0, worker.log
        warned = worker.said(f"{queue.url} has no dead-letter queue", level="warning")
        assert warned or any("has no dead-letter queue" in line["event"] for line in worker.lines)
        (kept,) = worker.said("message ended", outcome="retry")
        assert kept["reason"].endswith("(there is no dead-letter queue)")
    assert queue.counts() == (0, 1)
    assert len(list(tmp_path.rglob("*_NULL_20m.tif"))) == 2
    assert len(list(tmp_path.rglob("*.pgw"))) == 2
