"""How many messages may be taken now, and else why not. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

#: A queue gives at most so many at once.
_RECEIVED_MOST = 10


@dataclass(frozen=True, kw_only=True)
class Room:
    """What may be taken now.

    Attributes
    ----------
    most : messages to ask the queue for; 0: none.
    reason : why taking is paused; None where it is not, though all slots may be in use.
    wait_s : seconds after which it is worth looking again, though nothing else happens.
    """

    most: int
    reason: str | None = None
    wait_s: float = math.inf


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """What speaks against taking, as far as it is known.

    Attributes
    ----------
    reason : in words; None where nothing does.
    wait_s : seconds of its pause that are left; 0 where one message may be tried.
    """

    reason: str | None = None
    wait_s: float = 0.0


def room(*, slots: int, busy: int, left: float, queue: Trouble, work: Trouble, load: str | None) -> Room:
    """Decide how many messages may be taken.

    Parameters
    ----------
    slots, busy : messages that may be in hand at once, and that are.
    left : messages that may still be taken before this worker ends; infinite where nobody limits them.
    queue : with the queue itself: it cannot be reached.
    work : with messages in hand: they failed in a way that others will, too.
    load : why the inference server is to be spared.
    """
    if queue.reason is not None and queue.wait_s > 0:
        return Room(most=0, reason=queue.reason, wait_s=queue.wait_s)
    if work.reason is not None and (work.wait_s > 0 or busy):
        return Room(most=0, reason=work.reason, wait_s=work.wait_s or math.inf)
    if load is not None:
        return Room(most=0, reason=load)
    most = min(slots - busy, _RECEIVED_MOST, left)
    return Room(most=int(most if work.reason is None else min(1, most)))
