"""Parts of the verdict's sentences; empty where the report does not hold what they would say. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from kappamask_stream.bench.facts import mean_batch
from kappamask_stream.bench.wording import bits_per_s, counted, number, percent

if TYPE_CHECKING:
    from kappamask_stream.bench.facts import Facts
    from kappamask_stream.bench.types import EndToEndLevel, Limit

#: Share of the client's CPU from which on decoding is what it works at; of the best batches below which they are small.
_MOST, _SMALL = 0.5, 0.7
#: Times what is there above which a number says no more than "very many".
_VERY_MANY = 1000


def client_limit(facts: Facts) -> Limit:
    """Name the client's limit: decoding, where that is most of its CPU time, or longer on a GPU."""
    if facts.decodes_on_gpu and facts.client_s is not None and facts.client_s == facts.decode_floor_s:
        return "decode"
    return "decode" if facts.decode_share is not None and facts.decode_share >= _MOST else "client"


def server_word(facts: Facts) -> str:
    """Name what computes."""
    return "the GPU" if facts.has_gpu else "the server"


def server_load(facts: Facts) -> float | None:
    """Return how much of the server is used: by its rate or by its time, whichever says more."""
    known = [share for share in (facts.server_used, facts.server_busy) if share is not None]
    return max(known, default=None)


def idle_clause(facts: Facts) -> str:
    """Say how much of the server is unused; empty where that is unknown."""
    used = "" if facts.server_used is None else f"{percent(facts.server_used)} of the tiles/s that it can"
    if facts.server_busy is not None:
        also = f" (it answers {used})" if used else ""
        return f"{server_word(facts)} is idle {percent(max(0.0, 1 - facts.server_busy))} of the time{also}"
    return f"the server answers {used}" if used else ""


def busy_clause(facts: Facts) -> str:
    """Say how busy the server was by its own account."""
    busy = facts.server_busy
    return "" if busy is None else f"; {server_word(facts)} is busy {percent(busy)} of the time"


def more_cores_clause(facts: Facts) -> str:
    """Say how many cores the client lacks to keep the server busy."""
    needed = facts.cores_for_server
    if needed is None or math.ceil(needed) <= facts.cores:
        return ""
    if needed > _VERY_MANY * facts.cores:
        return f"; it would take more than {number(_VERY_MANY)} times as many cores to saturate it"
    return f"; {counted(math.ceil(needed) - facts.cores, 'more core')} would saturate it"


def room_sentence(facts: Facts) -> str:
    """Say what the client's cores could do beside a server that is the limit, where they are its own."""
    cpu, level = facts.own_cpu_s, facts.report.end_to_end
    if facts.shares_cores or not cpu or level is None:
        return ""
    seconds = max(cpu / facts.cores, facts.client_s or 0.0)
    return f" {counted(facts.cores, 'core')} of the client would do for {an_hour(seconds, level.products_per_hour)}."


def an_hour(seconds: float, now: float) -> str:
    """Say how many products an hour can be had, one in so many seconds, where there are `now`."""
    if 3600 / seconds > _VERY_MANY * now:
        return f"more than {number(_VERY_MANY)} times as many products"
    return f"{number(3600 / seconds)} products an hour"


def batches_sentence(facts: Facts, level: EndToEndLevel) -> str:
    """Say where batches are much smaller than the server had them at its best, with more requests in flight."""
    mean = mean_batch(level.batch_sizes)
    best = None if facts.best is None else mean_batch(facts.best.batch_sizes)
    if facts.best is None or mean is None or best is None or mean >= _SMALL * best:
        return ""
    if facts.best.concurrency <= level.mean_in_flight:
        return ""
    return (
        f" Batches hold {number(mean)} tiles, {number(best)} at the server's best: more requests in flight fill them."
    )


def bandwidth_clause(facts: Facts) -> str:
    """Say what goes to the server."""
    level, rate = facts.report.server, facts.tiles_per_s
    if level is None or not rate:
        return ""
    return f", {bits_per_s(level.request_bytes * rate)} go to it"
