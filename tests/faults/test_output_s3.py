"""Masks into a bucket whose answers are lost, which turns against the run, or from which the run is torn away."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.faults.losing_relay import Fate, LosingRelay
from tests.integration.local_state import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from tests.fault_table import Fault
    from tests.faults.plant import Plant
    from tests.faults.warm_cli import Ended
    from tests.integration.s3_servers import MotoStore

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("aws_environment")]

BUCKET = "losing"
EXTRAS = ("--png", "--stac", "--probabilities", "--subtiles", "--report")


class Bucket:
    """A bucket behind a relay, and a run that fills it."""

    def __init__(self, plant: Plant, store: MotoStore, relay: LosingRelay) -> None:
        self._plant, self._store, self.relay = plant, store, relay
        self.empty()
        assert self.run().code == 0
        self.whole = self.content()
        made = {name.removeprefix("masks/"): data for name, data in self.whole.items()}
        assert made == plant.whole
        self.writes = len(relay.written)

    @property
    def arguments(self) -> list[str]:
        there = ["--output", f"s3://{BUCKET}/masks", "--s3-endpoint", self.relay.endpoint]
        return ["run", str(self._plant.product), "--model", "null_l2a", *there, *EXTRAS]

    def run(self, fate: Mapping[int, Fate] | None = None) -> Ended:
        self.relay.begin(lambda number: (fate or {}).get(number, "none"))
        variables = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        return self._plant.cli(*self.arguments, TMPDIR=str(self._plant.tmp), **variables)

    def keys(self) -> list[str]:
        listing = ET.fromstring(self._store.content(BUCKET, ""))
        return sorted(key.text or "" for key in listing.iter("{http://s3.amazonaws.com/doc/2006-03-01/}Key"))

    def content(self) -> dict[str, bytes]:
        return {key: b"" if key.endswith(".html") else self._store.content(BUCKET, key) for key in self.keys()}

    def empty(self) -> None:
        self._store.fill(BUCKET, {})
        for key in self.keys():
            self._store._ask("DELETE", f"/{BUCKET}/{key}")

    def uploads(self) -> bool:
        return b"<UploadId>" in self._store.uploads(BUCKET)


@pytest.fixture(scope="module")
def relay(moto_store: MotoStore) -> Iterator[LosingRelay]:
    with LosingRelay(moto_store.endpoint) as made:
        yield made


@pytest.fixture
def bucket(plant: Plant, moto_store: MotoStore, relay: LosingRelay) -> Bucket:
    plant.fresh()
    return Bucket(plant, moto_store, relay)


def numbers(bucket: Bucket, fault: Fault, brief: int) -> Iterable[int]:
    every = range(1, bucket.writes + 1)
    return fault.amount(sorted(random.Random(5).sample(every, brief)), every)


@pytest.mark.fault("Output", "S3: a request that writes is done, its answer is lost (reset, 500)")
def test_an_answer_that_is_lost(bucket: Bucket, fault: Fault) -> None:
    for number in numbers(bucket, fault, 2):
        for fate in ("reset after", "500 after")[number % 2 :][: fault.amount(1, 2)]:
            bucket.empty()
            ended = bucket.run({number: fate})  # type: ignore[dict-item]
            assert ended.code == 0, (number, fate, ended.err)
            fault.injected(bucket.relay.lost)
            assert bucket.content() == bucket.whole
            assert not bucket.uploads()
            fault.outcome("sent again, all objects byte-identical")


@pytest.mark.fault("Output", "S3: permission to write is withdrawn at every request")
def test_permission_that_is_withdrawn(bucket: Bucket, plant: Plant, fault: Fault) -> None:
    for number in numbers(bucket, fault, 1):
        bucket.empty()
        ended = bucket.run(dict.fromkeys(range(number, number + 100), "403 instead"))
        assert ended.code == 5, (number, ended.err)
        fault.injected()
        lines = [line for line in ended.err.splitlines() if "error: " in line]
        assert len(lines) == 1
        assert f"s3://{BUCKET}/masks" in lines[0]
        assert "Traceback" not in ended.err
        require_no_item_without_its_files(bucket)
        assert plant.temporary() == []
        assert bucket.run().code == 0
        assert bucket.content() == bucket.whole
        fault.outcome("exit 5 with object and cause, then byte-identical")


@pytest.mark.fault("Process", "SIGKILL at every request that writes to S3")
def test_killed_between_two_objects(bucket: Bucket, plant: Plant, fault: Fault) -> None:
    for number in numbers(bucket, fault, 1):
        bucket.empty()
        command = [sys.executable, "-m", "kappamask_stream", *bucket.arguments]
        reached, go_on = threading.Event(), threading.Event()
        bucket.relay.begin(lambda _: "none", partial(pause, number, reached, go_on))
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            assert reached.wait(PATIENCE_S)
            process.kill()
            go_on.set()
        fault.injected()
        require_no_item_without_its_files(bucket)
        ended = bucket.run()
        assert ended.code == 0, ended.err
        assert bucket.content() == bucket.whole
        fault.outcome("the same command: byte-identical")


def pause(at: int, reached: threading.Event, go_on: threading.Event, number: int) -> None:
    """Hold the answer to a request back until the process is dead."""
    if number == at:
        reached.set()
        go_on.wait(PATIENCE_S)


def require_no_item_without_its_files(bucket: Bucket) -> None:
    made = bucket.content()
    if any(name.endswith("_20m.json") for name in made):
        assert {name for name in bucket.whole if "/S2" in name} <= set(made)
