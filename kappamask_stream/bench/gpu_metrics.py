"""What GPUs did while something was measured: Triton's metrics, read again and again, and what they come to."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from kappamask_stream.bench.types import GpuUse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from prometheus_client.samples import Sample

    from kappamask_stream.inference.metrics import MetricsReader

_UTILISATION, _MEMORY = "nv_gpu_utilization", "nv_gpu_memory_used_bytes"
_POWER, _ENERGY = "nv_gpu_power_usage", "nv_energy_consumption"
_NAMES = {_UTILISATION, _MEMORY, _POWER, _ENERGY}
#: Triton looks at its GPUs each 2 s, unless it is told to more often; what it says is read more often than that.
_PERIOD_S = 0.5
#: Utilisation from which on a GPU counts as used.
_USED = 0.01


@dataclass(frozen=True, kw_only=True)
class GpuReading:
    """All GPUs at one moment.

    Attributes
    ----------
    at_s : on the clock of `time.monotonic`.
    values : metric -> GPU -> value.
    """

    at_s: float
    values: dict[str, dict[str, float]]

    @classmethod
    def of(cls, at_s: float, samples: Iterable[Sample]) -> GpuReading:
        """Sort samples by metric and GPU."""
        values: dict[str, dict[str, float]] = {}
        for sample in samples:
            if sample.name in _NAMES and "gpu_uuid" in sample.labels:
                values.setdefault(sample.name, {})[sample.labels["gpu_uuid"]] = sample.value
        return cls(at_s=at_s, values=values)


class GpuMeter:
    """Reads GPU metrics while something is measured.

    Parameters
    ----------
    reader : of the servers' metrics; somebody else closes it. None: nobody tells.

    State: the readings since the last `measuring` began.
    """

    def __init__(self, reader: MetricsReader | None) -> None:
        self._reader = reader
        self._readings: list[GpuReading] = []

    @asynccontextmanager
    async def measuring(self) -> AsyncIterator[None]:
        """Read at the beginning, at the end and in between, for as long as the block takes."""
        self._readings = []
        if self._reader is None:
            yield
            return
        await self._read(self._reader)
        task = asyncio.create_task(self._again_and_again(self._reader))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._read(self._reader)

    def use(self) -> GpuUse | None:
        """Return what the GPUs did in the last interval; None without any, or where nobody tells."""
        return gpu_use(self._readings)

    async def _again_and_again(self, reader: MetricsReader) -> None:
        while True:
            await asyncio.sleep(_PERIOD_S)
            await self._read(reader)

    async def _read(self, reader: MetricsReader) -> None:
        servers = await reader.samples(_NAMES)
        # A GPU that several servers share tells each of them the same.
        self._readings.append(GpuReading.of(time.monotonic(), (sample for told in servers for sample in told)))


def gpu_use(readings: Sequence[GpuReading]) -> GpuUse | None:
    """Sum up readings, in the order of time; None where they name no GPU.

    The first readings are of the time before, until Triton looks again: a GPU counts from when its values first
    change. Where none does, the interval was too short to know anything but the GPUs' names.
    """
    named = sorted({gpu for reading in readings for told in reading.values.values() for gpu in told})
    if not named:
        return None
    moved = {gpu: i for gpu in named if (i := _first_change(readings, gpu)) is not None}
    if not moved:
        return GpuUse(gpus=len(named), gpus_named=len(named))
    fresh = {gpu: readings[moved.get(gpu, min(moved.values())) :] for gpu in named}
    utilisation = {gpu: told for gpu in named if (told := _values(fresh[gpu], _UTILISATION, gpu))}
    used = [gpu for gpu in named if gpu not in utilisation or max(utilisation[gpu]) >= _USED]
    busy = [_mean(told) for gpu, told in utilisation.items() if gpu in used or not used]
    power = [_mean(told) for gpu in used if (told := _values(fresh[gpu], _POWER, gpu))]
    mean_w = sum(power) if power else None
    rates = [_joules_per_s(readings, gpu) for gpu in used]
    rate = sum(known) if used and len(known := [r for r in rates if r is not None]) == len(used) else mean_w
    memory = [told for gpu in used if (told := _values(fresh[gpu], _MEMORY, gpu))]
    return GpuUse(
        gpus=len(used),
        gpus_named=len(named),
        utilisation=_mean(busy) if busy else None,
        # From the end: those that changed later have fewer readings.
        memory_bytes=max((sum(at) for at in zip(*(told[::-1] for told in memory), strict=False)), default=None),
        power_w=mean_w,
        energy_j=None if rate is None else rate * (readings[-1].at_s - readings[0].at_s),
    )


def _first_change(readings: Sequence[GpuReading], gpu: str) -> int | None:
    """Return the number of the first reading in which a GPU's values are others than before; None without any."""
    told = [{name: of[gpu] for name, of in reading.values.items() if gpu in of} for reading in readings]
    return next((i for i, (earlier, later) in enumerate(pairwise(told), 1) if later and earlier != later), None)


def _values(readings: Sequence[GpuReading], name: str, gpu: str) -> list[float]:
    return [reading.values[name][gpu] for reading in readings if gpu in reading.values.get(name, {})]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _joules_per_s(readings: Sequence[GpuReading], gpu: str) -> float | None:
    """Return the rate of a GPU's counter of joules between the first and the last time that it moved.

    The counter stands still until Triton looks again: the difference of two readings may lack, or hold too much, what
    came in the time of one look, which is a large part of a short interval. None where it moved once or never, or
    began anew.
    """
    counts = [(r.at_s, r.values[_ENERGY][gpu]) for r in readings if gpu in r.values.get(_ENERGY, {})]
    moved = [later for earlier, later in pairwise(counts) if later[1] != earlier[1]]
    if any(later[1] < earlier[1] for earlier, later in pairwise(counts)) or len(moved) < 2:  # noqa: PLR2004
        return None
    (begin, first), (end, last) = moved[0], moved[-1]
    return (last - first) / (end - begin)
