"""How many pixels a product's bands have: what its metadata says, within what a Sentinel-2 tile can be. Pure.

All that is held for a product, its mask and the tiles of the grid follow from that, so it is checked before anything
is laid out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from kappamask_stream.errors import ProductError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Sentinel-2's tiles are squares of 109,800 m: 10980 pixels of 10 m.
_LARGEST_M = 109_800


class HasSizes(Protocol):
    """What is asked of a `Product`."""

    @property
    def name(self) -> str: ...  # noqa: D102 - as `Product`

    @property
    def sizes(self) -> Mapping[int, tuple[int, int]]: ...  # noqa: D102


class HasPixels(Protocol):
    """What is asked of a `BandIndex`."""

    @property
    def height(self) -> int: ...  # noqa: D102 - as `BandIndex`

    @property
    def width(self) -> int: ...  # noqa: D102


def size_at(product: HasSizes, gsd_m: int) -> tuple[int, int]:
    """Return rows and columns at a resolution: as the metadata says, or else as at the finest one that it tells of.

    Raises
    ------
    ProductError
        If that is more than a Sentinel-2 tile has.
    """
    finest = min(product.sizes)
    fine = product.sizes[finest]
    rows, cols = product.sizes.get(gsd_m) or (-(-fine[0] * finest // gsd_m), -(-fine[1] * finest // gsd_m))
    most = _LARGEST_M // gsd_m
    if max(rows, cols) > most:
        raise ProductError(
            f"the metadata of {product.name} says {rows} x {cols} pixels of {gsd_m} m, a Sentinel-2 tile has at most "
            f"{most} x {most}: the metadata is wrong, fetch the product again"
        )
    return rows, cols


def require_size(product: HasSizes, path: str, band: str, gsd_m: int, index: HasPixels) -> None:
    """Refuse a file of other pixels than the metadata says; nothing of it was decoded so far.

    Parameters
    ----------
    path, band : for the message.
    gsd_m, index : of the file's pixels, as they are read.

    Raises
    ------
    ProductError
        Saying both sizes.
    """
    found, said = (index.height, index.width), size_at(product, gsd_m)
    if found != said:
        raise ProductError(
            f"{path} of {product.name} has {found[0]} x {found[1]} pixels, the metadata says "
            f"{said[0]} x {said[1]} for {gsd_m} m: the file or MTD_TL.xml is wrong ({band})"
        )
