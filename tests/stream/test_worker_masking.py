"""What a worker does with one product: once is enough, twice does no harm, and who asks is told."""

from __future__ import annotations

import asyncio
import json
import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kappamask_stream.aoi import parse_aoi
from kappamask_stream.api import _progress
from kappamask_stream.destinations import FolderDestination
from kappamask_stream.destinations.sets import standing_item
from kappamask_stream.errors import (
    InferenceError,
    OutputUnavailableError,
    ProductError,
    QueueUnavailableError,
    UsageError,
)
from kappamask_stream.extras import Extra, selected
from kappamask_stream.feed import ProductRef
from kappamask_stream.mask_options import MaskOptions
from kappamask_stream.names import parse_product_name
from kappamask_stream.queues import Draft, Message
from kappamask_stream.resources import Resources, ServedModel
from kappamask_stream.result import ProductProgress
from kappamask_stream.runner import Order, mask_products
from kappamask_stream.settings import Settings
from kappamask_stream.stac import StacExtra, is_deprecated
from kappamask_stream.synth import write_product
from kappamask_stream.worker.keys import variant_of
from kappamask_stream.worker.masking import Masking
from kappamask_stream.worker.supersede import Versions, supersede
from kappamask_stream.worker.types import Finished, Job
from tests.stream.fakes import FakeInference
from tests.stream.polling import until
from tests.stream.scene import coarse_l2a
from tests.stream.test_runner import Gate, Models, name_of, workshop

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kappamask_stream.contract import ModelContract
    from kappamask_stream.extras import FinishedMask, MaskJob, TileAnswer

__all__ = ["coarse_l2a"]

#: Seeds of one day: two versions of one scene.
OLD, NEW = 1, 46


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_product(tmp_path_factory.mktemp("old"), size=240, seed=OLD).product


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_product(tmp_path_factory.mktemp("new"), size=240, seed=NEW).product


class Told:
    """A `Sink` that keeps what it is sent, or fails as told."""

    target = "memory"

    def __init__(self) -> None:
        self.drafts: list[Draft] = []
        self.failures: list[Exception] = []

    async def send(self, draft: Draft) -> str:
        await asyncio.sleep(0)
        if self.failures:
            raise self.failures.pop(0)
        self.drafts.append(draft)
        return str(len(self.drafts))

    @property
    def events(self) -> list[tuple[Any, Any]]:
        return [(draft.attributes["event"], draft.attributes["product"]) for draft in self.drafts]


class Places:
    """Says that a product is where its message says, and counts."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, ref: ProductRef) -> tuple[str, str | None]:
        self.asked += 1
        assert ref.location is not None
        return ref.location, None


def job_of(product: Path | str, *, location: Path | str | None = None, received: int = 1) -> Job:
    """A job that a message asks for: its name is the path's."""
    name = parse_product_name(Path(product).name)
    message = Message(id="m", receipt="r", body="{}", received=received)
    ref = ProductRef(name=name, kind="own", location=str(location or product))
    return Job(id="m/0", message=message, ref=ref, progress=ProductProgress(product=name.text))


@contextmanager
def masking(
    client: FakeInference,
    output: Path | str,
    *,
    order: Order | None = None,
    sink: Told | None = None,
    where_of: Any = None,
    **settings: Any,
) -> Iterator[Masking]:
    """A worker process's own: another one shares nothing with it but the output."""
    with Resources(settings=Settings(output=output, **settings)) as resources:
        place = workshop(client, resources)
        yield Masking(place, order or Order(), where_of=where_of or Places(), sink=sink)


async def work(client: FakeInference, output: Path, job: Job, extras: Sequence[Extra] = (), **rest: Any) -> Finished:
    with masking(client, output, **rest) as worker:
        return await worker.do(job, extras)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def item_at(finished: Finished) -> dict[str, Any]:
    """The Item that lies there; it is the one that was returned."""
    data = Path(finished.output).with_suffix(".json").read_bytes()
    assert data == finished.item
    return dict(json.loads(data))


async def stands(finished: Finished) -> bool:
    """Whether mask, quicklook and Item are of one set."""
    folder = Path(finished.output).parent
    name = Path(finished.output).with_suffix(".json").name
    return await standing_item(FolderDestination(folder), name, folder.name) is not None


async def test_a_mask_lies_with_its_item_in_its_variants_folder(
    old: Path, coarse_l2a: ModelContract, tmp_path: Path
) -> None:
    job, variant = job_of(old), variant_of(coarse_l2a, MaskOptions())
    finished = await work(FakeInference(coarse_l2a), tmp_path, job)
    assert finished.result is not None
    assert (finished.result.status, finished.result.tiles_inferred) == ("done", finished.result.tiles)
    assert job.progress.state == "done"
    stem = Path(finished.output).stem
    folder = tmp_path / variant / name_of(old)
    assert finished.output == str(folder / f"{stem}.tif")
    assert set(contents(tmp_path)) == {
        f"{variant}/collection.json",
        *(f"{variant}/models/{path.name}" for path in (tmp_path / variant / "models").iterdir()),
        *(f"{variant}/{name_of(old)}/{stem}{end}" for end in (".tif", ".json", "_quicklook.png")),
    }
    assert await stands(finished)
    for link in item_at(finished)["links"]:
        if link["href"].startswith("."):
            assert (folder / link["href"]).is_file(), link
    links = json.loads((tmp_path / variant / "collection.json").read_bytes())["links"]
    assert [link["rel"] for link in links] == ["root", "license", "derived_from"]


async def test_a_finished_one_is_found_without_a_look_at_the_product(
    old: Path, coarse_l2a: ModelContract, tmp_path: Path
) -> None:
    first = await work(FakeInference(coarse_l2a), tmp_path, job_of(old))
    before, client, places, job = contents(tmp_path), FakeInference(coarse_l2a), Places(), job_of(old)
    again = await work(client, tmp_path, job, where_of=places)
    assert (again.output, again.item, again.result) == (first.output, first.item, None)
    assert (places.asked, client.sent, job.progress.state) == (0, {}, "skipped")
    assert contents(tmp_path) == before


async def test_another_source_of_the_product_gives_no_other_mask(
    old: Path, coarse_l2a: ModelContract, tmp_path: Path
) -> None:
    """Its metadata differ, and so would the mask's fingerprint."""
    first = await work(FakeInference(coarse_l2a), tmp_path / "out", job_of(old))
    copy = with_other_metadata(old, tmp_path / "elsewhere")
    client = FakeInference(coarse_l2a)
    again = await work(client, tmp_path / "out", job_of(old, location=copy))
    assert (again.item, client.sent) == (first.item, {})


def with_other_metadata(product: Path, folder: Path) -> Path:
    copy = shutil.copytree(product, folder / product.name)
    (metadata,) = copy.glob("MTD_MSIL*.xml")
    metadata.write_bytes(metadata.read_bytes() + b"\n<!-- from another place -->\n")
    return copy


async def test_a_name_without_baseline_is_completed_by_the_metadata(
    old: Path, coarse_l2a: ModelContract, tmp_path: Path
) -> None:
    """Planetary Computer's names lack it. A second message has the product opened, and no more."""
    fields = name_of(old).split("_")
    short = "_".join([*fields[:3], *fields[4:6], "20260101T000000"])
    first = await work(FakeInference(coarse_l2a), tmp_path, job_of(short, location=old))
    assert Path(first.output).parent.name == name_of(old)
    client, before = FakeInference(coarse_l2a), contents(tmp_path)
    again = await work(client, tmp_path, job_of(short, location=old))
    assert again.result is not None
    assert (again.output, again.result.status, client.sent) == (first.output, "skipped", {})
    by_name = await work(client, tmp_path, job_of(old))
    assert (by_name.result, contents(tmp_path)) == (None, before)


@pytest.mark.parametrize(("field", "other"), [("S2A", "S2B"), ("T32ZZZ", "T32ZZY")])
async def test_another_scene_than_the_message_names_is_not_masked(
    old: Path, coarse_l2a: ModelContract, tmp_path: Path, field: str, other: str
) -> None:
    assert field in old.name
    client = FakeInference(coarse_l2a)
    with pytest.raises(ProductError, match=f"is {name_of(old)}, not .*{other}.* as it was said to be"):
        await work(client, tmp_path, job_of(old.name.replace(field, other), location=old))
    assert not client.sent
    assert not list(tmp_path.rglob("*.tif"))


async def test_a_product_of_another_level_is_refused_unopened(
    old: Path, coarse_l2a: ModelContract, tmp_path: Path
) -> None:
    places = Places()
    with pytest.raises(ProductError, match=r"is a L1C product, the model test_l2a was trained on L2A"):
        await work(FakeInference(coarse_l2a), tmp_path, job_of(old.name.replace("L2A", "L1C")), where_of=places)
    assert (places.asked, list(tmp_path.iterdir())) == (0, [])


async def test_a_product_beside_the_area_of_interest_is_at_fault_itself(
    old: Path, coarse_l2a: ModelContract, tmp_path: Path
) -> None:
    """For somebody who chose both it is a wrong option; of a feed the next product may meet the area."""
    order = Order(options=MaskOptions(aoi=parse_aoi("20,50,21,51")))
    with pytest.raises(ProductError, match="--aoi misses"):
        await work(FakeInference(coarse_l2a), tmp_path, job_of(old), order=order)


async def test_options_that_suit_no_product_are_refused_as_such(
    old: Path, coarse_l2a: ModelContract, tmp_path: Path
) -> None:
    order = Order(options=MaskOptions(dilate=(("SNOW", 60.0),), aoi=parse_aoi("20,50,21,51")))
    with pytest.raises(UsageError, match="no such class to grow"):
        await work(FakeInference(coarse_l2a), tmp_path, job_of(old), order=order)


class Looks(Extra):
    """Looks on."""

    def __init__(self) -> None:
        self.tiles, self.files = 0, set[str]()

    async def begin(self, job: MaskJob) -> None:
        self.job = job

    async def add_tile(self, answer: TileAnswer) -> None:
        self.tiles += 1

    async def finish(self, mask: FinishedMask) -> Sequence[Any]:
        self.files = {file.name.removeprefix(self.job.stem) for file in mask.files}
        return ()


@pytest.mark.parametrize("stac", [False, True])
async def test_extras_write_their_files_and_others_look_on(
    old: Path, coarse_l2a: ModelContract, tmp_path: Path, *, stac: bool
) -> None:
    looks = Looks()
    order = Order(extras=selected(png=True, probabilities=True, stac=stac))
    finished = await work(FakeInference(coarse_l2a), tmp_path, job_of(old), [looks], order=order)
    assert finished.result is not None
    assert looks.tiles == finished.result.tiles
    assert looks.files == {"_quicklook.png", ".png", ".pgw", "_probabilities.tif"}
    assert set(item_at(finished)["assets"]) == {"mask", "quicklook-png", "png", "pgw", "probabilities-tif"}
    assert await stands(finished)


async def test_the_same_product_twice_in_one_process_is_masked_once(
    old: Path, coarse_l2a: ModelContract, tmp_path: Path
) -> None:
    client, jobs = Gate(coarse_l2a), [job_of(old) for _ in range(2)]
    with masking(client, tmp_path) as worker:
        running = [asyncio.create_task(worker.do(job)) for job in jobs]
        await until(lambda: {job.progress.state for job in jobs} == {"streaming", "waiting"})
        await client.let(name_of(old))
        ended = await asyncio.gather(*running)
    assert sorted(e.result.status for e in ended if e.result) == ["done", "skipped"]
    assert set(client.sent.values()) == {1}
    assert ended[0].item == ended[1].item


async def test_two_processes_at_one_product_leave_one_set(old: Path, coarse_l2a: ModelContract, tmp_path: Path) -> None:
    """Their servers do not agree in each pixel, as no two GPUs do. The slower one finds the other's mask."""
    quick, slow = FakeInference(coarse_l2a), Gate(coarse_l2a)
    slow.threshold = 1000
    told = Told()
    with masking(quick, tmp_path, sink=told) as one, masking(slow, tmp_path, sink=told) as other:
        late = asyncio.create_task(other.do(job_of(old)))
        await until(lambda: slow.asked)
        first = await one.do(job_of(old))
        assert first.result is not None
        before = contents(tmp_path)
        await slow.let(name_of(old))
        second = await late
    assert second.result is not None
    assert (first.result.status, second.result.status, second.result.classes) == ("done", "skipped", {})
    assert second.item == first.item
    assert contents(tmp_path) == before
    assert await stands(second)
    assert told.events == [("created", name_of(old))]


async def test_two_processes_that_close_at_the_same_moment_leave_one_set(
    old: Path, coarse_l2a: ModelContract, tmp_path: Path
) -> None:
    """Neither has seen the other when it begins to write."""
    clients = [FakeInference(coarse_l2a, threshold=threshold) for threshold in (3000, 1000)]
    both = asyncio.Barrier(2)

    class Meets(Extra):
        async def finish(self, mask: FinishedMask) -> Sequence[Any]:
            await both.wait()
            return ()

    with masking(clients[0], tmp_path) as one, masking(clients[1], tmp_path) as other:
        ended = await asyncio.gather(*(worker.do(job_of(old), [Meets()]) for worker in (one, other)))
    assert [await stands(finished) for finished in ended] == [True, True]
    last = await work(FakeInference(coarse_l2a), tmp_path, job_of(old))
    assert last.result is None
    assert last.item in {finished.item for finished in ended}


@pytest.mark.parametrize("lost", [".tif", "_quicklook.png", ".json"])
async def test_what_is_of_two_masks_or_in_part_is_made_anew(
    old: Path, coarse_l2a: ModelContract, tmp_path: Path, lost: str
) -> None:
    """As somebody who was killed half way leaves it."""
    other = await work(FakeInference(coarse_l2a, threshold=1000), tmp_path / "other", job_of(old))
    first = await work(FakeInference(coarse_l2a), tmp_path / "out", job_of(old))
    before = contents(tmp_path / "out")
    stem = first.output.removesuffix(".tif")
    torn = [Path(stem + lost)] if lost == ".json" else [Path(stem + lost), None]
    for path in torn:
        if path is None or lost == ".json":
            Path(stem + lost).unlink()
        else:
            shutil.copy(other.output.removesuffix(".tif") + lost, path)
        assert not await stands(first)
        again = await work(FakeInference(coarse_l2a), tmp_path / "out", job_of(old))
        assert again.result is not None
        assert (again.result.status, contents(tmp_path / "out")) == ("done", before)


async def test_others_in_between_again_and_again_is_for_later(
    old: Path, coarse_l2a: ModelContract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_pause(attempt: int) -> None:
        await asyncio.sleep(0)

    async def never(*_: object) -> None:
        return None

    monkeypatch.setattr("kappamask_stream.destinations.sets.pause", no_pause)
    monkeypatch.setattr("kappamask_stream.output.standing_item", never)
    with pytest.raises(OutputUnavailableError, match=r"others write the same mask at the same time.*try again later"):
        await work(FakeInference(coarse_l2a), tmp_path, job_of(old))


async def test_scratch_files_cannot_be_sent_twice_to_a_folder(
    old: Path, coarse_l2a: ModelContract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were moved there. So the whole mask is for later."""
    looked = []

    async def never(*_: object) -> None:
        looked.append(1)

    monkeypatch.setattr("kappamask_stream.output.standing_item", never)
    order = Order(extras=selected(probabilities=True))
    with pytest.raises(OutputUnavailableError, match="try again later"):
        await work(FakeInference(coarse_l2a), tmp_path / "out", job_of(old), order=order)
    assert len(looked) == 4  # before the work, before the first writing, after it, and before another one


async def test_another_network_under_the_models_name_does_not_write_into_the_old_ones_folder(
    old: Path, coarse_l2a: ModelContract, tmp_path: Path
) -> None:
    """It was put on the server after the folder was named."""
    asked = []

    class Replaced(Models):
        async def get(self, level: str) -> ServedModel:
            asked.append(level)
            model = await super().get(level)
            self.model = ServedModel.of(FakeInference(replace(coarse_l2a, weights_sha256=f"{len(asked):064x}")))
            return model

    with Resources(settings=Settings(output=tmp_path)) as resources:
        place = replace(workshop(FakeInference(coarse_l2a), resources), models=Replaced(FakeInference(coarse_l2a)))
        finished = await Masking(place, Order(), where_of=Places()).do(job_of(old))
    assert item_at(finished)["properties"]["kappamask:weights_sha256"] == coarse_l2a.weights_sha256
    assert Path(finished.output).parents[1].name == variant_of(coarse_l2a, MaskOptions())


# Telling others


async def test_a_new_mask_is_told_once(old: Path, coarse_l2a: ModelContract, tmp_path: Path) -> None:
    told = Told()
    finished = await work(FakeInference(coarse_l2a), tmp_path, job_of(old), sink=told)
    (draft,) = told.drafts
    body = json.loads(draft.body)
    assert body["id"] == item_at(finished)["id"]
    assert body["assets"]["mask"]["href"] == finished.output
    assert draft.attributes["cloud_cover"] == body["properties"]["eo:cloud_cover"]
    again = await work(FakeInference(coarse_l2a), tmp_path, job_of(old), sink=told)
    assert (again.result, len(told.drafts)) == (None, 1)


async def test_one_that_was_found_is_told_where_an_earlier_delivery_may_have_ended_before_it_did(
    old: Path, coarse_l2a: ModelContract, tmp_path: Path
) -> None:
    told = Told()
    await work(FakeInference(coarse_l2a), tmp_path, job_of(old))
    await work(FakeInference(coarse_l2a), tmp_path, job_of(old, received=2), sink=told)
    assert told.events == [("created", name_of(old))]


async def test_where_nobody_can_be_told_the_mask_stays_and_the_next_delivery_tells(
    old: Path, coarse_l2a: ModelContract, tmp_path: Path
) -> None:
    told, client = Told(), FakeInference(coarse_l2a)
    told.failures = [QueueUnavailableError("the topic cannot be reached")]
    with pytest.raises(QueueUnavailableError):
        await work(client, tmp_path, job_of(old), sink=told)
    sent = dict(client.sent)
    finished = await work(client, tmp_path, job_of(old, received=2), sink=told)
    assert (finished.result, dict(client.sent)) == (None, sent)
    assert told.events == [("created", name_of(old))]
    assert await stands(finished)


async def test_an_item_that_is_gone_again_is_not_told(
    old: Path, coarse_l2a: ModelContract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody deleted an older version's mask after it had been deprecated."""

    async def gone(*arguments: Any) -> Versions:
        return replace(await supersede(*arguments), changed=frozenset({"an older one"}))

    monkeypatch.setattr("kappamask_stream.worker.masking.supersede", gone)
    told = Told()
    await work(FakeInference(coarse_l2a), tmp_path, job_of(old), sink=told)
    assert told.events == [("created", name_of(old))]


# Older and newer versions


@pytest.mark.parametrize("order", [(OLD, NEW), (NEW, OLD)])
async def test_the_older_version_is_deprecated_whichever_comes_first(
    old: Path, new: Path, coarse_l2a: ModelContract, tmp_path: Path, order: tuple[int, int]
) -> None:
    told, products = Told(), {OLD: old, NEW: new}
    ended = {}
    for seed in order:
        ended[seed] = await work(FakeInference(coarse_l2a), tmp_path / "out", job_of(products[seed]), sink=told)
    stem = Path(ended[OLD].output).stem
    items = [json.loads((Path(ended[seed].output).with_suffix(".json")).read_bytes()) for seed in (OLD, NEW)]
    assert [is_deprecated(item) for item in items] == [True, False]
    successors = [link["href"] for link in items[0]["links"] if link["rel"] == "successor-version"]
    assert successors == [f"../{name_of(new)}/{stem}.json"]
    assert await stands(ended[OLD])
    assert await stands(ended[NEW])
    assert told.events == (
        [("created", name_of(old)), ("deprecated", name_of(old)), ("created", name_of(new))]
        if order == (OLD, NEW)
        else [("created", name_of(new)), ("deprecated", name_of(old))]
    )
    # Of neither anything else is there than after the other order.
    reverse = tmp_path / "reverse"
    for seed in order[::-1]:
        await work(FakeInference(coarse_l2a), reverse, job_of(products[seed]))
    assert contents(reverse) == contents(tmp_path / "out")


async def test_a_deprecated_one_is_found_and_told_as_such(
    old: Path, new: Path, coarse_l2a: ModelContract, tmp_path: Path
) -> None:
    told, client = Told(), FakeInference(coarse_l2a)
    for product in (old, new):
        await work(client, tmp_path, job_of(product))
    sent, before = dict(client.sent), contents(tmp_path)
    found = await work(client, tmp_path, job_of(old, received=3), sink=told)
    assert (found.result, dict(client.sent), contents(tmp_path)) == (None, sent, before)
    assert told.events == [("deprecated", name_of(old))]


async def test_who_was_killed_before_it_deprecated_the_older_one_has_it_done_by_the_next(
    old: Path, new: Path, coarse_l2a: ModelContract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await work(FakeInference(coarse_l2a), tmp_path, job_of(old))

    async def killed(*_: object) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as patch:
        patch.setattr("kappamask_stream.worker.masking.supersede", killed)
        with pytest.raises(asyncio.CancelledError):
            await work(FakeInference(coarse_l2a), tmp_path, job_of(new))
    assert not is_deprecated(item_at(first))
    told = Told()
    finished = await work(FakeInference(coarse_l2a), tmp_path, job_of(new, received=2), sink=told)
    assert finished.result is None
    assert is_deprecated(json.loads(Path(first.output).with_suffix(".json").read_bytes()))
    assert told.events == [("deprecated", name_of(old)), ("created", name_of(new))]


async def test_versions_at_once_in_two_processes(
    old: Path, new: Path, coarse_l2a: ModelContract, tmp_path: Path
) -> None:
    with masking(FakeInference(coarse_l2a), tmp_path) as one, masking(FakeInference(coarse_l2a), tmp_path) as other:
        ended = await asyncio.gather(one.do(job_of(old)), other.do(job_of(new)))
    items = [json.loads(Path(finished.output).with_suffix(".json").read_bytes()) for finished in ended]
    assert [is_deprecated(item) for item in items] == [True, False]


# What goes wrong


async def test_what_is_cancelled_leaves_nothing_and_is_done_by_the_next(
    old: Path, coarse_l2a: ModelContract, tmp_path: Path
) -> None:
    client = Gate(coarse_l2a)
    with masking(client, tmp_path / "out") as worker:
        running = asyncio.create_task(worker.do(job_of(old)))
        await until(lambda: client.asked)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert not [path for path in (tmp_path / "out").rglob("*") if name_of(old) in path.as_posix()]
        await client.let(name_of(old))
        finished = await worker.do(job_of(old, received=2))
    assert await stands(finished)


async def test_it_can_be_cancelled_at_any_moment(old: Path, coarse_l2a: ModelContract, tmp_path: Path) -> None:
    """After each there is no set, or one that stands; the next one finds or makes it."""
    seen = set()
    for turns in (1, 3, 10, 30, 100, 300, 1000):
        output = tmp_path / str(turns)
        with masking(FakeInference(coarse_l2a), output) as worker:
            running = asyncio.create_task(worker.do(job_of(old)))
            for _ in range(turns):
                await asyncio.sleep(0)
            running.cancel()
            ended = (await asyncio.gather(running, return_exceptions=True))[0]
            seen.add(type(ended))
            finished = await worker.do(job_of(old, received=2))
        assert await stands(finished)
        assert not list(output.rglob(".*")), "temporary files"
    assert asyncio.CancelledError in seen


async def test_the_first_cause_is_told_as_it_is(old: Path, coarse_l2a: ModelContract, tmp_path: Path) -> None:
    client, job = FakeInference(coarse_l2a), job_of(old)
    client.fail_tile = ("row 0, column 0", InferenceError("no answer that can be used"))
    with pytest.raises(InferenceError, match="no answer that can be used"):
        await work(client, tmp_path, job, tile_attempts=1)
    assert not list(tmp_path.rglob("*.tif"))


async def test_a_collection_of_somebody_elses_is_told_before_any_work(
    old: Path, coarse_l2a: ModelContract, tmp_path: Path
) -> None:
    folder = tmp_path / variant_of(coarse_l2a, MaskOptions())
    folder.mkdir()
    (folder / "collection.json").write_text('{"type": "Collection", "id": "mine"}')
    client = FakeInference(coarse_l2a)
    with pytest.raises(Exception, match=r"is no Collection of cloud masks of ours"):
        await work(client, tmp_path, job_of(old))
    assert not client.sent


async def test_items_are_written_whether_asked_for_or_not_and_once(
    old: Path, coarse_l2a: ModelContract, tmp_path: Path
) -> None:
    order = Order(extras=[StacExtra, *selected(png=True)])
    finished = await work(FakeInference(coarse_l2a), tmp_path, job_of(old), order=order)
    assert set(item_at(finished)["assets"]) == {"mask", "quicklook-png", "png", "pgw"}
    with masking(FakeInference(coarse_l2a), tmp_path, order=replace(order, extras=())) as worker:
        assert (await worker.do(job_of(old))).result is None
        assert repr(worker) == f"<Masking to {tmp_path}, 0 variants so far>"


# What is shown of a product while it is in work

SECRET = "https://somebody:password@127.0.0.1:9/scene.json?signature=secret"


async def test_secrets_of_an_address_are_not_shown(coarse_l2a: ModelContract, tmp_path: Path) -> None:
    shown = []

    def started(progress: ProductProgress) -> None:
        task = asyncio.current_task()
        assert task is not None
        shown.extend([task.get_name(), progress.product])
        raise RuntimeError("seen")  # before anything is asked for

    with Resources(settings=Settings(output=tmp_path)) as resources:
        stream = mask_products([SECRET], workshop(FakeInference(coarse_l2a), resources), Order(), on_start=started)
        with pytest.raises(RuntimeError, match="seen"):
            await anext(stream)
    assert shown == ["mask https://127.0.0.1:9/scene.json", "https://127.0.0.1:9/scene.json"]
    assert _progress(SECRET).product == "https://127.0.0.1:9/scene.json"
    assert _progress(tmp_path / "a?b@c").product == str(tmp_path / "a?b@c")
