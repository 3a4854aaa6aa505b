"""A worker's masks on a real store and a real Triton: requests, bytes, two at once, versions, and who is told."""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from kappamask_stream.destinations import OutputFile, S3Destination
from kappamask_stream.errors import OutputError
from kappamask_stream.extras import Extra, selected
from kappamask_stream.mask_options import MaskOptions
from kappamask_stream.models import ModelChoice, ModelPool
from kappamask_stream.queues.clients import QueueClients
from kappamask_stream.queues.options import QueueOptions
from kappamask_stream.queues.sinks import open_sink
from kappamask_stream.resources import Resources
from kappamask_stream.runner import Order, Workshop
from kappamask_stream.s3 import Patience, S3Client, S3Options, Stores
from kappamask_stream.settings import Settings
from kappamask_stream.synth import write_product
from kappamask_stream.worker.masking import Masking
from tests.integration.faulty_s3 import Fault, FaultyS3
from tests.integration.queue_servers import queue_server, served_queue, served_topic
from tests.integration.test_everything_on_s3 import keys_of
from tests.stream.test_worker_masking import NEW, OLD, Places, job_of
from tests.unit.stac_schemas import validate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from kappamask_stream.queues.types import Sink
    from tests.fault_table import Fault as InjectedFault
    from tests.integration.queue_servers import ServedQueue
    from tests.integration.s3_servers import MotoStore
    from tests.integration.session import SessionServer

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("aws_environment")]

__all__ = ["queue_server", "served_queue", "served_topic"]


@pytest.fixture(scope="module")
def products(moto_store: MotoStore, tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """Two versions of one scene in a bucket."""
    folder = tmp_path_factory.mktemp("products")
    made = {seed: write_product(folder, size=240, seed=seed).product for seed in (OLD, NEW)}
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for product in made.values()
        for path in product.rglob("*")
        if path.is_file()
    }
    moto_store.fill("scenes", files)
    return {seed: f"s3://scenes/{product.name}" for seed, product in made.items()}


@pytest.fixture
def bucket(moto_store: MotoStore) -> str:
    name = f"b{uuid.uuid4().hex}"
    moto_store.fill(name, {})
    return name


@asynccontextmanager
async def worker(
    server: SessionServer, store: MotoStore, bucket: str, *, sink: Sink | None = None, order: Order | None = None
) -> AsyncIterator[tuple[Masking, Stores]]:
    """A worker's own connections; sources and outputs are asked by clients of their own, which count."""
    settings = Settings(output=f"s3://{bucket}/masks", triton=f"grpc://{server.address}")
    options = S3Options(endpoint_url=store.endpoint)
    async with AsyncExitStack() as stack:
        resources = stack.enter_context(Resources(settings=settings))
        stores = await stack.enter_async_context(
            Stores(options, S3Options(endpoint_url=store.endpoint, max_connections=8))
        )
        models = await stack.enter_async_context(ModelPool(ModelChoice(model="null_l2a"), settings))
        workshop = Workshop(models=models, resources=resources, stores=stores)
        yield Masking(workshop, order or Order(), where_of=Places(), sink=sink), stores


async def requests_of(stores: Stores) -> tuple[int, int]:
    """Requests so far, for sources and for outputs."""
    return (await stores.client()).requests, (await stores.output_client()).requests


def bytes_in(store: MotoStore, bucket: str) -> dict[str, tuple[bytes, str | None]]:
    """All objects, with what their metadata say of their checksum, which is true."""
    found = {}
    for key in keys_of(store, bucket):
        data, said = store.content(bucket, key), store.header(bucket, key, "x-amz-meta-sha256")
        assert said == hashlib.sha256(data).hexdigest(), key
        found[key] = data, said
    return found


def is_one_set(store: MotoStore, bucket: str, item: bytes, place: str) -> bool:
    """Whether all files have the size and checksum that the Item tells, whatever we think of it."""
    prefix = place.removeprefix(f"s3://{bucket}/").rpartition("/")[0]
    for asset in json.loads(item)["assets"].values():
        data = store.content(bucket, f"{prefix}/{asset['href'].removeprefix('./')}")
        if (len(data), f"1220{hashlib.sha256(data).hexdigest()}") != (asset["file:size"], asset["file:checksum"]):
            return False
    return True


async def test_masked_once_and_then_found_without_a_read_of_the_product(
    session_server: SessionServer, moto_store: MotoStore, products: dict[int, str], bucket: str
) -> None:
    async with worker(session_server, moto_store, bucket) as (masking, stores):
        first = await masking.do(job_of(products[NEW]))
        assert first.result is not None
        assert (first.result.status, first.result.retries) == ("done", 0)
        read, before = await requests_of(stores), bytes_in(moto_store, bucket)
        assert read[0] > 5
        again = await masking.do(job_of(products[NEW]))
        now = await requests_of(stores)
    assert (again.result, again.item, again.output) == (None, first.item, first.output)
    assert now[0] == read[0], "the product was read"
    # Four to see that the set stands: the Item, and its files' checksums; three for the scene's versions.
    assert now[1] - read[1] == 7
    assert bytes_in(moto_store, bucket) == before
    assert is_one_set(moto_store, bucket, first.item, first.output)
    folders = {key.split("/")[1] for key in before}
    (variant,) = folders
    assert variant.startswith("null_l2a_")
    name = products[NEW].rpartition("/")[2].removesuffix(".SAFE")
    assert first.output.startswith(f"s3://{bucket}/masks/{variant}/{name}/L2A_T32ZZZ_")
    validate(json.loads(first.item))
    collection = json.loads(before[f"masks/{variant}/collection.json"][0])
    assert not [link for link in collection["links"] if link["rel"] == "item"]
    validate(collection)


async def test_two_processes_that_write_at_the_same_moment_leave_one_set(
    session_server: SessionServer, moto_store: MotoStore, products: dict[int, str], bucket: str
) -> None:
    """Their masks differ in their bytes, by compression; neither has seen the other before it writes."""
    both = asyncio.Barrier(2)

    class Meets(Extra):
        async def finish(self, mask: Any) -> Sequence[OutputFile]:
            await both.wait()
            return ()

    options: list[MaskOptions] = [MaskOptions(), MaskOptions(compression="zstd")]
    orders = [Order(options=chosen, extras=selected(png=True)) for chosen in options]
    async with (
        worker(session_server, moto_store, bucket, order=orders[0]) as (one, _),
        worker(session_server, moto_store, bucket, order=orders[1]) as (other, _),
    ):
        ended = await asyncio.gather(*(masking.do(job_of(products[NEW]), [Meets()]) for masking in (one, other)))
        third = await one.do(job_of(products[NEW]))
    assert third.result is None
    assert is_one_set(moto_store, bucket, third.item, third.output)
    assert {finished.output for finished in ended} == {third.output}
    assert ended[-1].item == third.item or ended[0].item == third.item
    assert len([key for key in bytes_in(moto_store, bucket) if key.endswith(".tif")]) == 1


async def test_what_a_killed_process_left_of_two_masks_is_made_anew(
    session_server: SessionServer, moto_store: MotoStore, products: dict[int, str], bucket: str
) -> None:
    async with worker(session_server, moto_store, bucket) as (masking, stores):
        first = await masking.do(job_of(products[NEW]))
        before = bytes_in(moto_store, bucket)
        folder = first.output.removeprefix(f"s3://{bucket}/").rpartition("/")[0]
        name = first.output.rpartition("/")[2].removesuffix(".tif") + "_quicklook.png"
        place = S3Destination(await stores.output_client(), bucket, folder)
        await place.publish([OutputFile(name=name, content=[b"of another mask"], media_type="x/y")])
        assert not is_one_set(moto_store, bucket, first.item, first.output)
        again = await masking.do(job_of(products[NEW], received=2))
    assert again.result is not None
    assert again.result.status == "done"
    assert bytes_in(moto_store, bucket) == before


@pytest.mark.fault("Queue", "versions of a scene out of order")
async def test_both_orders_of_two_versions_leave_the_same_bytes(
    session_server: SessionServer,
    moto_store: MotoStore,
    products: dict[int, str],
    bucket: str,
    fault: InjectedFault,
) -> None:
    other = f"{bucket}x"
    moto_store.fill(other, {})
    for place, order in ((bucket, (OLD, NEW)), (other, (NEW, OLD))):
        for seed in order:
            async with worker(session_server, moto_store, place) as (masking, _):
                finished = await masking.do(job_of(products[seed]))
            assert is_one_set(moto_store, place, finished.item, finished.output)
    there = bytes_in(moto_store, bucket)
    assert bytes_in(moto_store, other) == there
    fault.injected()
    fault.outcome("the same bytes in either order")
    items = {key: json.loads(data) for key, (data, _) in there.items() if "S2A_" in key and key.endswith(".json")}
    assert len(items) == 2
    old, new = (next(k for k in items if products[s].rpartition("/")[2].removesuffix(".SAFE") in k) for s in (OLD, NEW))
    assert (items[old]["properties"]["deprecated"], "deprecated" in items[new]["properties"]) == (True, False)
    validate(items[old])
    fingerprint = items[old]["properties"]["kappamask:fingerprint"]
    assert moto_store.header(bucket, old, "x-amz-meta-fingerprint") == fingerprint
    assert moto_store.header(bucket, old, "Content-Type") == "application/geo+json"


async def test_two_versions_at_the_same_moment(
    session_server: SessionServer, moto_store: MotoStore, products: dict[int, str], bucket: str
) -> None:
    async with (
        worker(session_server, moto_store, bucket) as (one, _),
        worker(session_server, moto_store, bucket) as (other, _),
    ):
        await asyncio.gather(one.do(job_of(products[OLD])), other.do(job_of(products[NEW])))
    said = {
        key.split("/")[2]: json.loads(data)["properties"].get("deprecated", False)
        for key, (data, _) in bytes_in(moto_store, bucket).items()
        if "S2A_" in key and key.endswith(".json")
    }
    names = [products[seed].rpartition("/")[2].removesuffix(".SAFE") for seed in (OLD, NEW)]
    assert said == dict(zip(names, (True, False), strict=True))


async def test_consumers_of_a_topic_are_told(
    session_server: SessionServer,
    moto_store: MotoStore,
    products: dict[int, str],
    bucket: str,
    served_queue: ServedQueue,
    served_topic: str,
) -> None:
    async with (
        QueueClients(QueueOptions(endpoint_url=moto_store.endpoint)) as clients,
        worker(session_server, moto_store, bucket, sink=open_sink(served_topic, clients)) as (masking, stores),
    ):
        old = await masking.do(job_of(products[OLD]))
        await masking.do(job_of(products[OLD]))
        new = await masking.do(job_of(products[NEW]))
        messages = served_queue.take()
        said = {(m.attributes["event"], m.attributes["product"]): m for m in messages}
        names = [products[seed].rpartition("/")[2].removesuffix(".SAFE") for seed in (OLD, NEW)]
        assert set(said) == {("created", names[0]), ("deprecated", names[0]), ("created", names[1])}
        assert len(messages) == 3
        client = await stores.output_client()
        for (event, _), message in said.items():
            body = json.loads(message.body)
            validate(body)
            assert message.types["cloud_cover"] == "Number"
            assert float(message.attributes["cloud_cover"]) == body["properties"]["eo:cloud_cover"]
            assert {kind for name, kind in message.types.items() if name != "cloud_cover"} == {"String"}
            assert body["properties"].get("deprecated", False) is (event == "deprecated")
            for asset in body["assets"].values():
                key = asset["href"].removeprefix(f"s3://{bucket}/")
                data = await client.get(bucket, key, limit=10**7)
                assert f"1220{hashlib.sha256(data).hexdigest()}" == asset["file:checksum"]
    assert json.loads(said["created", names[1]].body)["links"][0]["href"] == new.output.replace(".tif", ".json")
    assert json.loads(old.item)["id"] == json.loads(said["created", names[0]].body)["id"]


# What stores make of conditions


async def test_what_came_in_between_is_not_replaced(moto_store: MotoStore, bucket: str) -> None:
    async with S3Client(S3Options(endpoint_url=moto_store.endpoint)) as client:
        place, other = (S3Destination(client, bucket, "P") for _ in range(2))
        await place.publish([OutputFile(name="m.json", content=[b"1"], media_type="x/y")])
        read = place.read

        async def overtaken(name: str) -> bytes:
            data = await read(name)
            await other.publish([OutputFile(name=name, content=[b"theirs"], media_type="x/y")])
            return data

        place.read = overtaken  # type: ignore[method-assign]
        assert not await place.replace(b"1", OutputFile(name="m.json", content=[b"2"], media_type="x/y"))
    assert moto_store.content(bucket, "P/m.json") == b"theirs"


@pytest.mark.parametrize(
    ("status", "code", "replaced", "writes"),
    [
        (412, "PreconditionFailed", False, 1),
        (409, "ConditionalRequestConflict", False, 1),
        (501, "NotImplemented", True, 2),
        (503, "SlowDown", True, 2),
    ],
)
async def test_answers_to_a_condition(status: int, code: str, replaced: bool, writes: int) -> None:  # noqa: FBT001
    """A store that knows none is asked once more, without it; the refusal of one is an answer."""
    options = S3Options(region="us-east-1", patience=Patience(backoff_s=0.01))
    with FaultyS3({"b/P/m.json": b"1"}) as store:
        store.faults += [Fault(), Fault(), Fault(status=status, code=code)]
        async with S3Client(
            S3Options(endpoint_url=store.endpoint, region="us-east-1", patience=options.patience)
        ) as client:
            place = S3Destination(client, "b", "P")
            file = OutputFile(name="m.json", content=[b"2"], media_type="x/y")
            assert await place.replace(b"1", file) is replaced
        conditions = ["if-match" in request.headers for request in store.of("PUT")]
        assert conditions == [True, status != 501][:writes]
        assert store.objects["b/P/m.json"] == (b"2" if replaced else b"1")


async def test_other_refusals_are_failures() -> None:
    with FaultyS3({"b/P/m.json": b"1"}) as store:
        store.faults += [Fault(), Fault(), Fault(status=403, code="AccessDenied")]
        async with S3Client(S3Options(endpoint_url=store.endpoint, region="us-east-1")) as client:
            place = S3Destination(client, "b", "P")
            with pytest.raises(OutputError, match=r"cannot write the output: s3://b/P/m\.json.*AccessDenied"):
                await place.replace(b"1", OutputFile(name="m.json", content=[b"2"], media_type="x/y"))
