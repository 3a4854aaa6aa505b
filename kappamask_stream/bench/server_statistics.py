"""Where a request's time goes inside the server, and the batches that it forms: Triton's statistics extension."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tritonclient.utils import InferenceServerException

from kappamask_stream.inference.served import CONTROL_TIMEOUT_S
from kappamask_stream.inference.token import without_token

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tritonclient.grpc.aio import InferenceServerClient

#: Parts of a request's way through the server, as the extension calls them.
PARTS = ("queue", "compute_input", "compute_infer", "compute_output")


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Counters of one model on one server, since it was loaded; all its versions together.

    Attributes
    ----------
    batches : batch size -> executions.
    requests, seconds : per part of `PARTS`: requests that have passed it, and the time that they took, added up.
    untold : why nothing is known, in words; None where the counters are.
    """

    batches: Mapping[int, int] = field(default_factory=dict)
    requests: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    untold: str | None = None

    def since(self, earlier: Statistics) -> Statistics:
        """Return what came between two snapshots; nothing is known where the counters began anew meanwhile."""
        if (untold := self.untold or earlier.untold) is not None:
            return Statistics(untold=untold)
        batches = {size: n - earlier.batches.get(size, 0) for size, n in self.batches.items()}
        requests = {part: n - earlier.requests.get(part, 0) for part, n in self.requests.items()}
        seconds = {part: s - earlier.seconds.get(part, 0.0) for part, s in self.seconds.items()}
        lost = set(earlier.batches) - set(self.batches)
        if lost or min((*batches.values(), *requests.values()), default=0) < 0:
            return Statistics(untold="the server began to count anew meanwhile: it, or the model, was loaded again")
        return Statistics(
            batches={size: n for size, n in sorted(batches.items()) if n}, requests=requests, seconds=seconds
        )

    def mean_s(self, part: str) -> float | None:
        """Return the seconds that a request spent in a part of its way, on average; None where none has passed it."""
        passed = self.requests.get(part, 0)
        return self.seconds[part] / passed if passed else None


async def read_statistics(channel: InferenceServerClient, model: str) -> Statistics:
    """Take a snapshot; a server that denies it, or is not there, is a reason in the answer.

    Parameters
    ----------
    channel : to one server: counters of several cannot be compared (`Connection.one`).
    """
    try:
        answer = await channel.get_inference_statistics(model, client_timeout=CONTROL_TIMEOUT_S)
    except InferenceServerException as caught:
        error = without_token(caught, channel.plugin())
        return Statistics(untold=f"the server does not give statistics: {error.message()}")
    batches: dict[int, int] = {}
    requests, seconds = dict.fromkeys(PARTS, 0), dict.fromkeys(PARTS, 0.0)
    for version in answer.model_stats:
        for batch in version.batch_stats:
            batches[batch.batch_size] = batches.get(batch.batch_size, 0) + batch.compute_infer.count
        for part in PARTS:
            counter = getattr(version.inference_stats, part)
            requests[part] += counter.count
            seconds[part] += counter.ns * 1e-9
    return Statistics(batches=batches, requests=requests, seconds=seconds)
