"""A child process whose network is a fake: it answers a product's tiles when a file lets it, and says who it is.

Run as a program by `test_processes`. The model's name is a folder: ``asked-<product>`` in it holds the process's number
when the first tile of a product has come, ``open-<product>`` lets its answers go, ``broken-<product>`` is a bug.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from kappamask_stream.contract import BandGroup
from kappamask_stream.processes import child
from kappamask_stream.processes.messages import ModelWanted
from kappamask_stream.resources import ServedModel
from tests.conftest import make_contract
from tests.stream.fakes import FakeInference

if TYPE_CHECKING:
    from kappamask_stream.inference import InferResult, TileRequest


class FileGate(FakeInference):
    def __init__(self, folder: Path) -> None:
        super().__init__(
            make_contract(
                inputs=(BandGroup(gsd_m=60, bands=("B01", "B09"), tile=48, stride=32),),
                gsd_m=60, tile_size=48, margin=8,
            )
        )  # fmt: skip
        self._folder = folder

    async def infer(self, request: TileRequest) -> InferResult:
        product = request.name.rpartition(" ")[2]
        asked = self._folder / f"asked-{product}"
        hidden = asked.with_suffix(f".{os.getpid()}")
        hidden.write_text(str(os.getpid()))
        hidden.rename(asked)
        if (self._folder / f"broken-{product}").exists():
            raise ZeroDivisionError("a bug")
        while not (self._folder / f"open-{product}").exists():  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(0.005)
        return await super().infer(request)


class Models:
    """Stands for `ModelsOfChild`."""

    def __init__(self, parent: child.Parent, setup: Any) -> None:
        self._parent, self._model = parent, ServedModel.of(FileGate(Path(setup.choice.model)))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def get(self, level: str) -> ServedModel:
        await self._parent.ask(ModelWanted(level=level))
        return self._model


if __name__ == "__main__":
    child.ModelsOfChild = Models  # type: ignore[assignment,misc]
    child.main()
