"""Several workers at one product, or at versions of one scene: whoever comes when, and is killed where, one set stays."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kappamask_stream.contract import BandGroup
from kappamask_stream.destinations import OutputFile, sets
from kappamask_stream.destinations.sets import standing_item
from kappamask_stream.mask_options import MaskOptions
from kappamask_stream.names import parse_product_name
from kappamask_stream.output import OutputPlan
from kappamask_stream.stac import deprecated_item, is_deprecated
from kappamask_stream.stac.vocabulary import encode
from kappamask_stream.worker.supersede import supersede
from tests.conftest import make_contract
from tests.stream.stepping import Bucket, StepPlace, Steps, step
from tests.unit.mask_jobs import make_product

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PAUSE = sets.pause
CONTRACT = make_contract(
    inputs=(BandGroup(gsd_m=60, bands=("B02",), tile=64, stride=48),), gsd_m=60, tile_size=64, margin=8
)
SCENE = "S2A_MSIL2A_20221005T115411_{}R023_T29UNU_{}"
#: Versions of one scene, the newest last.
VERSIONS = [
    SCENE.format("N9999_", "20250101T000000"),
    SCENE.format("", "20250101T000001"),
    SCENE.format("N0214_", "20221005T164454"),
    SCENE.format("N0400_", "20221005T164454"),
    SCENE.format("N0400_", "20221005T170000"),
    SCENE.format("N0510_", "20200101T000000"),
]
#: Steps of several workers, of which few are killed.
PLAYS = st.lists(st.tuples(st.integers(0, 11), st.sampled_from([False] * 15 + [True])), max_size=80)


@pytest.fixture(autouse=True, scope="module")
def no_clock() -> Iterator[None]:
    """A pause is a step like any other."""

    async def pause(attempt: int) -> None:
        await step(f"pause {attempt}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kappamask_stream.destinations.sets.pause", pause)
        patch.setattr("kappamask_stream.worker.supersede.pause", pause)
        yield


class Worker:
    """Publishes a mask of its own making, as no two GPUs' are the same, and deprecates older versions.

    Attributes
    ----------
    source : of the product: of another one the metadata differ, and so the fingerprint.
    """

    def __init__(self, bucket: Bucket, product: str = VERSIONS[3], *, pixels: str = "", source: str = "aws") -> None:
        self.bucket, self.product, self.pixels = bucket, product, pixels
        scene = make_product(CONTRACT, name=product, metadata_sha256=hashlib.sha256(source.encode()).hexdigest())
        place = StepPlace(bucket, f"v/{product}")
        self.plan = OutputPlan.of(scene, CONTRACT, MaskOptions(shared=True), place)

    @property
    def files(self) -> list[OutputFile]:
        """The files, the Item last."""
        contents = {self.plan.quicklook: b"quicklook", self.plan.mask: b"mask"}
        contents = {name: kind + self.pixels.encode() for name, kind in contents.items()}
        item = self.item(contents)
        metadata = {"fingerprint": self.plan.fingerprint}
        return [
            OutputFile(name=name, content=[content], media_type="x/y", metadata=metadata)
            for name, content in {**contents, f"{self.plan.stem}.json": encode(item)}.items()
        ]

    def item(self, contents: dict[str, bytes]) -> dict[str, Any]:
        assets = {
            {self.plan.mask: "mask"}.get(name, "quicklook-png"): {
                "href": f"./{name}",
                "file:size": len(content),
                "file:checksum": f"1220{hashlib.sha256(content).hexdigest()}",
            }
            for name, content in contents.items()
        }
        properties = {
            "s2:product_uri": f"{self.product}.SAFE", "kappamask:fingerprint": self.plan.fingerprint, "by": self.pixels
        }  # fmt: skip
        parts = {"stac_extensions": ["https://a/file"], "links": [], "bbox": [0, 0, 1, 1]}
        return {**parts, "properties": properties, "assets": assets}

    async def publish(self) -> bool | None:
        """Return whether it wrote the mask; None where one was there already."""
        return None if await self.plan.is_done(MaskOptions()) else await self.plan.publish(self.files)

    async def work(self) -> None:
        await self.publish()
        await supersede(StepPlace(self.bucket, "v"), parse_product_name(self.product), self.plan.stem)


def complete(work: Any) -> Any:
    """Do what nobody gets in the way of."""
    steps = Steps(work)
    steps.play([])
    assert not steps.gave_up
    return steps.results[0]


def standing(bucket: Bucket, worker: Worker) -> dict[str, Any]:
    """Return the Item that stands; all files of its folder are one worker's."""
    item_name = f"{worker.plan.stem}.json"
    data = complete(standing_item(worker.plan.destination, item_name, worker.product))
    assert data is not None
    item = json.loads(data)
    prefix = f"v/{worker.product}/"
    there = {key.removeprefix(prefix): data for key, data in bucket.contents().items() if key.startswith(prefix)}
    assert set(there) == {worker.plan.mask, worker.plan.quicklook, item_name}
    by = item["properties"]["by"].encode()
    assert (there[worker.plan.mask], there[worker.plan.quicklook]) == (b"mask" + by, b"quicklook" + by)
    return dict(item)


@given(PLAYS, st.sampled_from([("aws", "aws"), ("aws", "cdse")]))
@settings(max_examples=250, deadline=None)
def test_whoever_publishes_and_is_killed_where_one_more_worker_leaves_one_set(
    play: Sequence[tuple[int, bool]], sources: tuple[str, str]
) -> None:
    bucket = Bucket()
    workers = [Worker(bucket, pixels=f" {n}", source=source) for n, source in enumerate(sources)]
    steps = Steps(*(worker.publish() for worker in workers))
    steps.play(play)
    if not steps.gave_up and not any(kill for _, kill in play):
        standing(bucket, workers[0])
    last = Worker(bucket, pixels=" last")
    complete(last.publish())
    standing(bucket, last)


def test_every_interleaving_of_two_publishers_and_every_place_to_be_killed_at() -> None:
    """All orders of the writes of two, with the looks of each right after; each of them may be killed anywhere."""
    seen = set()
    for switches in itertools.combinations(range(20), 2):
        for killed in (None, 0, 1):
            bucket = Bucket()
            workers = [Worker(bucket, pixels=f" {n}") for n in range(2)]
            steps = Steps(*(worker.publish() for worker in workers))
            who = 0
            for turn in range(20):
                who = 1 - who if turn in switches else who
                if who in steps.running:
                    steps.advance(who)
            if killed in steps.running:
                steps.kill(killed)
            steps.play([])
            complete(Worker(bucket, pixels=" last").publish())
            seen.add(standing(bucket, workers[0])["properties"]["by"])
    assert seen == {" 0", " 1", " last"}


def test_a_mask_of_several_does_not_pass_for_one() -> None:
    """Without the look after the last write it would stay: the first one's Item on the second one's mask."""
    bucket = Bucket()
    first, second = (Worker(bucket, pixels=f" {n}") for n in range(2))
    steps = Steps(second.publish())
    while not bucket.writes:
        steps.advance(0)
    complete(first.plan.destination.publish(first.files))
    standing(bucket, first)
    steps.advance(0)
    steps.kill(0)
    assert complete(standing_item(first.plan.destination, f"{first.plan.stem}.json", first.product)) is None
    assert complete(Worker(bucket, pixels=" 2").publish()) is True
    assert standing(bucket, first)["properties"]["by"] == " 2"


def test_what_another_finished_first_is_left_alone() -> None:
    bucket = Bucket()
    late, first = (Worker(bucket, pixels=f" {n}", source=f"{n}") for n in range(2))
    steps = Steps(late.publish())
    for _ in range(2):
        steps.advance(0)
    # It has looked, and found nothing.
    assert complete(first.publish()) is True
    before = bucket.contents()
    steps.play([])
    assert steps.results == {0: False}
    assert bucket.contents() == before
    assert complete(late.publish()) is None


def test_others_that_never_stop_are_given_up() -> None:
    bucket = Bucket()
    stubborn, other = (Worker(bucket, pixels=f" {n}") for n in range(2))
    steps = Steps(stubborn.publish())
    rounds = 0
    while steps.running:
        steps.advance(0)
        if bucket.writes and bucket.writes[-1].endswith(f"{stubborn.plan.stem}.json"):
            rounds += 1
            bucket.put(f"v/{other.product}/{other.plan.mask}", other.files[1])
    assert (steps.gave_up, rounds) == ({0}, 6)


@pytest.mark.parametrize("order", list(itertools.permutations([0, 3, 5])))
def test_versions_that_come_one_after_the_other_in_any_order_leave_the_same_bytes(order: Sequence[int]) -> None:
    bucket = Bucket()
    for number in order:
        complete(Worker(bucket, VERSIONS[number]).work())
    assert bucket.contents() == expected(order)


def expected(numbers: Sequence[int]) -> dict[str, bytes]:
    """What versions leave: all but the newest deprecated for it, by the rules and not by the code of workers."""
    newest = VERSIONS[max(numbers)]
    contents: dict[str, bytes] = {}
    for number in numbers:
        worker = Worker(Bucket(), VERSIONS[number])
        for file in worker.files:
            (data,) = file.content  # type: ignore[misc]
            if file.name.endswith(".json") and VERSIONS[number] != newest:
                item = json.loads(data)
                item["stac_extensions"].append("https://stac-extensions.github.io/version/v1.2.0/schema.json")
                item["properties"]["deprecated"] = True
                link = {"href": f"../{newest}/{file.name}", "type": "application/geo+json", "title": newest}
                item["links"] += [{"rel": rel, **link} for rel in ("successor-version", "latest-version")]
                data = encode(item)
            contents[f"v/{VERSIONS[number]}/{file.name}"] = data
    return dict(sorted(contents.items()))


@given(numbers=st.lists(st.integers(0, 5), min_size=1, max_size=4), play=PLAYS, knows_conditions=st.booleans())
@settings(max_examples=150, deadline=None)
def test_versions_at_once_and_workers_that_are_killed_end_with_the_same_bytes(
    *, numbers: list[int], play: Sequence[tuple[int, bool]], knows_conditions: bool
) -> None:
    """Two workers may have the same version; who was killed is followed by another, as its message comes back."""
    bucket = Bucket(knows_conditions=knows_conditions)
    steps = Steps(*(Worker(bucket, VERSIONS[number]).work() for number in numbers))
    steps.play(play)
    ended = set(range(len(numbers))) - set(steps.results)
    for number in ended:
        complete(Worker(bucket, VERSIONS[numbers[number]]).work())
    assert bucket.contents() == expected(sorted(set(numbers)))
    for key, (_, metadata) in bucket.objects.items():
        assert metadata["fingerprint"] == Worker(Bucket(), key.split("/")[1]).plan.fingerprint


@given(PLAYS)
@settings(max_examples=150, deadline=None)
def test_a_mask_that_is_made_twice_while_a_newer_one_comes(play: Sequence[tuple[int, bool]]) -> None:
    """The Item that is deprecated is the one of the files beside it, whoever wins."""
    bucket, (old, new) = Bucket(), (VERSIONS[3], VERSIONS[5])
    work = [(old, " a"), (old, " b"), (new, " c")]
    steps = Steps(*(Worker(bucket, product, pixels=pixels).work() for product, pixels in work))
    steps.play(play)
    for number in set(range(3)) - set(steps.results):
        complete(Worker(bucket, work[number][0], pixels=" again").work())
    older, newest = Worker(bucket, old), Worker(bucket, new)
    assert not is_deprecated(standing(bucket, newest))
    found = standing(bucket, older)
    plain = {f.name: b"".join(f.content) for f in Worker(bucket, old, pixels=found["properties"]["by"]).files}  # type: ignore[arg-type]
    item = json.loads(plain[f"{older.plan.stem}.json"])
    assert found == deprecated_item(item, href=f"../{new}/{newest.plan.stem}.json", title=new)


@pytest.mark.parametrize("knows_conditions", [False, True])
def test_who_was_overtaken_looks_again_after_its_write(*, knows_conditions: bool) -> None:
    """The middle one is about to say that it is the newest: without another look that would stay."""
    bucket = Bucket(knows_conditions=knows_conditions)
    oldest, middle, newest = (Worker(bucket, VERSIONS[number]) for number in (2, 3, 5))
    complete(oldest.work())
    steps = Steps(middle.work())
    steps.until(0, f"put {oldest.product}/{oldest.plan.stem}.json")
    complete(newest.work())
    steps.play([])
    assert bucket.contents() == expected([2, 3, 5])


def test_an_item_that_was_replaced_meanwhile_is_not_written_over() -> None:
    """Two made the mask, the later one after a newer version's worker had read the Item of the first."""
    bucket = Bucket()
    first, second = (Worker(bucket, VERSIONS[3], pixels=pixels) for pixels in (" a", " b"))
    newer = Worker(bucket, VERSIONS[5], pixels=" c")
    steps = Steps(second.work(), newer.work())
    steps.until(0, f"put {second.plan.quicklook}")  # it has looked: the first one is not there yet
    complete(first.work())
    steps.until(1, f"put {first.product}/{first.plan.stem}.json")
    while 0 in steps.running:
        steps.advance(0)
    steps.play([])
    found = standing(bucket, first)
    assert found["properties"]["by"] == " b"
    assert is_deprecated(found)


def test_versions_of_other_scenes_and_strangers_are_left_alone() -> None:
    bucket = Bucket()
    own = Worker(bucket, VERSIONS[2])
    others = [
        VERSIONS[5].replace("T29UNU", "T29UNV"), VERSIONS[5].replace("R023", "R024"), VERSIONS[5].replace("S2A_", "S2B_"),
        VERSIONS[5].replace("115411", "115412"), VERSIONS[5].lower(), f"{VERSIONS[5]}.SAFE", "models",
    ]  # fmt: skip
    for name in others:
        bucket.put(f"v/{name}/{own.plan.stem}.json", own.files[-1])
    bucket.put(f"v/{VERSIONS[3]}/{own.plan.mask}", own.files[1])  # in work: its Item is not there yet
    before = bucket.contents()
    complete(own.work())
    assert not is_deprecated(standing(bucket, own))
    assert before.items() <= bucket.contents().items()


def test_an_item_that_is_none_hinders_nobody() -> None:
    bucket = Bucket()
    own = Worker(bucket, VERSIONS[5])
    for number, junk in enumerate((b"{", b"[]", b'{"properties": NaN}', b"[" * 100_000)):
        name = f"{own.plan.stem}.json"
        bucket.put(f"v/{VERSIONS[number]}/{name}", OutputFile(name=name, content=[junk], media_type="x/y"))
    complete(own.work())
    assert not is_deprecated(standing(bucket, own))
    complete(Worker(bucket, VERSIONS[0]).work())
    assert is_deprecated(standing(bucket, Worker(bucket, VERSIONS[0])))


async def test_pauses_grow_and_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    for attempt in (1, 2, 3, 4, 5, 6, 6, 6):
        await PAUSE(attempt)
    for seconds, longest in zip(slept, (0.25, 0.5, 1, 2, 4, 4, 4, 4), strict=True):
        assert longest / 2 <= seconds <= longest
    assert len(set(slept)) == len(slept)
