"""What a product holds and what masking it will take, without masking it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kappamask_stream.budget import ByteBudget
from kappamask_stream.contract import BandGroup
from kappamask_stream.extent import require_size, size_at
from kappamask_stream.grid import TileGrid
from kappamask_stream.jp2 import BandInput, DecodePlan, TileStream, index_bands
from kappamask_stream.product import Product, open_product
from kappamask_stream.sources import DirectorySource

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from kappamask_stream.bands import BandIndex
    from kappamask_stream.sources import Source

#: KappaMask's tile and stride, per ground sampling distance in metres (FACTS.md section 1).
_TILES = {10: (512, 480), 20: (256, 240), 60: (85, 80)}
_MARGIN = 16
_THREADS = 2


@dataclass(frozen=True, kw_only=True)
class BandSurvey:
    """One band file: name, ground sampling distance in metres, size in bytes, codestream index."""

    band: str
    gsd_m: int
    file_bytes: int
    index: BandIndex


@dataclass(frozen=True, kw_only=True)
class ProductSurvey:
    """A product, its band files, and the tiles of KappaMask's grid over it.

    Attributes
    ----------
    product : metadata; its source is closed.
    bands : all band files that are there, by resolution and name.
    tiles : of the grid; None where the product has no band.
    tiles_with_data : those in which the coarsest band is not 0 everywhere.
    data_seen_in : that band, e.g. ``B01 at 60 m``.
    ring_bytes : most bytes of decoded pixels held at once when every band is read at its finest resolution.
    """

    product: Product
    bands: tuple[BandSurvey, ...]
    tiles: int | None = None
    tiles_with_data: int = 0
    data_seen_in: str = ""
    ring_bytes: int = 0


async def survey(path: Path, *, memory_bytes: int) -> ProductSurvey:
    """Survey a SAFE directory; see `survey_product`."""
    source = DirectorySource(path)
    try:
        return await survey_product(await open_product(source), memory_bytes=memory_bytes)
    finally:
        await source.aclose()


async def survey_product(product: Product, *, memory_bytes: int) -> ProductSurvey:
    """Read the headers of all bands of an open product, and the pixels of the coarsest one.

    Parameters
    ----------
    memory_bytes : that decoded pixels, and what is kept of the pieces of all files, may take.

    Raises
    ------
    InputError
        If one of its band files cannot be read, or is of another size than the metadata says.
    UsageError
        If the coarsest band cannot be decoded in so much memory.
    """
    present = {key: at for key, at in product.files.items() if at in product.listing}
    indexes = await index_bands(product.source, list(present.values()), most_bytes=memory_bytes)
    bands = tuple(
        BandSurvey(band=band, gsd_m=gsd_m, file_bytes=product.listing[at], index=indexes[at])
        for (band, gsd_m), at in sorted(present.items(), key=lambda item: (item[0][1], item[0][0]))
    )
    for band in bands:
        require_size(product, present[band.band, band.gsd_m], band.band, band.gsd_m, band.index)
    spectral = [b for b in bands if b.gsd_m in _TILES and b.band != "SCL"]
    if not spectral:
        return ProductSurvey(product=product, bands=bands)
    coarsest = max(spectral, key=lambda b: (b.gsd_m, b.band.startswith("B"), b.band == "B01"))
    grid = TileGrid(*size_at(product, 10), _TILES[10][0], _MARGIN)
    finest = {b.band: b for b in reversed(spectral)}
    every = DecodePlan.of(_inputs(finest.values(), present), grid)
    seen = DecodePlan.of(_inputs([coarsest], present), grid)
    async with ByteBudget(memory_bytes).reserve(seen.required_bytes, what=product.name):
        with_data = await _count_with_data(product.source, seen)
    return ProductSurvey(
        product=product,
        bands=bands,
        tiles=len(grid),
        tiles_with_data=with_data,
        data_seen_in=f"{coarsest.band} at {coarsest.gsd_m} m",
        ring_bytes=every.required_bytes - every.kept_bytes,
    )


def _inputs(bands: Iterable[BandSurvey], paths: Mapping[tuple[str, int], str]) -> list[BandInput]:
    by_gsd: dict[int, list[BandSurvey]] = {}
    for band in bands:
        by_gsd.setdefault(band.gsd_m, []).append(band)
    groups = {
        gsd_m: BandGroup(
            gsd_m=gsd_m, bands=tuple(b.band for b in members), tile=_TILES[gsd_m][0], stride=_TILES[gsd_m][1]
        )
        for gsd_m, members in sorted(by_gsd.items())
    }
    return [
        BandInput(path=paths[b.band, gsd_m], index=b.index, group=groups[gsd_m], channel=channel)
        for gsd_m, members in sorted(by_gsd.items())
        for channel, b in enumerate(members)
    ]


async def _count_with_data(source: Source, plan: DecodePlan) -> int:
    with ThreadPoolExecutor(_THREADS) as threads:
        async with TileStream(source, plan, executor=threads, workers=_THREADS) as tiles:
            return sum([not pixels.is_empty async for pixels in tiles])
