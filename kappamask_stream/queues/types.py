"""A queue of messages, whoever runs it: received, kept hidden while in work, deleted when done."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, kw_only=True)
class Message:
    """One delivery of a message; the queue hides it from others for a while.

    Attributes
    ----------
    id : of the message, the same at each delivery.
    receipt : of this delivery: what deletes it, or hides it for longer.
    body : text, as it was sent.
    attributes : that the sender gave, as text; those of bytes are left out.
    received : times that it was delivered, this one included.
    sent_at : seconds since 1970, by the queue's clock.
    received_at : ``time.monotonic()`` of this delivery, or before it: of the request, as an answer may have been long
        on its way. A queue hides a message for as long as it was asked to from the delivery, 12 hours at most.
    """

    id: str
    receipt: str = field(repr=False)
    body: str = field(repr=False)
    attributes: Mapping[str, str] = field(default_factory=dict)
    received: int = 1
    sent_at: float = 0.0
    received_at: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A message to be sent.

    Attributes
    ----------
    body : text; SQS takes 256 KiB with the attributes (1 MiB since August 2025), SNS 256 KiB.
    attributes : for filters; at most 10, none empty. A text is sent as a String, also where its characters are digits;
        an int or float is sent as a Number, which filters compare: ``{"cloud_cover": [{"numeric": ["<", 20]}]}``.
    delay_s : seconds before it can be received, at most 900; a topic knows no delay.
    """

    body: str = field(repr=False)
    attributes: Mapping[str, str | float] = field(default_factory=dict)
    delay_s: int = 0


@dataclass(frozen=True, kw_only=True)
class QueueStats:
    """A queue's own counts, which it calls approximate.

    Attributes
    ----------
    waiting, in_work, delayed : messages that can be received, are hidden by a delivery, cannot be received yet.
    dead_letter_queue : URL of the queue of its redrive policy; None without one.
    receives_before_dead : deliveries after which the queue itself moves a message there; None without a policy.
    told_at : seconds since 1970 by the service's clock, whole ones; None where it does not tell. This machine's clock
        may be another, and `Message.sent_at` is of the service's.
    """

    waiting: int
    in_work: int
    delayed: int
    dead_letter_queue: str | None = None
    receives_before_dead: int | None = None
    told_at: float | None = None


class Sink(Protocol):
    """What takes messages: a queue, or a topic. Raises as a `Queue` does.

    Attributes
    ----------
    target : its URL or ARN.
    """

    target: str

    async def send(self, draft: Draft) -> str:
        """Send a message and return its id."""
        ...


class Queue(Protocol):
    """A queue. Calls raise `QueueError` where it refuses, `QueueUnavailableError` where it cannot be reached.

    Attributes
    ----------
    url : its address.
    """

    url: str

    async def receive(self, most: int, *, wait_s: int, visibility_s: int) -> list[Message]:
        """Wait for messages and return them; none is no error.

        Parameters
        ----------
        most : messages wanted, 1 to 10.
        wait_s : seconds to wait where there are none.
        visibility_s : seconds for which they are hidden from others.
        """
        ...

    async def hide(self, message: Message, seconds: int) -> None:
        """Hide a received message from others for so long from now; 0 gives it back at once."""
        ...

    async def delete(self, message: Message) -> None:
        """Delete a received message for good."""
        ...

    async def send(self, drafts: Sequence[Draft]) -> list[str]:
        """Send messages, as many as you like, and return their ids in the same order.

        Raises
        ------
        QueueError
            Naming those that were refused; the others were sent.
        """
        ...

    async def stats(self) -> QueueStats:
        """Return the queue's counts."""
        ...
