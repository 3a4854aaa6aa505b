"""Where an Item's links may lead, and where not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappamask_stream.errors import ProductError
from kappamask_stream.sources.hrefs import checked_href

WEB, S3, HERE = "https://stac.example/items/a.json?token=s", "s3://bucket/2022/a.json", "/data/items/a.json"


@pytest.mark.parametrize(
    ("href", "base", "place"),
    [
        ("https://x.example/B02.tif", WEB, "https://x.example/B02.tif"),
        ("https://x.example/B02.tif?sig=a%2Fb%3D&se=1", HERE, "https://x.example/B02.tif?sig=a%2Fb%3D&se=1"),
        ("s3://eodata/Sentinel-2/B02.jp2", WEB, "s3://eodata/Sentinel-2/B02.jp2"),
        ("./R10m/B02.jp2", WEB, "https://stac.example/items/R10m/B02.jp2"),
        ("B02.tif", WEB, "https://stac.example/items/B02.tif"),
        ("../B02.tif", WEB, "https://stac.example/B02.tif"),
        ("/other/B02.tif", WEB, "https://stac.example/other/B02.tif"),
        ("//cdn.example/B02.tif", WEB, "https://cdn.example/B02.tif"),
        ("./B02.jp2", S3, "s3://bucket/2022/B02.jp2"),
        ("../B02.jp2", S3, "s3://bucket/B02.jp2"),
        ("../../../B02.jp2", S3, "s3://bucket/B02.jp2"),
        ("B02.jp2", "s3://bucket/a.json", "s3://bucket/B02.jp2"),
        ("./B02.tif", HERE, "/data/items/B02.tif"),
        ("R10m/B02.jp2", HERE, "/data/items/R10m/B02.jp2"),
        ("/mnt/B02.tif", HERE, "/mnt/B02.tif"),
        ("a:b/B02.tif".replace("a:b", "ab"), HERE, "/data/items/ab/B02.tif"),
    ],
)
def test_followed(href: str, base: str, place: str) -> None:
    assert checked_href(href, base, said_by="item, asset blue") == place


@pytest.mark.parametrize("base", [WEB, S3, HERE])
@pytest.mark.parametrize(
    "href",
    [
        "file:///etc/passwd", "FILE:/etc/passwd", "ftp://x.example/a", "gopher://x", "data:text/plain,x", "vsicurl:x",
        "", " ", "a\nb", "a\0b", "..\\..\\x", "s3://", "s3://bucket", "s3://bucket/../a", "http://", "https:///a",
        "http://[::1/a", "a" * 5000,
    ],
)  # fmt: skip
def test_not_followed(href: str, base: str) -> None:
    with pytest.raises(ProductError, match=r"item, asset blue: the link .* is not followed"):
        checked_href(href, base, said_by="item, asset blue")


@pytest.mark.parametrize("base", [WEB, S3, HERE])
@pytest.mark.parametrize(
    "href",
    ["ftp://u:SECRET@x.example/a", "azure://u:SECRET@x/a?SECRET", "https://u:SECRET@[bad/a",
     "https://u:SECRET@h/a\\b?sig=SECRET", "https://u:SECRET@h:99999999/a", "mailto:u:SECRET@x"],
)  # fmt: skip
def test_what_is_refused_is_named_without_passwords(href: str, base: str) -> None:
    with pytest.raises(ProductError, match="is not followed") as caught:
        checked_href(href, base, said_by="item")
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("href", ["../secret.tif", "a/../../secret.tif", "../items2/x.tif"])
def test_a_local_item_stays_in_its_folder(href: str) -> None:
    with pytest.raises(ProductError, match="leads out of the Item's folder"):
        checked_href(href, HERE, said_by="item")


@given(st.text(max_size=60), st.sampled_from([WEB, S3]))
def test_an_item_from_afar_never_names_files_of_this_machine(href: str, base: str) -> None:
    try:
        place = checked_href(href, base, said_by="item")
    except ProductError:
        return
    assert place.startswith(("https://", "http://", "s3://"))


def test_signatures_stay_out_of_messages() -> None:
    with pytest.raises(ProductError) as caught:
        checked_href("ftp://x.example/B02.tif?sig=secret", WEB, said_by="item")
    assert "secret" not in str(caught.value)
