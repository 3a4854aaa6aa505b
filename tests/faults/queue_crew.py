"""Workers in this process, with a real queue, real stores and a real Triton, and the masks that they make."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from kappamask_stream.feed import FeedFilter, to_message
from kappamask_stream.models import ModelChoice
from kappamask_stream.runner import Order
from kappamask_stream.settings import Settings
from kappamask_stream.worker import service as assembly
from kappamask_stream.worker import settling
from kappamask_stream.worker.service import Service, serve
from kappamask_stream.worker.stop import Stop
from tests.fault_table import Fault
from tests.integration.faulty_queues import FaultyQueues
from tests.integration.s3_servers import KEY_ID, SECRET
from tests.integration.test_run import small
from tests.integration.worker_process import safe_objects
from tests.stream.polling import DEADLINE_S, until
from tests.stream.worker_fakes import Recorder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.integration.queue_servers import QueueServer, ServedQueue
    from tests.integration.s3_servers import MotoStore
    from tests.integration.session import SessionServer

BUCKET = "queue-products"
_CREDENTIALS = {"ACCESS_KEY_ID": KEY_ID, "SECRET_ACCESS_KEY": SECRET, "EC2_METADATA_DISABLED": "true"}


@dataclass(kw_only=True)
class Crew:
    """Workers at one queue, which they reach through a proxy that fails as it is told.

    Attributes
    ----------
    queue : with a dead-letter queue.
    endpoint : of the workers' way to it; a test may give another one.
    output : folder that the masks go to.
    seen : what the workers told, all of them.
    """

    queue: ServedQueue
    proxy: FaultyQueues
    endpoint: str
    output: Path
    names: list[str]
    whole: dict[str, bytes]
    settings: dict[str, Any]
    seen: Recorder = field(default_factory=Recorder)
    stops: list[Stop] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def message(self, number: int) -> str:
        """Return our own message for a product; its name alone is another form of it."""
        return to_message(self.names[number], f"s3://{BUCKET}/{self.names[number]}.SAFE/")

    async def start(self, count: int = 1, **settings: Any) -> None:
        """Start workers, and wait until each of them takes messages."""
        taking = sum(state.phase == "taking" for state in self.seen.states)
        given = {"queue": self.queue.url, "queue_endpoint": self.endpoint, "output": self.output}
        for _ in range(count):
            service = Service(
                settings=Settings(**{**self.settings, **given, **settings}), choice=ModelChoice(model="null_l2a"),
                wanted=FeedFilter(level="L2A"), order=Order(source=f"s3://{BUCKET}"),
            )  # fmt: skip
            self.stops.append(Stop())
            self.tasks.append(asyncio.create_task(serve(service, self.stops[-1])))
        await until(lambda: self._fail_early() or self._taking() >= taking + count)

    def _taking(self) -> int:
        return sum(state.phase == "taking" for state in self.seen.states)

    def _fail_early(self) -> None:
        for task in self.tasks:
            if task.done():
                task.result()

    async def is_done(self) -> None:
        """Wait until nothing is left, neither in the queue nor in a worker's hands."""
        # The service counts what waits, and then what is hidden: a message that comes back in between is in neither.
        times = 0
        async with asyncio.timeout(Fault.amount(DEADLINE_S, 10 * DEADLINE_S)):
            while times < 2:
                is_empty = await asyncio.to_thread(self.queue.counts) == (0, 0)
                times = times + 1 if is_empty and len(self.seen.taken) == len(self.seen.ended) else 0
                self._fail_early()
                await asyncio.sleep(0.05)

    async def end(self) -> None:
        """Stop the workers; each must end well."""
        for stop in self.stops:
            stop.ask("the test is over", grace_s=30)
        await asyncio.gather(*self.tasks)
        self.stops.clear()
        self.tasks.clear()

    def masks(self) -> dict[str, Path]:
        """Return the masks by product; of each there may be one."""
        found = list(self.output.rglob("*_NULL_20m.tif"))
        by_name = {path.parent.name: path for path in found}
        assert len(by_name) == len(found), found
        return by_name

    def check_identical(self, fault: Fault, *numbers: int) -> None:
        """Assert that the masks of these products, and no others, are there, as an undisturbed worker makes them."""
        made = self.masks()
        assert set(made) == {self.names[number] for number in numbers}
        for name, path in made.items():
            undisturbed = path.with_suffix(".undisturbed")
            undisturbed.write_bytes(self.whole[name])
            fault.identical(path, undisturbed)


@pytest.fixture(scope="session")
def products(
    session_server: SessionServer, moto_store: MotoStore, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Settings of workers, with four products in a store."""
    folder = tmp_path_factory.mktemp("queue-products")
    made = [small(folder, seed) for seed in (2, 3, 4, 5)]
    moto_store.fill(BUCKET, {key: data for path in made for key, data in safe_objects(path).items()})
    return {
        "names": [path.name.removesuffix(".SAFE") for path in made],
        "settings": {
            "s3_endpoint": moto_store.endpoint, "triton": f"grpc://{session_server.address}", "listen": "none",
            "spot": False, "allow": (f"s3://{BUCKET}/",), "visibility_s": 2, "queue_wait_s": 1, "retry_after_s": 1,
            "retry_most_s": 2,
        },
    }  # fmt: skip


@pytest.fixture(scope="session")
def whole(
    products: dict[str, Any], queue_server: QueueServer, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """Masks that a worker makes when nothing is in its way, by product."""
    folder = tmp_path_factory.mktemp("undisturbed")

    async def make() -> dict[str, bytes]:
        async with _crew(products, queue_server, folder, {}) as crew:
            crew.queue.put(*crew.names)
            await crew.start()
            await crew.is_done()
            return {name: path.read_bytes() for name, path in crew.masks().items()}

    made = asyncio.run(make())
    assert sorted(made) == sorted(products["names"])
    return made


@pytest.fixture
async def crew(
    products: dict[str, Any], whole: dict[str, bytes], queue_server: QueueServer, tmp_path: Path
) -> AsyncIterator[Crew]:
    """A fresh queue and nobody at it yet."""
    async with _crew(products, queue_server, tmp_path / "masks", whole) as crew:
        yield crew


@asynccontextmanager
async def _crew(
    products: dict[str, Any], queue_server: QueueServer, output: Path, whole: dict[str, bytes]
) -> AsyncIterator[Crew]:
    async with FaultyQueues(queue_server.endpoint) as proxy:
        queue = queue_server.make_pair(receives=50)
        crew = Crew(queue=queue, proxy=proxy, endpoint=proxy.endpoint, output=output, whole=whole, **products)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in _CREDENTIALS.items():
                patch.setenv(f"AWS_{name}", value)
            patch.setattr(assembly, "LogObserver", lambda: crew.seen)
            patch.setattr(assembly, "_PAUSE_S", 0.2)
            patch.setattr(settling, "_PATIENCE_S", 0.5)
            try:
                yield crew
            finally:
                proxy.always = None
                await crew.end()
