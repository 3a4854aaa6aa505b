"""One measured process of `scaling.py`: masks products as `run` does, with a network that answers at once inside.

``scaling_process.py SPEC.json`` masks and writes figures; ``scaling_process.py --child`` is a child of such a run with
several processes. All of the command is there but the server: progress, results, JSON, catalogue.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Self

from sources import kappamask_contract

from kappamask_stream import models, processes
from kappamask_stream.bench.null_client import NullClient
from kappamask_stream.cli.masking import Masking, Telling, mask_and_report
from kappamask_stream.extras import selected
from kappamask_stream.models import ModelChoice
from kappamask_stream.monitor.loop_lag import LoopLag
from kappamask_stream.processes import Crew, child
from kappamask_stream.processes.messages import ModelWanted
from kappamask_stream.resources import ServedModel
from kappamask_stream.result import peak_rss_bytes
from kappamask_stream.runner import Order
from kappamask_stream.settings import Settings

#: Tells children where their figures go.
FIGURES = "SCALING_FIGURES"
_LONG_HOLD_S = 0.005


class NullModels:
    """Stands for a `ModelPool`: every level is masked by KappaMask's contract for L2A and a network that is none."""

    def __init__(self, *_: object, **__: object) -> None:
        self._model = ServedModel.of(NullClient(kappamask_contract()))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def get(self, level: str) -> ServedModel:  # noqa: ARG002 - as a `ModelPool`
        return self._model


class NullModelsOfChild(NullModels):
    """The same in a child, which asks its parent first."""

    def __init__(self, parent: child.Parent, setup: object) -> None:
        super().__init__(setup)
        self._parent = parent

    async def get(self, level: str) -> ServedModel:
        await self._parent.ask(ModelWanted(level=level))
        return await super().get(level)


class Loop:
    """How late the event loop is, and the CPU seconds of single callbacks, which other work does not change."""

    def __init__(self) -> None:
        self.lags: list[float] = []
        self.holds: list[float] = []
        self.longest: dict[str, float] = defaultdict(float)

    def watch(self) -> None:
        """Measure from now on, in the running loop."""
        self._task = asyncio.create_task(LoopLag(self.lags.append).run())
        run = asyncio.Handle._run  # noqa: SLF001 - there is no other place to see all callbacks

        def timed(handle: asyncio.Handle) -> None:
            started = time.thread_time()
            run(handle)
            held = time.thread_time() - started
            self.holds.append(held)
            if held > _LONG_HOLD_S:
                name = _named(handle)
                self.longest[name] = max(self.longest[name], held)

        asyncio.Handle._run = timed  # type: ignore[method-assign]  # noqa: SLF001

    def figures(self) -> dict[str, Any]:
        longest = sorted(self.longest.items(), key=lambda held: -held[1])
        return {
            "lag_p50_s": _percentile(self.lags, 0.5),
            "lag_p99_s": _percentile(self.lags, 0.99),
            "lag_max_s": max(self.lags, default=0.0),
            "hold_max_s": max(self.holds, default=0.0),
            "holds_over_5_ms": sum(held > _LONG_HOLD_S for held in self.holds),
            "holders": dict(longest[:8]),
        }


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def _named(handle: asyncio.Handle) -> str:
    callback: Any = handle._callback  # noqa: SLF001
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        frames = owner.get_stack(limit=1)
        where = f"{Path(frames[0].f_code.co_filename).name}:{frames[0].f_lineno}" if frames else "its end"
        return f"{getattr(owner.get_coro(), '__qualname__', 'task')} at {where}"
    return getattr(callback, "__qualname__", repr(callback))


async def _masked(spec: dict[str, Any]) -> dict[str, Any]:
    loop = Loop()
    loop.watch()
    started_cpu, started_rss = time.process_time(), _rss()
    masking = Masking(
        wheres=spec["wheres"],
        choice=ModelChoice(model="kappamask"),
        settings=Settings(output=Path(spec["output"]), **spec["settings"]),
        order=Order(extras=selected(stac=spec["stac"])),
        telling=Telling(as_json=spec["as_json"]),
    )
    wall = time.perf_counter()
    results = await mask_and_report(masking)
    wall = time.perf_counter() - wall
    failed = [str(result.error) for result in results if result.error is not None]
    assert not failed, failed
    return {
        "wall_s": wall,
        "start_cpu_s": started_cpu,
        "start_rss_bytes": started_rss,
        "peak_rss_bytes": peak_rss_bytes(),
        "statuses": {status: sum(r.status == status for r in results) for status in ("done", "skipped")},
        **loop.figures(),
    }


def _rss() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _be_child() -> None:
    """Serve as a child does; at the end its figures lie beside the parent's."""
    serve = child.serve

    async def watched(pipe: Any) -> None:
        loop = Loop()
        loop.watch()
        await serve(pipe)
        figures = {**loop.figures(), "peak_rss_bytes": peak_rss_bytes()}
        Path(os.environ[FIGURES], f"child-{os.getpid()}.json").write_text(json.dumps(figures))

    child.serve = watched  # type: ignore[assignment]
    child.ModelsOfChild = NullModelsOfChild  # type: ignore[assignment,misc]
    child.main()


def main() -> None:
    if sys.argv[1] == "--child":
        _be_child()
        return
    spec = json.loads(Path(sys.argv[1]).read_text())
    models.ModelPool = NullModels  # type: ignore[assignment,misc]
    command = (sys.executable, __file__, "--child")
    processes.Crew = functools.partial(Crew, command=command)  # type: ignore[assignment,misc]
    os.environ[FIGURES] = spec["figures"]
    figures = asyncio.run(_masked(spec))
    Path(spec["figures"], "parent.json").write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
