"""Many products in one process: how many at once, in which order results come, and that each fails alone."""

from __future__ import annotations

import asyncio
import weakref
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kappamask_stream import product_run
from kappamask_stream.errors import (
    CodestreamError,
    InferenceError,
    InputError,
    InternalError,
    KappaMaskError,
    OutputError,
    ProductError,
    ServerError,
    ServerUnavailableError,
    UsageError,
)
from kappamask_stream.jp2 import ImagecodecsDecoder, TileStream
from kappamask_stream.mask_options import MaskOptions
from kappamask_stream.resources import Resources, ServedModel
from kappamask_stream.result import ProductProgress, ProductResult
from kappamask_stream.runner import Order, Workshop, exit_code, mask_one, mask_products
from kappamask_stream.s3 import Stores
from kappamask_stream.settings import Settings
from kappamask_stream.synth import write_product
from tests.stream.fakes import FakeInference
from tests.stream.polling import DEADLINE_S, until
from tests.stream.scene import Scene, band_file, coarse_l2a, l1c_scene, l2a_scene

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from kappamask_stream.contract import ModelContract
    from kappamask_stream.inference import InferResult, TileRequest

__all__ = ["coarse_l2a", "l1c_scene", "l2a_scene"]


class Models:
    """Stands for a `ModelPool`: one model for every level, or the error that asking for it gives."""

    def __init__(self, client: FakeInference, error: KappaMaskError | None = None) -> None:
        self.model = ServedModel.of(client)
        self._error = error

    async def get(self, level: str) -> ServedModel:
        if self._error is not None:
            raise self._error
        return self.model


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four products of 40 x 40 pixels of 60 m."""
    folder = tmp_path_factory.mktemp("products")
    return [write_product(folder, size=240, seed=seed).product for seed in range(1, 5)]


def workshop(client: FakeInference, resources: Resources) -> Workshop:
    return Workshop(models=Models(client), resources=resources, stores=Stores())  # type: ignore[arg-type]


async def run_all(
    paths: Sequence[Path],
    client: FakeInference,
    folder: Path,
    *,
    models: Models | None = None,
    shown: list[ProductProgress] | None = None,
    verify: bool = False,
    fail_fast: bool = False,
    **settings: Any,
) -> list[ProductResult]:
    with Resources(settings=Settings(output=folder, **settings)) as resources:
        stream = mask_products(
            [str(path) for path in paths],
            replace(workshop(client, resources), **({} if models is None else {"models": models})),
            Order(verify_checksums=verify),
            fail_fast=fail_fast,
            on_start=None if shown is None else shown.append,
        )
        results = [result async for result in stream]
        assert resources.budget.free == resources.budget.total
    return results


class Gate(FakeInference):
    """Answers tiles of a product only when its gate is open."""

    def __init__(self, contract: ModelContract) -> None:
        super().__init__(contract)
        self.asked: set[str] = set()
        self.open: set[str] = set()
        self._changed = asyncio.Condition()

    async def infer(self, request: TileRequest) -> InferResult:
        product = request.name.rpartition(" ")[2]
        self.asked.add(product)
        async with self._changed:
            await self._changed.wait_for(lambda: product in self.open)
        return await super().infer(request)

    async def let(self, *names: str) -> None:
        async with self._changed:
            self.open.update(names)
            self._changed.notify_all()


def name_of(path: Path) -> str:
    return path.name.removesuffix(".SAFE")


@pytest.mark.parametrize("at_once", [1, 2, 3])
async def test_so_many_products_are_in_work_at_once_and_no_more(
    products: list[Path], coarse_l2a: ModelContract, tmp_path: Path, at_once: int
) -> None:
    client, shown = Gate(coarse_l2a), list[ProductProgress]()
    run = asyncio.create_task(run_all(products, client, tmp_path, shown=shown, products_at_once=at_once))
    for first in range(len(products)):
        in_work = {name_of(path) for path in products[first : first + at_once]}
        await until(lambda now=in_work: now <= client.asked)  # type: ignore[misc]
        assert len(shown) == min(first + at_once, len(products)), "a product waits until one before it has ended"
        assert [p.state for p in shown[first:]] == ["streaming"] * len(in_work)
        await client.let(name_of(products[first]))
        await until(lambda n=first: shown[n].state == "done")  # type: ignore[misc]
    results = await run
    assert [r.product for r in results] == [name_of(path) for path in products]
    assert {r.status for r in results} == {"done"}


async def test_results_come_when_their_product_ends_not_in_the_order_given(
    products: list[Path], coarse_l2a: ModelContract, tmp_path: Path
) -> None:
    client = Gate(coarse_l2a)
    with Resources(settings=Settings(output=tmp_path, products_at_once=4)) as resources:
        async with aclosing(
            mask_products([str(path) for path in products], workshop(client, resources), Order())
        ) as stream:
            for number in (2, 0, 3, 1):
                await client.let(name_of(products[number]))
                result = await asyncio.wait_for(anext(stream), DEADLINE_S)
                assert result.product == name_of(products[number])
                assert result.output is not None
                assert Path(result.output).exists()


@pytest.mark.parametrize("budget", [20_000, 12_000])
async def test_the_second_product_is_read_while_the_first_is_answered(
    products: list[Path], coarse_l2a: ModelContract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    """Even where the budget holds one at a time: its bytes are given back with the last tile read."""
    monkeypatch.setattr(Settings, "memory_budget_bytes", property(lambda _: budget))
    client, shown = Gate(coarse_l2a), list[ProductProgress]()
    run = asyncio.create_task(run_all(products[:2], client, tmp_path, shown=shown, products_at_once=2))
    await until(lambda: len(shown) == 2 and all(p.tiles_read > 0 for p in shown))
    assert [p.state for p in shown] == ["streaming"] * 2
    assert not client.sent, "not one tile of either is answered yet"
    await client.let(*map(name_of, products))
    assert {r.status for r in await run} == {"done"}


async def test_decoded_pixels_of_all_products_never_exceed_the_budget(
    products: list[Path], coarse_l2a: ModelContract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = {"now": 0, "peak": 0, "decoded": 0}

    def gone(nbytes: int) -> None:
        live["now"] -= nbytes

    class Counting(ImagecodecsDecoder):
        def decode(self, codestream: bytes, *, height: int, width: int, name: str) -> NDArray[np.uint16]:
            pixels = super().decode(codestream, height=height, width=width, name=name).copy()
            live["now"] += pixels.nbytes
            live["decoded"] += pixels.nbytes
            live["peak"] = max(live["peak"], live["now"])
            weakref.finalize(pixels, gone, pixels.nbytes)
            return pixels

    class Watched(TileStream):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "decoder": Counting()})

    monkeypatch.setattr(product_run, "TileStream", Watched)
    # Two bands of 40 x 40 pixels take 6400 bytes, their book-keeping 3200: two products do not fit beside each other.
    budget = 12_000
    monkeypatch.setattr(Settings, "memory_budget_bytes", property(lambda _: budget))
    results = await run_all(products, FakeInference(coarse_l2a), tmp_path, products_at_once=4)
    assert {r.status for r in results} == {"done"}
    assert live["decoded"] == 4 * 6400
    # A decoder's thread may hold what it has handed over for a moment longer, when it is put aside just then.
    assert live["peak"] <= 6400 + 3200 < 2 * 6400
    assert live["now"] == 0


async def test_a_product_beyond_the_budget_fails_alone(
    products: list[Path], l2a_scene: Scene, coarse_l2a: ModelContract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settings, "memory_budget_bytes", property(lambda _: 12_000))
    paths = [products[0], l2a_scene.path, products[1]]
    results = {r.product: r for r in await run_all(paths, FakeInference(coarse_l2a), tmp_path)}
    error = results[l2a_scene.name].error
    assert isinstance(error, UsageError)
    assert "--memory-budget-mb" in str(error)
    assert [results[name_of(p)].status for p in products[:2]] == ["done", "done"]


async def test_a_product_named_twice_is_masked_once(
    products: list[Path], coarse_l2a: ModelContract, tmp_path: Path
) -> None:
    for at_once in (1, 2):
        client = FakeInference(coarse_l2a)
        folder = tmp_path / str(at_once)
        results = await run_all([products[0], products[0]], client, folder, products_at_once=at_once)
        assert sorted(r.status for r in results) == ["done", "skipped"]
        assert results[0].files == results[1].files
        assert set(client.sent.values()) == {1}
        assert exit_code(results) == 0


@pytest.mark.parametrize("at_once", [1, 2])
async def test_a_good_copy_of_a_product_is_masked_after_a_bad_one(
    l2a_scene: Scene, coarse_l2a: ModelContract, tmp_path: Path, at_once: int
) -> None:
    truncated = l2a_scene.copy(tmp_path / "in")
    file = band_file(truncated, "B09", 60)
    file.write_bytes(file.read_bytes()[:5000])
    client = FakeInference(coarse_l2a)
    results = await run_all([truncated, l2a_scene.path], client, tmp_path / "out", products_at_once=at_once)
    assert sum(r.status == "done" for r in results) == 1
    # Of two at once the good one may come first: then the bad one finds its mask there.
    assert {r.status for r in results} - {"done"} <= ({"failed"} if at_once == 1 else {"failed", "skipped"})
    assert all(isinstance(r.error, CodestreamError) for r in results if r.error)


async def test_jobs_that_write_the_same_files_take_turns(
    products: list[Path], coarse_l2a: ModelContract, tmp_path: Path
) -> None:
    """Of masks made in different ways one is there, and the others are told; a link leads to the same place."""
    client, shown = Gate(coarse_l2a), [ProductProgress(product=str(number)) for number in range(3)]
    (tmp_path / "masks").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "masks")
    orders = [
        Order(options=MaskOptions(mosaic=mosaic), output=str(tmp_path / folder))
        for mosaic, folder in [("crop", "masks"), ("blend", "link"), ("crop", "link")]  # type: ignore[list-item]
    ]
    with Resources(settings=Settings(products_at_once=3)) as resources:
        place = workshop(client, resources)
        jobs = [
            asyncio.create_task(mask_one(str(products[0]), place, order, progress))
            for order, progress in zip(orders, shown, strict=True)
        ]
        await until(lambda: sorted(p.state for p in shown) == ["streaming", "waiting", "waiting"])
        assert sum("another job writes" in (p.note or "") for p in shown) == 2
        await client.let(name_of(products[0]))
        ended = await asyncio.gather(*jobs, return_exceptions=True)
        assert not place.turns.held
    masks = {r.fingerprint for r in ended if isinstance(r, ProductResult)}
    assert len(masks) == 1
    refused = [error for error in ended if isinstance(error, OutputError)]
    assert len(refused) in {1, 2}
    assert len(refused) + sum(isinstance(r, ProductResult) for r in ended) == 3
    assert all("is a mask of another origin" in str(error) for error in refused)
    assert not any("another job" in (p.note or "") for p in shown)


async def test_a_job_that_is_cancelled_gives_its_place_free(
    products: list[Path], coarse_l2a: ModelContract, tmp_path: Path
) -> None:
    client, shown = Gate(coarse_l2a), [ProductProgress(product=str(number)) for number in range(2)]
    with Resources(settings=Settings(output=tmp_path)) as resources:
        place = workshop(client, resources)
        jobs = [asyncio.create_task(mask_one(str(products[0]), place, Order(), progress)) for progress in shown]
        await until(lambda: sorted(p.state for p in shown) == ["streaming", "waiting"])
        first = jobs.pop([p.state for p in shown].index("streaming"))
        first.cancel()
        await client.let(name_of(products[0]))
        assert (await asyncio.wait_for(jobs[0], DEADLINE_S)).status == "done"
        await asyncio.gather(first, return_exceptions=True)
        assert not place.turns.held


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def empty_folder(path: Path) -> Path:
    path.mkdir()
    return path


async def test_each_product_fails_alone(
    products: list[Path], l1c_scene: Scene, l2a_scene: Scene, coarse_l2a: ModelContract, tmp_path: Path
) -> None:
    truncated = l2a_scene.copy(tmp_path / "in")
    file = band_file(truncated, "B09", 60)
    file.write_bytes(file.read_bytes()[:5000])
    paths = [
        tmp_path / "nowhere",
        empty_folder(tmp_path / "empty"),
        products[0],
        truncated,
        l1c_scene.path,
        products[1],
    ]
    shown = list[ProductProgress]()
    results = await run_all(paths, FakeInference(coarse_l2a), tmp_path / "out", shown=shown)
    by_name = {r.product: r for r in results}
    expected = {
        str(tmp_path / "nowhere"): (ProductError, "nowhere does not exist"),
        str(tmp_path / "empty"): (ProductError, "empty is no Sentinel-2 product: it is empty"),
        l2a_scene.name: (CodestreamError, "_B09_60m.jp2"),
        l1c_scene.name: (ProductError, "is a L1C product, the model test_l2a was trained on L2A"),
    }
    for name, (kind, says) in expected.items():
        assert isinstance(by_name[name].error, kind)
        assert says in str(by_name[name].error)
        assert by_name[name].status == "failed"
        assert by_name[name].output is None
    assert [by_name[name_of(p)].status for p in products[:2]] == ["done", "done"]
    assert [p.state for p in shown] == ["failed", "failed", "done", "failed", "failed", "done"]
    assert {p.tiles_in_flight for p in shown} == {0}
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(name_of(p) for p in products[:2])


class Broken(FakeInference):
    """Has a bug that shows with one product."""

    def __init__(self, contract: ModelContract, product: str) -> None:
        super().__init__(contract)
        self._product = product

    async def infer(self, request: TileRequest) -> InferResult:
        if self._product in request.name:
            raise ZeroDivisionError("division by zero")
        return await super().infer(request)


async def test_a_fault_of_the_program_fails_its_product_with_the_cause_and_no_other(
    products: list[Path], coarse_l2a: ModelContract, tmp_path: Path
) -> None:
    client, shown = Broken(coarse_l2a, name_of(products[1])), list[ProductProgress]()
    models = Models(client)
    results = {r.product: r for r in await run_all(products, client, tmp_path, models=models, shown=shown)}
    assert [results[name_of(p)].status for p in products] == ["done", "failed", "done", "done"]
    error = results[name_of(products[1])].error
    assert isinstance(error, InternalError)
    assert str(error).startswith("ZeroDivisionError: division by zero; this is a fault of kappamask-stream")
    assert isinstance(error.__cause__, ZeroDivisionError)
    assert error.__cause__.__traceback__ is not None
    assert shown[1].state == "failed"
    assert (models.model.credits._value, models.model.window.in_flight) == (models.model.window.maximum + 2, 0)
    assert not (tmp_path / name_of(products[1])).exists()


async def test_no_server_fails_every_product(products: list[Path], coarse_l2a: ModelContract, tmp_path: Path) -> None:
    client = FakeInference(coarse_l2a)
    models = Models(client, ServerUnavailableError("no server answers at grpc://10.0.0.1:8001"))
    results = await run_all(products, client, tmp_path, models=models)
    assert len(results) == 4
    assert exit_code(results) == 4
    assert names_in(tmp_path) == []


async def test_checksums_are_verified_before_anything_is_asked_of_a_server(
    l2a_scene: Scene, coarse_l2a: ModelContract, tmp_path: Path
) -> None:
    damaged = l2a_scene.copy(tmp_path / "in")
    file = band_file(damaged, "B05", 20)  # none of the model's bands: only the manifest knows
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    client = FakeInference(coarse_l2a)
    models = Models(client, ServerError("must not be asked"))
    (result,) = await run_all([damaged], client, tmp_path / "out", models=models, verify=True)
    assert isinstance(result.error, ProductError)
    assert f"{file.name} has the sha3_256 checksum" in str(result.error)
    assert str(damaged) in str(result.error)
    (result,) = await run_all([damaged], client, tmp_path / "out")
    assert result.status == "done"
    (result,) = await run_all([l2a_scene.path], FakeInference(coarse_l2a), tmp_path / "good", verify=True)
    assert result.status == "done"


async def test_closing_the_results_early_cancels_what_is_in_work(
    products: list[Path], coarse_l2a: ModelContract, tmp_path: Path
) -> None:
    before = asyncio.all_tasks()
    client = Gate(coarse_l2a)
    with Resources(settings=Settings(output=tmp_path, products_at_once=3)) as resources:
        stream = mask_products([str(path) for path in products], workshop(client, resources), Order())
        async with aclosing(stream):
            await client.let(name_of(products[0]))
            first = await asyncio.wait_for(anext(stream), DEADLINE_S)
            await until(lambda: len(client.asked) == 4)
        assert asyncio.all_tasks() == before
        assert resources.budget.free == resources.budget.total
    assert client.in_flight == 0
    assert names_in(tmp_path) == [first.product], "what was finished stays, nothing else is there"


def failed(kind: type[KappaMaskError]) -> ProductResult:
    return ProductResult(product="P", status="failed", error=kind("why"))


DONE = ProductResult(product="P", status="done")
SKIPPED = ProductResult(product="P", status="skipped")


@pytest.mark.parametrize(
    ("results", "code"),
    [
        ([], 0),
        ([DONE, SKIPPED], 0),
        ([failed(UsageError), failed(UsageError)], 2),
        ([failed(InputError), failed(CodestreamError), failed(ProductError)], 3),
        ([failed(ServerError), failed(InferenceError)], 4),
        ([failed(OutputError)], 5),
        ([failed(InternalError)], 1),
        ([failed(InputError), failed(OutputError)], 1),
        ([failed(InputError), DONE], 1),
        ([failed(OutputError), SKIPPED], 1),
    ],
)
def test_the_exit_code_is_the_failures_if_they_are_of_one_kind_and_all_failed(
    results: list[ProductResult], code: int
) -> None:
    assert exit_code(results) == code


async def test_fail_fast_ends_with_the_first_failure(
    products: list[Path], coarse_l2a: ModelContract, tmp_path: Path
) -> None:
    before = asyncio.all_tasks()
    client, shown = Gate(coarse_l2a), list[ProductProgress]()
    client.fail_tile = (name_of(products[1]), InferenceError("broken"))
    run = asyncio.create_task(
        run_all(products, client, tmp_path, shown=shown, products_at_once=2, tile_attempts=1, fail_fast=True)
    )
    await until(lambda: len(client.asked) == 2)
    await client.let(name_of(products[1]))
    results = await run
    assert [(r.product, r.status) for r in results] == [(name_of(products[1]), "failed")]
    assert asyncio.all_tasks() == before
    assert names_in(tmp_path) == [], "what was in work leaves nothing"
    assert len(shown) <= 3, "no more were begun than the freed slot takes"


async def test_fail_fast_changes_nothing_where_all_is_well(
    products: list[Path], coarse_l2a: ModelContract, tmp_path: Path
) -> None:
    results = await run_all(products, FakeInference(coarse_l2a), tmp_path, fail_fast=True)
    assert {r.product for r in results if r.status == "done"} == {name_of(path) for path in products}
