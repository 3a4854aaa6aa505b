"""The mask of a whole product computed at once and plainly: what the stream must equal. And a network to be served."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import numpy as np

from kappamask_stream.inference import InferResult, TileRequest
from tests.stream.fakes import FakeInference

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from kappamask_stream.contract import ModelContract
    from tests.stream.scene import Scene

Tensors = dict[str, "NDArray[np.uint16]"]


def network(
    contract: ModelContract,
    tensors: Mapping[str, NDArray[np.uint16]],
    offset: NDArray[np.float32],
    scale: NDArray[np.float32],
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return labels and probabilities of one tile.

    They depend on every band, on offset and scale, and on the place in the tile: the outermost three pixels are class 3.
    """
    size = contract.tile_size
    brightness = np.zeros((size, size))
    values = {
        band: tensors[group.tensor][channel].astype(np.float64)
        for group in contract.inputs
        for channel, band in enumerate(group.bands)
    }
    gsd_of = {band: group for group in contract.inputs for band in group.bands}
    for channel, band in enumerate(contract.channels):
        group, pixels = gsd_of[band], values[band]
        if group.gsd_m < contract.gsd_m:
            factor = contract.gsd_m // group.gsd_m
            pixels = pixels.reshape(size, factor, size, factor).mean(axis=(1, 3))
        else:
            at = np.minimum(np.arange(size) * contract.gsd_m // group.gsd_m, group.tile - 1)
            pixels = pixels[at][:, at]
        brightness += (channel + 1) * np.maximum(pixels + float(offset[channel]), 0) * float(scale[channel])
    brightness /= sum(range(1, len(contract.channels) + 1))
    labels = np.select([brightness > 0.30, brightness < 0.12], [4, 2], 1).astype(np.uint8)
    ring = np.minimum(np.arange(size), np.arange(size)[::-1])
    labels[np.minimum(ring[:, None], ring[None, :]) < 3] = 3
    # Triangles around a brightness of each class, wider at the tile's left: overlapping tiles disagree.
    width = np.linspace(0.3, 0.1, size)
    centres = {0: 0.0, 1: 0.18, 2: 0.08, 3: 0.28, 4: 0.4, 5: -1.0}
    chances = [1 - np.abs(brightness - centres[value]) / width for value in contract.probability_classes]
    probabilities = (255 * np.clip(np.stack(chances), 0, 1)).astype(np.uint8)
    return labels, probabilities


class Network(FakeInference):
    """Serves `network`; answers come in a random order where `seed` is given."""

    def __init__(self, contract: ModelContract, *, seed: int | None = None) -> None:
        super().__init__(contract)
        self._random = None if seed is None else random.Random(seed)

    async def infer(self, request: TileRequest) -> InferResult:
        if self._random is not None:
            await asyncio.sleep(self._random.uniform(0, 0.02))
        return await super().infer(request)

    def answer(self, request: TileRequest) -> InferResult:
        labels, probabilities = network(self.contract, request.tensors, request.offset, request.scale)
        return InferResult(labels=labels, probabilities=probabilities if request.probabilities else None)


class NaiveMask:
    """Cuts all tiles out of whole, padded images and puts the answers together pixel by pixel.

    Attributes
    ----------
    with_data : (row, column) of the tiles that hold data.
    """

    def __init__(self, scene: Scene, contract: ModelContract, *, offsets: bool, nodata: bool) -> None:
        self._contract, self._nodata = contract, nodata
        images = {(b, g.gsd_m): scene.pixels(b, g.gsd_m) for g in contract.inputs for b in g.bands}
        some_band, some_gsd = next(iter(images))
        self.height, self.width = (n * some_gsd // contract.gsd_m for n in images[some_band, some_gsd].shape)
        stride = contract.tile_size - 2 * contract.margin
        self._rows, self._cols = -(-self.height // stride), -(-self.width // stride)
        self.tiles = [(row, col) for row in range(self._rows) for col in range(self._cols)]
        cut = {position: self._cut(images, *position) for position in self.tiles}
        self.with_data = [position for position in self.tiles if any(t.any() for t in cut[position].values())]
        offset = np.array([-1000.0 if offsets and b.startswith("B") else 0.0 for b in contract.channels], np.float32)
        unit = [1000.0 if b in ("AOT", "WVP") else 10000.0 for b in contract.channels]
        scale = (1.0 / (np.array(unit) * contract.divisors)).astype(np.float32)
        self._answers = {p: network(contract, cut[p], offset, scale) for p in self.with_data}
        self._missing = {p: self._without_data(cut[p]) for p in self.with_data}

    def _cut(self, images: dict[tuple[str, int], NDArray[np.uint16]], row: int, col: int) -> Tensors:
        tensors = {}
        for group in self._contract.inputs:
            tensors[group.tensor] = np.zeros((len(group.bands), group.tile, group.tile), np.uint16)
            for channel, band in enumerate(group.bands):
                image = images[band, group.gsd_m]
                padded = np.pad(image, ((0, group.tile), (0, group.tile)))
                top, left = row * group.stride, col * group.stride
                tensors[group.tensor][channel] = padded[top : top + group.tile, left : left + group.tile]
        return tensors

    def _without_data(self, tensors: Tensors) -> NDArray[np.bool_]:
        """Say pixel by pixel whether all bands of all resolutions are 0."""
        size, gsd = self._contract.tile_size, self._contract.gsd_m
        missing = np.ones((size, size), np.bool_)
        for group in self._contract.inputs:
            joined = tensors[group.tensor].any(axis=0)
            fine = max(1, gsd // group.gsd_m)
            for down in range(fine):
                for right in range(fine):
                    rows = [min(pixel * gsd // group.gsd_m + down, group.tile - 1) for pixel in range(size)]
                    cols = [min(pixel * gsd // group.gsd_m + right, group.tile - 1) for pixel in range(size)]
                    missing &= ~joined[np.ix_(rows, cols)]
        return missing

    def crop(self) -> NDArray[np.uint8]:
        """Give each pixel to the tile in whose core it lies."""
        size, margin = self._contract.tile_size, self._contract.margin
        stride = size - 2 * margin
        rows = np.clip((np.arange(self.height) - margin) // stride, 0, self._rows - 1)
        cols = np.clip((np.arange(self.width) - margin) // stride, 0, self._cols - 1)
        mask = np.full((self.height, self.width), 5, np.uint8)
        for row, col in self.with_data:
            labels = self._answers[row, col][0].copy()
            if self._nodata:
                labels[self._missing[row, col]] = 5
            ys, xs = np.flatnonzero(rows == row), np.flatnonzero(cols == col)
            mask[np.ix_(ys, xs)] = labels[np.ix_(ys - row * stride, xs - col * stride)]
        return mask

    def blend(self) -> NDArray[np.uint8]:
        """Weigh the probabilities of the tiles that see data in a pixel; the largest sum wins, the lower on ties."""
        size, margin = self._contract.tile_size, self._contract.margin
        stride = size - 2 * margin
        ramp = np.array([min(i + 1, size - i, 2 * margin) for i in range(size)], np.float64)
        padded = (len(self._contract.probability_classes), self.height + size, self.width + size)
        sums, seen = np.zeros(padded), np.zeros(padded[1:], np.bool_)
        for row, col in self.with_data:
            window = (slice(row * stride, row * stride + size), slice(col * stride, col * stride + size))
            sees = ~self._missing[row, col] if self._nodata else np.ones((size, size), np.bool_)
            sums[:, *window] += self._answers[row, col][1] * np.outer(ramp, ramp) * sees
            seen[window] |= sees
        values = np.array(self._contract.probability_classes, np.uint8)
        return np.where(seen, values[sums.argmax(axis=0)], 5).astype(np.uint8)[: self.height, : self.width]
