"""`kappamask-stream submit` on a real queue and a STAC API over a socket: what is sent, once, and what is said."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter, deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from kappamask_stream import cli
from kappamask_stream.feed import parse_message
from kappamask_stream.feed.stac_search import StacSearch
from tests.integration.local_state import CLI, PATIENCE_S
from tests.integration.stac_api import CORE, SEARCH, StacApi
from tests.unit.stac_items import earth_search

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kappamask_stream.feed import ProductRef
    from tests.integration.queue_servers import ServedQueue

pytestmark = pytest.mark.usefixtures("aws_environment")

INSIDE, BESIDE = "-8.6,52.5,-8.5,52.6", "-6,52.5,-5,52.6"
ALL_TIME = ("--since", "2015-06-23")


def name(number: int, *, level: str = "L2A", tile: str = "T29UNU") -> str:
    """A product a minute."""
    sensed = datetime(2022, 10, 5, tzinfo=UTC) + timedelta(minutes=number)
    return f"S2A_MSI{level}_{sensed:%Y%m%dT%H%M%S}_N0400_R023_{tile}_20221006T010203"


def item(number: int, *, cloud: float | None = 10.0, **rest: Any) -> dict[str, Any]:
    """What Earth Search publishes of it."""
    ring = [[-9, 52.3], [-8, 52.3], [-8, 53], [-9, 53], [-9, 52.3]]
    found = earth_search(name=name(number), properties={} if cloud is None else {"eo:cloud_cover": cloud})
    links = [{"rel": "self", "href": f"https://stac.example/items/{number}"}]
    return {
        **found, "id": f"S2A_29UNU_{number}_L2A", "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": [-9, 52.3, -8, 53], "links": links, **rest,
    }  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def submit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[..., Ended]]:
    """Run the command in this process."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for variable in [variable for variable in os.environ if variable.startswith("KAPPAMASK_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["kappamask-stream", "submit", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return Ended(ended.value.code, captured.out, captured.err)  # type: ignore[arg-type]

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def asked_for(queue: ServedQueue) -> list[ProductRef]:
    """Receive, delete and read all messages, in the order of their names."""
    refs = [ref for body in queue.bodies() for ref in parse_message(body)]
    return sorted(refs, key=lambda ref: ref.name.text)


def names(queue: ServedQueue) -> list[str]:
    return [ref.name.text for ref in asked_for(queue)]


# Lists.


def test_names_addresses_and_paths_become_messages(
    submit: Callable[..., Ended], served_queue: ServedQueue, tmp_path: Path
) -> None:
    for number in (4, 5):
        (tmp_path / f"{name(number)}.SAFE").mkdir()
    file = tmp_path / "products.txt"
    file.write_text(f"# archive\n\n{name(1)}\n{tmp_path}/*.SAFE\n")
    ended = submit(
        "--queue", served_queue.url, f"{name(0)}.SAFE", f"s3://archive/{name(2)}.SAFE/",
        f"https://x.example/{name(3)}.json", "--products-file", str(file),
    )  # fmt: skip
    assert (ended.code, ended.out, ended.err) == (0, "", "6 products: 6 sent\n")
    refs = asked_for(served_queue)
    assert [ref.name.text for ref in refs] == [name(number) for number in range(6)]
    assert [ref.location for ref in refs] == [
        None, None, f"s3://archive/{name(2)}.SAFE/", f"https://x.example/{name(3)}.json", None, None,
    ]  # fmt: skip
    assert {ref.kind for ref in refs} == {"own"}


def test_what_is_named_twice_is_sent_once_and_filters_hold(
    submit: Callable[..., Ended], served_queue: ServedQueue
) -> None:
    ended = submit(
        name(1), f"{name(1)}.SAFE", f"s3://archive/{name(1)}.zip", name(2, level="L1C"), name(3, tile="T33UUU"),
        "--queue", served_queue.url, "--level", "L2A", "--within", INSIDE,
    )  # fmt: skip
    assert (ended.code, ended.err) == (0, "5 products: 1 sent, 2 sent before, 2 not wanted\n")
    assert names(served_queue) == [name(1)]


def test_each_product_is_told_as_json(submit: Callable[..., Ended], served_queue: ServedQueue) -> None:
    ended = submit(
        name(1), f"s3://archive/{name(2, level='L1C')}.zip", "--queue", served_queue.url, "--level", "L2A", "--json"
    )
    assert (ended.code, ended.err) == (0, "")
    assert [json.loads(line) for line in ended.out.splitlines()] == [
        {"product": name(1), "status": "sent", "location": None, "reason": None},
        {
            "product": name(2, level="L1C"), "status": "filtered",
            "location": f"s3://archive/{name(2, level='L1C')}.zip",
            "reason": "its level is L1C, L2A is wanted (--level)",
        },
    ]  # fmt: skip


def test_dry_run_prints_names_and_sends_and_remembers_nothing(
    submit: Callable[..., Ended], served_queue: ServedQueue, tmp_path: Path
) -> None:
    state = tmp_path / "sent"
    arguments = (name(1), name(2), f"{name(1)}.SAFE", "--queue", served_queue.url, "--state", str(state))
    ended = submit(*arguments, "--dry-run")
    assert (ended.code, ended.out) == (0, f"{name(1)}\n{name(2)}\n")
    assert ended.err == "3 products: 2 would be sent, 1 sent before\n"
    assert not state.exists()
    assert served_queue.bodies() == []
    assert submit(*arguments).err == "3 products: 2 sent, 1 sent before\n"
    assert submit(*arguments, "--dry-run").err == "3 products: 3 sent before\n"
    assert names(served_queue) == [name(1), name(2)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no product is named"),
        (("cat.jpg",), "'cat.jpg' ends with no product's name"),
        (("https://u:hunter2@x.example/items/a?sig=abcdef",), "https://x.example/items/a' ends with no product's name"),
        ((f"ftp://x.example/{name(1)}.zip",), "s3://, https:// or a name is expected"),
        ((name(1), "--collection", "sentinel-2-l2a"), "--collection is for a search"),
        ((name(1), "--since", "soon"), "--since is 'soon'"),
        (("--stac-api", "stac.example", *ALL_TIME), "--stac-api is 'stac.example'"),
        (("--stac-api", "https://stac.example/v1", "--cloud-below", "20"), "would be searched for all that it has"),
        (("--stac-api", "https://stac.example/v1", "--tile", "29U*"), "would be searched for all that it has"),
        ((name(1), "--state", "/nowhere/sent"), "there is no folder /nowhere"),
        ((name(1), "--state", "{queue.txt}"), "cannot be used: file is not a database"),
    ],
)
def test_what_cannot_be_sent_is_refused_before_anything_is(
    submit: Callable[..., Ended], served_queue: ServedQueue, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    text = tmp_path / "queue.txt"
    text.write_text("this is no state\n" * 100)
    filled = [argument.replace("{queue.txt}", str(text)) for argument in arguments]
    ended = submit("--queue", served_queue.url, *filled)
    assert ended.code == 2
    assert said in ended.err
    assert "hunter2" not in ended.err
    assert "abcdef" not in ended.err
    assert served_queue.bodies() == []


def test_queue_must_be_named_and_be_there(submit: Callable[..., Ended], served_queue: ServedQueue) -> None:
    assert "no queue is named" in submit(name(1)).err
    ended = submit(name(1), "--queue", f"{served_queue.url}-gone")
    assert ended.code == 6
    assert "gone" in ended.err


# Searches.


@pytest.mark.parametrize(
    ("methods", "paging"),
    [
        (("GET", "POST"), "merge"),
        (("POST",), "body"),
        (("POST",), "relative"),
        (("GET",), "body"),
        (("GET",), "relative"),
    ],
)
def test_all_pages_of_a_search_are_sent(
    submit: Callable[..., Ended], served_queue: ServedQueue, methods: tuple[str, ...], paging: str
) -> None:
    with StacApi([item(number) for number in range(8)], methods=methods, paging=paging) as api:
        ended = submit("--queue", served_queue.url, "--stac-api", api.url, *ALL_TIME)
    assert (ended.code, ended.err) == (0, "8 products: 8 sent\n")
    assert [search.get("token") for search in api.searches] == ([None, 3, 6] if "POST" in methods else [None, "3", "6"])
    refs = asked_for(served_queue)
    assert [ref.name.text for ref in refs] == [name(number) for number in range(8)]
    assert refs[5].location == "https://stac.example/items/5"
    assert refs[5].cloud_cover == 10.0
    assert refs[5].footprint == item(5)["geometry"]


def test_api_is_asked_for_what_the_filter_wants(submit: Callable[..., Ended], served_queue: ServedQueue) -> None:
    with StacApi([]) as api:
        submit(
            "--queue", served_queue.url, "--stac-api", api.url, "--within", INSIDE, "--since", "2022-10-05",
            "--until", "2022-10-06", "--cloud-below", "60", "--level", "L1C", "--collection", "a", "--collection", "b",
        )  # fmt: skip
        submit("--queue", served_queue.url, "--stac-api", api.url, "--until", "2022-10-06", "--level", "L1C")
    first, second = api.searches
    assert first["collections"] == ["a", "b"]
    # An Item has the time of its tile, a name the begin of the datatake: an hour more at the end.
    assert first["datetime"] == "2022-10-04T23:59:00Z/2022-10-07T00:59:59Z"
    assert first["query"] == {"eo:cloud_cover": {"lte": 60.0}}
    (ring,) = first["intersects"]["coordinates"][0]
    assert sorted({tuple(point) for point in ring}) == [(-8.6, 52.5), (-8.6, 52.6), (-8.5, 52.5), (-8.5, 52.6)]
    assert second["collections"] == ["sentinel-2-l1c"]
    assert second["datetime"] == "../2022-10-07T00:59:59Z"
    assert "query" not in second
    assert "intersects" not in second


def test_what_an_api_cannot_do_is_filtered_here(submit: Callable[..., Ended], served_queue: ServedQueue) -> None:
    items = [item(0), item(1, cloud=90.0), item(2, cloud=None), item(3, geometry=None)]
    with StacApi(items, conforms_to=(CORE, SEARCH)) as api:
        ended = submit(
            "--queue", served_queue.url, "--stac-api", api.url, "--cloud-below", "60", "--within", "-7.7,52.5,-7.6,52.6"
        )
    assert "query" not in api.searches[0]
    # Beside the swath of all footprints, on the tile of the one that has none.
    assert ended.err == "4 products: 1 sent, 3 not wanted\n"
    assert names(served_queue) == [name(3)]


def test_items_of_no_product_are_said_and_the_others_sent(
    submit: Callable[..., Ended], served_queue: ServedQueue
) -> None:
    odd = [{**item(number), "id": "x", "properties": {}} for number in range(7)]
    with StacApi([item(0), *odd]) as api:
        ended = submit("--queue", served_queue.url, "--stac-api", api.url, *ALL_TIME)
    assert ended.code == 1
    assert ended.err.count("names no Sentinel-2 product") == 5
    assert "further ones are counted only" in ended.err
    assert ended.err.endswith("8 products: 1 sent, 7 of no product\n")
    assert names(served_queue) == [name(0)]


def test_api_that_fails_for_a_while_is_asked_again(submit: Callable[..., Ended], served_queue: ServedQueue) -> None:
    with StacApi([item(number) for number in range(6)], faults=deque([503, None, 429, None, 502])) as api:
        ended = submit("--queue", served_queue.url, "--stac-api", api.url, *ALL_TIME)
    assert ended.code == 0
    assert ended.err.endswith("6 products: 6 sent\n")
    assert [text for text in ("503", "429", "502") if text in ended.err] == ["503", "429", "502"]
    assert names(served_queue) == [name(number) for number in range(6)]


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        (400, 3, "no luck"),
        ("<html>", 3, "is no STAC API"),
        ("[]", 3, "is no STAC API"),
        ('{"type": "FeatureCollection"}', 3, "is no STAC API"),
    ],
)
@pytest.mark.parametrize("at", [0, 2], ids=["landing", "second page"])
def test_api_that_answers_nonsense(
    submit: Callable[..., Ended], served_queue: ServedQueue, fault: int | str, code: int, said: str, at: int
) -> None:
    with StacApi([item(number) for number in range(6)], faults=deque([*[None] * at, fault])) as api:
        ended = submit("--queue", served_queue.url, "--stac-api", api.url, *ALL_TIME)
    assert ended.code == code
    assert said in ended.err
    assert "Traceback" not in ended.err
    assert names(served_queue) == [name(number) for number in range(3 if at == 2 else 0)]


def test_catalogue_that_cannot_be_searched(submit: Callable[..., Ended], served_queue: ServedQueue) -> None:
    with StacApi([], methods=()) as api:
        ended = submit("--queue", served_queue.url, "--stac-api", api.url, *ALL_TIME)
    assert ended.code == 2
    assert "no link `search`" in ended.err


def test_paging_in_a_circle_is_noticed(submit: Callable[..., Ended], served_queue: ServedQueue) -> None:
    with StacApi(lambda _: item(0), count=1000, page=1) as api:
        ended = submit("--queue", served_queue.url, "--stac-api", api.url, *ALL_TIME)
    assert ended.code == 3
    assert "gives the same pages again and again" in ended.err
    assert len(api.searches) == 2


@pytest.mark.parametrize("methods", [("POST",), ("GET",)])
def test_pages_without_items_do_not_end_a_search(
    submit: Callable[..., Ended], served_queue: ServedQueue, methods: tuple[str, ...]
) -> None:
    with StacApi(item, count=12, methods=methods, holes=frozenset({0, 2})) as api:
        ended = submit("--queue", served_queue.url, "--stac-api", api.url, *ALL_TIME)
    assert (ended.code, ended.err) == (0, "6 products: 6 sent\n")
    assert names(served_queue) == [name(number) for number in (3, 4, 5, 9, 10, 11)]


@pytest.mark.parametrize("methods", [("POST",), ("GET",)])
def test_pages_that_lead_to_each_other_are_noticed(
    submit: Callable[..., Ended], served_queue: ServedQueue, methods: tuple[str, ...]
) -> None:
    with StacApi(item, count=9, methods=methods, back_to=1) as api:
        ended = submit("--queue", served_queue.url, "--stac-api", api.url, *ALL_TIME)
    assert ended.code == 3
    assert "gives the same pages again and again: its paging is broken" in ended.err
    assert len(api.searches) <= 6
    assert names(served_queue) == [name(number) for number in range(9)]


def test_features_that_are_no_items_and_items_of_another_mission_are_said(
    submit: Callable[..., Ended], served_queue: ServedQueue
) -> None:
    landsat = {**item(1), "id": "LC09_1", "properties": {"platform": "landsat-9"}}
    with StacApi([item(0), landsat, "nonsense"]) as api:  # type: ignore[list-item]
        ended = submit("--queue", served_queue.url, "--stac-api", api.url, *ALL_TIME)
    assert ended.code == 1
    assert "the STAC Item 'LC09_1' is of no Sentinel-2 product" in ended.err
    assert "a feature is 'nonsense', a STAC Item is expected" in ended.err
    assert names(served_queue) == [name(0)]


# Going on.


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)])
def test_interrupted_it_goes_on_and_sends_nothing_twice(
    submit: Callable[..., Ended], served_queue: ServedQueue, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """Ended while the third page is asked for: two are sent, and remembered."""
    arguments = ["--queue", served_queue.url, "--state", str(tmp_path / "sent"), *ALL_TIME]
    with StacApi(item, count=10) as api:
        arguments += ["--stac-api", api.url]
        with subprocess.Popen([str(CLI), "submit", *arguments], stderr=subprocess.PIPE, text=True) as process:

            def end(search: int) -> None:
                if search == 2:
                    process.send_signal(number)

            api.on_search = end
            _, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == code, err
        assert "Traceback" not in err
        assert served_queue.counts()[0] == 6
        api.on_search = lambda _: None
        assert submit(*arguments).err == "10 products: 4 sent, 6 sent before\n"
    assert names(served_queue) == [name(at) for at in range(10)]


async def test_search_holds_one_page_however_many_there_are() -> None:
    """The next page is asked for when this one is done with."""
    with StacApi(item, count=40, page=5) as api:
        search = StacSearch(url=api.url, collections=("c",), parameters={})
        seen = []
        async for page in search.pages():
            seen += [ref.name.text for ref in page.refs]
            assert len(api.searches) * 5 == len(seen)
    assert Counter(seen) == Counter(name(number) for number in range(40))
