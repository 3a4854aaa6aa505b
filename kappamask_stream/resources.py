"""What the products of one process share: a served model, threads, and the byte budget."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from kappamask_stream.budget import ByteBudget
from kappamask_stream.inference import InFlightWindow

if TYPE_CHECKING:
    from kappamask_stream.inference import InferenceClient
    from kappamask_stream.settings import Settings


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model in use by this process, shared by all products.

    Attributes
    ----------
    client : sends one tile once.
    window : limits requests in flight.
    credits : limits tiles that are cut and not yet in a mosaic; a few more than the window's maximum.
    """

    client: InferenceClient
    window: InFlightWindow
    credits: asyncio.Semaphore

    @classmethod
    def of(cls, client: InferenceClient, max_in_flight: int | None = None) -> ServedModel:
        """Size window and credits from the model's contract."""
        window = InFlightWindow.for_contract(client.contract, max_in_flight)
        return cls(client=client, window=window, credits=asyncio.Semaphore(window.maximum + 2))


@dataclass(kw_only=True)
class Resources:
    """Threads and the byte budget. Use as a context manager."""

    settings: Settings
    budget: ByteBudget = field(init=False)
    decoders: ThreadPoolExecutor = field(init=False)
    workers: ThreadPoolExecutor = field(init=False)

    def __enter__(self) -> Self:
        self.budget = ByteBudget(self.settings.memory_budget_bytes)
        self.decoders = ThreadPoolExecutor(self.settings.decode_threads, "decode")
        # Mosaic and compression take their own threads, so that an answer never waits behind a decode.
        self.workers = ThreadPoolExecutor(2, "assemble")
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.decoders.shutdown(cancel_futures=True)
        self.workers.shutdown(cancel_futures=True)
