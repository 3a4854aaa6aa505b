"""Whole-image oracles for masks in pieces: the plainest arithmetic, nothing of the product's code but its values."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from kappamask_stream.grid import TileGrid
    from kappamask_stream.mosaic import Block


def owner(pixel: int, count: int, stride: int, margin: int) -> int:
    """Position (of one axis) of the tile whose core holds a pixel: inner edges are given up, outer ones kept."""
    return min(max((pixel - margin) // stride, 0), count - 1)


def crop(grid: TileGrid, tiles: dict[int, NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Mosaic pixel by pixel; `tiles` holds the labels by the tile's index."""
    mask = np.zeros((grid.height, grid.width), np.uint8)
    for row in range(grid.height):
        for col in range(grid.width):
            tile_row, tile_col = (
                owner(row, grid.rows, grid.stride, grid.margin), owner(col, grid.cols, grid.stride, grid.margin),
            )  # fmt: skip
            labels = tiles[tile_row * grid.cols + tile_col]
            mask[row, col] = labels[row - tile_row * grid.stride, col - tile_col * grid.stride]
    return mask


def overview(pixels: NDArray[np.uint8], nodata: int) -> NDArray[np.uint8]:
    """Halve a whole image by counting the votes of each 2 x 2 pixels for every class."""
    height, width = pixels.shape
    padded = np.full((height + height % 2, width + width % 2), nodata, np.uint8)
    padded[:height, :width] = pixels
    four = padded.reshape(padded.shape[0] // 2, 2, padded.shape[1] // 2, 2)
    candidates = [value for value in np.unique(pixels) if value != nodata]
    votes = [np.zeros(four.shape[::2], int), *((four == value).sum(axis=(1, 3)) for value in candidates)]
    return np.array([nodata, *candidates], np.uint8)[np.argmax(votes, axis=0)]


def pyramid(pixels: NDArray[np.uint8], nodata: int, block_size: int) -> list[NDArray[np.uint8]]:
    """All overviews, fine to coarse, each from the one before."""
    levels = []
    while max(pixels.shape) > block_size:
        pixels = overview(pixels, nodata)
        levels.append(pixels)
    return levels


def blobs(height: int, width: int, seed: int, nodata: int = 5) -> NDArray[np.uint8]:
    """A mask that looks like one: patches of classes 0 to 4, speckle, and a swath edge without data."""
    draw = np.random.default_rng(seed)
    coarse = draw.integers(0, 5, (height // 16 + 1, width // 16 + 1), np.uint8)
    mask = np.kron(coarse, np.ones((16, 16), np.uint8))[:height, :width]
    speckle = draw.random((height, width)) < 0.03
    mask[speckle] = draw.integers(0, 6, int(speckle.sum()), np.uint8)
    rows, cols = np.ogrid[:height, :width]
    mask[rows + 2 * cols < (height + width) // 3] = nodata
    return mask


def blocks(pixels: NDArray[np.uint8], nodata: int, size: int, seed: int | None = None) -> list[Block]:
    """Cut a mask into blocks, padded with nodata; in a shuffled order if a seed is given."""
    from kappamask_stream.mosaic import Block

    cut = []
    for row in range(-(-pixels.shape[0] // size)):
        for col in range(-(-pixels.shape[1] // size)):
            part = pixels[row * size : (row + 1) * size, col * size : (col + 1) * size]
            padded = np.full((size, size), nodata, np.uint8)
            padded[: part.shape[0], : part.shape[1]] = part
            cut.append(Block(row=row, col=col, pixels=padded))
    if seed is not None:
        random.Random(seed).shuffle(cut)
    return cut


def joined(parts: Iterable[Block], height: int, width: int, nodata: int) -> NDArray[np.uint8]:
    """Join blocks into an image; each must come once, all must come, and padding must be nodata."""
    parts = list(parts)
    placed = {(block.row, block.col): block.pixels for block in parts}
    assert len(placed) == len(parts), "a block came twice"
    size = next(iter(placed.values())).shape[0]
    rows, cols = -(-height // size), -(-width // size)
    assert set(placed) == {(row, col) for row in range(rows) for col in range(cols)}
    whole = np.block([[placed[row, col] for col in range(cols)] for row in range(rows)])
    assert (whole[height:] == nodata).all()
    assert (whole[:, width:] == nodata).all()
    return whole[:height, :width]
