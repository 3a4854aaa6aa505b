"""``kappamask-stream info``."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from kappamask_stream.jp2 import CodestreamIndex
    from kappamask_stream.product import Product


def info(
    product: Annotated[Path, typer.Argument(help="SAFE directory.", metavar="PRODUCT")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what a product holds: level, baseline, offsets, bands and how their JPEG 2000 files are laid out.

    Reads the metadata and the headers of the band files, no pixels.

    Example: kappamask-stream info S2A_MSIL2A_20221005T115411_N0400_R023_T29UNU_20221005T164454.SAFE
    """
    description = asyncio.run(_describe(product))
    typer.echo(json.dumps(description) if as_json else _page(description))


async def _describe(path: Path) -> dict[str, Any]:
    from kappamask_stream.jp2 import index_bands
    from kappamask_stream.product import open_product
    from kappamask_stream.sources import DirectorySource

    source = DirectorySource(path)
    try:
        product = await open_product(source)
        listed = await source.files()
        files = {key: path for key, path in sorted(product.files.items(), key=lambda i: (i[0][1], i[0][0])) if path in listed}
        indexes = await index_bands(source, list(files.values()))
        return _document(product, {key: (listed[path], indexes[path]) for key, path in files.items()})
    finally:
        await source.aclose()


def _document(product: Product, bands: dict[tuple[str, int], tuple[int, CodestreamIndex]]) -> dict[str, Any]:
    return {
        "product": product.name,
        "level": product.level,
        "baseline": product.baseline,
        "satellite": product.satellite,
        "tile": product.tile_id,
        "sensing_time": product.sensing_time,
        "epsg": product.epsg,
        "upper_left_m": [product.ulx, product.uly],
        "sizes": {str(gsd): list(size) for gsd, size in sorted(product.sizes.items())},
        "offsets": dict(product.offsets),
        "quantification": dict(product.quantification),
        "bands": [
            {
                "band": band,
                "gsd_m": gsd,
                "height": index.height,
                "width": index.width,
                "bytes": size,
                "codestream_tiles": len(index.tiles),
                "layout": index.layout,
            }
            for (band, gsd), (size, index) in bands.items()
        ],
    }
