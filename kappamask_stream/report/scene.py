"""The scene as people see it, sampled from tiles as they pass. Pure numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from kappamask_stream.contract import BandGroup, ModelContract
    from kappamask_stream.extras import TileAnswer
    from kappamask_stream.frame import MaskFrame

#: Most rows and columns of the picture, and so 7 MB while it is made.
MOST_PIXELS = 1100
_TRUE_COLOUR = ("B04", "B03", "B02")
#: Steepness of the tone curve 1 - exp(-k * reflectance): ground, 5 to 30 %, gets most of the shades, and clouds keep
#: some.
_STEEPNESS = 8.0
_USUAL_QUANTIFICATION = 10_000.0


@dataclass(frozen=True, kw_only=True)
class Channel:
    """Where one channel of the picture comes from.

    Attributes
    ----------
    band : its name.
    group : the bands it is read with.
    index : position in the group's tensor.
    """

    band: str
    group: BandGroup
    index: int


def picture_channels(contract: ModelContract) -> tuple[Channel, Channel, Channel]:
    """Return red, green and blue: B04, B03, B02 where the model reads them, else its first band as grey."""
    known = {
        band: Channel(band=band, group=group, index=index)
        for group in reversed(contract.inputs)
        for index, band in enumerate(group.bands)
    }
    if all(band in known for band in _TRUE_COLOUR):
        red, green, blue = (known[band] for band in _TRUE_COLOUR)
        return red, green, blue
    grey = known[contract.inputs[0].bands[0]]
    return grey, grey, grey


class ScenePicture:
    """Keeps one pixel of each `step` x `step` of the frame, from whatever tiles come.

    Parameters
    ----------
    contract, frame : of the mask.

    State: `samples`, uint16 ``[rows, cols, 3]`` DN, 0 where nothing came yet. `add` of different tiles may run at
    the same time: the cores of tiles do not overlap.
    """

    def __init__(self, contract: ModelContract, frame: MaskFrame) -> None:
        self.channels = picture_channels(contract)
        self.step = max(1, -(-max(frame.height, frame.width) // MOST_PIXELS))
        self._gsd_m, self._frame = contract.gsd_m, frame
        # The middle one of each square, and the only one of a square that the edge cuts short.
        self._rows = _sampled(frame.height, self.step)
        self._cols = _sampled(frame.width, self.step)
        self.samples = np.zeros((len(self._rows), len(self._cols), 3), np.uint16)

    @property
    def is_true_colour(self) -> bool:
        """False where the model reads no visible bands, and the picture is grey."""
        return tuple(channel.band for channel in self.channels) == _TRUE_COLOUR

    def add(self, answer: TileAnswer) -> None:
        """Take what lies in a tile's core."""
        if not answer.tensors:
            return
        inside = self._frame.inside(answer.tile.core)
        if inside.is_empty:
            return
        rows = _slice(self._rows, inside.row, inside.row_end)
        cols = _slice(self._cols, inside.col, inside.col_end)
        for channel, band in enumerate(self.channels):
            top = self._frame.window.row - answer.tile.window.row
            left = self._frame.window.col - answer.tile.window.col
            source_rows = self._source(self._rows[rows] + top, band.group)
            source_cols = self._source(self._cols[cols] + left, band.group)
            pixels = answer.tensors[band.group.tensor][band.index]
            self.samples[rows, cols, channel] = pixels[source_rows[:, None], source_cols]

    def _source(self, positions: NDArray[np.intp], group: BandGroup) -> NDArray[np.intp]:
        """Return pixels of a group's tensor that lie under pixels of the mask, both counted from the tile's edge."""
        # 85 pixels of 60 m end 2 pixels of 10 m before the tile does.
        return np.minimum(positions * self._gsd_m // group.gsd_m, group.tile - 1)

    def render(self, offsets: Mapping[str, float], quantification: Mapping[str, float]) -> NDArray[np.uint8]:
        """Return the picture, uint8 ``[rows, cols, 3]``; black where there is no data.

        The tone curve is the same for all products, so that pictures can be compared.

        Parameters
        ----------
        offsets : band -> additive offset in DN.
        quantification : band -> DN per unit of reflectance.
        """
        picture = np.empty(self.samples.shape, np.uint8)
        for channel, band in enumerate(self.channels):
            unit = quantification.get(band.band, _USUAL_QUANTIFICATION)
            reflectance = np.maximum(np.arange(65536) + offsets.get(band.band, 0.0), 0.0) / unit
            curve = np.round(255.0 * (1.0 - np.exp(-_STEEPNESS * reflectance))).astype(np.uint8)
            picture[..., channel] = curve[self.samples[..., channel]]
        picture[~self.samples.any(axis=2)] = 0
        return picture


def _sampled(size: int, step: int) -> NDArray[np.intp]:
    return np.minimum(np.arange(0, size, step) + step // 2, size - 1)


def _slice(positions: NDArray[np.intp], start: int, end: int) -> slice:
    first, last = np.searchsorted(positions, [start, end])
    return slice(int(first), int(last))
