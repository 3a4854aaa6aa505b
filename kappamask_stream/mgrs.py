"""Where a tile of Sentinel-2 lies, by its name. Pure.

The grid is MGRS's: UTM zone, latitude band, and two letters of a square of 100 km, whose rows repeat every 2000 km. A
tile is 109.8 km wide and high; its upper-left corner is that of the square, moved west and north to whole multiples of
60 m, as in products' metadata (compared for northern tiles; a southern one may lie up to 60 m beside it).
Source: DMA TM 8358.1, chapter 3, lettering AA.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

#: Metres of a tile's side, and its pixels at 60 m.
SIDE_M = 109_800
_SQUARE_M = 100_000
_PIXEL_M = 60
_NAME = re.compile(r"T?(?P<zone>\d{2})(?P<band>[C-X])(?P<col>[A-Z])(?P<row>[A-Z])", re.ASCII)
_ZONES = 60
_BANDS = "CDEFGHJKLMNPQRSTUVWX"
_BAND_DEGREES, _SOUTHERNMOST, _FIRST_NORTHERN = 8, -80, "N"
_COLUMNS = {1: "ABCDEFGH", 2: "JKLMNPQR", 0: "STUVWXYZ"}
_ROWS = "ABCDEFGHJKLMNPQRSTUV"
_CYCLE_M = len(_ROWS) * _SQUARE_M
#: Rows of even zones begin with F.
_EVEN_SHIFT = _ROWS.index("F")
#: Metres of a degree of latitude, near enough to tell rows 2000 km apart.
_DEGREE_M = 110_900
_FALSE_NORTHING_M = 10_000_000


@dataclass(frozen=True, kw_only=True)
class TilePlace:
    """A tile's square on the ground.

    Attributes
    ----------
    epsg : of its UTM zone.
    ulx, uly : upper-left corner, metres.
    """

    epsg: int
    ulx: int
    uly: int


def place_of_tile(tile_id: str) -> TilePlace | None:
    """Return where a tile lies; None where MGRS has no such square.

    Parameters
    ----------
    tile_id : ``T29UNU`` or ``29UNU``.
    """
    found = _NAME.fullmatch(tile_id)
    if found is None or found["band"] not in _BANDS or found["row"] not in _ROWS:
        return None
    zone, columns = int(found["zone"]), _COLUMNS[int(found["zone"]) % 3]
    if not 1 <= zone <= _ZONES or found["col"] not in columns:
        return None
    is_north = found["band"] >= _FIRST_NORTHERN
    middle = _SOUTHERNMOST + _BAND_DEGREES * (_BANDS.index(found["band"]) + 0.5)
    nearby = middle * _DEGREE_M + (0 if is_north else _FALSE_NORTHING_M)
    row = (_ROWS.index(found["row"]) - (0 if zone % 2 else _EVEN_SHIFT)) % len(_ROWS) * _SQUARE_M
    south = row + round((nearby - row) / _CYCLE_M) * _CYCLE_M
    west, north = (columns.index(found["col"]) + 1) * _SQUARE_M, south + _SQUARE_M
    ulx, uly = west // _PIXEL_M * _PIXEL_M, -(-north // _PIXEL_M) * _PIXEL_M
    return TilePlace(epsg=(32600 if is_north else 32700) + zone, ulx=ulx, uly=uly)
