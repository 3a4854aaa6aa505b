"""Where a request's time goes inside the server, and the batches that it forms: Triton's statistics extension."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tritonclient.utils import InferenceServerException

from kappamask_stream.inference.served import CONTROL_TIMEOUT_S
from kappamask_stream.inference.token import without_token

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tritonclient.grpc import service_pb2
    from tritonclient.grpc.aio import InferenceServerClient

#: Of an ensemble, the model that computes masks is named after it (`server_models.tensorrt.part_name`).
_NETWORK = "-network"
#: Parts of a request's way through the server, as the extension calls them.
PARTS = ("queue", "compute_input", "compute_infer", "compute_output")


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Counters of one model on one server, since it was loaded; all its versions together.

    Of an ensemble, a request's times are those in all of its models, and batches those of the one that is its network.

    Attributes
    ----------
    batches : batch size -> executions.
    executing_s : seconds that instances have worked on these, added up: unlike the times of requests, which count a
        batch once for each of its tiles, this counts it once.
    requests, seconds : per part of `PARTS`: requests that have passed it, and the time that they took, added up.
    untold : why nothing is known, in words; None where the counters are.
    """

    batches: Mapping[int, int] = field(default_factory=dict)
    executing_s: float = 0.0
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
        executing_s = self.executing_s - earlier.executing_s
        lost = set(earlier.batches) - set(self.batches)
        if lost or min((*batches.values(), *requests.values(), executing_s)) < 0:
            return Statistics(untold="the server began to count anew meanwhile: it, or the model, was loaded again")
        return Statistics(
            batches={size: n for size, n in sorted(batches.items()) if n},
            executing_s=executing_s,
            requests=requests,
            seconds=seconds,
        )

    def of_one_client(self, sent: int) -> Statistics:
        """Return the same where they can be of this client alone; nothing is known of it where others were served, too.

        Parameters
        ----------
        sent : tiles, each a request, that this client may have had computed at most.
        """
        computed = sum(size * n for size, n in self.batches.items())
        if computed <= sent:
            return self
        return Statistics(
            untold=f"other clients used the model meanwhile: the server computed {computed} tiles, at most {sent} of "
            "them for this measurement: measure when nobody else does"
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
        told = await channel.get_model_config(model, client_timeout=CONTROL_TIMEOUT_S)
        parts = [step.model_name for step in told.config.ensemble_scheduling.step] or [model]
        batched = model + _NETWORK if parts != [model] else model
        if batched not in parts:
            return Statistics(untold=f"{model} is an ensemble of {', '.join(parts)}, none of which is {batched}")
        answers = {
            part: await channel.get_inference_statistics(part, client_timeout=CONTROL_TIMEOUT_S)
            for part in dict.fromkeys(parts)
        }
    except InferenceServerException as caught:
        error = without_token(caught, channel.plugin())
        return Statistics(untold=f"the server does not give statistics: {error.message()}")
    return _summed(answers, batched)


def _summed(answers: Mapping[str, service_pb2.ModelStatisticsResponse], batched: str) -> Statistics:
    """Add up versions and models; a request passes each model of an ensemble once."""
    batches: dict[int, int] = {}
    executing_ns = 0
    requests, seconds = dict.fromkeys(PARTS, 0), dict.fromkeys(PARTS, 0.0)
    for version in answers[batched].model_stats:
        for batch in version.batch_stats:
            batches[batch.batch_size] = batches.get(batch.batch_size, 0) + batch.compute_infer.count
            executing_ns += batch.compute_input.ns + batch.compute_infer.ns + batch.compute_output.ns
        for part in PARTS:
            requests[part] += getattr(version.inference_stats, part).count
    for version in (version for answer in answers.values() for version in answer.model_stats):
        for part in PARTS:
            seconds[part] += getattr(version.inference_stats, part).ns * 1e-9
    return Statistics(batches=batches, executing_s=executing_ns * 1e-9, requests=requests, seconds=seconds)
