"""Answers become the mask's blocks: mosaic, dilation, area of interest, counts. No I/O; called in threads."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from kappamask_stream.blend import BlendMosaic
from kappamask_stream.dilation import Dilation
from kappamask_stream.errors import InferenceError
from kappamask_stream.grid import Window
from kappamask_stream.mosaic import BlockCanvas

if TYPE_CHECKING:
    from kappamask_stream.contract import ModelContract
    from kappamask_stream.extras import TileAnswer
    from kappamask_stream.mosaic import Block
    from kappamask_stream.planning import Layout


class Assembly:
    """Takes every tile of a layout once, in any order, one at a time, and gives every block of the mask once.

    State: the blocks that mosaic and dilation hold, and the pixels counted so far per class value.
    """

    def __init__(self, layout: Layout, contract: ModelContract) -> None:
        self._layout, self._contract, self._mosaic = layout, contract, layout.mosaic
        nodata = contract.nodata_class
        self._dilation = Dilation(layout.work, layout.growths, nodata=nodata) if layout.growths else None
        self._canvas = BlockCanvas(layout.frame.window, nodata=nodata) if layout.work != layout.frame else None
        self._counts = np.zeros(256, np.int64)

    def add(self, answer: TileAnswer) -> list[Block]:
        """Add a tile; returns the blocks that this completes, as they are to be written.

        Raises
        ------
        InferenceError
            If the mosaic needs probabilities and the server gave none.
        """
        if answer.labels is None:
            blocks = self._mosaic.add_constant(answer.tile, self._contract.nodata_class)
        elif isinstance(self._mosaic, BlendMosaic):
            if answer.probabilities is None:
                raise InferenceError(f"{self._contract.name} gave no probabilities: --mosaic blend needs them")
            blocks = self._mosaic.add(answer.tile, answer.probabilities, answer.missing)
        else:
            blocks = self._mosaic.add(answer.tile, answer.labels)
        if self._dilation is not None:
            blocks = [ready for block in blocks for ready in self._dilation.add(block)]
        if self._canvas is not None:
            around = self._layout.work.window
            blocks = [
                ready for block in blocks for ready in self._canvas.place(block.window.placed_in(around), block.pixels)
            ]
        return [self._finished(block) for block in blocks]

    def shares(self) -> dict[str, float]:
        """Return the share of each class, by name, among the pixels of the area of interest (or all)."""
        total = int(self._counts.sum())
        return {c.name: float(self._counts[c.value]) / max(1, total) for c in self._contract.classes}

    def _finished(self, block: Block) -> Block:
        """Count a block's classes; what lies outside the area of interest becomes nodata and is not counted."""
        frame = self._layout.frame
        inside = block.window.intersection(Window(0, 0, frame.height, frame.width))
        shown = block.pixels[: inside.height, : inside.width]
        outside = None
        if self._layout.area is not None:
            outside = self._layout.area.outside(inside.placed_in(frame.window))
        if outside is None:
            self._counts += np.bincount(shown.ravel(), minlength=256)
            return block
        self._counts += np.bincount(shown[~outside], minlength=256)
        pixels = block.pixels.copy()
        pixels[: inside.height, : inside.width][outside] = self._contract.nodata_class
        return replace(block, pixels=pixels)
