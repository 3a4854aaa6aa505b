"""Fill a queue with the products that are wanted: in batches, each product once, going on where it was interrupted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from kappamask_stream.errors import QueueError
from kappamask_stream.feed.message import to_message
from kappamask_stream.queues.types import Draft

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from kappamask_stream.feed.filter import FeedFilter
    from kappamask_stream.feed.sent import SentProducts
    from kappamask_stream.feed.types import ProductRef

#: Messages sent before it is remembered on disk: so many may be sent again after a crash.
_BATCH = 100


class SendsEach(Protocol):
    """A queue that tells of each message whether it was sent; `queues.SqsQueue`."""

    async def send_each(self, drafts: Sequence[Draft]) -> list[str | QueueError]:
        """Return per message its id, or why it was not sent."""
        ...


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """What became of one product.

    Attributes
    ----------
    ref : the product.
    status : ``sent``; ``wanted`` where nothing is sent (a dry run); ``known``: it was sent before; ``filtered``;
        ``refused`` by the queue.
    reason : in words, of the last two.
    """

    ref: ProductRef
    status: Literal["sent", "wanted", "known", "filtered", "refused"]
    reason: str | None = None


async def submit(
    pages: AsyncIterator[Sequence[ProductRef]],
    queue: SendsEach | None,
    *,
    wanted: FeedFilter,
    sent: SentProducts,
    tell: Callable[[Submitted], None],
) -> None:
    """Send a message for each product that is wanted and was not sent yet.

    Parameters
    ----------
    pages : products as they are found; a page is done with before the next one is asked for.
    queue : None sends nothing.
    sent : remembers what was sent.
    tell : told of each product, in order.

    Raises
    ------
    QueueError, QueueUnavailableError
        If the queue takes none of a batch; what it took before is remembered.
    """
    async for page in pages:
        for start in range(0, len(page), _BATCH):
            await _submit_some(page[start : start + _BATCH], queue, wanted=wanted, sent=sent, tell=tell)


async def _submit_some(
    refs: Sequence[ProductRef],
    queue: SendsEach | None,
    *,
    wanted: FeedFilter,
    sent: SentProducts,
    tell: Callable[[Submitted], None],
) -> None:
    reasons = [wanted.reason(ref) for ref in refs]
    passing: dict[str, ProductRef] = {}
    for ref, reason in zip(refs, reasons, strict=True):
        if reason is None:
            passing.setdefault(ref.name.text, ref)
    unknown = await sent.unknown(list(passing))
    outcomes = await _send([ref for name, ref in passing.items() if name in unknown], queue)
    taken = {name for name, outcome in outcomes.items() if not isinstance(outcome, QueueError)}
    await sent.add(list(taken))
    for ref, reason in zip(refs, reasons, strict=True):
        name = ref.name.text
        outcome = outcomes.get(name)
        if reason is not None:
            tell(Submitted(ref=ref, status="filtered", reason=reason))
        elif isinstance(outcome, QueueError):  # each time that it is named
            tell(Submitted(ref=ref, status="refused", reason=str(outcome)))
        elif name in taken:
            taken.remove(name)  # the second of a name was sent by the first
            tell(Submitted(ref=ref, status="wanted" if queue is None else "sent"))
        else:
            tell(Submitted(ref=ref, status="known"))


async def _send(refs: Sequence[ProductRef], queue: SendsEach | None) -> dict[str, str | QueueError]:
    """Return by name the message's id, or why it was not sent."""
    names = [ref.name.text for ref in refs]
    if queue is None or not refs:
        return dict.fromkeys(names, "")
    drafts = [
        Draft(body=to_message(ref.name.text, ref.location, cloud_cover=ref.cloud_cover, footprint=ref.footprint))
        for ref in refs
    ]
    outcomes = await queue.send_each(drafts)
    failed = [outcome for outcome in outcomes if isinstance(outcome, QueueError)]
    if len(failed) == len(drafts):
        raise failed[0]
    return dict(zip(names, outcomes, strict=True))
