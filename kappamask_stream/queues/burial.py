"""Dead letters: messages that can never be done go to a queue of their own, with the reason in attributes."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING

from kappamask_stream import __version__
from kappamask_stream.errors import MessageRefusedError, UsageError
from kappamask_stream.queues.addresses import is_same_queue
from kappamask_stream.queues.drafts import MOST_ATTRIBUTES, cleaned, size_of
from kappamask_stream.queues.sqs import SqsQueue
from kappamask_stream.queues.types import Draft

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kappamask_stream.queues.types import Message, Queue

#: Attributes of a burial begin so.
_PREFIX = "kappamask_"
REASON, ERROR, PRODUCT = f"{_PREFIX}reason", f"{_PREFIX}error", f"{_PREFIX}product"
_QUEUE, _MESSAGE_ID = f"{_PREFIX}queue", f"{_PREFIX}message_id"
_RECEIVED, _VERSION = f"{_PREFIX}received", f"{_PREFIX}version"
_MOST_REASON, _MOST_NAME = 2000, 256
#: Every queue takes a message of this size, unless it is set to less than SQS always took.
_MOST_BYTES = 256 * 1024
#: The least that a queue can be set to take, and what of the reason goes with a body that is cut to that.
_LEAST_BYTES, _SHORT_REASON = 1024, 200
#: In a URL, what stands before the host and what follows the path may be secrets.
_LOGIN = re.compile(r"(?<=://)[^/@\s]+@")
_QUERY = re.compile(r"(?<=://)([^\s?'\"]+)\?[^\s'\"]+")


def dead_letter_of(queue: Queue, message: Message, *, reason: str, kind: str, product: str | None = None) -> Draft:
    """Return the dead letter of a message.

    Parameters
    ----------
    queue : that the message was received from.
    reason : in words; cut to 2000 characters, without what may be a secret in a URL.
    kind : name of the error's class.
    product : its name, where the message has one.
    """
    buried: dict[str, str | float] = {
        REASON: _short(_LOGIN.sub("", _QUERY.sub(r"\1?…", reason)), _MOST_REASON),
        ERROR: _short(kind, _MOST_NAME),
        PRODUCT: _short(product or "", _MOST_NAME),
        _QUEUE: queue.url,
        _MESSAGE_ID: message.id,
        _RECEIVED: message.received,
        _VERSION: __version__,
    }
    buried = {name: value for name, value in buried.items() if value != ""}
    of_sender = list(without_burial(message.attributes).items())[: MOST_ATTRIBUTES - len(buried)]
    draft = Draft(body=message.body, attributes={**dict(of_sender), **buried})
    # A body of the largest size leaves no room, and must not come back for ever.
    return draft if size_of(draft) <= _MOST_BYTES else Draft(body=message.body)


async def send_dead_letter(dead_letter_queue: Queue, letter: Draft) -> None:
    """Send a dead letter; where it is refused for what it holds, then less and less of it, until it is taken.

    Raises
    ------
    QueueError, QueueUnavailableError
        If the queue refuses whatever it is, or cannot be reached.
    """
    *tries, last = _ever_less(letter)
    for draft in tries:
        with suppress(MessageRefusedError):
            await dead_letter_queue.send([draft])
            return
    await dead_letter_queue.send([last])


def _ever_less(letter: Draft) -> Iterator[Draft]:
    """Yield a letter, its body without attributes but the reason, and that cut to what any queue takes."""
    yield letter
    reason = _short(str(letter.attributes.get(REASON, "")), _SHORT_REASON)
    attributes: dict[str, str | float] = {REASON: reason} if reason else {}
    body = cleaned(letter.body) or "-"
    yield Draft(body=body, attributes=attributes)
    room = _LEAST_BYTES - size_of(Draft(body="", attributes=attributes))
    yield Draft(body=body.encode()[:room].decode(errors="ignore"), attributes=attributes)


def without_burial(attributes: Mapping[str, str]) -> dict[str, str]:
    """Return the attributes that a message had before it was buried; empty ones cannot be sent again."""
    return {name: value for name, value in attributes.items() if not name.startswith(_PREFIX) and value}


def is_letter_of(message: Message, queue: Queue) -> bool:
    """Tell whether a dead letter came from a queue, or does not tell from which: SQS itself has moved it then."""
    told = message.attributes.get(_QUEUE)
    try:
        return told is None or is_same_queue(told, queue.url)
    except UsageError:
        return False


def _short(text: str, most: int) -> str:
    """Return a text that SQS takes as an attribute."""
    text = cleaned(text).strip()
    return text if len(text) <= most else f"{text[: most - 1]}…"


async def dead_letter_queue_of(queue: SqsQueue, named: str | None = None) -> SqsQueue | None:
    """Return the queue that takes messages which can never be done; None where there is none.

    Parameters
    ----------
    named : its URL, where it is not the one of the queue's redrive policy: the setting ``dead_letter_queue``.

    Raises
    ------
    UsageError
        If it is the queue itself.
    QueueError, QueueUnavailableError
        If the queue does not tell.
    """
    url = named or (await queue.stats()).dead_letter_queue
    if url is None:
        return None
    if is_same_queue(url, queue.url):
        raise UsageError(f"{url} is the queue and its dead-letter queue: poison would come back; name another one")
    return SqsQueue(url, queue.clients)
