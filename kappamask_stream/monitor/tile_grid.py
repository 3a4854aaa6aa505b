"""A product's tiles as they are answered: each one by the class that most of its pixels with data have."""

from __future__ import annotations

from string import ascii_lowercase, digits
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from kappamask_stream.extras import MaskJob, TileAnswer

#: Cells that hold no class: not read yet, read and not answered yet, no data in the tile.
UNREAD, WAITING, EMPTY = ".", "~", "-"
_CODES = digits + ascii_lowercase
#: Of each tile every fourth pixel of every fourth row is looked at: this runs on the event loop.
_STEP = 4


class TilePicture:
    """The tiles of one product that its mask shows.

    State: a character per tile, row by row, and the furthest one that was answered.
    """

    def __init__(self, job: MaskJob) -> None:
        self._window, self._nodata = job.frame.window, job.contract.nodata_class
        self._classes = job.contract.classes[: len(_CODES)]
        self._code_of = {c.value: code for c, code in zip(self._classes, _CODES, strict=False)}
        shown = [tile for tile in job.grid if not tile.core.intersection(self._window).is_empty]
        self._top, self._left = min(tile.row for tile in shown), min(tile.col for tile in shown)
        self._rows = max(tile.row for tile in shown) - self._top + 1
        self._cols = max(tile.col for tile in shown) - self._left + 1
        self._cells = [UNREAD] * (self._rows * self._cols)
        self._furthest = 0

    def fill(self, answer: TileAnswer) -> None:
        """Draw a tile."""
        row, col = answer.tile.row - self._top, answer.tile.col - self._left
        if 0 <= row < self._rows and 0 <= col < self._cols:
            index = row * self._cols + col
            self._furthest = max(self._furthest, index)
            self._cells[index] = self._code(answer)

    def _code(self, answer: TileAnswer) -> str:
        core = answer.tile.core.intersection(self._window)
        if answer.labels is None or core.is_empty:
            return EMPTY
        rows, cols = core.relative_to(answer.tile.window)
        counts = np.bincount(answer.labels[rows, cols][::_STEP, ::_STEP].ravel(), minlength=1)
        if counts.size > self._nodata and counts[self._nodata] < counts.sum():
            counts[self._nodata] = 0  # a tile at the edge of the swath shows what it has, however little
        value = int(counts.argmax())
        return EMPTY if value == self._nodata else self._code_of.get(value, EMPTY)

    def to_json(self, tiles_read: int) -> dict[str, Any]:
        """Return size, cells and classes.

        Parameters
        ----------
        tiles_read : tiles are read in the order of the grid: those before it that are not answered are waited for.
        """
        cells = list(self._cells)
        for index in range(min(len(cells), max(tiles_read, self._furthest))):
            if cells[index] == UNREAD:
                cells[index] = WAITING
        return {
            "rows": self._rows,
            "cols": self._cols,
            "cells": "".join(cells),
            "classes": [
                {
                    "code": self._code_of[c.value],
                    "name": c.name,
                    "colour": "#{:02x}{:02x}{:02x}".format(*c.colour),
                    "tiles": cells.count(self._code_of[c.value]),
                }
                for c in self._classes
                if c.value != self._nodata
            ],
            "empty": cells.count(EMPTY),
        }
