"""What is not the same in two reports: the work, where it was done, what failed. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kappamask_stream.bench.types import BenchReport

#: What it is, in the first report, in the second.
Pairs = list[tuple[str, object, object]]


def work(before: BenchReport, after: BenchReport) -> Pairs:
    """Return what was measured and how, of both."""
    pairs: Pairs = [
        ("model", before.model, after.model),
        ("product", before.product, after.product),
        ("tiles with data", before.product_tiles_inferred, after.product_tiles_inferred),
    ]
    if before.server is not None and after.server is not None:
        pairs.append(("transport", before.server.transport, after.server.transport))
    if before.end_to_end is not None and after.end_to_end is not None:
        pairs.append(("products at once", before.end_to_end.products_at_once, after.end_to_end.products_at_once))
        pairs.append(("window of requests", before.end_to_end.window, after.end_to_end.window))
    if before.client is not None and after.client is not None:
        pairs.append(("decode threads", before.client.floor.threads, after.client.floor.threads))
        pairs.append(("budget, bytes", before.client.budget_bytes, after.client.budget_bytes))
    if before.settings is not None and after.settings is not None:
        one, other = before.settings, after.settings
        pairs += [
            ("decoder", one.decoder, other.decoder),
            ("radiometry", one.radiometry, other.radiometry),
            ("rounds", one.rounds, other.rounds),
            ("duration, s", one.duration_s, other.duration_s),
        ]
    return pairs


def surroundings(before: BenchReport, after: BenchReport) -> Pairs:
    """Return where and with which versions it was measured, of both."""
    one, other = before.environment, after.environment
    pairs: Pairs = [
        ("processor", one.cpu, other.cpu),
        ("cores", one.cores, other.cores),
        ("memory", one.memory_bytes, other.memory_bytes),
        ("GPU", one.gpu, other.gpu),
        ("system", one.system, other.system),
        ("server on the client's machine", before.local_server, after.local_server),
    ]
    names = dict.fromkeys([*one.versions, *other.versions])
    return pairs + [(f"version of {name}", one.versions.get(name), other.versions.get(name)) for name in names]


def told(pairs: Pairs) -> Iterator[str]:
    """Say what is not the same."""
    for what, mine, theirs in pairs:
        if mine != theirs:
            yield f"{what}: {_shown(mine)} and {_shown(theirs)}"


def new_failures(before: BenchReport, after: BenchReport) -> Iterator[str]:
    """Return failures of the server's level that the report before has none of at the same number in flight."""
    if before.server is None or after.server is None:
        return
    known = {failure.partition(":")[0] for failure in before.server.failures}
    if after.server.broken_off is not None and before.server.broken_off is None:
        yield f"broke off: {after.server.broken_off}"
    others = (failure for failure in after.server.failures if failure != after.server.broken_off)
    yield from (failure for failure in others if failure.partition(":")[0] not in known)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "unknown" if value is None else str(value)
