"""Messages that somebody writes to break the reader: each is refused in words that a log takes, or asks for nothing.

More forms than these are tried in tests/unit/test_feed_messages.py, and by fuzzing (tests/fuzz/message_target.py).
"""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest

from kappamask_stream.errors import MessageError
from kappamask_stream.feed import AllowedPlaces, parse_message
from kappamask_stream.feed.places import where_of
from tests.unit import feed_messages as feed

L2A = feed.L2A
#: Of a message of SQS's largest size; what is read from it may not take much more.
_MOST_BYTES = 64 << 20


def read(body: str) -> tuple[Any, ...] | str:
    """Return the products that a message asks for, or why it is refused; bounded in memory."""
    tracemalloc.start()
    try:
        return parse_message(body)
    except MessageError as error:
        said = str(error)
        assert said.isprintable(), "a log would show something else"
        assert len(said) < 1500, "no queue's attribute takes it"
        return said
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < _MOST_BYTES


def nested(depth: int, opening: str = "[", closing: str = "]") -> str:
    return opening * depth + closing * depth


@pytest.mark.parametrize(
    "name",
    [
        f"../../{L2A}", f"{L2A}/../../etc/passwd", f"{L2A}\n{L2A}", f"{L2A}\x00", f"{L2A}.SAFE/../x", f"/{L2A}",
        L2A.replace("S2A", "\uff332A", 1),  # full-width S
        L2A.replace("S2A", "\u017f2A", 1),  # long s, a capital of which is S
        L2A.replace("MSI", "MS\u0131", 1),  # dotless i, a capital of which is I
        L2A.replace("S2A", "\u04052A", 1),  # Cyrillic
        L2A.replace("2022", "\uff12\uff10\uff12\uff12", 1),  # full-width digits, which int() reads
        L2A.replace("2022", "\u0662\u0660\u0662\u0662", 1),  # Arabic digits
        L2A.replace("T29UNU", "T29UN\u0055\u0301"), L2A + "\u200b", "\u202e" + L2A, L2A.replace("_", "\u2017"),
        L2A.replace("20221005T115411", "20221305T115411", 1), L2A.replace("20221005T115411", "00000000T000000", 1),
        L2A + "A" * 10_000, "S2A_MSIL2A_" * 1000, "a" * 10_000, "%2E%2E%2F" + L2A, L2A.replace("A", "%41", 1),
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", ["bare", "own", "item", "topic", "cdse"])
def test_a_name_that_only_looks_like_a_products_is_refused(name: str, form: str) -> None:
    body = {
        "bare": name,
        "own": json.dumps(feed.own(product=name)),
        "item": json.dumps({"type": "Feature", "id": name, "properties": {"grid:code": "MGRS-29UNU"}}),
        "topic": json.dumps(feed.topic(name=name)),
        "cdse": json.dumps({**feed.data_space(name=name), "ProductName": f"S2{name}"}),
    }[form]
    assert isinstance(read(body), str)


@pytest.mark.parametrize(
    "key",
    [
        f"a%2F..%2F..%2F{L2A}.zip", f"..%2F{L2A}.SAFE%2Fmanifest.safe", f"%2e%2e/{L2A}.zip", f"a%00/{L2A}.zip",
        f"a%0A/{L2A}.zip", f"a%E2%80%AE/{L2A}.zip", f"//{L2A}.zip", f"a%5C..%5C{L2A}.zip", f"a/./{L2A}.zip",
    ],
)  # fmt: skip
def test_a_key_that_would_lead_elsewhere_is_not_read_from_an_allowed_prefix(key: str) -> None:
    """`--allow s3://archive/a` holds for what S3 is asked for, however the event writes it."""
    places = AllowedPlaces.parse(["s3://archive/a"])
    found = read(json.dumps(feed.s3_event(feed.s3_record(key))))
    assert not isinstance(found, str)
    for ref in found:
        assert ref.name.text == L2A
        where, _ = where_of(ref, places, "s3://mine/products")
        assert where == L2A, (
            "what the message names is not followed, the name is looked up where the worker's user says"
        )


@pytest.mark.parametrize(
    "body",
    [
        nested(100_000), nested(100_000, '{"a":', "}"), "[" * 256_000, "{" * 256_000, '{"a":' * 50_000,
        nested(40), json.dumps(feed.own(footprint={"type": "Polygon", "coordinates": json.loads(nested(33))})),
        '{"schema": ' + "9" * 5000 + "}", '{"schema": -' + "9" * 300_000 + "}", '{"schema": 1e400, "product": 1}',
        json.dumps(feed.own())[:-1] + ', "cloud_cover": NaN}', json.dumps(feed.own())[:-1] + ', "cloud_cover": 1e400}',
        json.dumps(feed.own())[:-1] + ', "cloud_cover": ' + "9" * 400 + "}",
        json.dumps(feed.own())[:-1] + f', "product": "{feed.L1C}"}}',  # twice: which one is believed?
        json.dumps(feed.own())[:-1] + ', "\\u0070roduct": "x"}', '{"schema": "kappamask-stream/product", "product": "\\ud800"}',
        json.dumps(feed.own()).encode("utf-16").decode("latin-1"), json.dumps(feed.own()).encode("utf-16-be").decode("latin-1"),
        "\x00" * 1000, "\x1b[2J\x1b[31m" * 50, "\u202e" * 300, "\ud800" * 2000, "\U0010ffff" * 2000, " " * 500_000, "\ufeff" * 100,
        '"' + "\\u0000" * 1000 + '"', '"' * 1001, "a" * (1 << 20) + "b", "<xml/>" * 1000, "null", "true", "0", "1e400", "[[]]",
    ],
)  # fmt: skip
def test_json_that_is_made_to_break_a_reader_is_refused(body: str) -> None:
    assert isinstance(read(body), str)


_STRANGE: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    2**64,
    10**400,
    1e308,
    "",
    "x",
    "\n",
    [],
    [[]],
    {},
    {"a": {}},
    [None],
)


@pytest.mark.parametrize(
    "form",
    [
        feed.own(location=f"s3://a/{L2A}.zip", cloud_cover=1, footprint={"type": "Polygon", "coordinates": []}),
        feed.s3_event(feed.s3_record(f"{L2A}.zip")), feed.bridge_event(f"{L2A}.zip"), feed.topic(), feed.data_space(),
        {"Type": "Notification", "Message": L2A}, {"Records": [{"Sns": {"Type": "Notification", "Message": L2A}}]},
    ],
    ids=["own", "s3", "bridge", "topic", "cdse", "sns", "lambda"],
)  # fmt: skip
def test_a_field_of_a_wrong_type_never_gets_past_as_another_error(form: dict[str, Any]) -> None:
    """Each field, however deep, replaced by each of these; true is no number and no version."""
    tried = 0
    for holder, key in _places(form):
        kept = holder[key]
        for value in _STRANGE:
            holder[key] = value
            found = read(json.dumps(form))
            assert isinstance(found, str) or all(ref.name.text in {L2A, feed.L1C} for ref in found)
            tried += 1
        holder[key] = kept
    assert tried >= len(_STRANGE)


def _places(document: Any) -> list[tuple[Any, Any]]:
    keys = list(document) if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else []
    return [(document, key) for key in keys] + [place for key in keys for place in _places(document[key])]


def test_an_event_of_a_hundred_thousand_records_is_refused_in_its_size() -> None:
    body = json.dumps(feed.s3_event(*[{"eventName": "ObjectRemoved:Delete", "s3": {}}] * 100_000))
    assert "characters, at most 1048576 are read" in str(read(body))


def test_as_many_records_as_a_message_holds_ask_for_a_hundred_products_at_most() -> None:
    small = [{"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "abc"}, "object": {"key": f"{i}/{L2A[:-6]}{i:06}.zip"}}}
             for i in range(5000)]  # fmt: skip
    assert "it asks for 5000 products, at most 100 are read" in str(read(json.dumps({"Records": small})))


def test_envelopes_in_envelopes_have_an_end() -> None:
    body = L2A
    for _ in range(12):  # each doubles the backslashes: a message of SQS holds no more
        body = json.dumps({"Type": "Notification", "Message": body})
    assert "more than 4 envelopes" in str(read(body))
