"""``kappamask-stream info``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kappamask_stream.cli import options as given

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kappamask_stream.settings import Settings
    from kappamask_stream.survey import ProductSurvey

_MB = 1024 * 1024


def info(
    product: Annotated[
        str,
        typer.Argument(help="As for `run`: a directory, a zip, an URL, or a name with --source.", metavar="PRODUCT"),
    ],
    source: given.SourceOption = None,
    s3_endpoint: given.S3Endpoint = None,
    s3_region: given.S3Region = None,
    s3_profile: given.S3Profile = None,
    s3_anonymous: given.S3Anonymous = None,
    s3_requester_pays: given.S3RequesterPays = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what a product holds: level, baseline, offsets, bands and how their JPEG 2000 files are laid out.

    Reads the metadata, the headers of the band files, and the pixels of the coarsest band to see which tiles hold
    data. Tiles and memory are those of KappaMask's grid (512 pixels of 10 m); csmask's are 256 pixels of 20 m and
    need less.

    Example: kappamask-stream info S2A_MSIL2A_20221005T115411_N0400_R023_T29UNU_20221005T164454.SAFE
    """
    from kappamask_stream.cli.event_loop import run_command
    from kappamask_stream.settings import load_settings

    settings = load_settings(
        s3_endpoint=s3_endpoint, s3_region=s3_region, s3_profile=s3_profile, s3_anonymous=s3_anonymous,
        s3_requester_pays=s3_requester_pays,
    )  # fmt: skip
    surveyed = run_command(_survey(product, source, settings))
    typer.echo(json.dumps(_document(surveyed)) if as_json else _page(surveyed))


async def _survey(where: str, source: str | None, settings: Settings) -> ProductSurvey:
    from kappamask_stream.opening import opened_product
    from kappamask_stream.s3 import Stores
    from kappamask_stream.survey import survey_product

    async with Stores(settings.s3_options) as stores, opened_product(where, stores, source=source) as product:
        return await survey_product(product, memory_bytes=settings.memory_budget_bytes)


def _document(surveyed: ProductSurvey) -> dict[str, Any]:
    product = surveyed.product
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
        "tiles": surveyed.tiles,
        "tiles_with_data": surveyed.tiles_with_data,
        "data_seen_in": surveyed.data_seen_in,
        "ring_bytes": surveyed.ring_bytes,
        "notes": list(product.notes),
        "bands": [
            {
                "band": band.band,
                "gsd_m": band.gsd_m,
                "height": band.index.height,
                "width": band.index.width,
                "bytes": band.file_bytes,
                "codestream_tiles": len(band.index.tiles),
                "layout": band.index.layout,
            }
            for band in surveyed.bands
        ],
    }


def _page(surveyed: ProductSurvey) -> str:
    """Lay the description out for people."""
    product = surveyed.product
    finest = min(product.sizes)
    rows, cols = product.sizes[finest]
    lines = [
        product.name,
        f"  {product.satellite}, {product.level}, processing baseline {product.baseline}",
        f"  tile {product.tile_id}, sensed {product.sensing_time}",
        f"  EPSG:{product.epsg}, upper left {product.ulx:.0f}, {product.uly:.0f} m",
        f"  {rows} x {cols} pixels of {finest} m",
        f"  offsets {_by_band(product.offsets)}",
        f"  quantification {_by_band(product.quantification)}",
        f"  {_tiles(surveyed)}",
        *(f"  note: {note}" for note in product.notes),
        "",
        f"  {'band':<5}{'m':>3}{'rows':>8}{'columns':>9}{'MB':>8}  codestream tiles and layout",
    ]
    lines += [
        f"  {b.band:<5}{b.gsd_m:>3}{b.index.height:>8}{b.index.width:>9}{b.file_bytes / 1e6:>8.1f}  "
        f"{len(b.index.tiles)}: {b.index.layout}"
        for b in surveyed.bands
    ]
    return "\n".join(lines)


def _by_band(values: Mapping[str, float]) -> str:
    """Name a value once for all bands that have it: ``-1000 DN (B01 … B12)``."""
    bands: dict[float, list[str]] = {}
    for band, value in values.items():
        bands.setdefault(value, []).append(band)
    return "; ".join(f"{value:g} DN ({' '.join(names)})" for value, names in bands.items()) or "not given"


def _tiles(surveyed: ProductSurvey) -> str:
    if surveyed.tiles is None:
        return "no 10 m, 20 m or 60 m band is there: no tiles to count"
    return (
        f"{surveyed.tiles} tiles of 512 x 512 pixels of 10 m, {surveyed.tiles_with_data} hold data "
        f"(seen in {surveyed.data_seen_in}); decoded pixels take {surveyed.ring_bytes / _MB:.0f} MB of memory"
    )
