"""csmask as it is served against ukis-csmask's published network, run by onnxruntime on the same pixels."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tritonclient.grpc as triton

from kappamask_stream.errors import ContractError, InferenceError
from kappamask_stream.inference import InferResult, TileRequest, TritonClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from numpy.typing import NDArray

    from tests.integration.session import SessionServer

pytestmark = pytest.mark.integration

REFERENCE = Path(__file__).with_name("published_csmask.py")
LEVELS = ("L1C", "L2A", "L1C_reduced")
#: Weights with which a low-pass band is moved to where means of 2 x 2 pixels stand.
QUARTER = {-1: -1 / 64, 0: 49 / 64, 1: 17 / 64, 2: -1 / 64}
#: Values of a mask in the order of the published network's outputs: clear, cloud, cloud shadow.
VALUES = np.array([1, 4, 2], np.uint8)
SCALE = np.float32(1e-4)
#: Digital numbers of grass, of its shadow, of cloud: blue, green, red, near infrared, two short-wave infrared.
GROUND, SHADE, CLOUD = (
    np.array(values, np.float32)
    for values in ((450, 750, 550, 2800, 1900, 1000), (180, 260, 180, 800, 450, 250), (6500, 6300, 6200, 6600, 4200, 3100))
)  # fmt: skip


def smooth(rng: np.random.Generator, size: int, cells: int) -> NDArray[np.float32]:
    """Noise between 0 and 1 whose blobs are size / cells pixels wide."""
    grid = rng.random((cells + 1, cells + 1), np.float32)
    at = np.arange(size) * cells / size
    low, part = at.astype(int), (at % 1).astype(np.float32)
    rows = grid[low] * (1 - part)[:, None] + grid[low + 1] * part[:, None]
    return rows[:, low] * (1 - part) + rows[:, low + 1] * part


def scene(seed: int, size: int) -> NDArray[np.uint16]:
    """Digital numbers ``[6, size, size]`` of clouds and their shadows over fields, with a nodata corner, offset 1000."""
    rng = np.random.default_rng(seed)
    texture = 0.6 + 0.8 * smooth(rng, size, 24) * smooth(rng, size, 64)
    density = np.clip((smooth(rng, size, 6) - 0.58) * 9, 0, 1)
    shade = np.roll(density, (size // 16, -size // 12), (0, 1))
    ground = GROUND[:, None, None] * texture
    ground = ground * (1 - shade) + SHADE[:, None, None] * texture * shade
    pixels = ground * (1 - density) + CLOUD[:, None, None] * density * (0.8 + 0.2 * texture)
    pixels = pixels + rng.normal(0, 25, pixels.shape).astype(np.float32)
    found = np.clip(np.rint(pixels) + 1000, 1, 65535).astype(np.uint16)
    found[:, : size // 8, : size // 5] = 0
    return found


def tensors(level: str, seed: int) -> dict[str, NDArray[np.uint16]]:
    """A tile as the wire has it: L1C has the visible and near infrared bands at 10 m, or half of their resolution."""
    if level == "L2A":
        return {"DN_20M": scene(seed, 256)}
    if level == "L1C_reduced":
        coarse = scene(seed, 256)
        return {"DN_20M_OF_10M": coarse[:4], "DN_20M": coarse[4:]}
    fine = scene(seed, 512)
    return {"DN_10M": fine[:4], "DN_20M": np.ascontiguousarray(fine[4:, ::2, ::2])}


def reflectance(tile: dict[str, NDArray[np.uint16]], offset: float) -> NDArray[np.float32]:
    """What the network should see: 10 m bands averaged as digital numbers, then the offset, then the clamp at 0.

    Low-pass bands are moved by a quarter of a pixel in the place of averaging.
    """
    parts = []
    for name, dn in tile.items():
        values = dn.astype(np.float32)
        if name == "DN_10M":
            values = values.reshape(len(values), 256, 2, 256, 2).mean(axis=(2, 4))
        if name == "DN_20M_OF_10M":
            values = np.stack([moved(moved(band).T).T for band in values])
        parts.append(values)
    return np.maximum(np.concatenate(parts) + np.float32(offset), 0) / 10000


def moved(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Move an image down by a quarter of a pixel; 0 is no data, and a pixel stands in for neighbours without."""
    padded = np.pad(values, ((1, 2), (0, 0)), mode="edge")
    beside = {at: padded[1 + at : 1 + at + len(values)] for at in QUARTER}
    total = sum(np.float32(weight) * np.where(beside[at] == 0, values, beside[at]) for at, weight in QUARTER.items())
    return np.where(values == 0, 0, total).astype(np.float32)


def published(
    env: Path, level: str, images: list[NDArray[np.float32]], folder: Path
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Labels and probabilities (in the contract's order: clear, shadow, cloud) of the published network."""
    given, wanted = folder / "in.npz", folder / "out.npz"
    np.savez(given, reflectance=np.stack(images))
    command = [str(env / "bin" / "python"), "-I", str(REFERENCE), level.partition("_")[0], str(given), str(wanted)]
    subprocess.run(command, check=True)
    probabilities = np.load(wanted)["probabilities"]
    return VALUES[probabilities.argmax(axis=1)], probabilities[:, [0, 2, 1]]


def request(tile: dict[str, NDArray[np.uint16]], offset: float = -1000.0, scale: float = SCALE) -> TileRequest:
    six = np.ones(6, np.float32)
    return TileRequest(
        name="tile", tensors=tile, offset=np.float32(offset) * six, scale=np.float32(scale) * six, probabilities=True
    )


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest, session_server: SessionServer) -> str:
    found: str = request.param
    session_server.lease(f"csmask_{found.lower()}")
    return found


@pytest.fixture
async def client(csmask_address: str, level: str) -> AsyncIterator[TritonClient]:
    async with await TritonClient.connect(f"grpc://{csmask_address}", f"csmask_{level.lower()}") as connected:
        yield connected


async def test_served_csmask_is_the_published_network(
    client: TritonClient, level: str, server_env: Path, tmp_path: Path
) -> None:
    tiles = [tensors(level, seed) for seed in (1, 2, 3)]
    labels, probabilities = published(server_env, level, [reflectance(tile, -1000) for tile in tiles], tmp_path)
    shares = [float((labels == value).mean()) for value in VALUES]
    assert min(shares) > 0.003, f"the test scene must hold all classes: {shares}"
    answers = [await client.infer(request(tile)) for tile in tiles]
    served = np.stack([answer.labels for answer in answers])
    assert (served == labels).mean() >= 0.999
    assert worst_difference(answers, probabilities) <= 2


def worst_difference(answers: list[InferResult], probabilities: NDArray[np.float32]) -> float:
    served = np.stack([a.probabilities for a in answers if a.probabilities is not None]).astype(np.float32)
    return float(np.abs(served - 255 * probabilities).max())


async def test_offset_and_scale_are_the_products_own(
    client: TritonClient, level: str, server_env: Path, tmp_path: Path
) -> None:
    """The same reflectance out of a product without offset: other digital numbers, one answer."""
    old = tensors(level, 4)
    new = {name: np.where(dn == 0, dn, dn + np.uint16(1000)) for name, dn in old.items()}  # no data is 0 in both
    first = await client.infer(request(old, 0.0))
    second = await client.infer(request(new, -1000.0))
    assert np.array_equal(first.labels, second.labels)
    labels, probabilities = published(server_env, level, [reflectance(old, 0)], tmp_path)
    assert (first.labels == labels[0]).mean() >= 0.999
    assert worst_difference([first], probabilities) <= 2


async def test_l1c_is_averaged_before_the_offset_is_added_and_clamped(
    csmask_address: str, server_env: Path, tmp_path: Path
) -> None:
    """Averaging is linear in digital numbers; clamped first, dark water with noise around 0 would come out too bright."""
    tile = tensors("L1C", 5)
    checkers = (np.indices((512, 512)).sum(axis=0) % 2).astype(bool)
    tile["DN_10M"][:, :, 256:] = np.where(checkers, np.uint16(1400), np.uint16(600))[:, 256:]  # mean 1000: 0 after it
    fine = np.maximum(tile["DN_10M"].astype(np.float32) - 1000, 0) / 10000
    clamped_first = reflectance(tile, -1000)
    clamped_first[:4] = fine.reshape(4, 256, 2, 256, 2).mean(axis=(2, 4))
    images = [reflectance(tile, -1000), clamped_first]
    _, probabilities = published(server_env, "L1C", images, tmp_path)
    async with await TritonClient.connect(f"grpc://{csmask_address}", "csmask_l1c") as client:
        answer = await client.infer(request(tile))
    assert worst_difference([answer], probabilities[:1]) <= 2
    assert worst_difference([answer], probabilities[1:]) > 20


def test_a_batch_is_answered_as_its_tiles_alone_bit_for_bit(csmask_address: str, level: str) -> None:
    tiles = [tensors(level, seed) for seed in range(6, 11)]
    together = raw_infer(csmask_address, level, tiles)
    for i, tile in enumerate(tiles):
        alone = raw_infer(csmask_address, level, [tile])
        for name in ("LABELS", "PROBABILITIES"):
            assert np.array_equal(alone[name][0], together[name][i]), f"{name} of tile {i}"


def raw_infer(
    address: str, level: str, tiles: list[dict[str, NDArray[np.uint16]]], offsets: list[float] | None = None,
    scales: list[float] | None = None,
) -> dict[str, NDArray[np.uint8]]:  # fmt: skip
    """One request of several tiles, without the client under test."""
    arrays = {name: np.stack([tile[name] for tile in tiles]) for name in tiles[0]}
    six = np.ones((1, 6), np.float32)
    arrays["OFFSET"] = np.array(offsets or [-1000.0] * len(tiles), np.float32)[:, None] * six
    arrays["SCALE"] = np.array(scales or [SCALE] * len(tiles), np.float32)[:, None] * six
    inputs = []
    for name, array in arrays.items():
        inputs.append(triton.InferInput(name, list(array.shape), "UINT16" if array.dtype == np.uint16 else "FP32"))
        inputs[-1].set_data_from_numpy(array)
    names = ("LABELS", "PROBABILITIES")
    client = triton.InferenceServerClient(address)
    answer = client.infer(
        f"csmask_{level.lower()}", inputs, outputs=[triton.InferRequestedOutput(name) for name in names]
    )
    found = {name: answer.as_numpy(name).copy() for name in names}
    client.close()
    return found


STRANGE = [(np.nan, SCALE), (np.inf, SCALE), (-np.inf, SCALE), (-1000.0, np.nan), (-1000.0, np.inf), (-1000.0, -np.inf)]


def test_a_tile_with_a_value_that_is_not_finite_is_255_everywhere_and_its_neighbours_are_not(
    csmask_address: str, level: str
) -> None:
    tile = tensors(level, 11)
    offsets, scales = [-1000.0, *(offset for offset, _ in STRANGE)], [SCALE, *(scale for _, scale in STRANGE)]
    labels = raw_infer(csmask_address, level, [tile] * len(offsets), offsets, scales)["LABELS"]
    assert set(np.unique(labels[0]).tolist()) == {1, 2, 4}
    assert (labels[1:] == 255).all()


@pytest.mark.parametrize(("offset", "scale"), STRANGE)
async def test_the_client_takes_such_an_answer_for_a_fault(
    client: TritonClient, level: str, offset: float, scale: float
) -> None:
    with pytest.raises(InferenceError, match="not finite"):
        await client.infer(request(tensors(level, 11), offset, scale))


async def test_a_tile_that_the_contract_does_not_know_is_refused_before_it_is_sent(
    client: TritonClient, level: str
) -> None:
    good = tensors(level, 12)
    last = "DN_20M"
    wrong = {
        r"DN_20M is uint16 \[.*255, 256\], the contract .* says uint16 \[.*256, 256\]": {last: good[last][:, 1:]},
        r"DN_20M is float32": {last: good[last].astype(np.float32)},
        r"DN_20M is nothing": {},
    }
    for message, change in wrong.items():
        given = {name: array for name, array in good.items() if name != last} | change
        with pytest.raises(ContractError, match=message) as caught:
            await client.infer(request(given))
        assert not caught.value.retryable
    assert (await client.infer(request(good))).labels.shape == (256, 256)


def test_the_server_refuses_such_a_tile_too(csmask_address: str, level: str) -> None:
    tile = tensors(level, 12)
    tile["DN_20M"] = np.ascontiguousarray(tile["DN_20M"][:, 1:])
    with pytest.raises(triton.InferenceServerException, match="unexpected shape for input 'DN_20M'"):
        raw_infer(csmask_address, level, [tile])
