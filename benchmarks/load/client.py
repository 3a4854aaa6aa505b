"""One client of `run.py`: sends tiles or masks products until its input ends, and says on its output how far it is.

``client.py SPEC`` with a JSON object: ``kind`` is ``tiles`` (as many in flight as the window lets), ``products``
(masked over and over) or ``probe`` (one tile at a time, and how long it took); ``priority``, ``shared_memory`` and
``max_in_flight`` are the settings; ``products`` their paths, ``output`` a folder. Every answer is compared with the
first one for its tile or product: a difference is a failure.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kappamask_stream.api import Masker
from kappamask_stream.inference import RetryPolicy, TileRequest, infer_with_retry
from kappamask_stream.models import ModelChoice, ModelPool
from kappamask_stream.result import ProductProgress
from kappamask_stream.settings import Settings

if TYPE_CHECKING:
    from kappamask_stream.resources import ServedModel

_TILES = 8
_SAYS_EACH_S = 1.0
#: Between two tiles of a probe: it is not to fill a queue itself.
_PAUSE_S = 0.5
#: Products in work at once, of 9 tiles each: while one ends, others keep the window full.
_AT_ONCE = 8


class Client:
    """What it has done so far."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.answered = 0
        self.running: dict[str, ProductProgress] = {}
        self.retries: Counter[str] = Counter()
        self.first: dict[object, bytes] = {}

    def retried(self, cause: str, _: str) -> None:
        self.retries[cause] += 1

    def check(self, what: object, content: bytes) -> None:
        """Compare with what came first: always the same bytes, or it is a failure."""
        digest = hashlib.sha256(content).digest()
        if self.first.setdefault(what, digest) != digest:
            raise AssertionError(f"another answer than before for {what}")

    async def say(self) -> None:
        """Tell how far it is, again and again."""
        while True:
            done = self.answered + sum(progress.tiles_done for progress in self.running.values())
            tell(at=time.monotonic(), answered=done)
            await asyncio.sleep(_SAYS_EACH_S)

    async def tiles(self, settings: Settings) -> None:
        async with ModelPool(ModelChoice(model="csmask", levels=("L2A",)), settings) as pool:
            model = await pool.get("L2A")
            tell(ready=True, metrics=pool.metrics_urls, transport=pool.connected("L2A").transport.name)
            probe = self.spec["kind"] == "probe"
            async with asyncio.TaskGroup() as group:
                for slot in range(1 if probe else model.window.maximum + 2):
                    group.create_task(self._slot(model, slot, settings, probe=probe))

    async def _slot(self, model: ServedModel, number: int, settings: Settings, *, probe: bool) -> None:
        """Send one tile after the other, as the pipeline does: drawn, put where it is sent from, sent, answered."""
        policy = RetryPolicy(
            attempts=settings.tile_attempts, server_wait_s=settings.server_wait_s,
            overload_wait_s=settings.overload_wait_s,
        )  # fmt: skip
        contract = model.client.contract
        vector = np.zeros(len(contract.channels), np.float32)
        scale = vector + np.float32(1e-4)
        assert model.new_tensors is not None
        while True:
            tensors = model.new_tensors()
            for values in tensors.values():
                values[...] = np.random.default_rng(number % _TILES).integers(500, 9000, values.shape[-1], np.uint16)
            request = TileRequest(name=f"tile {number}", tensors=tensors, offset=vector, scale=scale)
            began = time.monotonic()
            result = await infer_with_retry(
                model.client, request, window=model.window, policy=policy, on_retry=self.retried
            )
            if probe:
                tell(latency_s=time.monotonic() - began, at=began)
                await asyncio.sleep(_PAUSE_S)
            self.check(number % _TILES, result.labels.tobytes())
            self.answered += 1
            number += 1

    async def products(self, settings: Settings) -> None:
        async with Masker(model="csmask", settings=settings) as masker, asyncio.TaskGroup() as group:
            tell(ready=True)
            for slot in range(_AT_ONCE):
                group.create_task(self._product(masker, slot))

    async def _product(self, masker: Masker, slot: int) -> None:
        products, name = self.spec["products"], f"slot {slot}"
        for number in range(slot, sys.maxsize):
            product = products[number % len(products)]
            progress = self.running[name] = ProductProgress(product=product, on_retry=self.retried)
            output = Path(self.spec["output"]) / str(slot)
            result = await masker.mask(product, output=output, stac=True, progress=progress)
            if result.error is not None:
                raise result.error
            if result.status != "done":  # a mask that is there already costs the server nothing
                raise AssertionError(f"{product} was {result.status}, not masked")
            self.check(product, Path(str(result.output)).read_bytes())
            self.answered += self.running.pop(name).tiles_done
            shutil.rmtree(Path(str(result.output)).parent)


def tell(**what: Any) -> None:
    print(json.dumps(what), flush=True)


async def main() -> None:
    client = Client(json.loads(sys.argv[1]))
    spec = client.spec
    given = {name: spec[name] for name in ("priority", "shared_memory", "max_in_flight")}
    settings = Settings(**given, products_at_once=_AT_ONCE)
    told_to_end = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, told_to_end.set)
    work = asyncio.create_task(client.products(settings) if spec["kind"] == "products" else client.tiles(settings))
    others = [asyncio.create_task(client.say()), asyncio.create_task(told_to_end.wait())]
    await asyncio.wait([work, *others], return_when=asyncio.FIRST_COMPLETED)
    failures = []
    if work.done() and (error := work.exception()) is not None:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        failures.append(f"{type(error).__name__}: {error}")
    for task in (work, *others):
        task.cancel()
    await asyncio.gather(work, *others, return_exceptions=True)
    tell(retries=client.retries, failures=failures)


if __name__ == "__main__":
    assert "XDG_RUNTIME_DIR" in os.environ
    asyncio.run(main())
