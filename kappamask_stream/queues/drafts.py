"""What SQS and SNS take: drafts checked in words before they are sent, and put together to batches."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from kappamask_stream.errors import MessageRefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from kappamask_stream.queues.types import Draft

#: SQS's largest message, with attributes, since August 2025; a queue may be set to less, and SNS takes a quarter.
MOST_BYTES = 1024 * 1024
MOST_TOPIC_BYTES = 256 * 1024
#: A batch of this size is taken by every queue, whatever it is set to.
_BATCH_BYTES = 256 * 1024
BATCH = 10
MOST_ATTRIBUTES = 10
_MOST_DELAY_S = 900
#: Characters that are not of XML 1.0: SQS refuses them, or puts others in their place.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NAME = re.compile(r"(?!aws\.|amazon\.)(?!.*\.\.)[A-Za-z0-9_-][A-Za-z0-9_.-]{0,255}(?<!\.)", re.IGNORECASE)


def cleaned(text: str) -> str:
    """Return a text with U+FFFD for each character that SQS refuses."""
    return _FORBIDDEN.sub("\ufffd", text)


def check(draft: Draft, what: str, most_bytes: int = MOST_BYTES) -> None:
    """Return where a draft can be sent.

    Raises
    ------
    MessageRefusedError
        If it is empty or too large, or has characters, attributes or a delay that the service refuses.
    """
    if not draft.body:
        raise MessageRefusedError(f"{what}: a message has no body: one character is the least")
    texts = [draft.body, *(value for value in draft.attributes.values() if isinstance(value, str))]
    if wrong := next(filter(None, map(_FORBIDDEN.search, texts)), None):
        raise MessageRefusedError(
            f"{what}: a message has character U+{ord(wrong[0]):04X} at place {wrong.start()}, which no queue takes: "
            "write it as JSON, with escapes"
        )
    if len(draft.attributes) > MOST_ATTRIBUTES:
        raise MessageRefusedError(
            f"{what}: a message has {len(draft.attributes)} attributes, {MOST_ATTRIBUTES} are the most: put the rest "
            "into its body"
        )
    for name, value in draft.attributes.items():
        if not _NAME.fullmatch(name):
            raise MessageRefusedError(
                f"{what}: {name[:80]!r} is no name of an attribute: letters, digits, _ - and . are"
            )
        if value == "" or not _is_finite(value):
            raise MessageRefusedError(f"{what}: attribute {name} is {value!r}, which cannot be sent: leave it out")
    if not 0 <= draft.delay_s <= _MOST_DELAY_S:
        raise MessageRefusedError(
            f"{what}: a message is delayed by {draft.delay_s} s, 0 to {_MOST_DELAY_S} are possible"
        )
    if (size := size_of(draft)) > most_bytes:
        raise MessageRefusedError(
            f"{what}: a message has {size} bytes with its attributes, {most_bytes} are the most: name what it holds "
            "instead of holding it"
        )


def _is_finite(value: str | float) -> bool:
    return isinstance(value, str) or math.isfinite(value)


def attributes_of(draft: Draft) -> dict[str, dict[str, str]]:
    """Return a draft's attributes as both services want them; numbers become Number, truth a text."""
    return {
        name: dict(zip(("DataType", "StringValue"), _typed(value), strict=True))
        for name, value in draft.attributes.items()
    }


def _typed(value: str | float) -> tuple[str, str]:
    if isinstance(value, bool):
        return "String", str(value).lower()
    if isinstance(value, str):
        return "String", value
    return "Number", str(int(value)) if isinstance(value, int) else repr(float(value))  # numpy's write their type


def text_attributes(said: Mapping[str, Any]) -> dict[str, str]:
    """Return a received message's attributes that are texts or numbers."""
    return {name: value["StringValue"] for name, value in said.items() if "StringValue" in value}


def size_of(draft: Draft) -> int:
    """Return the bytes that a draft counts: body, names, types and values of attributes."""
    size = len(draft.body.encode())
    for name, value in draft.attributes.items():
        kind, text = _typed(value)
        size += len(name.encode()) + len(kind) + len(text.encode())
    return size


def batches(drafts: Mapping[int, Draft]) -> Iterator[Sequence[int]]:
    """Yield the numbers of drafts that go into one request each: at most 10, and not more than every queue takes."""
    batch: list[int] = []
    size = 0
    for number, draft in drafts.items():
        own = size_of(draft)
        if batch and (len(batch) == BATCH or size + own > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(number)
        size += own
    if batch:
        yield batch
