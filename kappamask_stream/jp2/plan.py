"""When which codestream tile is decoded, and how much memory that takes. Pure: no I/O, no pixels.

A *unit* is a codestream tile of one band. Tiles of the grid are cut in their given order; units are decoded in the
order in which those tiles need them, each once, and dropped after their last use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kappamask_stream.errors import InternalError, ProductError
from kappamask_stream.grid import Tile, Window, source_window
from kappamask_stream.jp2.account import kept_bytes
from kappamask_stream.jp2.geometry import TileGeometry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from kappamask_stream.bands.types import BandIndex, BandTile
    from kappamask_stream.contract import BandGroup, ModelContract

_BYTES_PER_PIXEL = 2
#: What a decoder takes for a tile of ESA's layouts, a few MB a thread, is not counted against the ring.
_SMALL_WORK_BYTES = 16 * 1024 * 1024
#: Of a tile with fewer bytes than one for so many pixels the coded data cost nothing beside the rest of decoding.
_PIXELS_PER_CHEAP_BYTE = 64


@dataclass(frozen=True, kw_only=True)
class BandInput:
    """One band of a model: where its pixels come from and where they go.

    Attributes
    ----------
    path : of the file in the product's source.
    index : of that file.
    group : resolution, tile and stride.
    channel : position on the band axis of the group's tensor.
    """

    path: str
    index: BandIndex
    group: BandGroup
    channel: int


@dataclass(frozen=True, slots=True)
class Unit:
    """One codestream tile of one band.

    Attributes
    ----------
    band : position in `DecodePlan.bands`.
    tile : the codestream tile.
    needed : the least window of its pixels, in the image, with all that tiles of the grid take: what is kept of it.
    uses : how many tiles of the grid take pixels from it.
    work_bytes : held while it is decoded, beside the pixels needed; 0 where that is little.
    """

    band: int
    tile: BandTile
    needed: Window
    uses: int
    work_bytes: int

    @property
    def nbytes(self) -> int:
        """Bytes of the pixels that are kept."""
        return _pixel_bytes(self.needed)

    @property
    def is_thinned(self) -> bool:
        """True where it is worth while to decode only what is needed.

        Not of a tile of few bytes: decoded whole it can be known for all zero, which later ones are then compared with.
        """
        coded = sum(length for _, length in self.tile.parts)
        window = self.tile.window
        return self.needed != window and coded * _PIXELS_PER_CHEAP_BYTE >= window.height * window.width


@dataclass(frozen=True, kw_only=True)
class DecodePlan:
    """The units to decode, in order, and which of them each tile of the grid needs.

    Attributes
    ----------
    bands : all inputs of the model.
    tiles : tiles of the grid in the order in which they are cut.
    units : in decode order.
    needs : per tile, positions in `units` of the codestream tiles that it takes pixels from.
    kept_bytes : of all pieces of the files, and of the units, held as long as the plan is (`kept_bytes`).
    required_bytes : those, and the most bytes of decoded units held at once when each is decoded just before its first
        use, alone.

    A ring of `required_bytes` or more never blocks for good: units are decoded in order, and one may be decoded
    ahead only while it fits beside those held. If it does not fit, then either all units of the next tile are
    there, and cutting it frees those it used last; or the unit is one of the next tile's own, and what is held is
    what the just-in-time schedule holds at that moment, which leaves room for it by definition.
    """

    bands: tuple[BandInput, ...]
    tiles: tuple[Tile, ...]
    units: tuple[Unit, ...]
    needs: tuple[tuple[int, ...], ...]
    kept_bytes: int
    required_bytes: int

    @classmethod
    def of(cls, bands: Iterable[BandInput], tiles: Iterable[Tile]) -> DecodePlan:
        """Plan the decoding of `bands` for `tiles` (all of a grid, or those that an area of interest meets)."""
        bands, tiles = tuple(bands), tuple(tiles)
        like = _first_alike(bands)
        order: dict[tuple[int, int], int] = {}
        uses: list[int] = []
        windows: dict[tuple[int, int], Window] = {}
        needs: list[tuple[int, ...]] = []
        for tile in tiles:
            needed = []
            covered: dict[int, list[int]] = {}
            for number, band in enumerate(bands):
                first = like[number]
                if first == number:
                    covered[first] = _cover(band, number, source_window(tile, band.group), windows)
                for position in covered[first]:
                    if band.index.tiles[position].is_zero:
                        continue  # nothing to read: tensors are 0 where no unit is cut into them
                    unit = order.setdefault((number, position), len(order))
                    if unit == len(uses):
                        uses.append(0)
                    uses[unit] += 1
                    needed.append(unit)
            needs.append(tuple(needed))
        units = tuple(
            _unit(band, bands[band].index, at, windows[like[band], at], uses[unit])
            for (band, at), unit in order.items()
        )
        kept = _kept_bytes(bands, units)
        return cls(
            bands=bands,
            tiles=tiles,
            units=units,
            needs=tuple(needs),
            kept_bytes=kept,
            required_bytes=kept + _just_in_time_peak(units, needs),
        )


def _kept_bytes(bands: tuple[BandInput, ...], units: tuple[Unit, ...]) -> int:
    indexes = {id(band.index): band.index for band in bands}.values()
    return kept_bytes(
        pieces=sum(len(index.tiles) for index in indexes),
        parts=sum(len(tile.parts) for index in indexes for tile in index.tiles),
        units=len(units),
    )


def _first_alike(bands: tuple[BandInput, ...]) -> list[int]:
    """Return for each band the first one that is cut into pieces, and cut out of them, at the same places."""
    first: dict[tuple[TileGeometry, int, int, int], int] = {}
    keys = ((TileGeometry.of(b.index), len(b.index.tiles), b.group.stride, b.group.tile) for b in bands)
    return [first.setdefault(key, number) for number, key in enumerate(keys)]


def _cover(band: BandInput, number: int, window: Window, windows: dict[tuple[int, int], Window]) -> list[int]:
    """Return the positions of the codestream tiles under a window; `windows` of them grow by what it takes."""
    positions = covering(band.index, window)
    for position in positions:
        taken = window.intersection(band.index.tiles[position].window)
        windows[number, position] = taken.around(windows.get((number, position), taken))
    return positions


def _unit(band: int, index: BandIndex, position: int, needed: Window, uses: int) -> Unit:
    tile = index.tiles[position]
    if not tile.parts:
        raise InternalError(f"{index.name}: codestream tile {tile.index} is needed, it was indexed without it")
    # The tile-parts, and the stand-alone codestream that they are copied into.
    work = index.decode_bytes + 2 * sum(length for _, length in tile.parts)
    if needed != tile.window:
        work += _pixel_bytes(tile.window)  # until what is needed has been copied out of them
    return Unit(band, tile, needed, uses, work if work > _SMALL_WORK_BYTES else 0)


def _pixel_bytes(window: Window) -> int:
    return window.height * window.width * _BYTES_PER_PIXEL


def bands_of(
    contract: ModelContract, indexes: Mapping[tuple[str, int], BandIndex], paths: Mapping[tuple[str, int], str]
) -> tuple[BandInput, ...]:
    """Pair a contract's bands with their files; keys are (band, ground sampling distance in metres)."""
    return tuple(
        BandInput(path=paths[band, group.gsd_m], index=indexes[band, group.gsd_m], group=group, channel=channel)
        for group in contract.inputs
        for channel, band in enumerate(group.bands)
    )


def wanted_tiles(
    inputs: Iterable[tuple[str, BandGroup]], tiles: Iterable[Tile]
) -> Callable[[str, TileGeometry], set[int]]:
    """Return what `index_bands` asks for: the codestream tiles of a file that these tiles of the grid are cut from.

    Parameters
    ----------
    inputs : path and group of each band; a file may serve several groups.
    """
    tiles = tuple(tiles)
    groups: dict[str, list[BandGroup]] = {}
    for path, group in inputs:
        groups.setdefault(path, []).append(group)

    def wanted(path: str, geometry: TileGeometry) -> set[int]:
        windows = {source_window(tile, group) for group in groups[path] for tile in tiles}
        return {position for window in windows for position in geometry.covering(window)}

    return wanted


def covering(index: BandIndex, window: Window) -> list[int]:
    """Return positions in ``index.tiles`` of the codestream tiles that a window meets, in raster order."""
    positions = TileGeometry.of(index).covering(window)
    if positions and positions[-1] >= len(index.tiles):
        raise ProductError(f"{index.name}: tile {positions[-1]} is needed, the file has {len(index.tiles)}")
    return positions


def _just_in_time_peak(units: tuple[Unit, ...], needs: list[tuple[int, ...]]) -> int:
    left = [unit.uses for unit in units]
    held = peak = decoded = 0
    for needed in needs:
        for unit in needed:
            if unit >= decoded:  # units are numbered in the order of their first use
                held += units[unit].nbytes
                decoded = unit + 1
                peak = max(peak, held + units[unit].work_bytes)
        for unit in needed:
            left[unit] -= 1
            if not left[unit]:
                held -= units[unit].nbytes
    return peak
