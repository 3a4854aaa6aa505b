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


def _page(description: dict[str, Any]) -> str:
    """Lay the description out for people."""
    rows, cols = next(iter(description["sizes"].values()))
    offsets = sorted(set(description["offsets"].values()))
    lines = [
        description["product"],
        f"  {description['satellite']}, {description['level']}, processing baseline {description['baseline']}",
        f"  tile {description['tile']}, sensed {description['sensing_time']}",
        f"  EPSG:{description['epsg']}, upper left {description['upper_left_m'][0]:.0f}, "
        f"{description['upper_left_m'][1]:.0f} m; {rows} x {cols} pixels at the finest resolution",
        f"  offsets {', '.join(f'{value:g}' for value in offsets)} DN; "
        f"{description['grid']['tiles']} tiles of 512 pixels (10 m), {description['grid']['tiles_with_data']} hold data; "
        f"reading all bands takes {description['grid']['memory_bytes'] / 2**20:.0f} MB for decoded pixels",
        "",
        f"  {'band':<5}{'m':>3}{'rows':>8}{'columns':>9}{'MB':>8}  codestream",
    ]
    lines += [
        f"  {b['band']:<5}{b['gsd_m']:>3}{b['height']:>8}{b['width']:>9}{b['bytes'] / 1e6:>8.1f}  "
        f"{b['codestream_tiles']} {b['layout']}"
        for b in description["bands"]
    ]
    return "\n".join(lines)
