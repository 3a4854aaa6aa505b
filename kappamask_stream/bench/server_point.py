"""What came of one number of requests in flight, by what client processes and the server say. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kappamask_stream.bench.closed_loop import latency_of
from kappamask_stream.bench.types import ServerPoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kappamask_stream.bench.load_messages import Sent
    from kappamask_stream.bench.server_statistics import Statistics
    from kappamask_stream.bench.types import GpuUse


def server_point(
    concurrency: int, sent: Sequence[Sent], begin: float, end: float, statistics: Statistics, gpu: GpuUse | None
) -> ServerPoint:
    """Put a point together.

    Answers are counted from `begin` to `end`, and divided by the time from the last one before to the last one
    within. By the interval itself, as long as a few answers take, the rate would be off by up to a batch of them:
    they come together, at once after it begins or long before it ends.

    Parameters
    ----------
    sent : of each client process.
    begin, end : on the clock of `time.monotonic`.
    statistics : of the server, between a look after the interval's beginning and one before its end.
    """
    answered = sum(one.answered for one in sent)
    first = max((one.last_before_s for one in sent if one.last_before_s is not None), default=begin)
    last = max((one.last_s for one in sent if one.last_s is not None), default=end)
    # What was computed in it was answered, has failed, or is on its way as it ends.
    failed = sum(len(one.errors) for one in sent)
    own = statistics.of_one_client(answered + failed + concurrency)
    return ServerPoint(
        concurrency=concurrency,
        processes=len(sent),
        seconds=last - first,
        tiles=answered,
        latency=latency_of([latency for one in sent for latency in one.latencies_s]),
        batch_sizes=None if own.untold else own.batches,
        queue_s=own.mean_s("queue"),
        input_s=own.mean_s("compute_input"),
        compute_s=own.mean_s("compute_infer"),
        output_s=own.mean_s("compute_output"),
        untold=own.untold,
        client_cpu_s=sum(one.cpu_s for one in sent),
        lag_p99_s=max((one.lag_p99_s for one in sent if one.lag_p99_s is not None), default=None),
        gpu=gpu,
    )


def failures_of(point: ServerPoint, sent: Sequence[Sent]) -> list[str]:
    """Say how many requests of a point failed without ending it, and why."""
    failures = []
    if turned_away := sum(one.turned_away for one in sent):
        text = next(one.turned_away_text for one in sent if one.turned_away)
        failures.append(
            f"{point.concurrency} in flight: {turned_away} requests, beside {point.tiles} answered ones, found the "
            f"queue full: {text}"
        )
    if errors := [error for one in sent for error in one.errors]:
        failures.append(f"{point.concurrency} in flight: {len(errors)} requests failed: {errors[0].message}")
    return failures
