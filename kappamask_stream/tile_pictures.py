"""Pictures of single tiles: where they lie, and the list that says which mask they are of. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

#: KappaMask's masks have km_predict's layout, whose folders lie in the product's.
_KAPPAMASK = re.compile(r"_KZ_\d+m")
#: More tiles than any grid has.
_MOST = 100_000


@dataclass(frozen=True, kw_only=True)
class TileList:
    """What ``<stem>_subtiles.json`` says.

    Attributes
    ----------
    stem : of the mask's files.
    fingerprint : of the mask whose tiles these are, all of them; None while they are being written, and where that
        was not finished.
    tiles : row and column of each in the grid, in its order.
    """

    stem: str
    fingerprint: str | None
    tiles: tuple[tuple[int, int], ...] = field(repr=False)

    @property
    def name(self) -> str:
        """Name of the list's file."""
        return list_name(self.stem)

    @property
    def files(self) -> list[str]:
        """Names of the pictures and their world files."""
        return [picture_name(self.stem, *tile, ending) for tile in self.tiles for ending in ("pgw", "png")]

    def encode(self) -> bytes:
        """Write the file."""
        tiles = [{"row": row, "column": col, "file": picture_name(self.stem, row, col)} for row, col in self.tiles]
        return json.dumps({"fingerprint": self.fingerprint, "tiles": tiles}, indent=1).encode() + b"\n"

    @classmethod
    def read(cls, stem: str, data: bytes) -> TileList:
        """Read the file; one that cannot be read lists nothing, and is no mask's.

        Names are made from rows and columns: whatever somebody wrote there, they stay in the product's folder.
        """
        try:
            document = json.loads(data)
            tiles = sorted({(tile["row"], tile["column"]) for tile in document["tiles"]})
            fingerprint = document["fingerprint"]
        except (ValueError, LookupError, TypeError):
            return cls(stem=stem, fingerprint=None, tiles=())
        numbers = [number for tile in tiles for number in tile]
        if len(tiles) > _MOST or not all(type(number) is int and number >= 0 for number in numbers):
            return cls(stem=stem, fingerprint=None, tiles=())
        return cls(stem=stem, fingerprint=fingerprint if isinstance(fingerprint, str) else None, tiles=tuple(tiles))


def list_name(stem: str) -> str:
    """Return the name of a mask's list of tiles."""
    return f"{stem}_subtiles.json"


def picture_name(stem: str, row: int, col: int, ending: str = "png") -> str:
    """Name a tile's picture as km_predict does, the column first: ``tile_3_4/prediction.png``.

    Other models' lie below ``<stem>_tiles/``: several masks of one product do not share folders.
    """
    folder = "" if _KAPPAMASK.search(stem) else f"{stem}_tiles/"
    return f"{folder}tile_{col}_{row}/prediction.{ending}"
