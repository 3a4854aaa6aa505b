"""What the reader of tiles needs of a band's file, whatever its format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kappamask_stream.grid import Window
    from kappamask_stream.jp2.decode import TileDecoder

#: Offset in the file and length, bytes.
ByteRange = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class BandTile:
    """One piece of a band that is decoded alone: a codestream tile, or a block of a TIFF.

    Attributes
    ----------
    index : number of the piece in raster order (JPEG 2000: Isot).
    window : pixels in the image; the last pieces of a row or column are cut at the image's edge.
    parts : (offset in the file, length) of its bytes, in file order (JPEG 2000: every tile-part, SOT marker
        included); empty where there are none, or where it was not looked for.
    is_zero : True where the file leaves it out because all of it is 0: there is nothing to read.
    """

    index: int
    window: Window
    parts: tuple[ByteRange, ...]
    is_zero: bool = False


class BandIndex(Protocol):
    """Where each piece of a band's file is, and how one is decoded.

    Attributes
    ----------
    name : file name, for messages.
    height, width : pixels of the image.
    tile_height, tile_width : nominal size of a piece.
    tiles : all pieces in raster order.
    decode_bytes : most that decoding one of them takes, beside its bytes and its pixels.
    layout : how the file is laid out, for people.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 - see the class

    @property
    def height(self) -> int: ...  # noqa: D102

    @property
    def width(self) -> int: ...  # noqa: D102

    @property
    def tile_height(self) -> int: ...  # noqa: D102

    @property
    def tile_width(self) -> int: ...  # noqa: D102

    @property
    def tiles(self) -> tuple[BandTile, ...]: ...  # noqa: D102

    @property
    def decode_bytes(self) -> int: ...  # noqa: D102

    @property
    def layout(self) -> str: ...  # noqa: D102

    def decode_tile(
        self, tile: BandTile, parts: list[bytes], decoder: TileDecoder, needed: Window | None = None, /
    ) -> NDArray[np.uint16]:
        """Decode one piece; it blocks, releases the GIL, and is called from threads.

        Parameters
        ----------
        tile : one of `tiles`, with parts.
        parts : the bytes of its parts.
        decoder : of JPEG 2000; other formats bring their own.
        needed : pixels in the image, within the piece's window, that the caller will use; None: all. It may save work.

        Returns
        -------
        uint16 ``[height, width]`` of the piece's window; outside of `needed` they may be anything.

        Raises
        ------
        InputError
            If the bytes are not what the index says, corrupt, or of other pixels.
        """
        ...

    def identity(self, tile: BandTile, parts: list[bytes], /) -> bytes:
        """Return the bytes that decide a piece's pixels, wherever in the band it lies."""
        ...
