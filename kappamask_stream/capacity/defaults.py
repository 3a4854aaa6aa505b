"""What stands in where no file says how much is moved; each says so in its source."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from kappamask_stream.capacity.figures import BenchFigures, Figure

#: Where no file says how much is read: all of a full L2A product, though less is read of it.
_WHOLE_PRODUCT = Figure(value=Fraction(548_000_000), source="default: a full L2A product as a SAFE directory")
#: Of 10980 x 10980 pixels.
_WRITTEN = Figure(value=Fraction(4_000_000), source="default: a mask has 2 to 4 MB")
#: Bytes of a tile to and from the server, by family and level: uint16 bands at native resolution, uint8 labels.
_TILE_BYTES = {
    ("kappamask", "l2a"): (2 * (6 * 512**2 + 6 * 256**2 + 2 * 85**2), 512**2),
    ("kappamask", "l1c"): (2 * (4 * 512**2 + 6 * 256**2 + 3 * 85**2), 512**2),
    ("csmask", "l2a"): (2 * 6 * 256**2, 256**2),
    ("csmask", "l1c"): (2 * (4 * 512**2 + 2 * 256**2), 256**2),
}


def with_defaults(figures: BenchFigures) -> BenchFigures:
    """Return the figures, and defaults for what is moved where no file says how much; machines have none."""
    network = figures.network
    to_server, from_server = _TILE_BYTES.get((network.family or "", network.level or ""), (None, None))
    source = f"default: shapes of a tile of {network.family} {network.level}"
    return replace(
        figures,
        bytes_read=figures.bytes_read or _WHOLE_PRODUCT,
        bytes_written=figures.bytes_written or _WRITTEN,
        request_bytes=figures.request_bytes or _default(to_server, source),
        answer_bytes=figures.answer_bytes or _default(from_server, source),
    )


def _default(value: int | None, source: str) -> Figure | None:
    return None if value is None else Figure(value=Fraction(value), source=source)
