"""An `InferenceClient` without a server: answers from the request, fails as told, can be slow."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from typing import TYPE_CHECKING

import numpy as np

from kappamask_stream.inference import BatchSizes, InferResult, TileRequest

if TYPE_CHECKING:
    from kappamask_stream.contract import ModelContract
    from kappamask_stream.inference.types import Priority


class FakeInference:
    """Labels are 4 where the first band of the mask's resolution is above `threshold` DN, else 1.

    Attributes
    ----------
    failures : errors raised one after the other before answers are given.
    doubts : the same, where it is asked whether it still serves what the contract says.
    delay_s : seconds each answer takes (0 still yields to the loop).
    sent : how often each tile was sent, by name.
    priority : lane that it says its tiles go in.
    """

    priority: Priority | None = None

    def __init__(self, contract: ModelContract, *, threshold: int = 3000, delay_s: float = 0.0) -> None:
        self.contract = contract
        self.threshold = threshold
        self.delay_s = delay_s
        self.failures: deque[Exception] = deque()
        self.doubts: deque[Exception] = deque()
        self.fail_tile: tuple[str, Exception] | None = None
        self.sent: Counter[str] = Counter()
        self.in_flight = 0
        self.peak_in_flight = 0
        self.started = asyncio.Event()

    async def infer(self, request: TileRequest) -> InferResult:
        self.sent[request.name] += 1
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        self.started.set()
        try:
            await asyncio.sleep(self.delay_s)
            if self.failures:
                raise self.failures.popleft()
            if self.fail_tile and self.fail_tile[0] in request.name:
                raise self.fail_tile[1]
            return self.answer(request)
        finally:
            self.in_flight -= 1

    def answer(self, request: TileRequest) -> InferResult:
        group = next(g for g in self.contract.inputs if g.gsd_m == self.contract.gsd_m)
        bright = request.tensors[group.tensor][0] > self.threshold
        labels = np.where(bright, 4, 1).astype(np.uint8)
        if not request.probabilities:
            return InferResult(labels=labels)
        channels = [np.where(labels == value, 255, 0) for value in self.contract.probability_classes]
        return InferResult(labels=labels, probabilities=np.stack(channels).astype(np.uint8))

    async def is_ready(self) -> bool:
        return True

    async def confirm(self) -> None:
        if self.doubts:
            raise self.doubts.popleft()

    async def batch_sizes(self) -> BatchSizes:
        return BatchSizes(reason="a fake forms no batches")

    async def aclose(self) -> None:
        pass
