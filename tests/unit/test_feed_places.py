"""Which places a message may have read, in whatever way they are written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from kappamask_stream.errors import MessageError, UsageError
from kappamask_stream.feed import AllowedPlaces, ProductRef, where_of
from kappamask_stream.names import parse_product_name
from tests.unit.feed_messages import L2A

PLACES = AllowedPlaces.parse(["s3://bucket/a", "https://h.example/p", "http://127.0.0.1:8080/x"])
DEFAULTS = AllowedPlaces.parse()


@pytest.mark.parametrize(
    "location",
    [
        "s3://bucket/a", "s3://bucket/a/", "s3://bucket/a/b.zip", "s3://bucket/a/b c", "s3://bucket/a/%2e%2e",
        "https://h.example/p", "https://h.example/p/x.json", "https://H.Example/p/x", "HTTPS://h.example/p/x",
        "https://h.example/p/x;v=1.0/y", "https://h.example:443/p/x", "https://h.example/p/x?sig=1&to=https://evil.example", "https://h.example/p/x#f",
        "http://127.0.0.1:8080/x/y",
    ],
)  # fmt: skip
def test_allowed(location: str) -> None:
    assert PLACES.allowed(location)


@pytest.mark.parametrize(
    "location",
    [
        # Other buckets, prefixes that only begin alike, ways out of a prefix.
        "s3://bucket-evil/a/b", "s3://bucke/a/b", "s3://bucket/ab", "s3://bucket", "s3://bucket/", "s3://bucket//a/b",
        "s3://bucket/a/../secrets", "s3://bucket/a/./b", "s3://bucket/a//b", "s3://bucket/../a", "s3://Bucket/a/b",
        "S3://bucket/a/b", "s3:/bucket/a", "s3:bucket/a", "s3://key:secret@bucket/a/b", "s3://bucket\\evil/a",
        "s3://bucket/a\n/b", "s3://arn:aws:s3:eu-west-1:1:accesspoint/x/a",
        # Other hosts, ports, schemes.
        "https://evil.example/p/x", "https://h.example.evil.example/p/x", "https://evilh.example/p/x",
        "https://h.example./p/x", "https://h.example:8443/p/x", "http://h.example/p/x", "ftp://h.example/p/x",
        "https://h.example/px", "https://h.example/", "https://h.example",
        # Who is asked depends on who reads it.
        "https://h.example@evil.example/p/x", "https://u:p@h.example/p/x", "https://evil.example\\@h.example/p/x",
        "https://@h.example/p/x", "https://evil.example#@h.example/p/x", "https://evil.example?@h.example/p/x",
        "https:h.example/p/x", "https:///h.example/p/x", "//h.example/p/x", " https://h.example/p/x",
        "https://h.example\t/p/x", "https://h.example%00.evil.example/p/x", "https://h.example%2f@evil.example/p/x",
        # Ways out of a path.
        "https://h.example/p/../q", "https://h.example/p/%2e%2e/q", "https://h.example/p/.%2E/q",
        "https://h.example/p/%252e%252e/q", "https://h.example/p/..%2fq", "https://h.example/p/..%5cq",
        "https://h.example/p/%2fq", "https://h.example/p//q", "https://h.example/p;/../q",
        "https://h.example/p/..;/q", "https://h.example/p/..;x=1/q", "https://h.example/p/.;/q", "https://h.example/p/;/q",
        "https://h.example/p/..%3b/q", "https://h.example/p/%2e%2e;/q", "https://h.example/p/%252e%252e%253b/q",
        # This machine, and what it can reach.
        "http://127.0.0.1/x/y", "http://127.0.0.1:80/x/y", "http://localhost:8080/x/y", "http://127.1:8080/x/y",
        "http://2130706433:8080/x/y", "http://0x7f.1:8080/x/y", "http://[::1]:8080/x/y",
        "http://[::ffff:127.0.0.1]:8080/x/y", "http://169.254.169.254/latest/meta-data/", "file:///etc/passwd",
        "/etc/passwd", "", ".", "data:text/plain,x", "gopher://127.0.0.1:6379/_x", "https://h.example:port/p/x",
        "https://h.example:99999/p/x", "https://[/p/x", "s3://bucket/a/" + "b" * 5000,
    ],
)  # fmt: skip
def test_not_allowed(location: str) -> None:
    assert not PLACES.allowed(location)


def test_defaults_are_where_sentinel_2_is_published() -> None:
    for location in (
        "s3://sentinel-s2-l1c/tiles/29/U/NU/2022/10/5/0",
        "s3://sentinel-s2-l2a/tiles/29/U/NU/2022/10/5/0",
        f"s3://eodata/Sentinel-2/MSI/L2A/2022/10/05/{L2A}.SAFE",
        "https://earth-search.aws.element84.com/v1/collections/sentinel-2-l2a/items/S2A_29UNU_20221005_0_L2A",
        "https://sentinel-cogs.s3.us-west-2.amazonaws.com/sentinel-s2-l2a-cogs/29/U/NU/B02.tif",
    ):
        assert DEFAULTS.allowed(location)
    for location in ("s3://archive/x", "https://example.com/x", "http://earth-search.aws.element84.com/v1"):
        assert not DEFAULTS.allowed(location)


def test_listed_places_stand_for_themselves_or_beside_the_defaults() -> None:
    assert not AllowedPlaces.parse(["s3://archive"]).allowed("s3://sentinel-s2-l2a/tiles/x")
    both = AllowedPlaces.parse(["default", "s3://archive/in"])
    assert both.allowed("s3://sentinel-s2-l2a/tiles/x")
    assert both.allowed("s3://archive/in/x")
    assert not both.allowed("s3://archive/out/x")


@pytest.mark.parametrize(
    "place",
    [
        "archive",
        "/data",
        "s3://",
        "https://",
        "https://u:hunter2@h.example/",
        "*",
        "s3://b/../c",
        "https://h.example/?a",
        "",
    ],
)
def test_place_that_is_none_is_refused_when_it_is_listed(place: str) -> None:
    with pytest.raises(UsageError, match="--allow names") as caught:
        AllowedPlaces.parse([place])
    assert "hunter2" not in str(caught.value)


@given(st.text())
def test_any_location_is_allowed_or_not(text: str) -> None:
    assert PLACES.allowed(text) in {True, False}
    assert not PLACES.allowed(f"https://evil.example/{text}")


@given(st.text(alphabet="h.examplev/@:#?\\%2e5ci;p", max_size=30))
def test_whatever_is_allowed_is_asked_of_a_listed_host(text: str) -> None:
    """yarl is what aiohttp asks with: its reading is the one that counts."""
    location = f"https://{text}"
    if PLACES.allowed(location):
        url = URL(location)
        assert (url.host, url.port, url.user) == ("h.example", 443, None)
        assert url.path == "/p" or url.path.startswith("/p/")
        assert ".." not in url.path.split("/")


# From a message to what is opened.


def ref(location: str | None) -> ProductRef:
    return ProductRef(name=parse_product_name(L2A), kind="own", location=location)


def test_location_is_opened_where_it_is_allowed() -> None:
    assert where_of(ref("s3://bucket/a/x.zip"), PLACES, None) == ("s3://bucket/a/x.zip", None)
    assert where_of(ref("https://h.example/p/x.json"), PLACES, "cdse") == ("https://h.example/p/x.json", None)


@pytest.mark.parametrize(
    "location", [None, "s3://evil/x.zip", "https://h.example/p/x.zip", f"https://h.example/p/{L2A}.SAFE/"]
)
def test_product_is_found_by_its_name_where_its_location_is_not(location: str | None) -> None:
    assert where_of(ref(location), PLACES, "/archive") == (L2A, "/archive")
    with pytest.raises(MessageError, match="give --source") as caught:
        where_of(ref(location), PLACES, None)
    assert L2A in str(caught.value)


def test_product_at_the_data_space_is_asked_of_its_own_store() -> None:
    location = f"s3://eodata/Sentinel-2/MSI/L2A/2022/10/05/{L2A}.SAFE"
    assert where_of(ref(location), DEFAULTS, None) == (L2A, "cdse")
    assert where_of(ref(location), PLACES, "aws") == (L2A, "aws")


def test_location_that_may_not_be_read_is_said_without_its_secrets() -> None:
    with pytest.raises(MessageError) as caught:
        where_of(ref("https://u:hunter2@evil.example/x?sig=abcdef"), PLACES, None)
    assert "evil.example" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "abcdef" not in str(caught.value)
