"""What `kappamask-stream queue …` says of queues and messages, as text and as JSON."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kappamask_stream.errors import MessageError
from kappamask_stream.feed import parse_message
from kappamask_stream.queues.burial import ERROR, PRODUCT, REASON, without_burial

if TYPE_CHECKING:
    from kappamask_stream.queues import Message, Moved, QueueStats

_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_MOST_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Counts:
    """A queue's counts, and those of its dead-letter queue.

    Attributes
    ----------
    url, stats : of the queue.
    dead_url, dead_stats : of the dead-letter queue; None where there is none.
    """

    url: str
    stats: QueueStats
    dead_url: str | None = None
    dead_stats: QueueStats | None = None


def counts_as_json(counts: Counts) -> dict[str, Any]:
    """Return counts as one object."""

    def of(url: str | None, stats: QueueStats | None) -> dict[str, Any] | None:
        if stats is None:
            return None
        return {"url": url, "waiting": stats.waiting, "in_work": stats.in_work, "delayed": stats.delayed}

    return {
        "queue": of(counts.url, counts.stats),
        "dead_letter_queue": of(counts.dead_url, counts.dead_stats),
        "receives_before_dead": counts.stats.receives_before_dead,
    }


def counts_as_text(counts: Counts) -> str:
    """Return counts as lines for people."""
    lines = [f"queue         {counts.url}", *_lines(counts.stats)]
    if counts.dead_stats is None:
        return "\n".join([*lines, "dead letters  none: it has no redrive policy, and --dead-letter-queue is not given"])
    after = counts.stats.receives_before_dead
    policy = "" if after is None else f" (also after {after} deliveries)"
    return "\n".join([*lines, f"dead letters  {counts.dead_url}{policy}", *_lines(counts.dead_stats)])


def _lines(stats: QueueStats) -> list[str]:
    return [f"  waiting     {stats.waiting}", f"  in work     {stats.in_work}", f"  delayed     {stats.delayed}"]


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """What a message asks for.

    Attributes
    ----------
    kind : its form, as `feed.MessageKind`; None where it is in none, or asks for no product.
    products : names.
    problem : why it is not understood; None where it is.
    """

    kind: str | None = None
    products: tuple[str, ...] = ()
    problem: str | None = None


def meaning_of(message: Message) -> Meaning:
    """Read what a message asks for, as the worker would."""
    try:
        refs = parse_message(message.body)
    except MessageError as error:
        return Meaning(problem=str(error))
    return Meaning(kind=refs[0].kind if refs else None, products=tuple(ref.name.text for ref in refs))


def is_chosen(message: Message, reason: str | None, product: str | None) -> bool:
    """Tell whether a dead letter has a text in its reason or error, and another in a product's name; None: any."""
    said = message.attributes
    if reason is not None and reason.lower() not in f"{said.get(ERROR, '')}: {said.get(REASON, '')}".lower():
        return False
    return product is None or any(product in name for name in (*meaning_of(message).products, said.get(PRODUCT, "")))


def message_as_json(message: Message, *, with_body: bool) -> dict[str, Any]:
    """Return a message as one object; what was attached to a dead letter is apart from what its sender said."""
    said = message.attributes
    shown = {
        "id": message.id,
        "sent_at": datetime.fromtimestamp(message.sent_at, UTC).isoformat(timespec="seconds"),
        "received": message.received,
        **asdict(meaning_of(message)),
        "error": said.get(ERROR),
        "reason": said.get(REASON),
        "attributes": without_burial(said),
    }
    return {**shown, "body": message.body} if with_body else shown


def message_as_text(message: Message, *, with_body: bool) -> str:
    """Return a message as lines for people."""
    meaning, said = meaning_of(message), message.attributes
    named = ", ".join(meaning.products[:_MOST_NAMED])
    more = len(meaning.products) - _MOST_NAMED
    asks = meaning.problem or (f"{meaning.kind}: {named}" if meaning.products else "asks for no product")
    times = "once" if message.received == 1 else f"{message.received} times"
    lines = [
        f"{message.id}  sent {_ago(time.time() - message.sent_at)} ago, received {times}",
        f"  {asks}" + (f" and {more} more" if more > 0 else ""),
    ]
    if REASON in said or ERROR in said:
        lines.append(f"  {said.get(ERROR, 'failed')}: {' '.join(said.get(REASON, 'no reason is given').split())}")
    lines += [f"  | {line}" for line in message.body.splitlines() if with_body]
    return "\n".join(map(_printable, lines))


def _printable(line: str) -> str:
    """Return a line without what a terminal would obey."""
    return "".join(character if character.isprintable() else "\ufffd" for character in line)


def moved_as_text(moved: Moved, *, dry_run: bool = False) -> str:
    """Say in one line how far a move is."""
    would = " would be" if dry_run else ""
    refused = f", {moved.refused} refused" if moved.refused else ""
    return f"{moved.moved}{would} moved, {moved.kept} stay{refused}"


def _ago(seconds: float) -> str:
    """Return a time in the largest unit of which there are two, or in seconds."""
    size, unit = next(((size, unit) for size, unit in _UNITS if seconds >= 2 * size), _UNITS[-1])
    return f"{max(0.0, seconds) // size:.0f} {unit}"
