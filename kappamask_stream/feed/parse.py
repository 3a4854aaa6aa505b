"""What a message of a queue asks for, in whatever form it comes. Pure.

Envelopes are opened first: SNS's HTTP and SQS form (``"Type": "Notification"``, "Parsing Amazon SNS message formats" in
Amazon's SNS Developer Guide) and the form that Lambda gets (``Records[].Sns``). What is inside is read as if it had
come raw.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kappamask_stream.errors import InputError, MessageError
from kappamask_stream.feed import catalogue_events, store_events
from kappamask_stream.feed.message import read_own
from kappamask_stream.feed.naming import product_at
from kappamask_stream.feed.strict_json import LONGEST, parse_json
from kappamask_stream.feed.types import ProductRef
from kappamask_stream.names import parse_product_name

if TYPE_CHECKING:
    from collections.abc import Callable

#: Envelopes in envelopes; a topic that feeds another one makes two.
_DEEPEST = 4
#: They are masked one after the other, while the queue waits for one message.
_MOST_PRODUCTS = 100
_SHOWN = 200
_LONGEST_REASON = 800
_EXPECTED = (
    "a product's name, a message of kappamask-stream, an S3 event, one of Amazon's Sentinel-2 topics, a STAC Item or a "
    "notification of the Copernicus Data Space"
)
#: What may be a secret in an address: user and password, and what a query signs.
_LOGIN = re.compile(r"(?<=://)[^/\s\"@]{1,500}@")
_QUERY = re.compile(r"(?<=\?)[^\s\"]+")
_Fields = dict[str, Any]
#: How a form is told, and how it is read.
_FORMS: tuple[tuple[Callable[[_Fields], bool], Callable[[_Fields], tuple[ProductRef, ...]]], ...] = (
    (lambda message: "schema" in message, lambda message: (read_own(message),)),
    (lambda message: message.get("type") == "Feature", catalogue_events.of_item),
    (lambda message: "SubscriptionEvent" in message, catalogue_events.of_data_space),
    (lambda message: isinstance(message.get("tiles"), list), lambda message: (catalogue_events.of_topic(message),)),
    (store_events.is_bridge_event, store_events.of_bridge_event),
    (store_events.is_test_event, lambda _: ()),
)


def parse_message(body: str) -> tuple[ProductRef, ...]:
    """Read a message.

    Returns
    -------
    The products that it asks for, each once; none where it is understood and asks for nothing: a test, a deletion, an
    object that is no product, something of another mission.

    Raises
    ------
    MessageError
        If it is in no known form, or names no product; says what is missing, and how the message begins.
    """
    try:
        refs = _read(body, depth=0)
        if len(refs) > _MOST_PRODUCTS:
            raise MessageError(f"it asks for {len(refs)} products, at most {_MOST_PRODUCTS} are read")
    except InputError as error:
        # Cut when it is printable: one character may become ten.
        reason = _printable(str(error)[:_LONGEST_REASON])[:_LONGEST_REASON]
        begin = repr(_begin(body))[: 2 * _SHOWN]
        raise MessageError(f"the message cannot be read: {reason}; it begins {begin}") from error
    return refs


def _read(body: str, *, depth: int) -> tuple[ProductRef, ...]:
    if depth > _DEEPEST:
        raise MessageError(f"it has more than {_DEEPEST} envelopes in each other")
    if len(body) > LONGEST:
        raise MessageError(f"it has {len(body)} characters, at most {LONGEST} are read")
    text = body.strip().removeprefix("\ufeff").lstrip()
    if not text:
        raise MessageError("it is empty")
    message = parse_json(text) if text.startswith(("{", "[", '"')) else text
    if isinstance(message, str):
        return _each_once((_of_text(message),))
    if not isinstance(message, dict):
        raise MessageError(f"it is a list, expected is {_EXPECTED}")
    return _each_once(_of_object(message, depth))


def _of_text(text: str) -> ProductRef:
    """Read a bare name, or the address of a product."""
    if "://" not in text:
        return ProductRef(name=parse_product_name(text), kind="name")
    address = text.strip()
    name = product_at(address)
    if name is None or any(character.isspace() for character in address):
        raise MessageError("it is an address that ends with no product's name")
    return ProductRef(name=name, kind="name", location=address)


def _of_object(message: _Fields, depth: int) -> tuple[ProductRef, ...]:
    """Tell a message's form by the fields that only it has."""
    if "Records" in message:
        return _of_records(message["Records"], depth)
    if isinstance(message.get("Type"), str) and isinstance(message.get("Message"), str):
        return _of_notification(message, depth)
    read = next((read for is_one, read in _FORMS if is_one(message)), None)
    if read is None:
        raise MessageError(f"it is JSON of no known form ({', '.join(sorted(message))[:100]}), expected is {_EXPECTED}")
    return read(message)


def _of_records(records: object, depth: int) -> tuple[ProductRef, ...]:
    if not isinstance(records, list) or not records or not all(isinstance(record, dict) for record in records):
        raise MessageError("its Records are no list of objects")
    refs: list[ProductRef] = []
    for record in records:
        inner = record.get("Sns")
        refs += _of_notification(inner, depth) if isinstance(inner, dict) else store_events.of_record(record)
    return tuple(refs)


def _of_notification(envelope: _Fields, depth: int) -> tuple[ProductRef, ...]:
    kind, message = envelope.get("Type"), envelope.get("Message")
    if kind == "SubscriptionConfirmation":
        topic = str(envelope.get("TopicArn"))[:200]
        raise MessageError(f"the topic {topic} asks to confirm a subscription: visit the message's SubscribeURL")
    if kind != "Notification" or not isinstance(message, str):
        raise MessageError(f"it is a {str(kind)[:80]!r} of a topic, a Notification with a Message is expected")
    return _read(message, depth=depth + 1)


def _each_once(refs: tuple[ProductRef, ...]) -> tuple[ProductRef, ...]:
    """Return the first of each product: a manifest and the metadata beside it mean the same one.

    A location with characters that no log takes is none: the product is found by its name.
    """
    found: dict[str, ProductRef] = {}
    for ref in refs:
        is_sound = ref.location is None or ref.location.isprintable()
        found.setdefault(ref.name.text, ref if is_sound else replace(ref, location=None))
    return tuple(found.values())


def _printable(text: str) -> str:
    """Return a text that a log, a terminal and a queue's attribute take: a stranger's words may be in it."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def _begin(body: str) -> str:
    """Return how a message begins, without what may be a secret."""
    start = body[: 10 * _SHOWN]
    return _QUERY.sub("…", _LOGIN.sub("…@", start))[:_SHOWN]
