"""What messages mean: each form, in each envelope, and what strangers may send instead."""

from __future__ import annotations

import json
from importlib import resources
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappamask_stream.errors import MessageError, ProductError
from kappamask_stream.feed import ProductRef, parse_message, to_message
from kappamask_stream.feed.naming import product_at, upload_of
from kappamask_stream.names import parse_product_name
from tests.unit import feed_messages as feed
from tests.unit.stac_items import data_space as data_space_item
from tests.unit.stac_items import earth_search, planetary_computer

if TYPE_CHECKING:
    from pathlib import Path

L2A, L1C = feed.L2A, feed.L1C
SAFE = f"2022/10/{L2A}.SAFE"
POLYGON = {"type": "Polygon", "coordinates": [feed.square(-9.0, 52.5)]}


def parsed(message: Any) -> tuple[ProductRef, ...]:
    return parse_message(message if isinstance(message, str) else json.dumps(message))


def only(message: Any) -> ProductRef:
    (ref,) = parsed(message)
    return ref


def refused(message: Any) -> str:
    with pytest.raises(MessageError) as caught:
        parsed(message)
    return str(caught.value)


# The captured messages.


def captured(shared_dir: Path, name: str) -> str:
    return (shared_dir / "data" / "messages" / name).read_text()


def test_captured_message_of_new_sentinel2_product(shared_dir: Path) -> None:
    ref = only(captured(shared_dir, "NewSentinel2Product_event_2019.json"))
    assert ref.name.text == "S2A_MSIL1C_20190115T145721_N0207_R039_T19MBP_20190115T164135"
    assert (ref.kind, ref.location) == ("sentinel2-topic", "s3://sentinel-s2-l1c/tiles/19/M/BP/2019/1/15/0")


def test_captured_notification_of_the_data_space(shared_dir: Path) -> None:
    ref = only(captured(shared_dir, "cdse_push_notification_2024.json"))
    name = "S2A_MSIL1C_20240912T112541_N0511_R137_T28PHQ_20240912T133420"
    assert ref.name.text == name
    assert (ref.kind, ref.location) == ("cdse", f"s3://eodata/Sentinel-2/MSI/L1C/2024/09/12/{name}.SAFE")
    assert ref.cloud_cover == pytest.approx(97.7, abs=0.05)
    assert ref.footprint is not None
    assert len(ref.footprint["coordinates"][0]) == 12


# Each form.


def test_own_message_says_all_it_may() -> None:
    location = f"s3://archive/{SAFE}"
    ref = only(to_message(f"{L2A}.SAFE", location, cloud_cover=12.5, footprint=POLYGON))
    assert ref == ProductRef(
        name=parse_product_name(L2A), kind="own", location=location, cloud_cover=12.5, footprint=POLYGON
    )


def test_own_message_needs_a_name_only() -> None:
    assert json.loads(to_message(L2A)) == feed.own()
    assert only(feed.own()) == ProductRef(name=parse_product_name(L2A), kind="own")


@pytest.mark.parametrize("version", ["1.0", "1.7", "1.12"])
def test_own_message_of_a_later_minor_version_is_read(version: str) -> None:
    assert only(feed.own(version=version, priority="high")).name.text == L2A


@pytest.mark.parametrize("version", ["2.0", "0.9", "1", "1.x", 1.0, None])
def test_own_message_of_another_major_version_is_refused_in_words(version: object) -> None:
    assert "1.0 and other 1.x are read here" in refused(feed.own(version=version))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"schema": "kappamask-stream/mask"}, "its schema is 'kappamask-stream/mask'"),
        ({"product": None}, "its product is missing"),
        ({"product": 7}, "its product is 7"),
        ({"product": "S1A_IW_GRDH"}, "no Sentinel-2 product name"),
        ({"location": "/etc/passwd"}, "its location is '/etc/passwd'"),
        ({"location": "ftp://x.example/a"}, "its location is 'ftp://x.example/a'"),
        ({"location": f"s3://archive/{L1C}.SAFE"}, "it contradicts itself"),
        ({"location": "s3://b/" + "a" * 5000}, "s3://… or https://… is expected"),
        ({"cloud_cover": 100.5}, "percent from 0 to 100"),
        ({"cloud_cover": "12"}, "percent from 0 to 100"),
        ({"cloud_cover": True}, "percent from 0 to 100"),
        ({"footprint": {"type": "Point", "coordinates": [0, 0]}}, "its footprint is no GeoJSON Polygon"),
    ],
)
def test_own_message_that_is_not_what_the_schema_says(fields: dict[str, object], said: str) -> None:
    assert said in refused(feed.own(**fields))


def test_to_message_refuses_what_could_not_be_read() -> None:
    with pytest.raises(ProductError):
        to_message("S1A_IW_GRDH")
    with pytest.raises(MessageError, match="percent"):
        to_message(L2A, cloud_cover=float("nan"))
    with pytest.raises(MessageError, match="location"):
        to_message(L2A, "C:\\products")


def schema() -> Any:
    return json.loads(resources.files("kappamask_stream.feed").joinpath("product-message.schema.json").read_text())


def test_schema_is_one_and_holds_for_what_is_written() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    validator = jsonschema.Draft202012Validator(schema())
    for message in (to_message(L2A), to_message(L1C, f"s3://a/{L1C}.zip", cloud_cover=0, footprint=POLYGON)):
        validator.validate(json.loads(message))
    for wrong in (feed.own(version="2.0"), feed.own(product="x"), feed.own(location="/a"), feed.own(cloud_cover=101)):
        assert not validator.is_valid(wrong)
    assert validator.is_valid(feed.own(version="1.4", extra=[1]))


@pytest.mark.parametrize(
    ("key", "location"),
    [
        (f"{SAFE}/manifest.safe", f"s3://archive/{SAFE}"),
        (f"{SAFE}/MTD_MSIL2A.xml", f"s3://archive/{SAFE}"),
        (f"{L2A}/manifest.safe", f"s3://archive/{L2A}"),
        (f"in/{L2A}.zip", f"s3://archive/in/{L2A}.zip"),
        (f"{L2A}.SAFE.zip", f"s3://archive/{L2A}.SAFE.zip"),
        (f"my+folder%2Bplus/%C3%A4/{L2A}.zip", f"s3://archive/my folder+plus/ä/{L2A}.zip"),
        (f"products/2022/10/5/{L2A}/productInfo.json", f"s3://archive/products/2022/10/5/{L2A}"),
    ],
)
def test_s3_event_of_a_key_that_names_a_product(key: str, location: str) -> None:
    ref = only(feed.s3_event(feed.s3_record(key)))
    assert (ref.name.text, ref.kind, ref.location) == (L2A, "s3-event", location)


@pytest.mark.parametrize(
    "key",
    [
        f"{SAFE}/GRANULE/x/IMG_DATA/R10m/B02.jp2",
        f"{SAFE}/GRANULE/x/MTD_TL.xml",
        "tiles/29/U/NU/2022/10/5/0/tileInfo.json",
        f"products/2022/10/5/{L2A}/metadata.xml",
        f"elsewhere/{L2A}/productInfo.json",
        "photos/cat.zip",
        "manifest.safe",
    ],
)
def test_s3_event_of_any_other_key_asks_for_nothing(key: str) -> None:
    assert parsed(feed.s3_event(feed.s3_record(key))) == ()


def test_s3_event_with_several_records_asks_for_each_product_once() -> None:
    records = [
        feed.s3_record(f"{SAFE}/MTD_MSIL2A.xml"),
        feed.s3_record(f"{SAFE}/manifest.safe", event="s3:ObjectCreated:CompleteMultipartUpload"),
        feed.s3_record(f"{L1C}.zip", bucket="other"),
        feed.s3_record(f"gone/{L2A}.zip", event="ObjectRemoved:Delete"),
    ]
    refs = parsed(feed.s3_event(*records))
    assert [(ref.name.text, ref.location) for ref in refs] == [
        (L2A, f"s3://archive/{SAFE}"), (L1C, f"s3://other/{L1C}.zip"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "message",
    [
        feed.s3_test_event(),
        feed.s3_event(feed.s3_record(f"{L2A}.zip", event="ObjectRemoved:Delete")),
        feed.s3_event(feed.s3_record(f"{L2A}.zip", event="LifecycleExpiration:Delete")),
        feed.bridge_event(f"{L2A}.zip", kind="Object Deleted"),
        feed.data_space("deleted"),
        feed.data_space("modified"),
    ],
)
def test_messages_that_are_understood_and_ask_for_nothing(message: Any) -> None:
    assert parsed(message) == ()
    assert parsed(feed.sns(message)) == ()


def test_event_through_eventbridge_has_its_key_as_it_is() -> None:
    ref = only(feed.bridge_event(f"100%+/{L2A}.SAFE/manifest.safe"))
    assert (ref.kind, ref.location) == ("s3-event", f"s3://archive/100%+/{L2A}.SAFE")
    assert "those of aws.s3 are read" in refused(feed.bridge_event("x") | {"source": "aws.ec2"})


@pytest.mark.parametrize(
    "place",
    [
        {"bucket": {"name": "a/b"}, "object": {"key": f"{L2A}.zip"}},
        {"bucket": {"name": "user@evil"}, "object": {"key": f"{L2A}.zip"}},
        {"bucket": {"name": None}, "object": {"key": f"{L2A}.zip"}},
        {"bucket": {"name": "archive"}, "object": {"key": ""}},
        {"bucket": {"name": "archive"}, "object": {"key": ["x"]}},
        {"bucket": "archive", "object": {}},
    ],
)
def test_s3_event_without_a_bucket_and_key(place: dict[str, object]) -> None:
    said = refused({"Records": [{"eventName": "ObjectCreated:Put", "s3": place}]})
    assert "is expected" in said


@pytest.mark.parametrize(
    ("name", "bucket"),
    [(L1C, "sentinel-s2-l1c"), (L2A, "sentinel-s2-l2a")],
    ids=["NewSentinel2Product", "SentinelS2L2A"],
)
def test_topics_of_the_sentinel_2_buckets(name: str, bucket: str) -> None:
    ref = only(feed.topic(name))
    assert (ref.name.text, ref.kind) == (name, "sentinel2-topic")
    assert ref.location == f"s3://{bucket}/tiles/29/U/NU/2022/10/5/0"


def test_topic_with_no_tile_of_use_gives_the_product_s_path() -> None:
    ref = only(feed.topic(tiles=[{"path": "tiles/../../secrets"}]))
    assert ref.location == f"s3://sentinel-s2-l2a/products/2022/10/5/{L2A}"
    assert only(feed.topic(tiles=[], path="somewhere/else")).location is None
    assert "its name is None" in refused(feed.topic() | {"name": None})


@pytest.mark.parametrize("collection", ["sentinel-2-l2a", "sentinel-2-c1-l2a"])
def test_item_of_earth_search(collection: str) -> None:
    item = earth_search(properties={"eo:cloud_cover": 8.25}) | {"collection": collection, "geometry": POLYGON}
    ref = only(item)
    assert (ref.name.text, ref.kind, ref.cloud_cover, ref.footprint) == (L2A, "stac-item", 8.25, POLYGON)
    assert ref.location == "https://stac.example/v1/collections/sentinel-2-l2a/items/S2A_29UNU"
    assert only(feed.sns(item)) == only(feed.to_lambda(item)) == ref


def test_item_of_level_1c() -> None:
    assert only(earth_search(name=L1C) | {"collection": "sentinel-2-l1c"}).name.level == "L1C"


def test_item_of_a_zone_with_one_digit() -> None:
    item = earth_search(name=L2A.replace("T29UNU", "T09VWK"))
    assert item["properties"]["grid:code"] == "MGRS-9VWK"
    assert only(feed.sns(item)).name.tile_id == "T09VWK"


@pytest.mark.parametrize(
    ("collection", "identifier", "properties"),
    [
        ("landsat-c2-l2", "LC09_L2SP_206023_20221005_02_T1", {"platform": "landsat-9", "grid:code": "WRS2-206023"}),
        ("sentinel-1-grd", "S1A_IW_GRDH_1SDV_20221005", {"platform": "sentinel-1a", "constellation": "sentinel-1"}),
        ("naip", "tx_m_2609719_se_14_060", {"grid:code": "DOQQ-2609719SE"}),
        ("cop-dem-glo-30", "Copernicus_DSM_COG_10_N52_00_W009_00_DEM", {"platform": "tandem-x"}),
        ("sentinel-3-olci", "S3A_OL_1_EFR____20221005", {"constellation": "Sentinel-3"}),
        (
            "sentinel-2-global-mosaics",
            "Sentinel-2_mosaic_2022_Q4",
            {"platform": "sentinel-2", "processing:level": "L3"},
        ),
    ],
)
def test_items_of_what_is_not_masked_ask_for_nothing(
    collection: str, identifier: str, properties: dict[str, str]
) -> None:
    item = {"type": "Feature", "id": identifier, "collection": collection, "properties": properties}
    assert parsed(item) == ()
    assert parsed(feed.sns(item)) == ()


@pytest.mark.parametrize(
    ("fields", "properties"),
    [
        ({}, {}),
        ({"collection": "archive"}, {"grid:code": "MGRS-29UNU"}),
        ({"collection": "sentinel-2-l2a"}, {"platform": "landsat-9"}),
        ({"id": "S2A_29UNU_20221005_0_L2A"}, {"constellation": "sentinel-2", "platform": "sentinel-2a"}),
        ({}, {"platform": "Sentinel-2B", "processing:level": "L2"}),
        ({}, {"platform": "S2C"}),
    ],
)
def test_items_that_should_name_a_product_and_do_not_are_broken(
    fields: dict[str, str], properties: dict[str, str]
) -> None:
    assert "names no Sentinel-2 product" in refused({"type": "Feature", "id": "x", "properties": properties, **fields})


def test_items_of_other_catalogues() -> None:
    ref = only(data_space_item())
    assert (ref.name.text, ref.location, ref.cloud_cover) == (L2A, None, None)
    assert only(planetary_computer()).name.baseline is None


def test_item_says_where_it_is_by_its_self_link_else_by_its_canonical_one() -> None:
    links = [
        {"rel": "canonical", "href": "s3://sentinel-cogs/29/U/NU/item.json"},
        {"rel": "self", "href": "https://stac.example/items/a"},
        {"rel": "self", "href": "https://stac.example/items/b"},
    ]
    assert only(earth_search() | {"links": links}).location == "https://stac.example/items/a"
    assert only(earth_search() | {"links": links[:1]}).location == "s3://sentinel-cogs/29/U/NU/item.json"
    for odd in ([{"rel": "self", "href": "./item.json"}], [{"rel": "self", "href": 3}, "x"], "x", None):
        assert only(earth_search() | {"links": odd}).location is None


def test_item_of_a_mask_is_refused_so_that_a_worker_does_not_feed_itself() -> None:
    assert "masks and products need two queues" in refused(earth_search(properties={"kappamask:fingerprint": "ab"}))


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ({"type": "Feature", "id": "LC09_L2SP_1", "properties": {}}, "names no Sentinel-2 product"),
        (earth_search() | {"id": L1C}, "contradicts itself"),
        ({"type": "Feature", "id": L2A, "properties": {"s2:product_uri": ["x"]}}, "a short text is expected"),
    ],
)
def test_item_of_no_product(item: dict[str, Any], said: str) -> None:
    assert said in refused(item)


def test_notification_of_the_data_space() -> None:
    ref = only(feed.data_space())
    assert (ref.kind, ref.cloud_cover, ref.footprint) == ("cdse", 41.5, POLYGON)
    assert ref.location == f"s3://eodata/Sentinel-2/MSI/L1C/2022/10/05/{L1C}.SAFE"


def test_notification_of_the_data_space_with_odd_fields_is_the_product_all_the_same() -> None:
    odd = {
        "S3Path": f"/eodata/../{L2A}.SAFE",
        "Attributes": [3, {"Name": "cloudCover", "Value": "much"}],
        "GeoFootprint": 1,
    }
    ref = only(feed.data_space(**odd))
    assert (ref.name.text, ref.location, ref.cloud_cover, ref.footprint) == (L1C, None, None, None)


def test_notification_of_the_data_space_that_contradicts_itself_or_names_nothing() -> None:
    assert "one product is expected" in refused(feed.data_space(Name=f"{L2A}.SAFE"))
    assert "no Sentinel-2 product name" in refused(feed.data_space(Name="S3A_OL_1_EFR.SEN3"))
    assert "no Sentinel-2 product name" in refused(feed.data_space(name="S2A_OPER_PRD_MSIL1C_PDMC"))
    assert "no product, one product is expected" in refused(feed.data_space(Name="") | {"ProductName": None})


@pytest.mark.parametrize("name", ["S1A_IW_GRDH_1SDV", "S3A_OL_1_EFR", "S5P_OFFL_L2", "LC09_L2SP"])
def test_notification_of_the_data_space_of_another_mission_asks_for_nothing(name: str) -> None:
    assert parsed(feed.data_space(name=name)) == ()


@pytest.mark.parametrize(
    ("text", "location"),
    [
        (L2A, None),
        (f"  {L2A}.SAFE\n", None),
        (f'"{L2A}"', None),
        (f"\ufeff{L2A.lower()}", None),
        (f"s3://archive/{SAFE}/", f"s3://archive/{SAFE}/"),
        (f"s3://archive/{L2A}.zip", f"s3://archive/{L2A}.zip"),
        (f"https://x.example/a/{L2A}.json?sig=1", f"https://x.example/a/{L2A}.json?sig=1"),
        (f"s3://archive/{SAFE}/manifest.safe", f"s3://archive/{SAFE}/manifest.safe"),
    ],
)
def test_bare_names_and_addresses(text: str, location: str | None) -> None:
    ref = only(text)
    assert (ref.name.text, ref.kind, ref.location) == (L2A, "name", location)


# Envelopes.


def test_envelopes_hold_any_form() -> None:
    for inner in (
        feed.own(),
        feed.topic(),
        L2A,
        feed.s3_event(feed.s3_record(f"{L2A}.zip")),
        feed.data_space(name=L2A),
    ):
        bare = parsed(inner)
        assert parsed(feed.sns(inner)) == parsed(feed.to_lambda(inner)) == parsed(feed.sns(feed.sns(inner))) == bare


def test_envelope_of_lambda_with_several_messages() -> None:
    assert [ref.name.text for ref in parsed(feed.to_lambda(L2A, feed.own(product=L1C), L2A))] == [L2A, L1C]


def test_envelopes_without_end_are_refused() -> None:
    message: Any = L2A
    for _ in range(6):
        message = feed.sns(message)
    assert "more than 4 envelopes" in refused(message)


def test_subscription_that_waits_to_be_confirmed_is_for_people() -> None:
    said = refused(feed.subscription_confirmation())
    assert "visit the message's SubscribeURL" in said
    assert "2336412f37fb6" not in said.partition("it begins")[0]


# Strangers.


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("", "it is empty"),
        (" \n", "it is empty"),
        ("hello", "no Sentinel-2 product name"),
        ("{", "it is no JSON"),
        ("[]", "it is a list"),
        ("{}", "JSON of no known form"),
        ('{"Records": []}', "no list of objects"),
        ('{"Records": [1]}', "no list of objects"),
        ('{"Records": [{"body": "x"}]}', "no eventName and s3"),
        ('{"product": 1, "product": 2}', "the name 'product' is there twice"),
        ('{"a": NaN}', "NaN is no number of JSON"),
        ('{"a": -Infinity}', "-Infinity is no number of JSON"),
        ('{"schema": "kappamask-stream/product", "version": "1.0", "product": "' + L2A + '", "cloud_cover": 1e999}', "percent"),
        ('{"a": ' + "9" * 5000 + "}", "it is no JSON"),
        ("[" * 100_000, "nested more than 32 levels"),
        ('{"a": ' * 40 + "1" + "}" * 40, "nested more than 32 levels"),
        ('{"a": "' + "x" * (1 << 20) + '"}', "characters, at most 1048576"),
        ("x" * (1 << 21), "characters, at most 1048576"),
        ('{"type": "Feature", "properties": 3}', "an object is expected"),
        ("https://x.example/items/S2A_29UNU", "ends with no product's name"),
        (f"s3://archive/a b/{L2A}.zip", "ends with no product's name"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said_in_words(body: str, said: str) -> None:
    with pytest.raises(MessageError) as caught:
        parse_message(body)
    message = str(caught.value)
    assert said in message
    assert len(message) < 1200
    assert message.isprintable()


def test_message_that_asks_for_too_much() -> None:
    records = [feed.s3_record(f"{L2A[:-3]}{number:03d}.zip") for number in range(101)]
    assert "it asks for 101 products, at most 100" in refused(feed.s3_event(*records))
    assert len(parsed(feed.s3_event(*records[1:]))) == 100


def test_what_a_message_begins_with_is_said_without_secrets() -> None:
    address = "https://user:hunter2@x.example/a.json?X-Amz-Signature=abcdef0123"
    for body in (address, json.dumps({"url": address}), json.dumps(feed.own(location=f"{address} "))):
        said = refused(body)
        assert "x.example" in said
        assert "hunter2" not in said
        assert "abcdef0123" not in said


def test_beginning_of_a_message_is_found_in_no_time_whatever_it_is() -> None:
    members = ", ".join(f'"{number}": 1' for number in range(80_000))
    for body in (
        "://" * 300_000, "?" * 500_000, '"' + '\\"' * 500_000, "{" + '"a@' * 300_000, f'{{{members}, "79999": 2}}',
    ):  # fmt: skip
        refused(body)


@pytest.mark.parametrize(
    "location", ["s3://archive/\ud800/{}.zip", "s3://archive/\u202e/{}.zip", "s3://archive/\x00/{}.zip"]
)
def test_address_that_no_log_takes_is_none(location: str) -> None:
    address = location.format(L2A)
    ref = only(json.dumps(address))
    assert (ref.name.text, ref.location) == (L2A, None)
    links = [{"rel": "self", "href": address}]
    assert only(earth_search() | {"links": links}).location is None
    assert only(feed.bridge_event(address.removeprefix("s3://archive/"))).location is None
    assert "its location is" in refused(feed.own(location=address))


def test_key_that_is_no_utf_8_is_refused() -> None:
    assert "which is no UTF-8" in refused(feed.s3_event(feed.s3_record(f"%ff/{L2A}.zip")))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(L2A),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
FORMS: list[dict[str, Any]] = [
    feed.own(location="s3://a/b", cloud_cover=1, footprint=POLYGON), feed.s3_event(feed.s3_record(f"{L2A}.zip")),
    feed.s3_test_event(), feed.bridge_event(f"{L2A}.zip"), feed.topic(), feed.data_space(), feed.sns(feed.own()),
    feed.to_lambda(L2A), earth_search() | {"geometry": POLYGON},
]  # fmt: skip


def replaced(message: Any, path: list[int], value: Any) -> Any:
    """Put a value somewhere into a message; `path` chooses members by number."""
    if not path or not isinstance(message, dict | list) or not message:
        return value
    if isinstance(message, list):
        at = path[0] % len(message)
        return [replaced(one, path[1:], value) if i == at else one for i, one in enumerate(message)]
    name = list(message)[path[0] % len(message)]
    return {**message, name: replaced(message[name], path[1:], value)}


def answer_to(body: str) -> tuple[ProductRef, ...] | str:
    try:
        return parse_message(body)
    except MessageError as error:
        return str(error)


def check_answer(body: str) -> None:
    answer = answer_to(body)
    if isinstance(answer, str):
        assert len(answer) < 1500
        assert answer.isprintable()
        return
    for ref in answer:
        assert isinstance(ref, ProductRef)
        assert ref.name == parse_product_name(ref.name.text)
        assert ref.cloud_cover is None or 0 <= ref.cloud_cover <= 100


@given(st.text())
def test_any_text_gives_products_or_is_refused(body: str) -> None:
    check_answer(body)


@given(json_values)
def test_any_json_gives_products_or_is_refused(message: Any) -> None:
    check_answer(json.dumps(message))


@given(st.sampled_from(FORMS), st.lists(st.integers(0, 50), min_size=1, max_size=6), json_values)
def test_any_form_with_anything_in_it_gives_products_or_is_refused(message: Any, path: list[int], value: Any) -> None:
    check_answer(json.dumps(replaced(message, path, value)))


@given(st.sampled_from(FORMS), st.data())
def test_any_form_cut_off_or_with_a_character_replaced(message: Any, data: st.DataObject) -> None:
    body = json.dumps(message)
    at = data.draw(st.integers(0, len(body) - 1))
    check_answer(body[:at])
    check_answer(body[:at] + data.draw(st.characters()) + body[at + 1 :])


@given(st.text())
def test_any_key_and_address_stands_for_a_product_or_for_none(text: str) -> None:
    for found in (product_at(text), (upload_of(text) or (None,))[0]):
        assert found is None or found.text in text.upper()


def test_addresses_and_the_products_they_end_with() -> None:
    for address in (L2A, f"{L2A}.SAFE", f"/data/{L2A}.SAFE/", f"https://x/{L2A}.SAFE?a=/b", f"s3://b/{L2A}.SAFE.ZIP"):
        found = product_at(address)
        assert found is not None
        assert found.text == L2A
    for address in ("", "/", "s3://b/", f"https://x/items?name={L2A}", f"{L2A}/GRANULE", f"x{L2A}"):
        assert product_at(address) is None
