"""Products over several processes, real ones, with a fake network in each: who takes what, and what is left of whom."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from kappamask_stream.errors import (
    InternalError,
    KappaMaskError,
    ProcessEndedError,
    ProductError,
    ServerUnavailableError,
)
from kappamask_stream.models import ModelChoice
from kappamask_stream.processes import Crew, mask_in_processes
from kappamask_stream.processes.messages import TracebackOfChildError
from kappamask_stream.resources import Resources
from kappamask_stream.result import ProductProgress, ProductResult
from kappamask_stream.runner import Order, Workshop
from kappamask_stream.s3 import Stores
from kappamask_stream.settings import Settings
from kappamask_stream.synth import write_product
from tests.stream.fakes import FakeInference
from tests.stream.polling import until
from tests.stream.scene import coarse_l2a
from tests.stream.test_runner import Models, name_of, names_in, run_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from kappamask_stream.contract import ModelContract

__all__ = ["coarse_l2a"]

CHILD = (sys.executable, str(Path(__file__).with_name("fake_child.py")))


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("products")
    return [write_product(folder, size=240, seed=seed).product for seed in range(1, 5)]


class Scene:
    """A run over processes, and what can be seen and done from outside."""

    def __init__(self, folder: Path, contract: ModelContract) -> None:
        self.gates, self.out = folder / "gates", folder / "out"
        self.gates.mkdir()
        self.contract, self.shown = contract, list[ProductProgress]()
        self.results: list[ProductResult] = []
        self.workshop: Workshop | None = None

    def run(
        self, wheres: Sequence[Path], *, error: KappaMaskError | None = None, fail_fast: bool = False, **settings: Any
    ) -> asyncio.Task[None]:
        work = self._run([str(where) for where in wheres], error, settings, fail_fast=fail_fast)
        self.task = asyncio.create_task(work)
        return self.task

    async def _run(
        self, wheres: list[str], error: KappaMaskError | None, given: dict[str, Any], *, fail_fast: bool
    ) -> None:
        settings = Settings(output=self.out, **{"products_at_once": 1, "processes": 2, "decode_threads": 3, **given})
        choice = ModelChoice(model=str(self.gates))
        crew = Crew(processes=settings.processes, choice=choice, settings=settings, command=CHILD)
        with Resources(settings=settings) as resources:
            models: Any = Models(FakeInference(self.contract), error)
            self.workshop = Workshop(models=models, resources=resources, stores=Stores())
            stream = mask_in_processes(
                wheres, self.workshop, Order(), crew, fail_fast=fail_fast, on_start=self.shown.append
            )
            async with aclosing(stream):
                async for result in stream:
                    self.results.append(result)

    def pid(self, product: Path) -> int | None:
        """Return the process that works on a product, None before its first tile."""
        asked = self.gates / f"asked-{name_of(product)}"
        return int(asked.read_text()) if asked.exists() else None

    async def asked(self, product: Path, *, but: int | None = None) -> int:
        await until(lambda: self.pid(product) not in (None, but))
        pid = self.pid(product)
        assert pid is not None
        return pid

    def let(self, *products: Path) -> None:
        for product in products:
            (self.gates / f"open-{name_of(product)}").touch()

    def result(self, product: Path) -> ProductResult:
        (found,) = [r for r in self.results if r.product == name_of(product)]
        return found


@pytest.fixture
async def scene(tmp_path: Path, coarse_l2a: ModelContract) -> AsyncIterator[Scene]:
    """At the end no process, no task, no turn and no temporary file may be left."""
    made = Scene(tmp_path, coarse_l2a)
    others = set(psutil.Process().children())  # servers of tests that ran before in this process
    yield made
    if not made.task.done():  # the test has failed
        made.task.cancel()
        await asyncio.gather(made.task, return_exceptions=True)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert set(psutil.Process().children()) <= others
    assert made.workshop is not None
    assert not made.workshop.turns.held
    assert not list(made.out.rglob(".*"))


async def test_whoever_is_free_takes_the_next_product_and_masks_are_those_of_one_process(
    scene: Scene, products: list[Path], tmp_path: Path
) -> None:
    run = scene.run(products)
    first, second = [await scene.asked(product) for product in products[:2]]
    assert first != second
    await until(lambda: [p.state for p in scene.shown] == ["streaming"] * 2)
    assert [p.product for p in scene.shown] == [name_of(product) for product in products[:2]]
    scene.let(products[1])
    assert await scene.asked(products[2]) == second, "the first one still works"
    scene.let(products[0])
    assert await scene.asked(products[3]) == first
    await until(lambda: scene.shown[3].tiles_in_flight > 0)
    scene.let(*products)
    await run
    assert {r.product: r.status for r in scene.results} == {name_of(product): "done" for product in products}
    assert [p.state for p in scene.shown] == ["done"] * 4
    assert {(p.tiles_total, p.tiles_done) for p in scene.shown} == {(1, 1)}
    assert all((r.peak_rss_bytes or 0) > 0 and r.stages["decode"] > 0 for r in scene.results)

    await run_all(products, FakeInference(scene.contract), tmp_path / "one")
    for product in products:
        alone = tmp_path / "one" / name_of(product)
        assert names_in(alone) == names_in(scene.out / alone.name)
        assert all(file.read_bytes() == (scene.out / alone.name / file.name).read_bytes() for file in alone.iterdir())


async def test_a_product_whose_process_is_killed_goes_to_another_one_once(scene: Scene, products: list[Path]) -> None:
    lost, again, other = products[:3]
    run = scene.run([lost, other, again])
    pid, of_other = await scene.asked(lost), await scene.asked(other)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: scene.shown[0].note == "its process has ended: SIGKILL; begun again in another one")
    second = await scene.asked(lost, but=pid)
    os.kill(second, signal.SIGKILL)
    third = await scene.asked(again)
    os.kill(third, signal.SIGKILL)
    await scene.asked(again, but=third)
    scene.let(*products)
    await run
    error = scene.result(lost).error
    assert isinstance(error, ProcessEndedError)
    assert error.retryable
    assert str(error).startswith("its process has ended: SIGKILL; so had the one before. Where the machine ran out of")
    assert scene.shown[0].state == "failed"
    assert [scene.result(p).status for p in (again, other)] == ["done", "done"]
    assert scene.pid(other) == of_other, "what happens to one is nothing to the other"


async def test_jobs_of_two_processes_that_write_the_same_files_take_turns(
    scene: Scene, products: list[Path], tmp_path: Path
) -> None:
    copy = shutil.copytree(products[0], tmp_path / "copy" / products[0].name)
    run = scene.run([products[0], copy])
    pid = await scene.asked(products[0])
    await until(lambda: [p.state for p in scene.shown if "another job writes" in (p.note or "")] == ["waiting"])
    os.kill(pid, signal.SIGKILL)  # its turn is given back, too
    await scene.asked(products[0], but=pid)
    scene.let(products[0])
    await run
    assert sorted(r.status for r in scene.results) == ["done", "skipped"]


async def test_failures_keep_their_kind_and_a_fault_its_traceback(
    scene: Scene, products: list[Path], tmp_path: Path
) -> None:
    (scene.gates / f"broken-{name_of(products[0])}").touch()
    scene.let(products[1])
    await scene.run([tmp_path / "nowhere", *products[:2]])
    (missing,) = [r for r in scene.results if r.product == str(tmp_path / "nowhere")]
    assert isinstance(missing.error, ProductError)
    assert "nowhere does not exist" in str(missing.error)
    fault = scene.result(products[0]).error
    assert isinstance(fault, InternalError)
    assert str(fault).startswith("ZeroDivisionError: a bug; this is a fault of kappamask-stream")
    assert isinstance(fault.__cause__, TracebackOfChildError)
    assert "fake_child.py" in str(fault.__cause__)
    assert scene.result(products[1]).status == "done"


async def test_where_the_parent_finds_no_model_its_children_look_for_none(scene: Scene, products: list[Path]) -> None:
    await scene.run(products[:2], processes=1, error=ServerUnavailableError("nobody answers"))
    assert [(type(r.error), str(r.error)) for r in scene.results] == [(ServerUnavailableError, "nobody answers")] * 2


async def test_fail_fast_ends_the_others(scene: Scene, products: list[Path]) -> None:
    (scene.gates / f"broken-{name_of(products[0])}").touch()
    await scene.run(products, fail_fast=True)
    assert [(r.product, r.status) for r in scene.results] == [(name_of(products[0]), "failed")]


@pytest.mark.parametrize("moment", ["at once", "while it starts", "in the middle"])
async def test_cancelled_it_leaves_nothing(scene: Scene, products: list[Path], moment: str) -> None:
    run = scene.run(products[:1], processes=1)
    others = set(psutil.Process().children())  # nothing of the run has begun yet
    if moment == "while it starts":
        await until(lambda: set(psutil.Process().children()) - others)
    elif moment == "in the middle":
        await scene.asked(products[0])
    else:
        await until(lambda: scene.shown)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert not list(scene.out.rglob("*.tif"))


async def test_a_process_that_cannot_be_started_is_told_in_words(
    scene: Scene, products: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse)
    await scene.run(products[:1])
    error = (
        scene.result(products[0]).error if scene.results[0].product == name_of(products[0]) else scene.results[0].error
    )
    assert isinstance(error, ProcessEndedError)
    assert "cannot be started: Resource temporarily unavailable: take fewer --processes" in str(error)
