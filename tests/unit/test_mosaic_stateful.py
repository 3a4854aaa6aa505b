"""Both mosaics against a whole array: any order, tiles twice and strangers, blocks that are looked at in between."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kappamask_stream.blend import BlendMosaic
from kappamask_stream.grid import Tile, TileGrid, Window
from kappamask_stream.mosaic import Block, CropMosaic
from tests.fault_table import Fault
from tests.unit import naive_masks
from tests.unit.test_blend import CLASSES, NODATA, Answer, naive_blend
from tests.unit.test_mosaic import framed

if TYPE_CHECKING:
    from numpy.typing import NDArray

KINDS = st.sampled_from(["full", "partial", "empty"])


class Mosaic(RuleBasedStateMachine):
    """A mosaic in work; `deciders` says, from the geometry of pixels alone, which tiles each block waits for."""

    grid: TileGrid
    mosaic: CropMosaic | BlendMosaic

    @initialize(case=framed(), is_framed=st.booleans(), size=st.sampled_from([4, 8, 32]), blends=st.booleans())
    def begin(self, case: tuple[TileGrid, Window], *, is_framed: bool, size: int, blends: bool) -> None:
        self.grid, frame = case
        self.frame = frame if is_framed else Window(0, 0, self.grid.height, self.grid.width)
        self.size, self.blends = size, blends
        given = frame if is_framed else None
        if blends:
            self.mosaic = BlendMosaic(
                self.grid, class_values=CLASSES, nodata=NODATA, frame=given, block_size=size
            )  # fmt: skip
        else:
            self.mosaic = CropMosaic(self.grid, nodata=NODATA, frame=given, block_size=size)
        self.answers: dict[int, Answer] = {}
        self.finished: dict[tuple[int, int], tuple[Block, bytes]] = {}
        self.deciders = self._deciders()
        self.wanted = set().union(*self.deciders.values())

    def _deciders(self) -> dict[tuple[int, int], set[int]]:
        found: dict[tuple[int, int], set[int]] = {}
        grid, frame = self.grid, self.frame
        for row in range(frame.height):
            for col in range(frame.width):
                block = found.setdefault((row // self.size, col // self.size), set())
                block |= self._tiles_at(frame.row + row, frame.col + col)
        assert all(tiles <= {tile.index for tile in grid} for tiles in found.values())
        return found

    def _tiles_at(self, row: int, col: int) -> set[int]:
        """Return the tiles that have a say in one pixel of the image."""
        grid = self.grid
        if not self.blends:
            at = (
                naive_masks.owner(n, count, grid.stride, grid.margin)
                for n, count in ((row, grid.rows), (col, grid.cols))
            )
            down, right = at
            return {down * grid.cols + right}
        rows, cols = (
            [n for n in range(count) if n * grid.stride <= pixel < n * grid.stride + grid.tile_size]
            for pixel, count in ((row, grid.rows), (col, grid.cols))
        )
        return {down * grid.cols + right for down in rows for right in cols}

    @property
    def missing(self) -> list[int]:
        return sorted(self.wanted - set(self.answers))

    def _tile(self, index: int) -> Tile:
        return self.grid.tile(*divmod(index, self.grid.cols))

    def _add(self, index: int, answer: Answer) -> list[Block]:
        tile = self._tile(index)
        if self.blends:
            return answer.add_to(self.mosaic, tile)  # type: ignore[arg-type]
        if answer.kind == "empty":
            return self.mosaic.add_constant(tile, NODATA)
        return self.mosaic.add(tile, self._labels(answer))

    @staticmethod
    def _labels(answer: Answer) -> NDArray[np.uint8]:
        labels = answer.probabilities[0] // 85
        return np.full_like(labels, NODATA) if answer.kind == "empty" else labels

    @precondition(lambda self: self.missing)
    @rule(pick=st.integers(0), kind=KINDS, seed=st.integers(0, 2**32), count=st.integers(1, 6))
    def add(self, pick: int, kind: str, seed: int, count: int) -> None:
        for number in range(count):
            if not self.missing:
                return
            index = self.missing[(pick + number * number) % len(self.missing)]
            answer = Answer(self.grid, seed + number, kind)
            blocks = self._add(index, answer)
            self.answers[index] = answer
            for block in blocks:
                assert (block.row, block.col) not in self.finished, "a block came twice"
                self.finished[block.row, block.col] = block, block.pixels.tobytes()

    @precondition(lambda self: self.answers)
    @rule(pick=st.integers(0), seed=st.integers(0, 2**32))
    def add_twice(self, pick: int, seed: int) -> None:
        index = sorted(self.answers)[pick % len(self.answers)]
        self._refused(index, seed, "was added before")

    @rule(pick=st.integers(0), seed=st.integers(0, 2**32))
    def add_a_stranger(self, pick: int, seed: int) -> None:
        strangers = sorted({tile.index for tile in self.grid} - self.wanted)
        if strangers:
            self._refused(strangers[pick % len(strangers)], seed, "no part of the mask")

    def _refused(self, index: int, seed: int, words: str) -> None:
        before = self.mosaic.missing, self.mosaic.pending_bytes
        with pytest.raises(ValueError, match=words):
            self._add(index, Answer(self.grid, seed, "full"))
        assert (self.mosaic.missing, self.mosaic.pending_bytes) == before

    @precondition(lambda self: self.finished)
    @rule(pick=st.integers(0))
    def look_at_a_block(self, pick: int) -> None:
        """A block is final when it is handed out: what comes later does not shine through, and it is the model's."""
        block, as_it_came = list(self.finished.values())[pick % len(self.finished)]
        assert block.pixels.tobytes() == as_it_came
        shown = block.window.intersection(Window(0, 0, self.frame.height, self.frame.width))
        np.testing.assert_array_equal(
            block.pixels[: shown.height, : shown.width], self._whole()[shown.relative_to(Window(0, 0, 0, 0))]
        )
        assert (block.pixels[shown.height :] == NODATA).all()
        assert (block.pixels[:, shown.width :] == NODATA).all()

    def _whole(self) -> NDArray[np.uint8]:
        """Return the mask of the frame from the tiles so far; pixels that wait for others are anything."""
        nothing = Answer(self.grid, 0, "empty")
        answers = {tile.index: self.answers.get(tile.index, nothing) for tile in self.grid}
        if self.blends:
            whole = naive_blend(self.grid, answers)
        else:
            whole = naive_masks.crop(self.grid, {index: self._labels(answer) for index, answer in answers.items()})
        return whole[self.frame.relative_to(Window(0, 0, 0, 0))]

    @invariant()
    def blocks_are_finished_and_held_exactly_when_the_geometry_says(self) -> None:
        if not hasattr(self, "mosaic"):
            return
        there = set(self.answers)
        assert self.mosaic.missing == len(self.wanted - there)
        assert set(self.finished) == {key for key, tiles in self.deciders.items() if tiles <= there}
        begun = [key for key, tiles in self.deciders.items() if tiles & there and not tiles <= there]
        each = self.size**2 * (4 * len(CLASSES) + 1 if self.blends else 1)
        assert self.mosaic.pending_bytes == len(begun) * each

    def teardown(self) -> None:
        if not hasattr(self, "mosaic"):
            return
        while self.missing:
            self.add(7, "partial", len(self.missing), 1)
        self.blocks_are_finished_and_held_exactly_when_the_geometry_says()
        whole = naive_masks.joined(
            (block for block, _ in self.finished.values()), self.frame.height, self.frame.width, NODATA
        )
        np.testing.assert_array_equal(whole, self._whole())
        assert all(block.pixels.tobytes() == as_it_came for block, as_it_came in self.finished.values())


Mosaic.TestCase.settings = settings(max_examples=Fault.amount(25, 1000), stateful_step_count=20, deadline=None)
TestMosaicIsTheWholeArray = pytest.mark.thorough(Mosaic.TestCase)
