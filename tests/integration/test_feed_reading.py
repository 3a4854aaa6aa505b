"""What a message names is read from allowed places only: Items, what they link, and where servers redirect to."""

from __future__ import annotations

import json
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest

from kappamask_stream.errors import ProductError
from kappamask_stream.feed import AllowedPlaces
from kappamask_stream.s3 import Patience, S3Options, Stores
from kappamask_stream.sources.locate import open_source
from tests.integration.faulty_s3 import FaultyS3
from tests.integration.ranged_server import Fault, RangedServer
from tests.unit.stac_items import earth_search

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CONTENT = bytes(range(256)) * 100
ITEM = "ours/item.json"


@pytest.fixture
async def ours() -> AsyncIterator[RangedServer]:
    async with RangedServer({"ours/B02.tif": CONTENT, "other/B02.tif": CONTENT}) as server:
        yield server


@pytest.fixture
async def theirs() -> AsyncIterator[RangedServer]:
    """A server inside somebody's network, that a stranger would like to have asked."""
    async with RangedServer({"secret": CONTENT, "B02.tif": CONTENT}) as server:
        yield server


@pytest.fixture
async def stores() -> AsyncIterator[Stores]:
    async with Stores(S3Options(patience=Patience(attempts=3, backoff_s=0.001))) as stores:
        yield stores


def item(href: str) -> bytes:
    return json.dumps(earth_search(href)).encode()


def only(server: RangedServer) -> AllowedPlaces:
    return AllowedPlaces.parse([server.url("ours")])


async def opened(where: str, stores: Stores, places: AllowedPlaces) -> Any:
    return await open_source(where, stores=stores, may_read=places.allowed)


async def test_item_and_its_assets_in_an_allowed_place_are_read(ours: RangedServer, stores: Stores) -> None:
    ours.files[ITEM] = item("./{band}.tif")
    source = await opened(ours.url(ITEM), stores, only(ours))
    assert await source.read("B02_10m.tif", 10, 20_000) == CONTENT[10:20_010]


@pytest.mark.parametrize(
    "href",
    [
        "{theirs}/{band}.tif",
        "s3://private/{band}.tif",
        "/other/{band}.tif",
        "../other/{band}.tif",
        "http://169.254.169.254/x",
    ],
)
async def test_item_that_links_elsewhere_is_refused_and_nobody_is_asked(
    ours: RangedServer, theirs: RangedServer, stores: Stores, href: str
) -> None:
    ours.files[ITEM] = item(href.replace("{theirs}", theirs.url("").rstrip("/")))
    with pytest.raises(ProductError, match=r"is not followed: it is not among the places that may be read \(--allow\)"):
        await opened(ours.url(ITEM), stores, only(ours))
    assert theirs.requests == []
    assert [path for path, _ in ours.requests] == [ITEM]


async def test_item_that_is_redirected_elsewhere_is_refused(
    ours: RangedServer, theirs: RangedServer, stores: Stores
) -> None:
    theirs.files["item.json"] = item("./{band}.tif")
    ours.redirects[ITEM] = theirs.url("item.json")
    with pytest.raises(ProductError, match="not among the places"):
        await opened(ours.url(ITEM), stores, only(ours))
    assert theirs.requests == []


async def test_redirect_in_an_allowed_place_is_followed(ours: RangedServer, stores: Stores) -> None:
    ours.files["ours/v2/item.json"] = item("../{band}.tif")
    ours.redirects[ITEM] = ours.url("ours/v2/item.json")
    source = await opened(ours.url(ITEM), stores, only(ours))
    assert await source.read("B02_10m.tif", 0, 100) == CONTENT[:100]


async def test_asset_that_is_redirected_elsewhere_is_refused(
    ours: RangedServer, theirs: RangedServer, stores: Stores
) -> None:
    ours.files[ITEM] = item("./{band}.tif")
    source = await opened(ours.url(ITEM), stores, only(ours))
    ours.redirects["ours/B02.tif"] = theirs.url("secret")
    with pytest.raises(ProductError, match="not among the places"):
        await source.read("B02_10m.tif", 0, 100)
    assert theirs.requests == []


async def test_asset_that_is_redirected_elsewhere_while_it_is_read_is_refused(
    ours: RangedServer, theirs: RangedServer, stores: Stores
) -> None:
    """Each request is looked at, also one that goes on where the connection broke off."""
    ours.files[ITEM] = item("./{band}.tif")
    source = await opened(ours.url(ITEM), stores, only(ours))
    assert await source.read("B02_10m.tif", 0, 10) == CONTENT[:10]
    ours.faults = deque([Fault(after=100)])
    ours.redirects["ours/B02.tif"] = theirs.url("B02.tif")
    with pytest.raises(ProductError, match="not among the places"):
        await source.read("B02_10m.tif", 17_000, 2000)
    assert theirs.requests == []


async def test_where_nothing_says_what_may_be_read_redirects_are_followed_as_ever(
    ours: RangedServer, theirs: RangedServer, stores: Stores
) -> None:
    theirs.files["item.json"] = item("./{band}.tif")
    ours.redirects[ITEM] = theirs.url("item.json")
    source = await open_source(ours.url(ITEM), stores=stores)
    assert await source.read("B02_10m.tif", 0, 100) == CONTENT[:100]


PAID = "s3://sentinel-s2-l1c/tiles/29/U/NU/2022/10/5/0/{band}.tif"


@pytest.mark.parametrize(
    ("allow", "pays", "said"),
    [
        (["s3://sentinel-s2-l1c"], None, "requester"),
        (["s3://sentinel-s2-l1c"], False, None),
        (None, None, None),
        (None, True, "requester"),
    ],
)
@pytest.mark.usefixtures("aws_environment")
async def test_reader_pays_where_he_has_listed_the_bucket_or_said_so(
    ours: RangedServer, *, allow: list[str] | None, pays: bool | None, said: str | None
) -> None:
    """An Item alone, which may come from a stranger, makes nobody pay."""
    ours.files[ITEM] = item(PAID)
    places = None if allow is None else AllowedPlaces.parse([ours.url("ours"), *allow])
    with FaultyS3({PAID.format(band="B02").removeprefix("s3://"): CONTENT}) as s3:
        async with Stores(S3Options(endpoint_url=s3.endpoint, requester_pays=pays)) as stores:
            source = await open_source(ours.url(ITEM), stores=stores, may_read=places and places.allowed)
            assert await source.read("B02_10m.tif", 0, 100) == CONTENT[:100]
        assert {request.headers.get("x-amz-request-payer") for request in s3.requests} == {said}


async def test_secret_of_a_redirect_is_not_repeated(ours: RangedServer, theirs: RangedServer, stores: Stores) -> None:
    ours.redirects[ITEM] = f"http://u:hunter2@127.0.0.1:{theirs.port}/secret?sig=abcdef"
    with pytest.raises(ProductError) as caught:
        await opened(ours.url(ITEM), stores, only(ours))
    assert f"127.0.0.1:{theirs.port}/secret" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "abcdef" not in str(caught.value)
