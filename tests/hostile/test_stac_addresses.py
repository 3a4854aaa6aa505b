"""Items from outside that want this machine to ask inside: over real sockets, on three addresses of loopback.

Which of them counts as public, as private and as this machine's own is the tests' geography; how real addresses are
sorted is `test_real_addresses_are_sorted`.
"""

from __future__ import annotations

import json
import socket
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from dnslib import DNSRecord

from kappamask_stream.errors import ProductError, StoreError
from kappamask_stream.s3 import Patience, S3Options, Stores
from kappamask_stream.sources import reach
from kappamask_stream.sources.locate import open_source
from kappamask_stream.sources.reach import Space, space_of
from tests.integration.dns_server import NameServer, name_server
from tests.integration.ranged_server import Fault, RangedServer
from tests.unit.stac_items import earth_search

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

LOCAL, OUTSIDE, INTRANET = "127.0.0.1", "127.0.0.2", "127.0.0.3"
GEOGRAPHY = {LOCAL: Space.LOCAL, OUTSIDE: Space.PUBLIC, INTRANET: Space.PRIVATE}
CONTENT = bytes(range(256)) * 100
REFUSED = r"leads to an address of this machine or of a private network"


@pytest.fixture(autouse=True)
def _geography(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "space_of", lambda address: GEOGRAPHY.get(address) or space_of_or_public(address))


def space_of_or_public(address: str) -> Space:
    return Space.PUBLIC if address in GEOGRAPHY else space_of(address)


@asynccontextmanager
async def servers() -> AsyncIterator[dict[str, RangedServer]]:
    async with AsyncExitStack() as stack:
        yield {
            address: await stack.enter_async_context(
                RangedServer({"B02.tif": CONTENT, "secret": CONTENT}, address=address)
            )
            for address in GEOGRAPHY
        }


@pytest.fixture
async def places() -> AsyncIterator[dict[str, RangedServer]]:
    async with servers() as found:
        yield found


@pytest.fixture
async def stores() -> AsyncIterator[Stores]:
    async with Stores(S3Options(patience=Patience(attempts=3, backoff_s=0.001))) as found:
        yield found


def item(href: str) -> bytes:
    return json.dumps(earth_search(href)).encode()


async def read(where: str, stores: Stores) -> bytes:
    source = await open_source(where, stores=stores)
    return await source.read("B02_10m.tif", 10, 100)


# Which addresses are inside.


@pytest.mark.parametrize(
    ("address", "space"),
    [
        ("127.0.0.1", Space.LOCAL), ("127.255.255.254", Space.LOCAL), ("::1", Space.LOCAL), ("0.0.0.0", Space.LOCAL),
        ("::", Space.LOCAL), ("169.254.169.254", Space.LOCAL), ("fe80::1%eth0", Space.LOCAL),
        ("::ffff:127.0.0.1", Space.LOCAL), ("::ffff:169.254.169.254", Space.LOCAL), ("64:ff9b::7f00:1", Space.LOCAL),
        ("2002:7f00:1::", Space.LOCAL), ("10.0.0.1", Space.PRIVATE), ("172.31.0.1", Space.PRIVATE),
        ("192.168.1.1", Space.PRIVATE), ("100.64.0.1", Space.PRIVATE), ("fd00:ec2::254", Space.PRIVATE),
        ("::ffff:10.0.0.1", Space.PRIVATE), ("64:ff9b::a00:1", Space.PRIVATE), ("192.0.2.1", Space.PRIVATE),
        ("93.184.215.14", Space.PUBLIC), ("2606:4700::1111", Space.PUBLIC), ("64:ff9b::5db8:d70e", Space.PUBLIC),
    ],
)  # fmt: skip
def test_real_addresses_are_sorted(address: str, space: Space) -> None:
    assert space_of(address) is space


@pytest.mark.parametrize(
    "host", ["2130706433", "0x7f000001", "017700000001", "0177.0.0.1", "127.1", "[::1]", "localhost"]
)
def test_other_ways_to_write_an_address_lead_to_the_same(host: str) -> None:
    """As a resolver reads them, and as they are read here where a proxy will."""
    assert reach._space_of_host(host.strip("[]")) is Space.LOCAL


# What an Item may have asked.


@pytest.mark.parametrize("inside", [LOCAL, INTRANET])
async def test_item_from_outside_has_nobody_inside_asked(
    places: dict[str, RangedServer], stores: Stores, inside: str
) -> None:
    places[OUTSIDE].files["item.json"] = item(places[inside].url("{band}.tif"))
    source = await open_source(places[OUTSIDE].url("item.json"), stores=stores)
    with pytest.raises(ProductError, match=REFUSED):
        await source.read("B02_10m.tif", 10, 100)
    assert places[inside].requests == []


@pytest.mark.parametrize(
    "written", ["2130706433", "0x7f.1", "017700000001", "127.1", "localhost", "[::ffff:127.0.0.1]"]
)
async def test_however_the_address_is_written(places: dict[str, RangedServer], stores: Stores, written: str) -> None:
    places[OUTSIDE].files["item.json"] = item(f"http://{written}:{places[LOCAL].port}/{{band}}.tif")
    source = await open_source(places[OUTSIDE].url("item.json"), stores=stores)
    with pytest.raises((ProductError, StoreError)):  # aiohttp itself refuses some
        await source.read("B02_10m.tif", 10, 100)
    assert places[LOCAL].requests == []


@pytest.mark.parametrize(
    ("home", "files"),
    [
        (OUTSIDE, OUTSIDE),
        (INTRANET, INTRANET),
        (INTRANET, OUTSIDE),
        (LOCAL, LOCAL),
        (LOCAL, INTRANET),
        (LOCAL, OUTSIDE),
    ],
)
async def test_item_from_inside_leads_as_far_inside_and_outwards(
    places: dict[str, RangedServer], stores: Stores, home: str, files: str
) -> None:
    """A catalogue on this machine or in an intranet, which the user names, works as ever."""
    places[home].files["item.json"] = item(places[files].url("{band}.tif"))
    assert await read(places[home].url("item.json"), stores) == CONTENT[10:110]


async def test_item_of_an_intranet_does_not_lead_to_this_machine(
    places: dict[str, RangedServer], stores: Stores
) -> None:
    places[INTRANET].files["item.json"] = item(places[LOCAL].url("{band}.tif"))
    with pytest.raises(ProductError, match=REFUSED):
        await read(places[INTRANET].url("item.json"), stores)
    assert places[LOCAL].requests == []


async def test_item_in_a_file_leads_anywhere(places: dict[str, RangedServer], stores: Stores, tmp_path: Path) -> None:
    path = tmp_path / "item.json"
    path.write_bytes(item(places[LOCAL].url("{band}.tif")))
    assert await read(str(path), stores) == CONTENT[10:110]


async def test_item_that_is_redirected_inside_is_not_read(places: dict[str, RangedServer], stores: Stores) -> None:
    places[LOCAL].files["item.json"] = item("./{band}.tif")
    places[OUTSIDE].redirects["item.json"] = places[LOCAL].url("item.json")
    with pytest.raises(ProductError, match=REFUSED):
        await open_source(places[OUTSIDE].url("item.json"), stores=stores)
    assert places[LOCAL].requests == []


async def test_item_that_comes_from_outside_by_a_redirect_is_from_outside(
    places: dict[str, RangedServer], stores: Stores
) -> None:
    """Asked here, answered there: what there says counts as said there."""
    places[OUTSIDE].files["item.json"] = item(places[LOCAL].url("{band}.tif"))
    places[LOCAL].redirects["item.json"] = places[OUTSIDE].url("item.json")
    with pytest.raises(ProductError, match=REFUSED):
        await read(places[LOCAL].url("item.json"), stores)
    assert [path for path, _ in places[LOCAL].requests] == ["item.json"]


async def test_asset_that_is_redirected_inside_is_not_read(places: dict[str, RangedServer], stores: Stores) -> None:
    places[OUTSIDE].files["item.json"] = item(places[OUTSIDE].url("{band}.tif"))
    source = await open_source(places[OUTSIDE].url("item.json"), stores=stores)
    places[OUTSIDE].redirects["B02.tif"] = places[LOCAL].url("secret")
    with pytest.raises(ProductError, match=REFUSED):
        await source.read("B02_10m.tif", 0, 100)
    assert places[LOCAL].requests == []


async def test_asset_that_is_redirected_inside_when_it_is_read_on_is_not_read(
    places: dict[str, RangedServer], stores: Stores
) -> None:
    places[OUTSIDE].files["item.json"] = item(places[OUTSIDE].url("{band}.tif"))
    source = await open_source(places[OUTSIDE].url("item.json"), stores=stores)
    assert await source.read("B02_10m.tif", 0, 10) == CONTENT[:10]
    places[OUTSIDE].faults.append(Fault(after=100))
    places[OUTSIDE].redirects["B02.tif"] = places[LOCAL].url("B02.tif")
    with pytest.raises(ProductError, match=REFUSED):
        await source.read("B02_10m.tif", 17_000, 2000)
    assert places[LOCAL].requests == []


async def test_connection_that_is_open_already_is_no_way_in(places: dict[str, RangedServer], stores: Stores) -> None:
    """The user's own Item keeps a connection to this machine in the pool; a stranger's does not get it."""
    places[LOCAL].files["mine.json"] = item("./{band}.tif")
    assert await read(places[LOCAL].url("mine.json"), stores) == CONTENT[10:110]
    assert stores.http.session.connector is not None
    assert stores.http.session.connector._conns
    before = len(places[LOCAL].requests)
    places[OUTSIDE].files["item.json"] = item(places[LOCAL].url("{band}.tif"))
    with pytest.raises(ProductError, match=REFUSED):
        await read(places[OUTSIDE].url("item.json"), stores)
    assert len(places[LOCAL].requests) == before


# Names.


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    """A name server for `triton.test`, which everything in this process asks; answers are of one moment."""
    real = socket.getaddrinfo

    def ask(host: Any, port: Any, *args: Any, **how: Any) -> Any:
        if host != NameServer.NAME:
            return real(host, port, *args, **how)
        address, _, dns_port = found.address.partition(":")
        answer = DNSRecord.parse(DNSRecord.question(host, "A").send(address, int(dns_port)))
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (str(record.rdata), port)) for record in answer.rr]

    with name_server(OUTSIDE) as found:
        monkeypatch.setattr(socket, "getaddrinfo", ask)
        yield found


async def test_name_that_means_an_address_inside_is_not_asked(
    places: dict[str, RangedServer], stores: Stores, names: NameServer
) -> None:
    names.addresses = [LOCAL]
    places[OUTSIDE].files["item.json"] = item(f"http://{names.NAME}:{places[LOCAL].port}/{{band}}.tif")
    with pytest.raises(ProductError, match=REFUSED):
        await read(places[OUTSIDE].url("item.json"), stores)
    assert names.asked > 0
    assert places[LOCAL].requests == []


async def test_name_that_comes_to_mean_an_address_inside_is_not_asked_any_more(
    places: dict[str, RangedServer], stores: Stores, names: NameServer
) -> None:
    """DNS rebinding: the address is looked at that is connected to, each time."""
    outside = places[OUTSIDE]
    outside.files["item.json"] = item(f"http://{names.NAME}:{outside.port}/{{band}}.tif")
    source = await open_source(outside.url("item.json"), stores=stores)
    assert await source.read("B02_10m.tif", 0, 10) == CONTENT[:10]
    names.addresses = [LOCAL]
    connector = stores.http.session.connector
    assert isinstance(connector, reach.ReachConnector)
    connector.clear_dns_cache()
    outside.faults.append(Fault(after=100))  # what was connected ends: the name is looked for again
    with pytest.raises(ProductError, match=REFUSED):
        await source.read("B02_10m.tif", 17_000, 2000)
    assert places[LOCAL].requests == []


async def test_name_with_an_address_outside_and_one_inside_leads_outside(
    places: dict[str, RangedServer], stores: Stores, names: NameServer
) -> None:
    names.addresses = [LOCAL, OUTSIDE]
    outside = places[OUTSIDE]
    outside.files["item.json"] = item(f"http://{names.NAME}:{outside.port}/{{band}}.tif")
    assert await read(outside.url("item.json"), stores) == CONTENT[10:110]
    assert places[LOCAL].requests == []


# Through a proxy, which looks names up itself.


@pytest.fixture
def proxy(places: dict[str, RangedServer], monkeypatch: pytest.MonkeyPatch) -> RangedServer:
    """The server of this machine, as a proxy: it is asked for everything."""
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", places[LOCAL].url("").rstrip("/"))
    return places[LOCAL]


async def test_a_proxy_of_one_s_own_is_asked_though_it_is_inside(proxy: RangedServer, stores: Stores) -> None:
    proxy.files["item.json"] = item("http://files.example/{band}.tif")
    assert await read("http://stac.example/item.json", stores) == CONTENT[10:110]


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "10.0.0.1", "localhost", "a.localhost", "[::1]", "[::ffff:10.0.0.1]"]
)
async def test_a_proxy_is_not_asked_for_addresses_inside(proxy: RangedServer, stores: Stores, host: str) -> None:
    proxy.files["item.json"] = item(f"http://{host}/{{band}}.tif")
    with pytest.raises(ProductError, match=REFUSED):
        await read("http://stac.example/item.json", stores)
    assert [path for path, _ in proxy.requests] == ["item.json"]
