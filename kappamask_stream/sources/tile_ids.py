"""Tiles as people and catalogues write them. Pure."""

from __future__ import annotations

import re

#: MGRS is written with and without the zone's leading zero; the bands I and O do not exist.
_SHORT_ZONE = re.compile(r"[1-9][C-HJ-NP-X](?:[A-Z*?]{0,2})", re.ASCII)


def with_zone_padded(tile: str) -> str:
    """Return a tile, ``9VWK``, or a pattern of tiles, ``9V*``, with two digits for its zone; others as they are."""
    return f"0{tile}" if _SHORT_ZONE.fullmatch(tile) else tile
