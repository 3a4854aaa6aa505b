"""What the products of one process share: a served model, threads, and the byte budget."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, Self

from kappamask_stream.budget import ByteBudget
from kappamask_stream.disk import DiskBudget
from kappamask_stream.extras.scratch import remove_abandoned
from kappamask_stream.inference import InFlightWindow
from kappamask_stream.jp2 import ImagecodecsDecoder
from kappamask_stream.jp2.nvimgcodec import NvImageCodecDecoder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kappamask_stream.inference import InferenceClient
    from kappamask_stream.jp2 import TileDecoder
    from kappamask_stream.settings import Settings

#: Threads that wait for a GPU cost no CPU; with so many its batches were fullest (docs/performance.md).
_GPU_DECODE_THREADS = 64


class NewTensors(Protocol):
    """Gives arrays for a tile's pixels by tensor, with anything in them."""

    def __call__(self, *, probabilities: bool = False) -> dict[str, NDArray[np.uint16]]:
        """Return them; `probabilities` is True where these will be asked for."""
        ...


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model in use by this process, shared by all products.

    Attributes
    ----------
    client : sends one tile once.
    window : limits requests in flight.
    credits : limits tiles that are cut and not yet in a mosaic; a few more than the window's maximum.
    new_tensors : gives arrays for a tile's pixels, from where they are sent without a copy, as
        `TritonClient.new_tensors` does; None where it makes no difference.
    has_canary : True where the client sees to it that answers are right.
    """

    client: InferenceClient
    window: InFlightWindow
    credits: asyncio.Semaphore
    new_tensors: NewTensors | None = None
    has_canary: bool = False

    @classmethod
    def of(
        cls, client: InferenceClient, max_in_flight: int | None = None, new_tensors: NewTensors | None = None
    ) -> ServedModel:
        """Size window and credits from the model's contract."""
        window = InFlightWindow.for_contract(client.contract, max_in_flight)
        return cls(client=client, window=window, credits=asyncio.Semaphore(window.maximum + 2), new_tensors=new_tensors)


def decode_threads(settings: Settings) -> int:
    """Return how many threads decode: as the settings say; on a GPU, where they leave it to us, many that wait."""
    is_given = "decode_threads" in settings.model_fields_set
    return settings.decode_threads if is_given or settings.decoder == "cpu" else _GPU_DECODE_THREADS


@dataclass(kw_only=True)
class Resources:
    """Threads, the decoder of JPEG 2000, and the byte budget. Use as a context manager.

    Attributes
    ----------
    settings : what sizes them.
    budget : bytes of decoded pixels, of all products.
    disk : bytes that products in work may have written.
    decoder : decodes for all products, in all threads.
    decode_threads : how many there are of `decoders`.
    decoders, workers : threads that decode; that assemble masks and compress them.

    Raises
    ------
    UsageError
        On entering, if the settings ask for a decoder that this machine does not have.
    """

    settings: Settings
    budget: ByteBudget = field(init=False)
    disk: DiskBudget = field(init=False)
    decoder: TileDecoder = field(init=False)
    decode_threads: int = field(init=False)
    decoders: ThreadPoolExecutor = field(init=False)
    workers: ThreadPoolExecutor = field(init=False)

    def __enter__(self) -> Self:
        self.budget = ByteBudget(self.settings.memory_budget_bytes)
        self.disk = DiskBudget(self.settings.disk_budget_bytes)
        self.decoder = NvImageCodecDecoder() if self.settings.decoder == "gpu" else ImagecodecsDecoder()
        self.decode_threads = decode_threads(self.settings)
        self.decoders = ThreadPoolExecutor(self.decode_threads, "decode")
        # Mosaic and compression take their own threads, so that an answer never waits behind a decode.
        self.workers = ThreadPoolExecutor(2, "assemble")
        # Here, not only where a folder is needed next: what a killed run had finished is skipped by the next one.
        self.workers.submit(remove_abandoned)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.decoders.shutdown(cancel_futures=True)
        self.workers.shutdown(cancel_futures=True)
