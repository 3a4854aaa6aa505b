"""The canary: the same pixels everywhere, an answer that travels in the contract, and what counts as wrong."""

from __future__ import annotations

import base64
import hashlib
import tracemalloc
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappamask_stream.canary import RECIPE, canary_tile, compare, compare_likeliest, known_answer, known_labels
from kappamask_stream.contract import FAULT_LABEL, BandGroup, KnownAnswer, ModelContract
from kappamask_stream.errors import ContractError
from tests.conftest import make_contract

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

SIZE = 64
CONTRACT = make_contract(
    inputs=(BandGroup(gsd_m=20, bands=("B02", "B8A"), tile=SIZE, stride=48),), gsd_m=20, tile_size=SIZE, margin=8
)
CLASSES = (1, 2, 4)


def blobs(seed: int = 0) -> NDArray[np.uint8]:
    """Labels of three classes in patches of 8 x 8."""
    small = np.random.default_rng(seed).choice(np.array(CLASSES, np.uint8), (SIZE // 8, SIZE // 8))
    return np.kron(small, np.ones((8, 8), np.uint8))


def sure(labels: NDArray[np.uint8], lead: int = 255) -> NDArray[np.uint8]:
    """Probabilities of labels that are the likeliest by so much."""
    return np.stack([np.where(labels == value, lead, 0) for value in CLASSES]).astype(np.uint8)


def with_canary(contract: ModelContract, labels: NDArray[np.uint8]) -> ModelContract:
    return replace(contract, canary=known_answer(contract, labels, sure(labels)))


def judged(contract: ModelContract, labels: NDArray[np.uint8]) -> bool:
    known = known_labels(contract)
    assert known is not None
    return compare(contract, labels, known).is_right


# The tile


@pytest.mark.parametrize(
    ("fixture", "digests"),
    [
        ("csmask_contract", {"DN_20M": "eb45ce818ba8e565"}),
        ("l1c_csmask_contract", {"DN_10M": "4efbb64a17715a11", "DN_20M": "0b9da56ad078e7bc"}),
        (
            "kappamask_contract",
            {"DN_10M": "e4cd49a57c57f928", "DN_20M": "7a74848206d217bd", "DN_60M": "3617b57d84b569c7"},
        ),
    ],
)
def test_the_pixels_are_these_whoever_draws_them(
    request: pytest.FixtureRequest, fixture: str, digests: dict[str, str]
) -> None:
    """A contract's answer is to these pixels: whoever changes one has to count up `RECIPE`."""
    assert RECIPE == 1
    tile = canary_tile(request.getfixturevalue(fixture))
    found = {name: hashlib.sha256(pixels.tobytes()).hexdigest()[:16] for name, pixels in tile.tensors.items()}
    assert found == digests


def test_the_tile_is_what_the_contract_asks_for(kappamask_contract: ModelContract) -> None:
    tile = canary_tile(kappamask_contract)
    channels = kappamask_contract.channels
    for group in kappamask_contract.inputs:
        pixels = tile.tensors[group.tensor]
        assert (pixels.dtype, pixels.shape) == (np.uint16, (len(group.bands), group.tile, group.tile))
        for band, plane in zip(group.bands, pixels, strict=True):
            assert not plane[: group.tile // 8, : group.tile // 5].any(), "a corner has no data"
            assert len(np.unique(plane)) > 200, f"{band} says next to nothing"
    assert tile.offset.tolist() == [-1000.0 if band.startswith("B") else 0.0 for band in channels]
    seen = 65535 * tile.scale * np.array(kappamask_contract.divisors)
    np.testing.assert_allclose(seen, 1.0, rtol=1e-6)


def test_no_two_bands_are_alike(kappamask_contract: ModelContract) -> None:
    for pixels in canary_tile(kappamask_contract).tensors.values():
        for i, first in enumerate(pixels):
            for second in pixels[i + 1 :]:
                assert (first != second).mean() > 0.5


def test_a_band_of_ones_own_is_drawn_too() -> None:
    group = BandGroup(gsd_m=20, bands=("B02", "BX1", "DEM"), tile=SIZE, stride=48)
    contract = make_contract(inputs=(group,), gsd_m=20, tile_size=SIZE, margin=8)
    assert canary_tile(contract).tensors["DN_20M"].any(axis=(1, 2)).all()


# The answer


@given(st.integers(0, 2**32 - 1), st.sampled_from(["f32", "fp16", "bf16", "int4"]))
def test_the_answer_travels_in_the_contract(seed: int, precision: str) -> None:
    labels = blobs(seed)
    contract = with_canary(replace(CONTRACT, precision=precision), labels)
    read = ModelContract.from_json(contract.to_json())
    assert read == contract
    np.testing.assert_array_equal(known_labels(read), labels)
    assert judged(read, labels)


def test_what_the_reference_is_not_sure_of_is_not_compared() -> None:
    labels = blobs()
    probabilities = sure(labels)
    probabilities[:, :, :16] = 100  # all classes alike
    contract = replace(CONTRACT, canary=known_answer(CONTRACT, labels, probabilities))
    known = known_labels(contract)
    assert known is not None
    assert (known[:, :16] == FAULT_LABEL).all()
    np.testing.assert_array_equal(known[:, 16:], labels[:, 16:])
    other = labels.copy()
    other[:, :16] = 2
    assert compare(contract, other, known).agreement == 1.0


@pytest.mark.parametrize(
    ("precision", "lead", "is_known"), [("f32", 3, True), ("fp16", 12, False), ("bf16", 38, False)]
)
def test_a_lower_precision_is_held_to_what_is_surer(precision: str, lead: int, is_known: bool) -> None:  # noqa: FBT001
    answer = known_answer(replace(CONTRACT, precision=precision), blobs(), sure(blobs(), lead))
    assert (answer is not None) is is_known


@pytest.mark.parametrize("probabilities", [np.full((3, SIZE, SIZE), 85, np.uint8), np.zeros((3, SIZE, SIZE), np.uint8)])
def test_a_network_that_is_sure_of_nothing_has_no_canary(probabilities: NDArray[np.uint8]) -> None:
    assert known_answer(CONTRACT, blobs(), probabilities) is None


def test_a_network_whose_values_are_not_finite_has_no_canary() -> None:
    labels = np.full((SIZE, SIZE), FAULT_LABEL, np.uint8)
    assert known_answer(CONTRACT, labels, sure(blobs())) is None


def test_an_answer_to_another_tile_is_compared_with_nothing() -> None:
    contract = with_canary(CONTRACT, blobs())
    assert contract.canary is not None
    assert known_labels(CONTRACT) is None
    assert known_labels(replace(contract, canary=replace(contract.canary, recipe=RECIPE + 1))) is None


# Wrong answers

GARBAGE: dict[str, Callable[[NDArray[np.uint8]], Any]] = {
    "all of one class": np.ones_like,
    "upside down": np.flipud,
    "transposed": np.transpose,
    "one pixel aside": lambda labels: np.roll(labels, 1, axis=1),
    "another tile's": lambda _: blobs(1),
    "the second half missing": lambda labels: np.where(np.arange(SIZE)[:, None] < SIZE // 2, labels, 1),
    "classes permuted": lambda labels: np.choose(labels, [0, 2, 4, 3, 1]),
}


@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_is_wrong(garbage: str, precision: str) -> None:
    share = {"f32": 0.9995, "bf16": 0.98}[precision]
    contract = with_canary(replace(CONTRACT, precision=precision, min_agreement=share), blobs())
    assert not judged(contract, GARBAGE[garbage](blobs()))


@given(st.integers(0, SIZE // 8 - 1), st.integers(0, SIZE // 8 - 1))
def test_one_part_of_the_tile_that_is_wrong_altogether_is_wrong(row: int, col: int) -> None:
    """A 64th of the tile: the mean of a precision that may differ on 2 % of the pixels hides it."""
    labels = blobs()
    contract = with_canary(replace(CONTRACT, min_agreement=0.98), labels)
    broken = labels.copy()
    part = broken[8 * row : 8 * row + 8, 8 * col : 8 * col + 8]
    part[:] = np.choose(part, [0, 2, 4, 3, 1])
    known = known_labels(contract)
    assert known is not None
    found = compare(contract, broken, known)
    assert found.agreement > found.needed
    assert not found.is_right
    assert "of one part of the tile" in str(found)


def test_what_a_precision_may_differ_by_is_right() -> None:
    labels = blobs()
    contract = with_canary(replace(CONTRACT, min_agreement=0.98), labels)
    other = labels.copy()
    other[::8, ::8] = 2  # 64 pixels of 4096, one in each part
    assert judged(contract, other)
    other[:, ::8] = 2
    assert not judged(contract, other)


def test_the_message_has_both_numbers() -> None:
    contract = with_canary(replace(CONTRACT, min_agreement=0.9995), blobs())
    known = known_labels(contract)
    assert known is not None
    found = compare(contract, np.full((SIZE, SIZE), 4, np.uint8), known)
    share = float((blobs() == 4).mean())
    assert str(found) == f"{share:.4f} of the pixels have the known class, 0.999 are needed"


# Contracts of strangers


def packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ("no base64 %", "cannot be unpacked"),
        (base64.b64encode(b"no zlib").decode(), "cannot be unpacked"),
        (packed(blobs().tobytes())[:-12], "cannot be unpacked|has 4096 pixels or more|a tile has 4096"),
        (packed(b""), "has 0 pixels"),
        (packed(blobs().tobytes()[:-1]), "has 4095 pixels or more, a tile has 4096"),
        (packed(blobs().tobytes() + b"\1"), "a tile has 4096"),
        (packed(bytes([7]) * SIZE**2), r"has classes \[7\]"),
        (packed(bytes([255]) * SIZE**2), "almost no pixel"),
    ],
)
def test_an_answer_that_is_none_is_refused(labels: str, said: str) -> None:
    with pytest.raises(ContractError, match=said):
        known_labels(replace(CONTRACT, canary=KnownAnswer(recipe=RECIPE, labels=labels)))


def test_no_more_is_unpacked_than_a_tile_has_pixels() -> None:
    bomb = replace(CONTRACT, canary=KnownAnswer(recipe=RECIPE, labels=packed(bytes(100 << 20))))
    tracemalloc.start()
    try:
        with pytest.raises(ContractError, match="a tile has 4096"):
            known_labels(bomb)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_a_tile_that_would_fill_the_memory_is_not_drawn() -> None:
    group = BandGroup(gsd_m=20, bands=("B02",), tile=8192, stride=8192)
    huge = make_contract(inputs=(group,), gsd_m=20, tile_size=8192, margin=0)
    with pytest.raises(ContractError, match="beyond 1024 pixels"):
        known_labels(replace(huge, canary=KnownAnswer(recipe=RECIPE, labels="")))


@pytest.mark.parametrize("fixture", ["one of 1024 pixels", "kappamask_contract"])
def test_drawing_takes_little_more_memory_than_the_tile(request: pytest.FixtureRequest, fixture: str) -> None:
    """The largest that a stranger's contract may ask for, with more bands than Sentinel-2 has."""
    group = BandGroup(gsd_m=20, bands=tuple(f"X{i}" for i in range(16)), tile=1024, stride=1024)
    contract = make_contract(inputs=(group,), gsd_m=20, tile_size=1024, margin=0)
    if fixture == "kappamask_contract":
        contract = request.getfixturevalue(fixture)
    answer = packed(bytes([1]) * contract.tile_size**2)
    contract = replace(contract, canary=KnownAnswer(recipe=RECIPE, labels=answer))
    tracemalloc.start()
    try:
        drawn = sum(pixels.nbytes for pixels in canary_tile(contract).tensors.values())
        known = known_labels(contract)
        assert known is not None
        assert compare(contract, known, known).is_right
        assert tracemalloc.get_traced_memory()[1] < drawn + (48 << 20) < 256 << 20
    finally:
        tracemalloc.stop()


# Fingerprints


def test_a_canary_changes_no_fingerprint() -> None:
    """Masks that are there are not made again because a model was built with a canary."""
    before = replace(CONTRACT, schema_version=(1, 2))
    assert with_canary(CONTRACT, blobs()).sha256() == CONTRACT.sha256() == before.sha256()
    assert '"canary"' not in CONTRACT.to_json()
    assert replace(CONTRACT, schema_version=(1, 1)).sha256() != before.sha256()


# Probabilities


def test_of_probabilities_the_largest_are_compared() -> None:
    labels = blobs()
    contract = with_canary(CONTRACT, labels)
    known = known_labels(contract)
    assert known is not None
    found = compare_likeliest(contract, sure(labels, 1), known)
    assert found is not None
    assert (found.is_right, found.agreement) == (True, 1.0)
    for wrong in (np.full((3, SIZE, SIZE), 255, np.uint8), sure(labels)[::-1], sure(np.roll(labels, 8, axis=0))):
        found = compare_likeliest(contract, wrong, known)
        assert found is not None
        assert not found.is_right
    tied = np.maximum(sure(labels), sure(np.full_like(labels, CLASSES[0])))
    found = compare_likeliest(contract, tied, known)
    assert found is not None, "as a blend takes it: the lower class"
    assert found.agreement == pytest.approx(float((labels == CLASSES[0]).mean()))


def test_a_class_without_probabilities_is_not_looked_for_among_them() -> None:
    """Nodata, say, which a server may fill in by itself; or all classes, where a threshold decides."""
    labels = blobs()
    labels[:8] = CONTRACT.nodata_class
    contract = with_canary(CONTRACT, labels)
    known = known_labels(contract)
    assert known is not None
    found = compare_likeliest(contract, sure(blobs()), known)
    assert found is not None
    assert found.agreement == 1.0
    assert compare_likeliest(contract, sure(blobs()), np.full_like(known, CONTRACT.nodata_class)) is None
