"""The soak's workers: processes that are killed and started again, and what they hold in memory meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import psutil
from world import CREDENTIALS, MASKS, PRODUCTS, WORK, World

if TYPE_CHECKING:
    import random
    from pathlib import Path
    from typing import Self

#: Seconds of visibility: what a killed worker had in work comes back so late.
VISIBILITY_S = 20
_ENDS_S = 60.0


@dataclass
class Worker:
    """One worker and its successors.

    Attributes
    ----------
    number : the first is never killed: its memory is measured.
    process : the one that runs.
    starts, kills, stops : how often it was started, ended by SIGKILL, and by SIGTERM.
    exits : exit codes after SIGTERM.
    rss : (seconds since its start, bytes) of the present process.
    """

    number: int
    process: subprocess.Popen[bytes]
    started: float
    starts: int = 1
    kills: int = 0
    stops: int = 0
    exits: list[int] = field(default_factory=list)
    rss: list[tuple[float, int]] = field(default_factory=list)


class Crew:
    """Workers on one queue. Use as a context manager: leaving it ends them all.

    Parameters
    ----------
    triton : ``grpc://HOST:PORT`` of the server that they share.
    """

    def __init__(self, world: World, triton: str, size: int, rng: random.Random) -> None:
        self._world, self._triton, self._rng = world, triton, rng
        self.workers: list[Worker] = []
        self._size = size

    def __enter__(self) -> Self:
        for number in range(self._size):
            self.workers.append(Worker(number=number, process=self._start(number), started=time.monotonic()))
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.process.kill()
            worker.process.wait()

    def log(self, number: int) -> Path:
        """Return the file that a worker and its successors write their log to."""
        return WORK / f"worker-{number}.log"

    def look(self) -> None:
        """Sample memory; a worker that ended by itself is a fault."""
        for worker in self.workers:
            if (code := worker.process.poll()) is not None:
                raise SystemExit(f"worker {worker.number} ended by itself with {code}: see {self.log(worker.number)}")
            rss = psutil.Process(worker.process.pid).memory_info().rss
            worker.rss.append((time.monotonic() - worker.started, rss))

    def strike(self) -> str:
        """End one of the workers but the first, this way or that, start its successor, and say which."""
        worker = self._rng.choice(self.workers[1:])
        if self._rng.random() < 0.6:
            worker.process.kill()
            worker.process.wait()
            worker.kills += 1
            what = "SIGKILL"
        else:
            worker.process.send_signal(signal.SIGTERM)
            worker.exits.append(worker.process.wait(_ENDS_S))
            worker.stops += 1
            what = "SIGTERM"
        worker.process, worker.started = self._start(worker.number), time.monotonic()
        worker.starts += 1
        worker.rss.clear()
        return f"{what} to worker {worker.number}"

    def dismiss(self) -> None:
        """Ask all to end, and wait for them."""
        for worker in self.workers:
            worker.process.send_signal(signal.SIGTERM)
        for worker in self.workers:
            worker.exits.append(worker.process.wait(_ENDS_S))

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        world, settings = self._world, {
            "KAPPAMASK_VISIBILITY_S": str(VISIBILITY_S), "KAPPAMASK_RETRY_AFTER_S": "1", "KAPPAMASK_QUEUE_WAIT_S": "2",
        }  # fmt: skip
        command = [
            sys.executable, "-m", "kappamask_stream", "worker", "--queue", world.queue, "--queue-endpoint",
            world.endpoint, "--s3-endpoint", world.endpoint, "--output", f"s3://{MASKS}/out", "--allow",
            f"s3://{PRODUCTS}/", "--level", "L2A", "--model", "csmask", "--triton", self._triton, "--emit",
            world.finished, "--listen", "127.0.0.1:0", "--grace-s", "5", "--no-spot", "--log-format", "json",
        ]  # fmt: skip
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "KAPPAMASK_"))}
        with self.log(number).open("ab") as log:
            return subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env={**kept, **CREDENTIALS, **settings}
            )


def growth(samples: list[tuple[float, int]], *, warm_up: float = 0.3) -> tuple[float, float]:
    """Fit a line to memory after the warm-up; returns bytes per hour and the bytes that it rose over the samples."""
    times, sizes = (np.array(column, dtype=float) for column in zip(*samples, strict=True))
    late = times >= times[0] + warm_up * (times[-1] - times[0])
    slope = float(np.polyfit(times[late], sizes[late], 1)[0])
    return slope * 3600, slope * float(times[late][-1] - times[late][0])
