"""Masks into a bucket whose answers are lost, which turns against the run, or from which the run is torn away."""

from __future__ import annotations

import hashlib
import json
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
from tests.faults.plant import ALIKE
from tests.integration.local_state import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from tests.fault_table import Fault
    from tests.faults.plant import Plant
    from tests.faults.warm_cli import Ended
    from tests.integration.s3_servers import MotoStore

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("aws_environment")]

BUCKET = "losing"
_S3 = "{http://s3.amazonaws.com/doc/2006-03-01/}"
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

    def arguments(self, options: Sequence[str] = EXTRAS) -> list[str]:
        there = ["--output", f"s3://{BUCKET}/masks", "--s3-endpoint", self.relay.endpoint]
        return ["run", str(self._plant.product), "--model", "null_l2a", *there, *options]

    def run(self, fate: Mapping[int, Fate] | None = None, options: Sequence[str] = EXTRAS) -> Ended:
        self.relay.begin(lambda number: (fate or {}).get(number, "none"))
        variables = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        return self._plant.cli(*self.arguments(options), TMPDIR=str(self._plant.tmp), **variables)

    def keys(self) -> list[str]:
        listing = ET.fromstring(self._store.content(BUCKET, ""))
        return sorted(key.text or "" for key in listing.iter(f"{_S3}Key"))

    def content(self) -> dict[str, bytes]:
        return {key: b"" if key.endswith(".html") else self._store.content(BUCKET, key) for key in self.keys()}

    def empty(self) -> None:
        self._store.fill(BUCKET, {})
        for key in self.keys():
            self._store._ask("DELETE", f"/{BUCKET}/{key}")
        listing = ET.fromstring(self._store.uploads(BUCKET))
        for upload in listing.iter(f"{_S3}Upload"):
            key, number = upload.findtext(f"{_S3}Key"), upload.findtext(f"{_S3}UploadId")
            self._store._ask("DELETE", f"/{BUCKET}/{key}?uploadId={number}")

    def uploads(self) -> bool:
        return b"<UploadId>" in self._store.uploads(BUCKET)

    def kill_at(self, number: int, options: Sequence[str] = EXTRAS) -> None:
        """Kill a run when its n-th request that writes has been done."""
        reached, go_on = threading.Event(), threading.Event()
        self.relay.begin(lambda _: "none", partial(pause, number, reached, go_on))
        command = [sys.executable, "-m", "kappamask_stream", *self.arguments(options)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            assert reached.wait(PATIENCE_S)
            process.kill()
            go_on.set()


@pytest.fixture(scope="module")
def relay(moto_store: MotoStore) -> Iterator[LosingRelay]:
    with LosingRelay(moto_store.endpoint) as made:
        made.uncounted = ALIKE
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
        fates = ("reset after", "500 after")
        for fate in fault.amount(fates[number % 2 :][:1], fates):
            bucket.empty()
            ended = bucket.run({number: fate})  # type: ignore[dict-item]
            assert ended.code == 0, (number, fate, ended.err)
            fault.injected(bucket.relay.lost)
            assert bucket.content() == bucket.whole
            # Nobody knows the id of an upload whose beginning was not answered: it stays, for the bucket's lifecycle rule.
            was_begun = bucket.relay.written[number - 1].endswith("?uploads")
            assert bucket.uploads() is was_begun, bucket.relay.written[number - 1]
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
        bucket.kill_at(number)
        fault.injected()
        require_no_item_without_its_files(bucket)
        ended = bucket.run()
        assert ended.code == 0, ended.err
        assert bucket.content() == bucket.whole
        fault.outcome("the same command: byte-identical")


#: Another mask of the same name, with files that the new one is not asked for.
OTHER = ("--dilate", "cloud=40", "--overwrite", *EXTRAS)
NEW = ("--stac", "--overwrite")


@pytest.mark.fault("Process", "SIGKILL at every request while another mask is replaced on S3")
def test_killed_while_another_mask_is_replaced(bucket: Bucket, fault: Fault) -> None:
    """No Item tells of other files than those that lie there, and nothing of the other mask stays for ever."""
    bucket.empty()
    assert bucket.run(options=OTHER).code == 0
    other = of_product(bucket)
    assert bucket.run(options=NEW).code == 0
    written, new = list(bucket.relay.written), of_product(bucket)
    assert {name.rpartition("_20m")[2] for name in new} == {".tif", "_quicklook.png", ".json"}
    assert all(bucket.whole[name] == data for name, data in new.items() if not name.endswith(".json"))
    last = max(number for number, what in enumerate(written, 1) if "_20m.json" in what and what.startswith("PUT"))
    for number in fault.amount([last], range(1, len(written) + 1)):
        bucket.empty()
        assert bucket.run(options=OTHER).code == 0
        bucket.kill_at(number, NEW)
        fault.injected()
        require_true_items(bucket)
        options, expected = (NEW, new) if number == last or number % 2 else (OTHER, other)
        ended = bucket.run(options=options)
        assert ended.code == 0, ended.err
        assert of_product(bucket) == expected
        fault.outcome("the next run of either: byte-identical, nothing of the other")


def of_product(bucket: Bucket) -> dict[str, bytes]:
    """What lies under the product's prefix: the Collection beside it tells of all masks that there ever were."""
    return {name: data for name, data in bucket.content().items() if "/S2" in name}


def require_true_items(bucket: Bucket) -> None:
    """Assert that what an Item says of files beside it is so."""
    content = bucket.content()
    for name in [name for name in content if name.endswith("_20m.json")]:
        for asset in json.loads(content[name])["assets"].values():
            if "file:checksum" in asset and not asset["href"].endswith(".html"):
                data = content[f"{name.rpartition('/')[0]}/{asset['href'].removeprefix('./')}"]
                assert asset["file:checksum"] == f"1220{hashlib.sha256(data).hexdigest()}", asset["href"]


def pause(at: int, reached: threading.Event, go_on: threading.Event, number: int) -> None:
    """Hold the answer to a request back until the process is dead."""
    if number == at:
        reached.set()
        go_on.wait(PATIENCE_S)


def require_no_item_without_its_files(bucket: Bucket) -> None:
    made = bucket.content()
    if any(name.endswith("_20m.json") for name in made):
        assert {name for name in bucket.whole if "/S2" in name} <= set(made)
