"""A product that is cancelled, wherever it is, leaves nothing: no task, thread, file, folder, byte, slot or credit.

Two ways to be everywhere: threads that run at once in place (`InPlace`), so that the event loop's steps are the same
each time and a run can be cancelled after each of them; and real threads of which one is held (`Held`), so that the
cancellation comes while exactly that work is under way.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import pytest

from kappamask_stream.cog import inspect_mask
from kappamask_stream.destinations import FolderDestination
from kappamask_stream.errors import InferenceError, ServerOverloadedError
from kappamask_stream.inference import BatchSizes, InferResult, RetryPolicy, TileRequest
from kappamask_stream.mask_options import MaskOptions
from kappamask_stream.pipeline import mask_product
from kappamask_stream.resources import Resources, ServedModel
from kappamask_stream.result import ProductProgress
from kappamask_stream.settings import Settings
from tests.stream.fakes import FakeInference
from tests.stream.polling import DEADLINE_S, until
from tests.stream.scene import Scene, coarse_l2a, l2a_scene

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kappamask_stream.contract import ModelContract

__all__ = ["coarse_l2a", "l2a_scene"]


class InPlace(ThreadPoolExecutor):
    """Runs work where it is submitted: no thread decides in which step of the loop it ends."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - a future's business
            done.set_exception(error)
        return done


class Held(ThreadPoolExecutor):
    """Real threads; work that runs the function called `stage` waits in its thread until `release`."""

    stage = ""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.futures: list[Future[Any]] = []
        self.reached = threading.Event()
        self.release = threading.Event()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        def work() -> Any:
            if called(fn, args) == self.stage:
                self.reached.set()
                assert self.release.wait(DEADLINE_S)
            return fn(*args, **kwargs)

        self.futures.append(super().submit(work))
        return self.futures[-1]


def called(fn: Callable[..., Any], args: tuple[Any, ...]) -> str:
    """Name what runs in a thread: `asyncio.to_thread` wraps it in a context's `run` and a partial."""
    while hasattr(fn, "func"):
        fn, args = fn.func, (*fn.args, *args)
    return called(args[0], args[1:]) if getattr(fn, "__name__", "") == "run" else fn.__name__


class Setting:
    """A product on its way through `mask_product`, and everything that it could leave behind."""

    def __init__(self, scene: Scene, client: FakeInference, folder: Path, pools: list[Any] | None = None) -> None:
        self._scene, self.client, self.folder = scene, client, folder
        self.model = ServedModel.of(client, 2)
        self.progress = ProductProgress(product=scene.name)
        self.complaints: list[dict[str, Any]] = []
        self.resources = Resources(settings=Settings())
        self._pools = pools

    async def start(self) -> asyncio.Task[Any]:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self.complaints.append(context))
        self.resources.__enter__()
        if self._pools is not None:
            for pool in (self.resources.decoders, self.resources.workers):
                pool.shutdown()
            self.resources.decoders, self.resources.workers, default = self._pools
            loop.set_default_executor(default)
        product = await self._scene.open()
        self.tasks = asyncio.all_tasks()
        return asyncio.create_task(
            mask_product(
                product,
                self.model,
                self.resources,
                MaskOptions(),
                FolderDestination(self.folder / product.name),
                self.progress,
            )
        )

    def assert_nothing_is_left(self) -> None:
        assert asyncio.all_tasks() == self.tasks
        assert self.resources.budget.free == self.resources.budget.total
        assert not self.resources.budget._waiting
        assert (self.model.window.in_flight, len(self.model.window._waiting)) == (0, 0)
        assert self.model.credits._value == self.model.window.maximum + 2
        assert self.progress.tiles_in_flight == 0
        assert self.client.in_flight == 0
        files = sorted(path.name for path in self.folder.rglob("*")) if self.folder.exists() else []
        if any(name.endswith(".tif") for name in files):  # cancelled when all was done: then it is whole
            (mask,) = self.folder.rglob("*.tif")
            assert inspect_mask(mask).is_whole
            assert len(files) == 3, files  # folder, mask and quicklook
        else:
            assert files == []
        gc.collect()
        assert self.complaints == []


async def test_cancelled_after_any_number_of_steps(
    l2a_scene: Scene, coarse_l2a: ModelContract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RetryPolicy, "pause_s", lambda _, failures: 0.0)  # one step, whatever the time
    cancelled = finished = 0
    while not finished:
        client = FakeInference(coarse_l2a)
        client.failures.append(ServerOverloadedError("full"))  # so that a pause and a lowered window are passed, too
        with ExitStack() as stack:
            pools = [stack.enter_context(InPlace(1)) for _ in range(3)]
            setting = Setting(l2a_scene, client, tmp_path / str(cancelled), pools)
            task = await setting.start()
            for _ in range(cancelled):
                await asyncio.sleep(0)
            task.cancel()
            try:
                result = await task
            except asyncio.CancelledError:
                cancelled += 1
            else:
                assert result.status == "done"
                finished += 1
            setting.assert_nothing_is_left()
    # Indexing, 16 tiles of two bands, answers, blocks, the file: fewer steps would mean that most was never seen.
    assert cancelled > 60


#: What runs in threads, in the order of a product's life.
STAGES = [
    "_inspect", "_prepare", "_read", "_decode", "_cut", "nodata_mask", "add", "_keep", "quicklook_file",
    "_write_all", "_rename_all",
]  # fmt: skip


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("stage", STAGES)
async def test_cancelled_while_a_thread_works(
    l2a_scene: Scene, coarse_l2a: ModelContract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, times: int
) -> None:
    pools = [Held(2), Held(2), Held(4)]
    setting = Setting(l2a_scene, FakeInference(coarse_l2a), tmp_path / "out", pools)
    with suppress(asyncio.CancelledError):
        task = await setting.start()
        monkeypatch.setattr(Held, "stage", stage)
        async with asyncio.timeout(DEADLINE_S):
            while not any(pool.reached.is_set() for pool in pools):
                assert not task.done(), f"{stage} was never run in a thread"
                await asyncio.sleep(0.001)
        for _ in range(times):  # a second and a third cancellation must not cut the cleaning up short
            task.cancel()
            for _ in range(20):
                await asyncio.sleep(0)
        assert not task.done(), "it must wait for its thread"
        for pool in pools:
            pool.release.set()
        await task
        pytest.fail("it went on as if nothing had been")
    left = [future for pool in pools for future in pool.futures if not future.done()]
    assert left == []
    setting.assert_nothing_is_left()
    for pool in pools[:2]:
        pool.shutdown()


class Slow(FakeInference):
    """Stops for ever at the call named `stage`; `pause` has every tile fail and wait to be sent again."""

    def __init__(self, contract: ModelContract, stage: str) -> None:
        super().__init__(contract)
        self.stage = stage
        self.reached = False

    async def _stop_at(self, *stages: str) -> None:
        if self.stage in stages:
            self.reached = True
            await asyncio.Event().wait()

    async def infer(self, request: TileRequest) -> InferResult:
        self.in_flight += 1
        try:
            await self._stop_at("infer", "window", "credits")
        finally:
            self.in_flight -= 1
        if self.stage == "pause":
            self.reached = True
            raise ServerOverloadedError("full")
        return await super().infer(request)

    async def batch_sizes(self) -> BatchSizes:
        await self._stop_at("batch_sizes after the tiles" if self.sent else "batch_sizes")
        return await super().batch_sizes()


@pytest.mark.parametrize("stage", ["batch_sizes", "infer", "window", "credits", "pause", "batch_sizes after the tiles"])
async def test_cancelled_while_the_server_is_waited_for(
    l2a_scene: Scene, coarse_l2a: ModelContract, tmp_path: Path, stage: str
) -> None:
    client = Slow(coarse_l2a, stage)
    setting = Setting(l2a_scene, client, tmp_path / "out")
    task = await setting.start()
    waits = {"window": lambda: setting.model.window._waiting, "credits": lambda: setting.model.credits._waiters}
    await until(lambda: client.reached and waits.get(stage, lambda: True)())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    setting.assert_nothing_is_left()
    assert not list((tmp_path / "out").rglob("*.tif"))
    setting.resources.__exit__()


async def test_cancelled_while_it_waits_for_its_share_of_the_budget(
    l2a_scene: Scene, coarse_l2a: ModelContract, tmp_path: Path
) -> None:
    setting = Setting(l2a_scene, FakeInference(coarse_l2a), tmp_path / "out")
    task = await setting.start()
    budget = setting.resources.budget
    async with budget.reserve(budget.total):
        await until(lambda: budget._waiting)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not budget._waiting
    setting.assert_nothing_is_left()
    setting.resources.__exit__()


class FailsLater(FakeInference):
    """Fails on the first tile so many steps of the loop after it was sent."""

    def __init__(self, contract: ModelContract, steps: int) -> None:
        super().__init__(contract)
        self.steps = steps

    async def infer(self, request: TileRequest) -> InferResult:
        if "row 0, column 0" in request.name:
            for _ in range(self.steps):
                await asyncio.sleep(0)
            raise InferenceError("broken")
        return await super().infer(request)


async def test_an_error_of_one_tile_leaves_nothing_of_the_others_whenever_it_comes(
    l2a_scene: Scene, coarse_l2a: ModelContract, tmp_path: Path
) -> None:
    for steps in range(40):  # some of them end in the step in which the next tile's task is made and not yet begun
        with ExitStack() as stack:
            pools = [stack.enter_context(InPlace(1)) for _ in range(3)]
            setting = Setting(l2a_scene, FailsLater(coarse_l2a, steps), tmp_path / str(steps), pools)
            setting.resources.settings = Settings(tile_attempts=1)
            with pytest.raises(InferenceError, match=r"tile at row 0, column 0 .* broken"):
                await (await setting.start())
            setting.assert_nothing_is_left()


async def test_an_error_in_one_tile_waits_for_the_threads_of_the_others(
    l2a_scene: Scene, coarse_l2a: ModelContract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OneFails(FakeInference):
        async def infer(self, request: TileRequest) -> InferResult:
            if "row 0, column 0" in request.name:
                await until(lambda: any(pool.reached.is_set() for pool in pools))
                asyncio.get_running_loop().call_later(0.05, release)
                raise InferenceError("broken")
            return await super().infer(request)

    def release() -> None:
        for pool in pools:
            pool.release.set()

    pools = [Held(2), Held(2), Held(4)]
    setting = Setting(l2a_scene, OneFails(coarse_l2a), tmp_path / "out", pools)
    setting.resources.settings = Settings(tile_attempts=1)
    task = await setting.start()
    monkeypatch.setattr(Held, "stage", "add")
    with pytest.raises(InferenceError, match=r"tile at row 0, column 0 .* broken"):
        await task
    assert [future for pool in pools for future in pool.futures if not future.done()] == []
    setting.assert_nothing_is_left()
    for pool in pools[:2]:
        pool.shutdown()
