"""The least that a product costs: each codestream tile that is needed decoded once, on all cores, and nothing else."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING

from kappamask_stream.bench.types import Floor
from kappamask_stream.jp2 import ImagecodecsDecoder, ReadStats
from kappamask_stream.jp2.reading import unit_reader
from kappamask_stream.mask_options import MaskOptions
from kappamask_stream.opening import opened_product
from kappamask_stream.planning import Layout, plan_decoding
from kappamask_stream.resources import Resources
from kappamask_stream.s3 import Stores

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kappamask_stream.contract import ModelContract
    from kappamask_stream.jp2 import DecodePlan, TileDecoder
    from kappamask_stream.settings import Settings
    from kappamask_stream.sources import Source

_SAMPLED = 64


@dataclass(frozen=True, kw_only=True)
class DecodeAlone:
    """Decode what a model needs of a product, in a process of its own.

    Attributes
    ----------
    product : path or URL.
    contract : of the model.
    settings : say what decodes, in how many threads, and how stores are reached.
    """

    product: str
    contract: ModelContract
    settings: Settings

    async def work(self, say: Callable[[str], None]) -> Floor:
        """See `apart.Work`.

        Raises
        ------
        InputError
            If the product cannot be read.
        """
        async with (
            Stores(self.settings.s3_options) as stores,
            opened_product(self.product, stores) as product,
        ):
            layout = Layout.of(product, self.contract, MaskOptions())
            plan = await plan_decoding(product, self.contract, layout.read)
            say(f"reading {len(plan.units)} codestream tiles")
            parts = await compressed_units(product.source, plan)
        say(f"decoding {len(plan.units)} codestream tiles and nothing else")
        with Resources(settings=self.settings) as resources:
            return await decode_floor(plan, parts, threads=resources.decode_threads, decoder=resources.decoder)


async def compressed_units(source: Source, plan: DecodePlan) -> list[list[bytes]]:
    """Read the tile-parts of all units of a plan, wherever they lie: about 0.4 GB for a full product of 14 bands.

    Raises
    ------
    InputError
        If they cannot be read.
    """
    reader = unit_reader(source, plan, ReadStats(), None)
    tasks: set[asyncio.Task[None]] = set()
    reader.start(lambda work: tasks.add(asyncio.create_task(work)))
    try:
        parts = []
        for number in range(len(plan.units)):
            parts.append(await reader.read(number))
            reader.drop(number)
        return parts
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        reader.close()


async def decode_floor(
    plan: DecodePlan, parts: Sequence[list[bytes]], *, threads: int, decoder: TileDecoder | None = None
) -> Floor:
    """Decode each unit once, all that the tiles of the grid need of it.

    Reading is not counted: `parts` are in memory. Units whose bytes equal those of one that decoded to all zero are
    left out, as in the client. CPU seconds are those of this process, which should do nothing else meanwhile.

    Parameters
    ----------
    decoder : the client's; None: OpenJPEG on the CPU.

    Raises
    ------
    CodestreamError
        If one cannot be decoded.
    """
    decoding = _Decoding(plan, parts, decoder or ImagecodecsDecoder())
    wall, cpu = time.perf_counter(), time.process_time()
    pool = ThreadPoolExecutor(threads)
    try:
        loop = asyncio.get_running_loop()
        sums = await asyncio.gather(*(loop.run_in_executor(pool, decoding.share) for _ in range(threads)))
    finally:
        decoding.stop.set()
        pool.shutdown()  # a moment: decodes that run cannot be stopped
    return Floor(
        wall_s=time.perf_counter() - wall,
        cpu_s=time.process_time() - cpu,
        threads=threads,
        codestream_tiles=sum(tiles for tiles, _ in sums),
        megapixels=sum(pixels for _, pixels in sums) / 1e6,
    )


class _Decoding:
    """Units that threads take one after the other, in the plan's order.

    State: those left, and per band the bytes that are known to decode to zero; `stop` ends all threads.
    """

    def __init__(self, plan: DecodePlan, parts: Sequence[list[bytes]], decoder: TileDecoder) -> None:
        self._plan, self._parts, self._decoder = plan, parts, decoder
        self._left = iter(range(len(plan.units)))
        self._zero: dict[int, set[bytes]] = {number: set() for number in range(len(plan.bands))}
        self.stop = Event()

    def share(self) -> tuple[int, int]:
        """Decode until there is nothing left; returns how many codestream tiles and pixels."""
        tiles = pixels = 0
        while not self.stop.is_set() and (number := next(self._left, None)) is not None:
            decoded = self._decode(number)
            tiles, pixels = tiles + (decoded > 0), pixels + decoded
        return tiles, pixels

    def _decode(self, number: int) -> int:
        """Decode a unit as `TileStream` does, and return its pixels; 0 where its bytes are known."""
        unit, parts = self._plan.units[number], self._parts[number]
        index, known = self._plan.bands[unit.band].index, self._zero[unit.band]
        identity = index.identity(unit.tile, parts) if sum(map(len, parts)) <= max(map(len, known), default=0) else b""
        if identity in known:
            return 0
        needed = unit.needed if unit.is_thinned else None
        pixels = index.decode_tile(unit.tile, parts, self._decoder, needed)
        # A few pixels settle it nearly always.
        if needed is None and not pixels[::_SAMPLED, ::_SAMPLED].any() and not pixels.any():
            known.add(identity or index.identity(unit.tile, parts))
        return int(pixels.size)
