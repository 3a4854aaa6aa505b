"""A small product, the mask of it that nobody disturbed, and how it is masked again through faults."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from kappamask_stream import Masker
from kappamask_stream.inference import served, triton
from kappamask_stream.result import ProductProgress
from kappamask_stream.settings import Settings
from tests.fault_table import Fault
from tests.faults.plant import SIZE
from tests.stream.scene import Scene, _scene

if TYPE_CHECKING:
    from kappamask_stream.result import ProductResult
    from tests.integration.session import SessionServer

#: Seconds for what a test waits for; it decides nothing but when a hang becomes a failure.
PATIENCE_S = 240.0
#: Tiles of the product: 300 or 660 pixels of 20 m, one every 204. Fewer are sent: at a swath's edge some are empty.
TILES = Fault.amount(4, 16)


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A product of `TILES` tiles."""
    return _scene(tmp_path_factory, "L2A", Fault.amount(600, SIZE))


@dataclass
class Disturbed:
    """A product that is masked with the null model while a server fails.

    Attributes
    ----------
    mosaic : ``blend`` is made of the answers' PROBABILITIES, ``crop`` of their LABELS.
    retries : class names and words of the failures that were followed by another try.
    progress : of the product in work.
    """

    scene: Scene
    endpoint: str
    folder: Path
    options: dict[str, Any] = field(default_factory=dict)
    mosaic: Literal["crop", "blend"] = "crop"
    retries: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.settings = Settings(triton=self.endpoint, **self.options)
        self._runs = 0

    @property
    def causes(self) -> set[str]:
        """Class names of the failures that were borne."""
        return {cause for cause, _ in self.retries}

    async def mask(self, masker: Masker | None = None) -> Path:
        """Mask the product, in a folder of its own, and return the mask."""
        if masker is None:
            async with self.masker() as opened:
                return await self.mask(opened)
        self._runs += 1
        self.output = self.folder / str(self._runs)
        self.progress = ProductProgress(product=self.scene.name, on_retry=lambda *said: self.retries.append(said))
        async with asyncio.timeout(PATIENCE_S):
            result = await masker.mask(self.scene.path, output=self.output, progress=self.progress, mosaic=self.mosaic)
        return mask_of(result)

    def masker(self) -> Masker:
        """Return what masks at the endpoint, not opened yet."""
        return Masker(model="null_l2a", settings=self.settings)


def mask_of(result: ProductResult) -> Path:
    """Return where the mask of a product lies."""
    assert result.status == "done"
    return Path(str(result.output))


@pytest.fixture(scope="session")
def undisturbed(scene: Scene, session_server: SessionServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mask that the session's server gives."""
    one = Disturbed(scene, f"grpc://{session_server.address}", tmp_path_factory.mktemp("undisturbed"))
    return asyncio.run(one.mask())


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch, fault: Fault) -> None:
    """Calls without pixels have less time than the usual ten seconds, where tests are brief."""
    for module in (served, triton):
        monkeypatch.setattr(module, "CONTROL_TIMEOUT_S", fault.amount(1.0, 10.0))
