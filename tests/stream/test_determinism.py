"""Same product, model and options: the same bytes, whatever happens on the way, and how much at once.

What is drawn: how long each answer takes, which tries of which tiles fail and how, how many requests, threads and
products there are at once, how far is read ahead. The masks are compared with those of an undisturbed run that does one
thing after the other.
"""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kappamask_stream.contract import BandGroup, ModelContract
from kappamask_stream.errors import (
    InferenceError,
    InferenceTimeoutError,
    KappaMaskError,
    ServerOverloadedError,
    ServerUnavailableError,
)
from kappamask_stream.inference import RetryPolicy
from kappamask_stream.mask_options import MaskOptions
from kappamask_stream.resources import Resources, ServedModel
from kappamask_stream.runner import Order, Workshop, mask_products
from kappamask_stream.s3 import Stores
from kappamask_stream.settings import Settings
from kappamask_stream.synth import write_product
from tests.conftest import make_contract
from tests.fault_table import Fault
from tests.stream.naive import Network
from tests.stream.test_runner import Models

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from kappamask_stream.inference import InferResult, TileRequest

#: Of KappaMask's family, which all options are for; its mask is of 2 x 2 blocks.
CONTRACT = make_contract(
    inputs=(BandGroup(gsd_m=10, bands=("B02",), tile=192, stride=160),), gsd_m=10, tile_size=192, margin=16,
    family="kappamask", dn_unit="full_scale", divisors=(10_000 / 65_535,), probability_classes=(0, 1, 2, 3, 4, 5),
)  # fmt: skip
FAILURES: dict[str, KappaMaskError] = {
    "full": ServerOverloadedError("full"),
    "away": ServerUnavailableError("away"),
    "late": InferenceTimeoutError("late"),
    "fault": InferenceError("not finite"),
}
OPTIONS = [
    {"mosaic": mosaic, "radiometry": radiometry}
    for mosaic in ("crop", "blend")
    for radiometry in ("corrected", "km_predict")
]
#: A tile is sent at most four times, and no tile may fail for good.
FATES = st.lists(st.sampled_from(sorted(FAILURES)), max_size=3)


@dataclass
class Unsteady(Network):
    """Answers as `Network` does, after so long and so many failures as are drawn; both go round the tiles.

    Attributes
    ----------
    delays : of answers, in steps of the event loop and in milliseconds by turns.
    fates : what the first tries of tiles end with.
    failed : tries that did.
    """

    contract: ModelContract
    delays: Sequence[int] = (0,)
    fates: Sequence[Sequence[str]] = ((),)
    failed: int = 0

    def __post_init__(self) -> None:
        super().__init__(self.contract)
        self._tries: Counter[str] = Counter()
        self._numbers: dict[str, int] = {}

    async def infer(self, request: TileRequest) -> InferResult:
        number = self._numbers.setdefault(request.name, len(self._numbers))
        delay = self.delays[(number + self._tries[request.name]) % len(self.delays)]
        fate = [*self.fates[number % len(self.fates)]]
        self._tries[request.name] += 1
        if number % 2:
            await asyncio.sleep(delay / 1000)
        for _ in range(delay):
            await asyncio.sleep(0)
        if self._tries[request.name] <= len(fate):
            self.failed += 1
            raise FAILURES[fate[self._tries[request.name] - 1]]
        return await super().infer(request)


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two products of 600 x 600 pixels with a swath edge, 16 tiles each."""
    folder = tmp_path_factory.mktemp("products")
    return [write_product(folder, size=600, seed=seed).product for seed in (3, 4)]


async def masks(paths: Sequence[Path], client: Network, folder: Path, options: Any, **limits: Any) -> dict[str, bytes]:
    """Mask products and return all that was written, by path."""
    shutil.rmtree(folder, ignore_errors=True)
    with Resources(settings=Settings(output=folder, tile_attempts=4, **limits)) as resources:
        models = Models(client)
        models.model = ServedModel.of(client, limits.get("max_in_flight"))
        workshop = Workshop(models=models, resources=resources, stores=Stores())  # type: ignore[arg-type]
        order = Order(options=MaskOptions(**options))
        results = [result async for result in mask_products([str(path) for path in paths], workshop, order)]
    assert [result.error for result in results] == [None] * len(paths)
    assert sum(result.retries for result in results) == (client.failed if isinstance(client, Unsteady) else 0)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def undisturbed(products: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """Masks made one thing after the other, by options."""
    folder = tmp_path_factory.mktemp("undisturbed")
    one = {"products_at_once": 1, "decode_threads": 1, "max_in_flight": 1, "read_ahead_tiles": 1}
    return {
        str(options): asyncio.run(masks(products, Network(CONTRACT), folder / str(number), options, **one))
        for number, options in enumerate(OPTIONS)
    }


@pytest.mark.thorough
@given(
    options=st.sampled_from(OPTIONS),
    delays=st.lists(st.integers(0, 9), min_size=1, max_size=12),
    fates=st.lists(FATES, min_size=1, max_size=7),
    order=st.permutations(range(2)),
    at_once=st.integers(1, 2),
    threads=st.integers(1, 4),
    in_flight=st.sampled_from([None, 1, 2, 5]),
    ahead=st.integers(1, 8),
)
@settings(max_examples=Fault.amount(6, 200), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_bytes_are_the_same_whatever_the_order_the_retries_and_the_concurrency(
    products: list[Path],
    undisturbed: dict[str, dict[str, bytes]],
    tmp_path: Path,
    options: dict[str, str],
    delays: list[int],
    fates: list[list[str]],
    order: list[int],
    at_once: int,
    threads: int,
    in_flight: int | None,
    ahead: int,
) -> None:
    client = Unsteady(CONTRACT, delays=delays, fates=fates)
    limits = {
        "products_at_once": at_once,
        "decode_threads": threads,
        "max_in_flight": in_flight,
        "read_ahead_tiles": ahead,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RetryPolicy, "pause_s", lambda _, failures: 0.001 * failures)
        made = asyncio.run(masks([products[number] for number in order], client, tmp_path / "made", options, **limits))
    expected = undisturbed[str(options)]
    assert sorted(made) == sorted(expected)
    assert len([name for name in made if name.endswith(".tif")]) == len(products)
    for name, data in expected.items():
        assert made[name] == data, f"{name} differs"


def test_the_options_give_masks_that_differ(undisturbed: dict[str, dict[str, bytes]]) -> None:
    """Else the property above would hold for a mask of one value."""
    tifs = [
        tuple(data for name, data in sorted(made.items()) if name.endswith(".tif")) for made in undisturbed.values()
    ]
    assert len(set(tifs)) == len(OPTIONS)
