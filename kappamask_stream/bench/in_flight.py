"""How many requests are in flight, over time: what a client keeps the server busy with."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from kappamask_stream.errors import UsageError
from kappamask_stream.models import ModelPool

if TYPE_CHECKING:
    from collections.abc import Callable

    from kappamask_stream.inference import InferenceClient, InferResult, TileRequest, TritonClient
    from kappamask_stream.resources import ServedModel


class Occupancy:
    """Requests in flight, integrated over the time in which there were any.

    Parameters
    ----------
    clock : seconds.

    State: requests in flight and since when that many; request-seconds, and seconds in which any was, until then.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self.in_flight = 0
        self._since = clock()
        self._request_s = self._busy_s = 0.0

    def __repr__(self) -> str:
        return f"<Occupancy {self.in_flight} in flight, {self.mean:.3g} on average>"

    def begin(self) -> None:
        """Count from now on; what is in flight stays so."""
        self._since, self._request_s, self._busy_s = self._clock(), 0.0, 0.0

    def sent(self) -> None:
        """Take note of a request that is sent."""
        self._pass()
        self.in_flight += 1

    def answered(self) -> None:
        """Take note of one that is answered, or has failed."""
        self._pass()
        self.in_flight -= 1

    @property
    def mean(self) -> float:
        """Requests in flight on average over the time in which there were any; 0 where there never were."""
        self._pass()
        return self._request_s / self._busy_s if self._busy_s else 0.0

    def _pass(self) -> None:
        now = self._clock()
        if self.in_flight:
            self._request_s += self.in_flight * (now - self._since)
            self._busy_s += now - self._since
        self._since = now


class CountedClient:
    """Passes everything on to another `InferenceClient`, and counts its requests in flight."""

    def __init__(self, client: InferenceClient, occupancy: Occupancy) -> None:
        self._client, self._occupancy = client, occupancy

    def __getattr__(self, name: str) -> Any:
        """Be the other client in all else."""
        return getattr(self._client, name)

    async def infer(self, request: TileRequest) -> InferResult:
        """See `InferenceClient.infer`."""
        self._occupancy.sent()
        try:
            return await self._client.infer(request)
        finally:
            self._occupancy.answered()


class CountedModels(ModelPool):
    """A pool of one model whose requests in flight are counted.

    State: what the pool gave, once a product has asked for it, and the same with a client that counts.
    """

    occupancy: Occupancy
    _served: ServedModel | None = None
    _counted: ServedModel

    @property
    def client(self) -> TritonClient:
        """The client itself; once a product has asked for the model."""
        assert self._served is not None  # noqa: S101 - see above
        return cast("TritonClient", self._served.client)

    @property
    def window(self) -> int:
        """Most requests in flight; likewise."""
        return self._counted.window.maximum

    async def get(self, level: str) -> ServedModel:
        """See `ModelPool.get`.

        Raises
        ------
        UsageError
            If it is not the model that was asked for first.
        """
        served = await super().get(level)
        if self._served is None:
            self._served, self.occupancy = served, Occupancy()
            self._counted = replace(served, client=CountedClient(served.client, self.occupancy))
        if served is not self._served:
            raise UsageError(
                f"{self._served.client.contract.name} was measured, now a product needs {served.client.contract.name}, "
                "or another of this name was deployed: measure products of one level, and a server that stays as it is"
            )
        return self._counted
