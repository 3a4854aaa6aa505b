"""What real networks answer to the canary: right as it is, wrong for every mix-up of bands, offsets and networks."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pytest

from kappamask_stream.canary import canary_tile, compare, known_labels
from kappamask_stream.inference import TileRequest, TritonClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from numpy.typing import NDArray

    from kappamask_stream.canary import Comparison

pytestmark = pytest.mark.integration

#: An answer that agrees on so much is taken for right in every precision that is served.
LOOSEST = 0.96


class Canary:
    """The canary of a served model, to be spoilt."""

    def __init__(self, client: TritonClient) -> None:
        self._client, self.contract = client, client.contract
        tile = canary_tile(self.contract)
        self.request = TileRequest(name="canary", tensors=tile.tensors, offset=tile.offset, scale=tile.scale)
        known = known_labels(self.contract)
        assert known is not None
        self.known = known

    async def compared(self, request: TileRequest) -> Comparison:
        return compare(self.contract, (await self._client.infer(request)).labels, self.known)

    def swapped(self, tensor: str, one: int, other: int) -> TileRequest:
        pixels = self.request.tensors[tensor].copy()
        pixels[[one, other]] = pixels[[other, one]]
        return replace(self.request, tensors={**self.request.tensors, tensor: pixels})


@pytest.fixture(params=["csmask_l2a", "csmask_l1c"])
async def canary(request: pytest.FixtureRequest, csmask_address: str) -> AsyncIterator[Canary]:
    async with await TritonClient.connect(f"grpc://{csmask_address}", request.param) as client:
        yield Canary(client)


async def test_all_classes_are_there_and_almost_all_pixels_are_compared(canary: Canary) -> None:
    counted = canary.known != 255
    assert counted.mean() > 0.95
    shares = {value: float((canary.known == value).sum() / counted.sum()) for value in (1, 2, 4)}
    assert min(shares.values()) > 0.1, shares
    assert canary.contract.canary is not None
    assert len(canary.contract.canary.labels) < 10_000
    found = await canary.compared(canary.request)
    assert (found.is_right, found.agreement) == (True, pytest.approx(1.0, abs=1e-4))


async def test_any_two_bands_that_change_places_are_found_out(canary: Canary) -> None:
    pairs = [
        (group.tensor, i, j) for group in canary.contract.inputs for i, j in combinations(range(len(group.bands)), 2)
    ]
    found = await asyncio.gather(*(canary.compared(canary.swapped(*pair)) for pair in pairs))
    worst = max(found, key=lambda one: one.agreement)
    print(f"{canary.contract.name}: {len(pairs)} pairs of bands, agreement {worst.agreement:.3f} at most")
    assert worst.agreement < 0.9


async def test_each_band_counts(canary: Canary) -> None:
    """A band that is one pixel aside, or missing."""
    for group in canary.contract.inputs:
        for i, band in enumerate(group.bands):
            pixels = canary.request.tensors[group.tensor].copy()
            pixels[i] = np.roll(pixels[i], 1, axis=0)
            tensors = {**canary.request.tensors, group.tensor: pixels}
            found = await canary.compared(replace(canary.request, tensors=tensors))
            assert not found.is_right, band
            pixels[i] = 1000
            assert (await canary.compared(replace(canary.request, tensors=tensors))).agreement < LOOSEST, band


async def test_offset_and_scale_count(canary: Canary) -> None:
    for spoilt in (
        replace(canary.request, offset=np.zeros_like(canary.request.offset)),
        replace(canary.request, scale=canary.request.scale * np.float32(0.5)),
    ):
        assert (await canary.compared(spoilt)).agreement < LOOSEST
    assert not (await canary.compared(replace(canary.request, scale=canary.request.scale * np.float32(1.05)))).is_right


async def test_a_tile_of_which_half_is_lost_is_found_out(canary: Canary) -> None:
    for tensor, pixels in canary.request.tensors.items():
        half = pixels.copy()
        half[:, half.shape[1] // 2 :] = 0
        tensors = {**canary.request.tensors, tensor: half}
        assert (await canary.compared(replace(canary.request, tensors=tensors))).agreement < LOOSEST


async def test_another_network_of_the_family_is_found_out(csmask_address: str) -> None:
    """L1C's weights on L2A's canary: its 10 m bands are averaged, so these are the same pixels to both."""
    async with (
        await TritonClient.connect(f"grpc://{csmask_address}", "csmask_l2a") as right,
        await TritonClient.connect(f"grpc://{csmask_address}", "csmask_l1c") as other,
    ):
        canary = Canary(right)
        bands: NDArray[np.uint16] = canary.request.tensors["DN_20M"]
        tensors = {"DN_10M": bands[:4].repeat(2, axis=1).repeat(2, axis=2), "DN_20M": bands[4:].copy()}
        answer = await other.infer(replace(canary.request, tensors=tensors))
    found = compare(right.contract, answer.labels, canary.known)
    print(f"L1C's weights agree with L2A's on {found.agreement:.3f}")
    assert found.agreement < LOOSEST
