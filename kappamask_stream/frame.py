"""Where a mask lies: in the product's image and on the ground. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kappamask_stream.grid import Window


@dataclass(frozen=True, kw_only=True)
class MaskFrame:
    """The rectangle of a product's image that its mask shows: all of it, or what an area of interest lies in.

    Attributes
    ----------
    window : pixels of the product's image, at the mask's resolution.
    ulx, uly : upper-left corner of the upper-left pixel of the window, metres in the projection.
    gsd_m : size of a pixel, metres.
    epsg : code of the projection.
    """

    window: Window
    ulx: float
    uly: float
    gsd_m: int
    epsg: int

    @property
    def height(self) -> int:
        """Rows of the mask."""
        return self.window.height

    @property
    def width(self) -> int:
        """Columns of the mask."""
        return self.window.width

    def inside(self, window: Window) -> Window:
        """Return what a window of the image shares with the frame, in the mask's own rows and columns."""
        return window.intersection(self.window).seen_from(self.window)
