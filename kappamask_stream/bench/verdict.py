"""What limits, in words: the first rule that holds, of few, each in one function. Pure.

Only what the report holds is said; where a level is missing, less is. Every number follows from the report's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kappamask_stream.bench.facts import Facts
from kappamask_stream.bench.phrases import (
    an_hour,
    bandwidth_clause,
    batches_sentence,
    busy_clause,
    client_limit,
    idle_clause,
    more_cores_clause,
    room_sentence,
    server_load,
    server_word,
)
from kappamask_stream.bench.types import Verdict
from kappamask_stream.bench.verdict_apart import levels_apart
from kappamask_stream.bench.wording import counted, duration, number, percent

if TYPE_CHECKING:
    from collections.abc import Callable

    from kappamask_stream.bench.types import BenchReport, EndToEndLevel, Limit

#: Share of what is there from which on it counts as used up; below `_IDLE` it is none of the limit's.
_SATURATED, _IDLE = 0.85, 0.7
#: Share of the window of requests from which on it counts as full.
_FULL_WINDOW = 0.8
#: p99 of the event loop's lag above which the loop is late, seconds; cores' worth of CPU that a busy loop has.
_LATE_S, _ONE_CORE = 0.020, 0.8
#: Share of the products' time from which on writing, or reading, is what they wait for.
_LONG_WRITE, _LONG_READ = 0.25, 0.7
_HALF = 0.5


def verdict_of(report: BenchReport) -> Verdict:
    """Say what limits, by how much, and what would help."""
    facts = Facts(report=report)
    level = report.end_to_end
    if level is None:
        return levels_apart(facts)
    for rule in _RULES:
        found = rule(facts, level)
        if found is not None:
            return found
    return _nothing_found(facts, level)


def _shared_cores(facts: Facts, level: EndToEndLevel) -> Verdict | None:
    """Find server and client on the same cores, all of them busy."""
    busy, server, client = facts.cores_busy, facts.server_cpu_s, facts.client_cpu_s
    if not facts.shares_cores or server is None or client is None or busy is None or busy < _SATURATED:
        return None
    limit: Limit = "compute" if server >= client else client_limit(facts)
    whole = server + client
    text = (
        f"{limit}-bound: server and client share {counted(facts.cores, 'core')}, which are {percent(busy)} busy; of "
        f"{number(whole)} CPU s a product the server takes {percent(server / whole)}, the client "
        f"{percent(client / whole)}."
    )
    remedy = (
        f" With the server elsewhere, or a GPU, these cores would do for "
        f"{an_hour(facts.client_s or client / facts.cores, level.products_per_hour)} in place of "
        f"{number(level.products_per_hour)}."
    )
    return Verdict(limit=limit, text=text + remedy)


def _compute(facts: Facts, level: EndToEndLevel) -> Verdict | None:
    """Find that the server answers all that it can."""
    used, busy = facts.server_used, facts.server_busy
    decisive = busy if used is None else used
    if decisive is None or decisive < _SATURATED:
        return None
    if used is None or facts.server_tiles_per_s is None or facts.tiles_per_s is None:
        text = f"compute-bound: {server_word(facts)} is busy {percent(busy or 0.0)} of the time."
    else:
        of_it = f"{percent(used)} of the {number(facts.server_tiles_per_s)} that it reached by itself"
        if facts.tiles_per_s >= facts.server_tiles_per_s:
            of_it = f"no less than the {number(facts.reached_tiles_per_s or 0.0)} that it reached by itself"
        text = f"compute-bound: the server answers {number(facts.tiles_per_s)} tiles/s, {of_it}{busy_clause(facts)}."
    return Verdict(limit="compute", text=text + batches_sentence(facts, level) + room_sentence(facts))


def _client_cores(facts: Facts, level: EndToEndLevel) -> Verdict | None:
    """Find the client's cores busy, which the server waits for."""
    busy = facts.cores_busy
    if busy is None or busy < _SATURATED:
        return None
    limit = client_limit(facts)
    idle = idle_clause(facts)
    text = f"{limit}-bound: {f'{idle}; ' if idle else ''}{counted(facts.cores, 'core')} of the client, "
    text += f"{percent(busy)} busy, mask {number(level.products_per_hour)} products an hour{more_cores_clause(facts)}."
    return Verdict(limit=limit, text=text)


def _loop(facts: Facts, level: EndToEndLevel) -> Verdict | None:
    """Find one event loop late while cores and server have room."""
    worth, busy = level.client_cpu_s / level.wall_s, facts.cores_busy
    if level.lag_p99_s < _LATE_S or worth < _ONE_CORE or facts.cores < 2 or busy is None:  # noqa: PLR2004 - one is the loop's
        return None
    idle = idle_clause(facts)
    text = (
        f"client-bound: the event loop is {duration(level.lag_p99_s)} late (p99) while the client uses "
        f"{number(worth)} of {counted(facts.cores, 'core')}{f' and {idle}' if idle else ''}: one loop is the limit, "
        "spread products over several with --processes."
    )
    return Verdict(limit="client", text=text)


def _write(facts: Facts, level: EndToEndLevel) -> Verdict | None:
    """Find that products that are answered wait for their files."""
    share = facts.write_share
    if share is None or share < _LONG_WRITE:
        return None
    text = (
        f"write-bound: from a product's last answer to its closed files it takes "
        f"{duration(level.write_s / level.products)}, {percent(share)} of the time in which products are in work: "
        "look at the disk or store that masks go to, or have more products at once."
    )
    return Verdict(limit="write", text=text)


def _queue(facts: Facts, level: EndToEndLevel) -> Verdict | None:
    """Find that requests wait for a batch although the server has time."""
    queue, compute, used = level.queue_s, level.compute_s, server_load(facts)
    if queue is None or compute is None or used is None or used > _IDLE or queue <= compute:
        return None
    text = (
        f"queue-bound: a request waits {duration(queue)} for its batch and is computed for {duration(compute)}, with "
        f"the server at {percent(used)} of what it can: shorten the model's queue delay, or give it more instances."
    )
    return Verdict(limit="queue", text=text + batches_sentence(facts, level))


def _held(facts: Facts, level: EndToEndLevel) -> Verdict | None:
    """Find that requests are in the server nearly all of the time, and that no more may be in flight."""
    latency, served = facts.latency_s, facts.served_s
    if latency is None or served is None or level.mean_in_flight < _FULL_WINDOW * level.window:
        return None
    if served < _HALF * latency:
        return None
    used = facts.server_used
    text = (
        f"compute-bound: the window of {number(level.window)} in flight is full, and a request of {duration(latency)} "
        f"is in the server for {duration(min(served, latency))}{busy_clause(facts)}."
    )
    if used is not None and used < _HALF:
        text += (
            f" It answers only {percent(used)} of the tiles/s that it reached by itself: others use it, or what it "
            "computes on."
        )
    return Verdict(limit="compute", text=text + batches_sentence(facts, level))


def _network(facts: Facts, level: EndToEndLevel) -> Verdict | None:
    """Find requests, or the product's bytes, on their way most of the time."""
    if (facts.read_share or 0.0) >= _LONG_READ and (facts.cores_busy or 0.0) < _IDLE:
        text = (
            f"network-bound: products wait for their bytes; reading takes "
            f"{duration(level.stages['read'] / level.products)} a product: more connections to the store, or a place "
            "nearer to it."
        )
        return Verdict(limit="network", text=text)
    latency, served, used = facts.latency_s, facts.served_s, server_load(facts)
    if latency is None or served is None or level.mean_in_flight < _FULL_WINDOW * level.window:
        return None
    if facts.report.server is not None and facts.report.server.transport == "shared memory":
        return None  # tiles go over no network
    if (used is not None and used > _IDLE) or latency - served < _HALF * latency:
        return None
    text = (
        f"network-bound: a request takes {duration(latency)}, of which the server has it for {duration(served)}; the "
        f"window of {number(level.window)} in flight is full{bandwidth_clause(facts)}: a faster way to the server, "
        "shared memory beside it, or a larger --max-in-flight."
    )
    return Verdict(limit="network", text=text)


#: In this order: what is used up comes before what is only slow.
_RULES: tuple[Callable[[Facts, EndToEndLevel], Verdict | None], ...] = (
    _shared_cores,
    _compute,
    _client_cores,
    _loop,
    _write,
    _queue,
    _held,
    _network,
)


def _nothing_found(facts: Facts, level: EndToEndLevel) -> Verdict:
    seen = []
    if facts.cores_busy is not None:
        seen.append(f"{percent(facts.cores_busy)} of {counted(facts.cores, 'core')} busy")
    if facts.server_used is not None:
        seen.append(f"the server at {percent(facts.server_used)} of the tiles/s that it reached by itself")
    if facts.server_busy is not None:
        seen.append(f"{server_word(facts)} busy {percent(facts.server_busy)} of the time")
    seen.append(f"{number(level.mean_in_flight)} of {number(level.window)} requests in flight")
    advice = "more products at once (--products-at-once) or a longer --duration may show one"
    return Verdict(limit="unknown", text=f"No limit found: {', '.join(seen)}; {advice}.")
