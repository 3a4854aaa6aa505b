"""Whether a product's name, its two XML files and the grid of Sentinel-2's tiles tell of one product. Pure.

A field that decides what a mask says or where it lies is held against everything else that tells of it. What nothing
else tells of - offsets, quantification values - is only compared with what all products so far have, as a remark.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from kappamask_stream.errors import ProductError
from kappamask_stream.mgrs import place_of_tile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kappamask_stream.metadata.psd import ProductMetadata, TileMetadata
    from kappamask_stream.names import ProductName

#: A tile's corner lies at most so far from that of a square of 100 km (60 m by the grid); rows of squares may be named
#: after the one beside it (T34LBQ is, by its real metadata).
_BESIDE_M, _SQUARE_M, _FINEST_M = 100, 100_000, 10
#: ESA's baselines since January 2022 add offsets, of -1000 DN; those that users make are numbered 99.99.
_FIRST_WITH_OFFSETS, _OWN_MAKING, _OFFSETS = "04.00", "99.99", {-1000.0}
_QUANTIFICATION = {"AOT": 1000.0, "WVP": 1000.0}
_USUAL_QUANTIFICATION = 10_000.0


def require_agreement(label: str, name: ProductName, metadata: ProductMetadata, tile: TileMetadata, path: str) -> None:
    """Refuse metadata that is not of one product.

    Parameters
    ----------
    label : of the product, for messages.
    name : the product's.
    path : of the granule's XML.

    Raises
    ------
    ProductError
        Naming both sides.
    """
    if name.level != metadata.level:
        raise ProductError(
            f"{label}: PROCESSING_LEVEL is {metadata.level}, the product's name is {name.text}: the metadata "
            "contradicts itself, fetch the product again"
        )
    if name.tile_id != tile.tile_id:
        raise ProductError(
            f"{label}: {path} is of tile {tile.tile_id}, the product is {name.text}: files of two products are mixed"
        )
    # Whole seconds of one time; it may have been rounded once.
    if abs((_time(name.sensing_time) - _time(metadata.sensing_time)).total_seconds()) > 1:
        raise ProductError(
            f"{label}: DATATAKE_SENSING_START is {metadata.sensing_time}, the product's name is {name.text}: the "
            "metadata contradicts itself, fetch the product again"
        )
    _require_place(label, tile, path)


def remarks(name: ProductName, metadata: ProductMetadata) -> Iterator[str]:
    """Say what no product had so far, or what names and numbers do not agree on, though a mask can be made of it."""
    if name.baseline not in (None, metadata.baseline):
        yield f"PROCESSING_BASELINE is {metadata.baseline}, the product's name is {name.text}"
    offsets = set(metadata.offsets.values())
    expected = _OFFSETS if metadata.baseline >= _FIRST_WITH_OFFSETS else {0.0}
    if offsets != expected and metadata.baseline != _OWN_MAKING:
        yield (
            f"the metadata's offsets are {_listed(offsets)} DN, products of baseline {metadata.baseline} have "
            f"{_listed(expected)}: the mask rests on them"
        )
    odd = {
        band: value
        for band, value in metadata.quantification.items()
        if value != _QUANTIFICATION.get(band, _USUAL_QUANTIFICATION)
    }
    if odd:
        band, value = next(iter(odd.items()))
        usual = _QUANTIFICATION.get(band, _USUAL_QUANTIFICATION)
        yield f"the quantification value of {band} is {value:g}, products have {usual:g}: the mask may rest on it"


def _require_place(label: str, tile: TileMetadata, path: str) -> None:
    """Refuse a projection or a corner that is not the tile's; of one that the grid does not have nothing is known."""
    place = place_of_tile(tile.tile_id)
    if place is None:
        return
    if tile.epsg != place.epsg:
        raise ProductError(
            f"{label}: {path}: HORIZONTAL_CS_CODE is EPSG:{tile.epsg}, tile {tile.tile_id} lies in EPSG:{place.epsg}: "
            "the metadata contradicts itself, fetch the product again"
        )
    east, north = tile.ulx - place.ulx, tile.uly - place.uly
    if (
        tile.ulx % _FINEST_M
        or tile.uly % _FINEST_M
        or abs(east) > _BESIDE_M
        or abs(north - round(north / _SQUARE_M) * _SQUARE_M) > _BESIDE_M
        or abs(north) > 1.5 * _SQUARE_M
    ):
        raise ProductError(
            f"{label}: {path}: ULX, ULY are {tile.ulx:.10g}, {tile.uly:.10g}, tile {tile.tile_id} begins at "
            f"{place.ulx}, {place.uly} (within {_BESIDE_M} m, on whole pixels): the metadata contradicts itself, fetch "
            "the product again"
        )


def _time(text: str) -> datetime:
    return datetime.strptime(text, "%Y%m%dT%H%M%S").replace(tzinfo=UTC)


def _listed(values: set[float]) -> str:
    return ", ".join(f"{value:g}" for value in sorted(values)[:3]) + (", …" if len(values) > 3 else "")  # noqa: PLR2004
