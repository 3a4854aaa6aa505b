"""Messages of queues, in every form that is read, and names of products: `kappamask_stream.feed.parse_message`."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from kappamask_stream.errors import MessageError
from kappamask_stream.feed.parse import parse_message
from tests.fuzz.json_mutation import mutated
from tests.unit import feed_messages as feed
from tests.unit.stac_items import data_space as data_space_item
from tests.unit.stac_items import earth_search, planetary_computer

if TYPE_CHECKING:
    import random

_NAME = re.compile(
    r"S2[A-Z]_MSI(?:L1C|L2A)_[0-9]{8}T[0-9]{6}(?:_N[0-9]{4})?_R[0-9]{3}_T[0-9]{2}[A-Z]{3}_[0-9A-Z]{1,32}"
)
_SQUARE = {"type": "Polygon", "coordinates": [feed.square(-9.0, 52.5)]}

#: A queue takes a megabyte.
LONGEST = 1 << 16


def seeds() -> list[bytes]:
    """Return a message of each form, bare and in envelopes, and some that are nothing."""
    forms = [
        feed.own(), feed.own(location=f"s3://archive/{feed.L2A}.zip", cloud_cover=12.5, footprint=_SQUARE),
        feed.s3_event(feed.s3_record(f"a/{feed.L2A}.SAFE/manifest.safe"), feed.s3_record("B02.jp2")),
        feed.s3_test_event(), feed.bridge_event(f"in/{feed.L2A}.zip"), feed.topic(), feed.data_space(),
        {**earth_search(), "assets": {}}, {**data_space_item(), "assets": {}}, {**planetary_computer(), "assets": {}},
    ]  # fmt: skip
    texts = [json.dumps(form) for form in forms]
    envelopes = [
        json.dumps({"Type": "Notification", "MessageId": "1", "TopicArn": "arn:aws:sns:a:1:t", "Message": text})
        for text in texts[:4]
    ]
    lambdas = [
        json.dumps({"Records": [{"EventSource": "aws:sns", "Sns": {"Type": "Notification", "Message": texts[0]}}]})
    ]
    plain = [feed.L2A, f'"{feed.L1C}"', f"s3://archive/{feed.L2A}.SAFE/", f"https://u:p@x.example/{feed.L1C}.zip?sig=1"]
    broken = [
        "",
        "[" * 500,
        "1e400",
        "[]",
        '{"schema": 1, "schema": 2}',
        "\ufeff" + texts[0],
        feed.L2A.replace("S", "\u017f"),
    ]
    return [text.encode() for text in (*texts, *envelopes, *lambdas, *plain, *broken)]


def large() -> dict[str, bytes]:
    """Return messages near the limit of 1 MB."""
    records = [feed.s3_record(f"a/{feed.L2A}.SAFE/manifest.safe")] * 100
    longest = 1_000_000 // len(json.dumps(records[0]))
    zigzag = [[-9 + number / 1e5, 52 + number % 2] for number in range(40_000)]
    item = {**earth_search(), "assets": {}}
    text = json.dumps(feed.own())
    for _ in range(12):  # each doubles the backslashes of the one before
        text = json.dumps({"Type": "Notification", "MessageId": "1", "TopicArn": "arn:aws:sns:a:1:t", "Message": text})
    found = {
        "records": feed.s3_event(*records * (longest // 100)),
        "a footprint": feed.own(footprint={"type": "Polygon", "coordinates": [zigzag]}),
        "footprints": feed.own(footprint={"type": "MultiPolygon", "coordinates": [[feed.square(-9.0, 52.5)]] * 10_000}),
        "links": {**item, "links": [{"rel": "self", "href": "https://x.example/a.json"}] * 18_000},
        "a location": feed.own(location="s3://archive/" + "%2F../" * 160_000 + feed.L2A),
        "members": {**feed.own(), **{f"a{number}": 1 for number in range(70_000)}},
        "tiles": {**feed.topic(), "tiles": [{"path": f"tiles/29/U/NU/2022/10/5/{number}"} for number in range(20_000)]},
    }
    texts = {what: json.dumps(document).encode() for what, document in found.items()}
    return texts | {
        "envelopes": text.encode()[: 1 << 20],
        "lists in lists": b"[" * 1_000_000,
        "names": b",".join([feed.L2A.encode()] * 16_000),
        "a name": feed.L2A.encode() * 16_000,
        "a URL": b"https://x.example/" + b"../" * 300_000 + feed.L2A.encode(),
        "no UTF-8": b"\xff" * 1_000_000,
    }


def dictionary() -> list[bytes]:
    """Return words that forms are told by."""
    words = (
        '"schema":', '"version":"1.0"', '"product":', '"location":', '"cloud_cover":', '"footprint":', '"Records":[{',
        '"eventName":"ObjectCreated:Put"', '"s3":{', '"bucket":{"name":', '"object":{"key":', '"Type":"Notification"',
        '"Message":', '"Sns":{', '"detail-type":', '"source":"aws.s3"', '"tiles":[', '"SubscriptionEvent":"created"',
        '"type":"Feature"', '"properties":{', '"links":[{"rel":"self","href":', '"coordinates":[[[', "%2F..%2F", "manifest.safe",
        "1e400", "NaN", "-Infinity", "true", "null", '"s2:product_uri":', feed.L2A, feed.L1C,
    )  # fmt: skip
    return [word.encode() for word in words]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Replace something in the JSON."""
    return mutated(data, rng)


def one_input(data: bytes) -> None:
    """Read a message, whatever it is: products with names that are safe in paths, or an error in printable words."""
    body = data.decode(errors="surrogateescape")
    try:
        refs = parse_message(body)
    except MessageError as error:
        said = str(error)
        assert len(said) < 2000, "a reason that no queue takes"
        said.encode()
        return
    assert len(refs) <= 100
    assert len({ref.name.text for ref in refs}) == len(refs)
    for ref in refs:
        assert _NAME.fullmatch(ref.name.text), ref.name.text
        assert ref.location is None or (ref.location.isprintable() and "://" in ref.location), ref.location
        assert ref.cloud_cover is None or 0 <= ref.cloud_cover <= 100
        json.dumps(ref.footprint, allow_nan=False)
