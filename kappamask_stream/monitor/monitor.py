"""Everything that looks on while a worker works, as one context manager."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Self

import structlog

from kappamask_stream.monitor.addresses import ListenAddress
from kappamask_stream.monitor.board import Board
from kappamask_stream.monitor.log import LOGGER
from kappamask_stream.monitor.loop_lag import LoopLag
from kappamask_stream.monitor.metrics import Metrics
from kappamask_stream.monitor.readiness import Readiness
from kappamask_stream.monitor.redaction import Redaction
from kappamask_stream.monitor.server import MonitorServer

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from kappamask_stream.monitor.batches import Sample
    from kappamask_stream.worker.types import Observer, Probe


class Monitor:
    """Metrics, health and the status page of a worker. Use as an async context manager.

    Parameters
    ----------
    listen : ``HOST:PORT``; ``none``: nothing listens and nobody looks on.
    probe : tells whether Triton and the queue answer.
    model : as the worker was told, for people and for ``kappamask_build_info``.
    sample_batches : returns per model the server's executions by batch size; None: not asked for.

    Attributes
    ----------
    observers : what the worker is to tell.
    url : of the status page, with the port that was given; None where nothing listens.

    Raises
    ------
    UsageError
        If `listen` is no address, or nothing can listen there.
    """

    def __init__(self, listen: str, *, probe: Probe, model: str, sample_batches: Sample | None = None) -> None:
        self._address = ListenAddress.parse(listen)
        redaction = Redaction.of_environment(os.environ)
        self._metrics, self._board = Metrics(model=model), Board(redaction)
        self._readiness = Readiness(probe, redaction=redaction, tell=self._metrics.answered)
        self._lag = LoopLag(self._metrics.lagged)
        self._model, self._sample = model, sample_batches
        self._stack = AsyncExitStack()
        self.observers: Sequence[Observer] = () if self._address is None else (self._metrics, self._board)
        self.url: str | None = None

    async def __aenter__(self) -> Self:
        if self._address is None:
            return self
        async with AsyncExitStack() as stack:
            server = MonitorServer(
                self._address, metrics=self._metrics, board=self._board, readiness=self._readiness, lag=self._lag,
                name=socket.gethostname(), model=self._model,
            )  # fmt: skip
            self.url = (await stack.enter_async_context(server)).url
            stack.push_async_callback(self._readiness.aclose)
            _begin(stack, "event-loop lag", self._lag.run())
            _begin(stack, "readiness", self._readiness.run())
            _begin(stack, "throughput", self._board.run())
            if self._sample is not None:
                _begin(stack, "batch sizes", self._metrics.batches.watch(self._sample))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()


def _begin(stack: AsyncExitStack, name: str, work: Coroutine[object, object, None]) -> None:
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_say_failure)
    stack.push_async_callback(_end, task)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


def _say_failure(task: asyncio.Task[None]) -> None:
    """Let looking on fail in part: the work goes on."""
    if not task.cancelled() and (error := task.exception()) is not None:
        structlog.get_logger(LOGGER).error("the monitor has failed in part", part=task.get_name(), exc_info=error)
